"""Folders and files of small models, what they must give, and how each is opened by the package."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
import transformers as t
from torch import Tensor, nn

from tests.fuzz.runs import scratch
from tests.helpers.text_models import TEXTS, WIDTH, rows, save_t5
from tgt_ray.core.batch import InputSpec
from tgt_ray.models.students import TextEncoderStudent, TimmStudent
from tgt_ray.models.text.tokens import corpus_tokens
from tgt_ray.models.text.vocabulary import train_tokenizer
from tgt_ray.teacher.generators import (
    AutoencoderKLGenerator,
    CausalLMGenerator,
    MaskedLMGenerator,
    MLPAutoencoderGenerator,
    Seq2SeqGenerator,
)
from tgt_ray.teacher.labelers.dual_encoder import DualEncoderLabeler
from tgt_ray.teacher.labelers.image import ConvLabeler, TimmLabeler, TransformersLabeler
from tgt_ray.teacher.labelers.text import TextEncoderLabeler

ASKED = ["nobody likes the red car today .", "my sister", "the old man has lost the film at last . " * 2]
IMAGES = InputSpec((3, 16, 16))
SMALL = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
CLASSES = 3


@dataclass(frozen=True)
class Base:
    """A model that was saved.

    - path: its folder, or its file of weights
    - state: its weights by the names that are in the file
    - outputs: what the module gives by its own library, with weights that were kept in numbers of a type
    - ours: path -> the same, by the package
    - drawn: names that the package doesn't need
    """

    name: str
    path: Path
    state: dict[str, Tensor]
    outputs: Callable[[torch.dtype], Tensor]
    ours: Callable[[Path], Tensor]
    reads: str = "text"
    drawn: tuple[str, ...] = ()

    @property
    def is_folder(self) -> bool:
        return self.path.is_dir()

    @property
    def weights(self) -> str:
        if not self.is_folder:
            return self.path.name
        vae = "diffusion_pytorch_model.safetensors"
        return vae if (self.path / vae).exists() else "model.safetensors"


@functools.cache
def root() -> Path:
    return scratch("models")


@functools.cache
def spec() -> InputSpec:
    return InputSpec((WIDTH,), train_tokenizer(TEXTS, 300))


def rounded(model: Any, dtype: torch.dtype) -> Any:
    """A model with its weights as they are when they were kept in numbers of another type."""
    # They lie in the model, since another one may get its place in memory.
    own = model.__dict__.setdefault("_saved", {name: value.clone() for name, value in model.state_dict().items()})
    model.load_state_dict(
        {name: value.to(dtype) if value.is_floating_point() else value for name, value in own.items()}
    )
    return model.eval()


@torch.no_grad()
def _text_outputs(what: str, model: Any, tokenizer: Any, dtype: torch.dtype) -> Tensor:
    return _of_texts(what, rounded(model, dtype), tokenizer)


def _of_texts(what: str, model: Any, tokenizer: Any) -> Tensor:
    out = []
    for text in ASKED:  # one at a time: nothing is padded
        ids = tokenizer(text, return_tensors="pt", truncation=True, max_length=30, return_token_type_ids=False)
        said = model(**ids, output_hidden_states=False)
        if what == "logits":
            out.append(said.logits[0])
        else:
            states = said.last_hidden_state[0]
            out.append(states[0] if what == "cls" else states.mean(0))
    return torch.stack(out)


@torch.no_grad()
def _lm_outputs(model: Any, tokenizer: Any, dtype: torch.dtype) -> Tensor:
    return _written(rounded(model, dtype), tokenizer)


def _written(model: Any, tokenizer: Any) -> Tensor:
    more = {}
    if model.config.is_encoder_decoder:
        more = {"decoder_input_ids": torch.tensor([[model.config.decoder_start_token_id, 7]])}
    ids = tokenizer(ASKED[0], return_tensors="pt", return_token_type_ids=False)["input_ids"]
    return model(input_ids=ids, **more).logits


@torch.no_grad()
def _student(path: Path, **more: Any) -> Tensor:
    how = TextEncoderStudent(path=str(path), max_tokens=30, **more)
    backbone = how.build(spec())
    how.load_weights(backbone)
    return backbone.eval()(rows(*ASKED))


@torch.no_grad()
def _labeler(path: Path) -> Tensor:
    how = TextEncoderLabeler(path=str(path), max_tokens=30)
    model = how.build(spec(), CLASSES)
    how.load_weights(model)
    return model.eval()(rows(*ASKED)).logits


@torch.no_grad()
def _dual(path: Path) -> Tensor:
    how = DualEncoderLabeler(path=str(path), max_tokens=30)
    model = how.build(spec(), 4)
    how.load_weights(model)
    return model.eval()(rows(*ASKED)).embedding


def _generator(cls: Any) -> Callable[[Path], Tensor]:
    @torch.no_grad()
    def ours(path: Path) -> Tensor:
        how = cls(path=str(path), max_tokens=30)
        model = how.build(spec()).eval()
        how.load_weights(model)
        tokenizer = model.tokens.tokenizer
        return _written(model.body, tokenizer)

    return ours


def _text_base(name: str, model: Any, ours: Callable[[Path], Tensor], outputs: Any, tokenizer: Any = None) -> Base:
    folder, tokenizer = root() / name, tokenizer or _tokenizer()
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    state = safetensors.torch.load_file(folder / "model.safetensors")
    return Base(name, folder, state, functools.partial(outputs, model, tokenizer), ours)


@functools.cache
def _tokenizer() -> Any:
    return corpus_tokens(spec().tokenizer, 32, "test").tokenizer


def _word_pieces() -> Any:
    words = sorted({word for text in TEXTS for word in text.split()} | {*"abcdefghijklmnopqrstuvwxyz"})
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    return t.BertTokenizer(vocab={word: number for number, word in enumerate(vocab)})


def _encoder_config(family: str, tokenizer: Any, **more: Any) -> Any:
    size = {"vocab_size": len(tokenizer), "max_position_embeddings": 40, "pad_token_id": tokenizer.pad_token_id}
    small = {"hidden_size": 16, **SMALL}
    if family == "distilbert":
        small = {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 24}
    if family == "albert":
        small["embedding_size"] = 8
    if family == "electra":
        small["embedding_size"] = 16
    return t.AutoConfig.for_model(family, **size, **small, **more)


def _sentence(folder: Path, pooling: str, normalize: bool) -> None:
    """The files that sentence-transformers writes beside a model."""
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), *([("2_Normalize", "Normalize")] if normalize else [])]
    said = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (path, kind) in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(said))
    (folder / "1_Pooling").mkdir()
    modes = {"word_embedding_dimension": 16, "pooling_mode_cls_token": pooling == "cls"}
    (folder / "1_Pooling/config.json").write_text(json.dumps(modes | {"pooling_mode_mean_tokens": pooling == "mean"}))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 30, "do_lower_case": False}))
    (folder / "config_sentence_transformers.json").write_text(
        json.dumps({"prompts": {}, "default_prompt_name": None, "similarity_fn_name": "cosine" if normalize else "dot"})
    )


def _texts() -> list[Base]:
    tokenizer, out = _tokenizer(), []
    for family in ("bert", "distilbert", "roberta", "electra", "albert", "mpnet"):
        torch.manual_seed(len(out))
        words = _word_pieces() if family in ("bert", "electra") else tokenizer
        model = t.AutoModel.from_config(_encoder_config(family, words))
        outputs = functools.partial(_text_outputs, "mean")
        out.append(_text_base(family, model, _student, outputs, words))
    for family in ("bert", "roberta"):
        model = t.AutoModelForMaskedLM.from_config(_encoder_config(family, tokenizer))
        out.append(_text_base(f"{family} masked", model, _generator(MaskedLMGenerator), _lm_outputs))
        base = getattr(model, model.base_model_prefix)
        outputs = functools.partial(_encoder_of, base)
        out.append(_text_base(f"{family} masked as encoder", model, _student, outputs))
    for family in ("bert", "distilbert", "roberta", "electra"):
        config = _encoder_config(family, tokenizer, num_labels=CLASSES)
        model = t.AutoModelForSequenceClassification.from_config(config)
        outputs = functools.partial(_text_outputs, "logits")
        out.append(_text_base(f"{family} classifier", model, _labeler, outputs))
    special = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    gpt = t.GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=128, **special)
    out.append(_text_base("gpt2", t.GPT2LMHeadModel(gpt), _generator(CausalLMGenerator), _lm_outputs))
    bart = t.BartConfig(
        vocab_size=len(tokenizer), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=34, **special,
        decoder_start_token_id=special["eos_token_id"], forced_eos_token_id=special["eos_token_id"],
    )  # fmt: skip
    model = t.BartForConditionalGeneration(bart)
    out.append(_text_base("bart", model, _generator(Seq2SeqGenerator), _lm_outputs))
    save_t5(root() / "t5")
    model = t.T5ForConditionalGeneration.from_pretrained(root() / "t5")
    words = t.AutoTokenizer.from_pretrained(root() / "t5")
    out.append(_text_base("t5", model, _generator(Seq2SeqGenerator), _lm_outputs, words))
    for pooling, normalize in (("cls", False), ("mean", True)):
        model = t.BertModel(_encoder_config("bert", tokenizer))
        outputs = functools.partial(_sentence_outputs, pooling=pooling, normalize=normalize)
        made = _text_base(f"sentences by {pooling}", model, _dual, outputs)
        _sentence(made.path, pooling, normalize)
        out.append(made)
    return out


@torch.no_grad()
def _encoder_of(base: Any, model: Any, tokenizer: Any, dtype: torch.dtype) -> Tensor:
    rounded(model, dtype)
    return _of_texts("mean", base, tokenizer)


def _sentence_outputs(model: Any, tokenizer: Any, dtype: torch.dtype, pooling: str, normalize: bool) -> Tensor:
    out = _text_outputs(pooling, model, tokenizer, dtype)
    return nn.functional.normalize(out, dim=1) if normalize else out


@functools.cache
def pixels() -> Tensor:
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def _image_labeler(path: Path) -> Tensor:
    how = TransformersLabeler(path=str(path))
    model = how.build(IMAGES, CLASSES)
    how.load_weights(model)
    return model.eval()(pixels()).logits


@torch.no_grad()
def _image_outputs(model: Any, mean: float, std: float, dtype: torch.dtype) -> Tensor:
    return rounded(model, dtype)((pixels() - mean) / std).logits


def _images() -> list[Base]:
    sizes = {"image_size": 16, "num_labels": CLASSES}
    configs = {
        "vit": t.ViTConfig(hidden_size=16, patch_size=4, **SMALL, **sizes),
        "deit": t.DeiTConfig(hidden_size=16, patch_size=4, **SMALL, **sizes),
        "resnet": t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=CLASSES),
        "convnext": t.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, **sizes),
    }
    classes = {"deit": t.DeiTForImageClassification}
    out = []
    for name, config in configs.items():
        torch.manual_seed(0)
        model = classes.get(name, t.AutoModelForImageClassification.from_config)(config).eval()
        model.save_pretrained(root() / name)
        t.ViTImageProcessor(
            size={"height": 16, "width": 16}, image_mean=[0.4] * 3, image_std=[0.2] * 3
        ).save_pretrained(root() / name)
        state = safetensors.torch.load_file(root() / name / "model.safetensors")
        out.append(
            Base(
                name, root() / name, state, functools.partial(_image_outputs, model, 0.4, 0.2), _image_labeler, "image"
            )
        )
    return out


TIMM = "test_byobnet"  # timm's smallest


@torch.no_grad()
def _timm_outputs(pre_logits: bool, model: Any, dtype: torch.dtype) -> Tensor:
    rounded(model, dtype)
    config = model.pretrained_cfg
    mean, std = (torch.tensor(config[key]).view(1, -1, 1, 1) for key in ("mean", "std"))
    images = (pixels() - mean) / std
    return model.forward_head(model.forward_features(images), pre_logits=True) if pre_logits else model(images)


@torch.no_grad()
def _timm_student(path: Path) -> Tensor:
    how = TimmStudent(name=TIMM, weights=path, img_size=16)
    backbone = how.build(IMAGES)
    how.load_weights(backbone)
    return backbone.eval()(pixels())


@torch.no_grad()
def _timm_labeler(path: Path) -> Tensor:
    how = TimmLabeler(name=TIMM, weights=path, img_size=16)
    model = how.build(IMAGES, CLASSES)
    how.load_weights(model)
    return model.eval()(pixels()).logits


@torch.no_grad()
def _own_labeler(path: Path) -> Tensor:
    how = ConvLabeler(widths=(4, 4), weights=path)
    model = how.build(IMAGES, CLASSES)
    how.load_weights(model)
    return model.eval()(pixels()).logits


@torch.no_grad()
def _own_generator(path: Path) -> Tensor:
    how = MLPAutoencoderGenerator(hidden=(8,), latent_dim=4, weights=path)
    model = how.build(IMAGES)
    how.load_weights(model)
    return model.eval().decode(model.encode(pixels()))


@torch.no_grad()
def _kl(path: Path) -> Tensor:
    how = AutoencoderKLGenerator(path=str(path))
    model = how.build(IMAGES)
    how.load_weights(model)
    return model.eval().encode(pixels())


@torch.no_grad()
def _kl_outputs(model: Any, dtype: torch.dtype) -> Tensor:
    return rounded(model, dtype).encode(2 * pixels() - 1).latent_dist.mode().flatten(1)


def _files() -> list[Base]:
    torch.manual_seed(1)
    model = timm.create_model(TIMM, num_classes=CLASSES)
    own = {
        "timm student": (model, functools.partial(_timm_outputs, True, model), _timm_student),
        "timm labeler": (model, functools.partial(_timm_outputs, False, model), _timm_labeler),
    }
    labeler = ConvLabeler(widths=(4, 4)).build(IMAGES, CLASSES)
    generator = MLPAutoencoderGenerator(hidden=(8,), latent_dim=4).build(IMAGES)

    @torch.no_grad()
    def labels(dtype: torch.dtype) -> Tensor:
        return rounded(labeler, dtype)(pixels()).logits

    @torch.no_grad()
    def again(dtype: torch.dtype) -> Tensor:
        rounded(generator, dtype)
        return generator.decode(generator.encode(pixels()))

    own |= {"conv labeler": (labeler, labels, _own_labeler), "autoencoder": (generator, again, _own_generator)}
    out = []
    for name, (model, outputs, ours) in own.items():
        state = {key: value.clone() for key, value in model.eval().state_dict().items()}
        file = root() / f"{name.replace(' ', '-')}.safetensors"
        safetensors.torch.save_file(state, file)
        drawn = ("head.fc.weight", "head.fc.bias") if name == "timm student" else ()
        out.append(Base(name, file, state, outputs, ours, "image", drawn))
    return out


def _autoencoders() -> list[Base]:
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    model = AutoencoderKL(**blocks, block_out_channels=[8, 8], norm_num_groups=4, latent_channels=2, sample_size=16)
    folder = root() / "vae"
    model.eval().save_pretrained(folder)
    state = safetensors.torch.load_file(folder / "diffusion_pytorch_model.safetensors")
    return [Base("vae", folder, state, functools.partial(_kl_outputs, model), _kl, "image")]


@functools.cache
def bases() -> dict[str, Base]:
    return {each.name: each for each in (*_texts(), *_images(), *_files(), *_autoencoders())}


#: Their names, without making them.
NAMES = (
    *("bert", "distilbert", "roberta", "electra", "albert", "mpnet"),
    *("bert masked", "bert masked as encoder", "roberta masked", "roberta masked as encoder"),
    *(f"{family} classifier" for family in ("bert", "distilbert", "roberta", "electra")),
    *("gpt2", "bart", "t5", "sentences by cls", "sentences by mean"),
    *("vit", "deit", "resnet", "convnext", "vae"),
    *("timm student", "timm labeler", "conv labeler", "autoencoder"),
)
