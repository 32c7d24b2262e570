"""Makes inputs for students, and compares what an export's own library answers with what the student does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tgt_ray.core.errors import ConfigError
from tgt_ray.core.texts import as_read, sentences
from tgt_ray.inference.export.base import Student
from tgt_ray.inference.preprocess import Texts
from tgt_ray.models.text.encoder import TextBackbone

#: How far answers may lie apart, as a share of the deviation between inputs and at the most; and at the least, for the
#: order of sums. How many inputs are compared. (All are our choice.)
SHARE, MOST, LEAST, ROWS = 1e-2, 1e-3, 1e-4, 16
#: Tokens of a text at the most; one text has more than the student reads.
WORDS = 40


def random_images(student: Student) -> Tensor:
    """Make images of a student's shape, (N, C, H, W) in [0, 1]: patches of colours with noise, in steps of 1/255."""
    generator = torch.Generator().manual_seed(0)
    channels, *size = student.input_shape
    patches = F.interpolate(torch.rand(ROWS, channels, 3, 3, generator=generator), size=tuple(size), mode="nearest")
    noise = torch.rand(ROWS, channels, *size, generator=generator)
    return (255 * (0.7 * patches + 0.3 * noise)).round() / 255


def random_texts(student: Student) -> list[str] | list[tuple[str, str]]:
    """Make texts from the tokens of a student's vocabulary, or pairs of them where it takes pairs.

    None has more bytes than the student reads, since other programs cut texts by their tokens alone.
    """
    backbone, preprocess = student.module.backbone, student.preprocess
    assert isinstance(backbone, TextBackbone) and isinstance(preprocess, Texts)
    tokens, rng = backbone.tokens, np.random.default_rng(0)
    known = np.array(sorted(set(tokens.tokenizer.get_vocab().values()) - tokens.special))
    most = min(WORDS, max(1, tokens.max_tokens // 2))
    lengths = [*rng.integers(1, most + 1, ROWS - 1), tokens.max_tokens + 8]

    def text(length: int) -> str:
        return str(tokens.tokenizer.decode(rng.choice(known, length).tolist()))

    whole = [preprocess.one((text(each), text(each)) if preprocess.pairs else text(each)) for each in lengths]
    parts = [tuple(part.strip() for part in sentences(row)) for row in as_read(whole, preprocess.width)]
    return [(each[0], each[1]) for each in parts] if preprocess.pairs else [each[0] for each in parts]


@torch.no_grad()
def own_answers(student: Student, inputs: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return a student's embeddings (N, D) and scores (N, K) of few inputs."""
    module = student.module
    embedding = module.backbone(student.preprocess(inputs).to(student.device))
    return embedding.float().numpy(force=True), module.criterion.scores(embedding).float().numpy(force=True)


def compare(name: str, expected_NK: np.ndarray, found_NK: np.ndarray, what: str = "scores") -> dict[str, Any]:
    """Compare answers of an export with those of its student.

    - name: of the format
    - what: "scores", whose highest one must be the same as well, or "embeddings"
    - returns: what is to be recorded
    - raises ConfigError: where they differ
    """
    apart = float(np.abs(expected_NK - found_NK).max()) if expected_NK.shape == found_NK.shape else np.inf
    allowed = min(MOST, max(LEAST, SHARE * float(expected_NK.std(axis=0).mean())))
    other = what == "scores" and apart < np.inf and not (expected_NK.argmax(axis=1) == found_NK.argmax(axis=1)).all()
    if other or not apart <= allowed:
        raise ConfigError(
            f"--format {name}: its library gives other {what} than the student for what was written, by up to"
            f" {apart:.2g}{' and with another top class' if other else ''}; nothing is left of it; take safetensors"
        )
    return {"rows": len(expected_NK), "largest_difference": apart}


@contextmanager
def without_bars() -> Iterator[None]:
    """Let transformers show no bars of its own, which it does for each file that it reads or writes."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
