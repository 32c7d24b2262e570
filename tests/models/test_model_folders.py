"""Folders of models that want code, or lack a tokenizer, or whose weights are not what they should be."""

import json
import logging
import shutil

import pytest
import safetensors.torch
import torch
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from tgt_ray.core.errors import ConfigError
from tgt_ray.models.hub import check_parts, from_hub, model_from_hub, tokenizer_from_hub
from tgt_ray.models.students import TextEncoderStudent
from tgt_ray.teacher.generators import CausalLMGenerator, MaskedLMGenerator, Seq2SeqGenerator
from tgt_ray.teacher.labelers.image import TransformersLabeler
from tgt_ray.teacher.labelers.text import TextEncoderLabeler

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


@pytest.fixture
def folder(text_models, tmp_path):
    def copy(kind):
        return shutil.copytree(text_models / kind, tmp_path / kind)

    return copy


def say(file, **values):
    said = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(said | values))


def renamed(file, change):
    safetensors.torch.save_file(change(safetensors.torch.load_file(file)), file, {"format": "pt"})


BUILT = [
    (TextEncoderLabeler, "classifier"),
    (TextEncoderStudent, "encoder"),
    (MaskedLMGenerator, "masked_lm"),
    (Seq2SeqGenerator, "seq2seq"),
    (CausalLMGenerator, "causal_lm"),
]


def build(cls, path, spec):
    config = cls(path=str(path))
    return config.build(spec, 3) if cls is TextEncoderLabeler else config.build(spec)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("cls, kind", BUILT)
def test_no_code_of_a_folder_is_run_and_nothing_is_asked(cls, kind, file, folder, text_spec, monkeypatch):
    path = folder(kind)
    (path / "own.py").write_text("raise AssertionError('its code was run')")
    say(path / file, auto_map={"AutoConfig": "own.A", "AutoModel": "own.B", "AutoTokenizer": ["own.C", None]})
    monkeypatch.setattr("builtins.input", lambda *said: pytest.fail("it asks"))
    with pytest.raises(ConfigError, match=rf"{kind}: its {file} names code of its own \(auto_map: .*which is not run"):
        build(cls, path, text_spec)


def test_images_models_run_no_code_either(tmp_path):
    from tgt_ray.core.batch import InputSpec

    for name in ("config.json", "preprocessor_config.json"):
        path = tmp_path / name
        path.mkdir()
        say(path / "config.json", model_type="vit")
        say(path / name, auto_map={"AutoImageProcessor": "own.A"})
        with pytest.raises(ConfigError, match=rf"its {name} names code of its own"):
            TransformersLabeler(path=str(path)).build(InputSpec((3, 8, 8)), 2)


def test_a_type_of_model_that_the_library_lacks_is_said(folder):
    path = folder("encoder")
    say(path / "config.json", model_type="own-bert")
    with pytest.raises(ConfigError, match=r"has model_type 'own-bert', which transformers .* does not have"):
        from_hub(AutoConfig.from_pretrained, str(path), None)


@pytest.mark.parametrize("said", [{"unet": ["own_unet", "Own"]}, {"_class_name": ["own", "Pipeline"]}])
def test_a_pipeline_with_parts_of_its_own_is_refused(tmp_path, said):
    say(
        tmp_path / "model_index.json",
        **{"_class_name": "X", "vae": ["diffusers", "AutoencoderKL"], "safety": [None] * 2},
    )
    check_parts(str(tmp_path), None)
    say(tmp_path / "model_index.json", **said)
    with pytest.raises(ConfigError, match=rf"model_index\.json has for '{next(iter(said))}' code of its own"):
        check_parts(str(tmp_path), None)


@pytest.mark.parametrize("cls, kind", BUILT)
def test_no_tokenizer_is_invented(cls, kind, folder, text_spec):
    path = folder(kind)
    (path / "tokenizer.json").unlink()  # tokenizer_config.json stays
    with pytest.raises(ConfigError, match=rf"{kind}: has no tokenizer"):
        build(cls, path, text_spec)


def test_a_vocabulary_without_words_is_refused(folder):
    path = folder("encoder")
    AutoTokenizer.from_pretrained(path)
    (path / "tokenizer.json").unlink()
    (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    (path / "spiece.model").write_bytes(b"not of this tokenizer")
    with pytest.raises(
        ConfigError, match=r"encoder: (its tokenizer has 5 special tokens and no others|cannot be loaded)"
    ):
        tokenizer_from_hub(str(path), None)


def test_a_word_list_alone_is_a_tokenizer(folder):
    path = folder("encoder")
    (path / "tokenizer.json").unlink()
    (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    (path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "car"]))
    assert tokenizer_from_hub(str(path), None).tokenize("red car") == ["red", "car"]


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "student.", "model.module."])
def test_prefixes_of_a_folder_s_weights_are_left_off_and_said(prefix, folder, caplog):
    path = folder("classifier")
    there, _ = model_from_hub(AutoModelForSequenceClassification, str(path), None, "key")
    renamed(path / "model.safetensors", lambda state: {f"{prefix}{name}": each for name, each in state.items()})
    with caplog.at_level(logging.INFO, "tgt_ray"):
        again, info = model_from_hub(AutoModelForSequenceClassification, str(path), None, "key")
    assert not info["missing_keys"]
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in there.state_dict().items())
    assert caplog.messages == [f"key: the names of all weights begin with '{prefix}', which is left off"]


def test_weights_of_a_folder_that_are_not_finite_are_named(folder, text_spec):
    def spoilt(state):
        name = next(name for name in state if name.endswith("layer.0.attention.self.query.weight"))
        state[name][0, 0] = float("nan")
        return state

    for cls, kind in (
        (TextEncoderStudent, "encoder"),
        (TextEncoderLabeler, "classifier"),
        (MaskedLMGenerator, "masked_lm"),
    ):
        path = folder(kind)
        renamed(path / "model.safetensors", spoilt)
        with pytest.raises(ConfigError, match=r"path: .*1 of the \d+ values of '\S*query\.weight' are not finite"):
            model = build(cls, path, text_spec)
            cls(path=str(path)).load_weights(model)


@pytest.mark.parametrize(
    "content, says", [(LFS, "a pointer of Git LFS"), (b"<html></html>", "a web page"), (b"", "empty")]
)
@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "config.json"])
def test_files_of_a_folder_are_named_for_what_they_are(file, content, says, folder):
    path = folder("encoder")
    (path / file).write_bytes(content)
    with pytest.raises(ConfigError, match=rf"encoder: its file {file} is {says}"):
        from_hub(AutoModel.from_pretrained, str(path), None)


def test_files_that_are_not_loaded_may_be_anything(folder):
    path = folder("encoder")
    for name in ("pytorch_model.bin", "model.fp16.safetensors", "tf_model.h5", "spiece.model"):
        (path / name).write_bytes(LFS)
    model_from_hub(AutoModel, str(path), None, "key")
    tokenizer_from_hub(str(path), None)


def test_a_folder_with_a_file_of_torch_is_still_read(folder):
    path = folder("encoder")
    state = safetensors.torch.load_file(path / "model.safetensors")
    (path / "model.safetensors").unlink()
    torch.save(state, path / "pytorch_model.bin")
    assert not model_from_hub(AutoModel, str(path), None, "key")[1]["missing_keys"]
