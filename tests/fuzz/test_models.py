"""Folders and files of models: good ones give what the module gives that was saved, bad ones are refused in one line.

No case may run what a pickle or a folder says.
"""

import io
import json
import pickle
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.models import NAMES, Base, bases
from tests.fuzz.runs import fuzzed
from tests.fuzz.test_settings import one_line
from tgt_ray.core.errors import ConfigError

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
HTML = b"<!DOCTYPE html>\n<html><body>Log in</body></html>"
#: Where a wrapper's name may stand before those of all weights.
PREFIXES = ["", "", "", "module.", "_orig_mod.", "model.", "student.", "module._orig_mod."]
DTYPES = [torch.float32, torch.float32, torch.float16, torch.bfloat16]
#: Parts of checkpoints that an encoder alone doesn't have.
UNREAD = ("pooler", "cls.", "lm_head", "predictions")
#: What was run that must not be.
RAN: list[str] = []


def ran() -> None:
    RAN.append("a pickle was opened")


class Bomb:
    def __reduce__(self):
        return ran, ()


def of_torch(what: object, zipped: bool = True) -> bytes:
    sink = io.BytesIO()
    torch.save(what, sink, _use_new_zipfile_serialization=zipped)
    return sink.getvalue()


@contextmanager
def copied(base: Base) -> Iterator[Path]:
    """A copy of a model in a folder whose name says nothing of it."""
    with tempfile.TemporaryDirectory(prefix="m") as folder:
        path = Path(folder) / ("x" if base.is_folder else "x.safetensors")
        (shutil.copytree if base.is_folder else shutil.copy)(base.path, path)
        yield path
    assert not RAN, RAN


PROCESSOR = "preprocessor_config.json"


def say(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def replaced(path: Path, other: Path) -> None:
    shutil.rmtree(path)
    shutil.copytree(other, path)


def forget(file: Path, *keys: str) -> None:
    said = json.loads(file.read_text())
    file.write_text(json.dumps({key: value for key, value in said.items() if key not in keys}))


def shards(state: dict[str, torch.Tensor]) -> Iterator[tuple[int, dict[str, torch.Tensor]]]:
    names = list(state)
    for number in range(2):
        yield number + 1, {name: state[name] for name in names[number::2]}


def write(path: Path, base: Base, state: dict[str, torch.Tensor], form: str) -> None:
    """Put weights into the copy of a model in one of the forms that libraries write."""
    if not base.is_folder:
        safetensors.torch.save_file(state, path)
        return
    file = path / base.weights
    stem = "pytorch_model" if base.weights == "model.safetensors" else "diffusion_pytorch_model"
    if form == "safetensors":
        safetensors.torch.save_file(state, file, {"format": "pt"})
        return
    file.unlink()
    if form in ("bin", "old bin"):
        (path / f"{stem}.bin").write_bytes(of_torch(state, form == "bin"))
        return
    index = {}
    for number, part in shards(state):
        first, last = ("model", "safetensors") if form == "shards" else (stem, "bin")
        name = f"{first}-{number:05}-of-00002.{last}"
        if form == "shards":
            safetensors.torch.save_file(part, path / name, {"format": "pt"})
        else:
            (path / name).write_bytes(of_torch(part))
        index |= dict.fromkeys(part, name)
    said = {"metadata": {"total_size": 1}, "weight_map": index}
    (path / f"{'model.safetensors' if form == 'shards' else stem + '.bin'}.index.json").write_text(json.dumps(said))


def forms(base: Base) -> list[str]:
    if not base.is_folder:
        return ["safetensors"]
    return ["safetensors", "bin", "old bin", *(["shards", "bin shards"] if base.name != "vae" else [])]


def good_form(base: Base, path: Path, draw: st.DrawFn) -> torch.dtype:
    """Rewrite the copy of a model as it may be published; return the type of its numbers."""
    dtype, prefix = draw(st.sampled_from(DTYPES)), draw(st.sampled_from(PREFIXES))
    form = draw(st.sampled_from(forms(base)))
    state = {name: value.to(dtype) if value.is_floating_point() else value for name, value in base.state.items()}
    write(path, base, {f"{prefix}{name}": value for name, value in state.items()}, form)
    if base.is_folder:
        config = path / "config.json"
        notes = [
            {},
            {"my_note": [1]},
            *([{"dtype": "float16"}, {"torch_dtype": "float16"}] if base.name != "vae" else []),
        ]
        say(config, **draw(st.sampled_from(notes)))
        others = {
            "README.md": b"---\nlicense: mit\n---\n",
            ".gitattributes": b"*.bin filter=lfs\n",
            ".DS_Store": b"\0\1",
            "tf_model.h5": LFS,
            "flax_model.msgpack": LFS,
            "rust_model.ot": HTML,
            "training_args.bin": pickle.dumps(Bomb()),
            "optimizer.pt": of_torch(Bomb()),
            "scheduler.pt": b"",
            "model.fp16.safetensors": LFS,
            "own.py": b"raise AssertionError('its code was run')\n",
            "onnx/model.onnx": LFS,
            "checkpoint-10/pytorch_model.bin": pickle.dumps(Bomb()),
            "runs/events.out.tfevents.1": b"\0",
        }
        for name in draw(st.lists(st.sampled_from(sorted(others)), max_size=3, unique=True)):
            (path / name).parent.mkdir(exist_ok=True)
            (path / name).write_bytes(others[name])
    return dtype


@fuzzed(few=60)
@given(st.sampled_from(NAMES), st.data())
def test_a_model_gives_what_the_module_gives_that_was_saved(name, data):
    base = bases()[name]
    with copied(base) as path:
        dtype = good_form(base, path, data.draw)
        torch.testing.assert_close(base.ours(path), base.outputs(dtype), atol=2e-5, rtol=1e-4)


def weights_in(path: Path) -> list[Path]:
    """The files that hold weights, in the order of preference."""
    if path.is_file():
        return [path]
    return sorted(
        each
        for each in path.iterdir()
        if each.name.startswith(("model", "pytorch_model", "diffusion"))
        and each.suffix in (".safetensors", ".bin")
        and "fp16" not in each.name
    )


def loaded_names(path: Path) -> list[Path]:
    return [*weights_in(path), *(path / each for each in ("config.json", "tokenizer.json") if (path / each).is_file())]


def needed(base: Base) -> list[str]:
    """Names of weights without which the model isn't what it was."""
    unread = UNREAD if "encoder" in base.name or ("classifier" not in base.name and "masked" not in base.name) else ()
    return [
        name
        for name, value in base.state.items()
        if not any(each in name for each in (*unread, *base.drawn)) and value.is_floating_point() and value.dim()
    ]


def without_tokenizer(base, path, draw):
    for file in path.iterdir():
        if file.name in ("tokenizer.json", "vocab.txt", "spiece.model") or (
            file.name == "tokenizer_config.json" and draw(st.booleans())
        ):
            file.unlink()


def without_weights(base, path, draw):
    for file in weights_in(path):
        file.unlink()


def cut_weights(base, path, draw):
    file = draw(st.sampled_from(weights_in(path)))
    content = file.read_bytes()
    file.write_bytes(content[: draw(st.integers(0, len(content) - 1))])


def other_content(base, path, draw):
    content = draw(st.sampled_from([LFS, HTML, b"", b'{"error": "no access"}', b"\0" * 64, b"not found"]))
    files = loaded_names(path) if base.is_folder else weights_in(path)
    if content == b'{"error": "no access"}':
        files = [file for file in files if file.suffix in (".safetensors", ".bin")]
    draw(st.sampled_from(files)).write_bytes(content)


def with_payload(base, path, draw):
    content = draw(
        st.sampled_from(
            [pickle.dumps(Bomb()), of_torch(Bomb()), of_torch({"a": Bomb()}), of_torch({"a": Bomb()}, False)]
        )
    )
    for file in weights_in(path):
        file.write_bytes(content)


def with_code(base, path, draw):
    (path / "own.py").write_text("raise AssertionError('its code was run')")
    names = [
        each for each in ("config.json", "tokenizer_config.json", "preprocessor_config.json") if (path / each).exists()
    ]
    said = {
        "AutoConfig": "own.A",
        "AutoModel": "own.B",
        "AutoTokenizer": ["own.C", None],
        "AutoImageProcessor": "own.D",
    }
    say(path / draw(st.sampled_from(names)), auto_map=said)


def wrong_state(base, path, draw):
    state = {name: value.clone() for name, value in base.state.items()}
    name = draw(st.sampled_from(needed(base)))
    how = draw(st.sampled_from(["missing", "shape", "nan", "inf", "renamed"]))
    if how == "missing":
        del state[name]
    elif how == "renamed":
        state[f"{name}_"] = state.pop(name)
    elif how == "shape":
        state[name] = torch.cat([state[name], state[name]])
    else:
        state[name].view(-1)[draw(st.integers(0, state[name].numel() - 1))] = float(how)
    for file in path.iterdir() if base.is_folder else ():
        if file in weights_in(path) or file.name.endswith("index.json"):
            file.unlink()
    if base.is_folder:
        (path / base.weights).touch()
    write(path, base, state, draw(st.sampled_from(forms(base))))


def broken_config(base, path, draw):
    file = path / "config.json"
    content = file.read_bytes()
    how = draw(st.sampled_from(["cut", "list", "text", "empty", "type", "no type", "gone"]))
    if how == "gone":
        file.unlink()
    elif how in ("type", "no type"):
        said = json.loads(content)
        keys = ("_class_name",) if base.name == "vae" else ("model_type", "architectures")
        said = {key: value for key, value in said.items() if key not in keys} | (
            {keys[0]: "own-model"} if how == "type" else {}
        )
        file.write_text(json.dumps(said))
    else:
        cut = content[: draw(st.integers(1, len(content) - 3))]
        file.write_bytes({"cut": cut, "list": b"[1]", "text": b'"bert"', "empty": b"{}"}[how])


def broken_size(base, path, draw):
    said = json.loads((path / "config.json").read_text())
    keys = [
        key
        for key in said
        if key
        in (
            "hidden_size",
            "dim",
            "d_model",
            "n_embd",
            "vocab_size",
            "intermediate_size",
            "hidden_dim",
            "num_attention_heads",
            "n_heads",
            "hidden_sizes",
            "latent_channels",
            "block_out_channels",
            "hidden_act",
            "activation",
            "num_labels",
        )
    ]
    key = draw(st.sampled_from(keys))
    say(path / "config.json", **{key: draw(st.sampled_from(["no-such", -1, 0, 7, {"a": 1}, [1, "x"]]))})


def broken_index(base, path, draw):
    for file in (*weights_in(path), *path.glob("*.index.json")):
        file.unlink(missing_ok=True)
    (path / base.weights).touch()
    form = draw(st.sampled_from(["shards", "bin shards"]))
    write(path, base, base.state, form)
    (index,) = path.glob("*.index.json")
    how = draw(st.sampled_from(["shard", "json", "map", "other"]))
    if how == "shard":
        draw(st.sampled_from(weights_in(path))).unlink()
    elif how == "json":
        index.write_text(index.read_text()[:-9])
    elif how == "map":
        index.write_text(json.dumps({"metadata": {}}))
    else:
        said = json.loads(index.read_text())["weight_map"]
        index.write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(said, "../other.safetensors")}))


def another_model(base, path, draw):
    """A model of another kind in its place."""
    others = {
        "text": ["vit", "resnet", "vae"],
        "image": ["bert", "bart", "bert classifier"],
    }[base.reads]
    if base.name in ("bert masked", "roberta masked"):
        others += ["t5", "bart", "distilbert"]
    if base.name in ("bart", "t5"):
        others += ["bert", "gpt2", "bert masked"]
    if base.name == "vae":
        others += ["vit"]
    if not base.is_folder:
        others = [
            each
            for each, other in bases().items()
            if not other.is_folder and not {each, base.name} <= {"timm student", "timm labeler"} and each != base.name
        ]
    other = bases()[draw(st.sampled_from(others))]
    if base.is_folder:
        replaced(path, other.path)
    else:
        shutil.copy(other.path, path)


def another_tokenizer(base, path, draw):
    """A tokenizer with more words than the model has."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(bases()["bart"].path / name, path / name)


def faults(base: Base) -> list:
    found = [cut_weights, other_content, with_payload, wrong_state, another_model]
    if base.is_folder:
        found += [without_weights, broken_config, broken_size]
        found += [broken_index] if base.name != "vae" else []
        found += [with_code] if base.name != "vae" else []
    if base.is_folder and base.reads == "text":
        found.append(without_tokenizer)
    if base.name in ("bert", "electra", "t5"):
        found.append(another_tokenizer)
    return found


@fuzzed(few=60)
@given(st.sampled_from(NAMES), st.data())
def test_a_bad_model_is_refused_in_one_line(name, data):
    base = bases()[name]
    with copied(base) as path:
        if data.draw(st.booleans(), label="published"):
            good_form(base, path, data.draw)
        data.draw(st.sampled_from(faults(base)))(base, path, data.draw)
        with pytest.raises(ConfigError) as refused:
            base.ours(path)
        one_line(refused.value)
        assert str(path) in str(refused.value) or str(refused.value).startswith(("teacher.", "student")), refused.value


def without(base: Base, path: Path, *names: str) -> None:
    """Take weights out of a folder's file."""
    left = {name: value for name, value in base.state.items() if name not in names}
    safetensors.torch.save_file(left, path / base.weights, {"format": "pt"})


def prefixed_bin(base: Base, path: Path) -> None:
    write(path, base, {f"module.{name}": value for name, value in base.state.items()}, "bin")


@pytest.mark.parametrize("name", ["bert", "gpt2", "vit", "vae"])
def test_a_pickle_of_weights_with_a_wrapper_s_names_has_failed(name):
    """They were taken for missing; an autoencoder's were drawn at random."""
    base = bases()[name]
    with copied(base) as path:
        prefixed_bin(base, path)
        torch.testing.assert_close(base.ours(path), base.outputs(torch.float32), atol=2e-5, rtol=1e-4)


def vit_weight(base: Base) -> str:
    return next(name for name in base.state if "classifier" not in name and name.endswith("layernorm.bias"))


@pytest.mark.parametrize(
    "name, spoil, says",
    [
        ("vit", lambda base, path: without(base, path, vit_weight(base)), "has no weights for '"),
        ("vit", lambda base, path: without(base, path, "classifier.bias"), "has no weights for 'classifier.bias'"),
        ("vit", lambda base, path: without(base, path, "classifier.weight"), "no weights for 'classifier.weight'"),
        (
            "bert classifier",
            lambda base, path: without(base, path, "classifier.weight"),
            "no weights for 'classifier.weight'",
        ),
        (
            "vae",
            lambda base, path: without(base, path, "encoder.conv_in.bias"),
            "no weights for 'encoder.conv_in.bias'",
        ),
        (
            "vit",
            lambda base, path: say(path / "config.json", hidden_size=0),
            "says hidden_size 0; a size is at least 1",
        ),
        ("bert", lambda base, path: say(path / "config.json", hidden_size=-1), "its config.json"),
        ("bert", lambda base, path: say(path / "config.json", vocab_size=0), "its config.json"),
        ("vit", lambda base, path: say(path / "config.json", num_attention_heads=-1), "says num_attention_heads -1"),
        ("deit", lambda base, path: say(path / "config.json", num_attention_heads=-1), "says num_attention_heads -1"),
        ("vae", lambda base, path: say(path / "config.json", dtype="float16"), "its config.json (TypeError"),
        ("vae", lambda base, path: say(path / "config.json", _class_name="Own"), "says _class_name 'Own', not"),
        ("vae", lambda base, path: (path / "config.json").write_text("[1]"), "says _class_name None, not"),
        ("vit", lambda base, path: say(path / PROCESSOR, image_mean=[0.5] * 2), "image_mean (0.5, 0.5), not 3"),
        ("vit", lambda base, path: say(path / PROCESSOR, image_std=[0.5, 0, 1]), "not 3 number(s) above 0"),
        ("vit", lambda base, path: say(path / PROCESSOR, image_std="half"), "image_std half, not 3"),
        ("deit", lambda base, path: forget(path / PROCESSOR, "size", "crop_size"), "doesn't take such images"),
        ("bert masked", lambda base, path: replaced(path, bases()["bart"].path), "writes with a decoder"),
        ("t5", lambda base, path: say(path / "config.json", d_model=0), "says d_model 0"),
        ("t5", lambda base, path: forget(path / "config.json", "decoder_start_token_id"), "the decoder starts"),
    ],
)
def test_what_has_failed_is_refused_in_one_line(name, spoil, says):
    """Weights that were missing were drawn at random, and odd sizes ended in a traceback."""
    base = bases()[name]
    with copied(base) as path:
        spoil(base, path)
        with pytest.raises(ConfigError) as refused:
            base.ours(path)
        one_line(refused.value)
        assert says in str(refused.value)


@fuzzed(few=60)
@given(st.sampled_from(NAMES), st.data())
def test_any_bytes_in_a_model_are_read_or_refused_in_one_line(name, data):
    base = bases()[name]
    with copied(base) as path:
        file = data.draw(st.sampled_from(sorted(each for each in path.rglob("*") if each.is_file()) or [path]))
        content = bytearray(file.read_bytes())
        for _ in range(data.draw(st.integers(1, 3))):
            place = data.draw(st.integers(0, len(content) - 1) | st.integers(0, min(2000, len(content) - 1)))
            how = data.draw(st.sampled_from(["change", "cut", "insert"]))
            if how == "change":
                content[place] = data.draw(st.integers(0, 255))
            elif how == "cut":
                del content[place : place + data.draw(st.integers(1, 40))]
            else:
                content[place:place] = data.draw(st.binary(min_size=1, max_size=5))
            if not content:
                break
        file.write_bytes(content)
        try:
            assert len(base.ours(path))
        except ConfigError as err:
            one_line(err)
