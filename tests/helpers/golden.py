"""Makes one small request of each explorer and each generator, from weights that are drawn by a fixed seed."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from tests.helpers.diffusion import save_unclip
from tests.helpers.retrieval import corpus
from tests.helpers.text_models import SCRATCH, TEXTS, WIDTH, rows, seeded
from tgt_ray.core.batch import Block, InputSpec, Outputs
from tgt_ray.core.config import builtin_types, validate
from tgt_ray.core.texts import to_bytes
from tgt_ray.teacher.explorers import AnyExplorer, Explorer
from tgt_ray.teacher.generators import AnyGenerator, Generator
from tgt_ray.teacher.module import Teacher
from tgt_ray.teacher.synthesizer import Recipe, Synthesizer
from tgt_ray.teacher.transfer_set import Anchors

#: Rows of a request, its number and its seed.
ROWS, REQUEST, SEED = 6, 3, 5
CLASSES = 3
IMAGE, TEXT = InputSpec((1, 8, 8)), (WIDTH,)
EXPLORERS, GENERATORS = builtin_types(AnyExplorer), builtin_types(AnyGenerator)


class Case(NamedTuple):
    """An explorer's and a generator's settings; a generator's `path` names a folder of `folders`."""

    explorer: dict[str, Any]
    generator: Mapping[str, Any] = MappingProxyType({"type": "mlp_autoencoder"})


RANDOM = {"type": "random", "sigma": 1.0}
SAMPLES = {"type": "random"}  # for generators without latents
#: Every explorer that makes rows, and every generator, at least once.
CASES = {
    "random": Case({**RANDOM, "anchors": "balanced"}),
    "gradient": Case({"type": "gradient", "steps": 2}),
    "random-matched": Case({"type": "random-matched", "steps": 2, "anchors": 0.5}),
    "interpolation": Case({"type": "interpolation"}),
    "interpolation in a class": Case({"type": "interpolation", "partner": "same_class"}),
    "identity": Case({"type": "identity"}),
    "augment": Case({"type": "augment"}),
    "augment, cutmix": Case({"type": "augment", "step_size": 0.9, "flip": True, "mix": "cutmix"}),
    "augment, either": Case({"type": "augment", "mix": "either", "anchors": "balanced"}),
    "augment alone": Case({"type": "augment", "mix": "none", "randaugment": "rand-m5-n1"}),
    "augment on texts": Case({"type": "augment", "step_size": 1.0}, {"type": "spans"}),
    "compose": Case({"type": "compose", "of": RANDOM, "flip": True, "anchors": "balanced"}),
    "compose on texts": Case({"type": "compose", "of": RANDOM, "step_size": 1.0}, {"type": "masked_lm", **SCRATCH}),
    "conv_autoencoder": Case(RANDOM, {"type": "conv_autoencoder"}),
    "spatial_autoencoder": Case(RANDOM, {"type": "spatial_autoencoder", "widths": [8]}),
    "autoencoder_kl": Case(RANDOM, {"type": "autoencoder_kl", "path": "kl"}),
    "image_variation": Case(RANDOM, {"type": "image_variation", "path": "unclip", "steps": 2}),
    "masked_lm": Case(RANDOM, {"type": "masked_lm", "mask_rate": 0.4, **SCRATCH}),
    "masked_lm, gradient": Case({"type": "gradient", "step_size": 1.0}, {"type": "masked_lm", **SCRATCH}),
    "seq2seq": Case(RANDOM, {"type": "seq2seq", "mask_rate": 0.4, **SCRATCH}),
    "seq2seq, T5": Case(RANDOM, {"type": "seq2seq", "path": "t5", "max_tokens": 32}),
    "causal_lm": Case(
        SAMPLES, {"type": "causal_lm", "path": "causal_lm", "max_tokens": 64, "shots": 2, "max_new_tokens": 8}
    ),
    "spans": Case(SAMPLES, {"type": "spans", "least_words": 2, "most_words": 4}),
    "doc2query": Case(SAMPLES, {"type": "doc2query", "path": "seq2seq", "max_tokens": 30, "max_new_tokens": 8}),
}


def folders(text_models: Path, t5: str, kl: Path, place: Path) -> dict[str, str]:
    """Return the folders of small models by what cases call them."""
    unclip = save_unclip(place)
    of_texts = {name: str(text_models / name) for name in ("causal_lm", "seq2seq")}
    return {**of_texts, "t5": t5, "kl": str(kl / "vae"), "unclip": str(unclip)}


class Looking(nn.Module):
    """Says of images, or of texts by their bytes, what a few fixed numbers say of them."""

    def __init__(self, inputs: int, seed: int):
        super().__init__()
        weight = np.random.default_rng(seed).normal(size=(inputs, CLASSES)) / inputs**0.5
        self.weight = torch.from_numpy(weight.astype(np.float32))

    def forward(self, inputs: torch.Tensor) -> Outputs:
        if inputs.dtype == torch.uint8:
            inputs = nn.functional.one_hot(inputs.long(), 256).float().mean(dim=1) * 256
        embedding = inputs.flatten(1)
        return Outputs(20 * embedding[:, : len(self.weight)] @ self.weight, embedding)

    def scores(self, inputs: torch.Tensor) -> torch.Tensor:
        return self(inputs).logits


class Reading(nn.Module):
    """Says of texts, or of soft tokens, what a small transformer with fixed weights says of them."""

    def __init__(self, spec: InputSpec, seed: int):
        from tgt_ray.teacher.labelers.text import TextTransformerLabeler

        super().__init__()
        torch.manual_seed(seed)
        self.body = TextTransformerLabeler(**SCRATCH).build(spec, CLASSES).eval().requires_grad_(False)

    def forward(self, inputs: torch.Tensor) -> Outputs:
        said: Outputs = self.body(inputs)
        return Outputs(10 * said.logits, said.embedding)

    def scores(self, inputs: torch.Tensor) -> torch.Tensor:
        return self(inputs).logits


def made(case: Case, at: dict[str, str], text_spec: InputSpec) -> tuple[Block, Explorer]:
    """Make the request of a case, and return it with its explorer.

    - at: see `folders`
    """
    explorer = validate(EXPLORERS[case.explorer["type"]], case.explorer)
    settings = {**case.generator, **({"path": at[case.generator["path"]]} if "path" in case.generator else {})}
    generator = validate(GENERATORS[settings["type"]], settings)
    spec, inputs = _anchors(generator, text_spec)
    labeler, student = (_says(generator, explorer, spec, seed) for seed in (1, 2))
    teacher = Teacher.of(labeler, _weighted(generator, spec), generator)
    labels = np.arange(len(inputs)) ** 2 % CLASSES  # of unequal size
    latents = np.empty((len(inputs), 0), np.float32)
    if explorer.decodes and not generator.contextual:
        with torch.no_grad():
            latents = teacher.generator.encode(inputs).numpy()
    anchors = Anchors(100 + np.arange(len(inputs)), labels, latents)
    recipe = Recipe(ROWS, pixels=generator.modality == "image")
    make: Callable[..., Block] = Synthesizer(teacher, anchors, recipe, inputs)
    return make(REQUEST, SEED, explorer, student if explorer.on_policy else None, shown=2), explorer


def _anchors(generator: Generator, text_spec: InputSpec) -> tuple[InputSpec, torch.Tensor]:
    if generator.modality == "image":
        images = np.random.default_rng(0).random((12, 1, 8, 8), np.float32)
        return IMAGE, torch.from_numpy(np.rint(images * 255).astype(np.float32) / np.float32(255))
    if generator.starts_from_train:
        return text_spec, rows(*TEXTS[::4])
    return text_spec, torch.from_numpy(to_bytes([each["text"] for each in corpus()[:12]], WIDTH))


def _says(generator: Generator, explorer: Explorer, spec: InputSpec, seed: int) -> Any:
    if generator.modality == "text" and explorer.needs_differentiable:
        return Reading(spec, seed)
    return Looking(64 if generator.modality == "image" else 256, seed)


def _weighted(generator: Generator, spec: InputSpec) -> Any:
    model = seeded(generator.build, spec)
    if generator.external:
        generator.load_weights(model)
    else:
        # Freshly drawn weights give nearly the same grey image, or the same odds of words, for all latents.
        for weight in model.parameters():
            weight.mul_((3 if generator.modality == "image" else 6) if weight.dim() > 1 else 1)
    return model
