"""How weights are made where none are given."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tgt_ray.core.config import Config


class Pretrain(Config):
    """How weights are made where none are given: once, then stored by fingerprint and reused."""

    split: Literal["full", "train"] = Field(
        "full",
        description="rows to train on: `full` is the train split before the long tail (the teacher has then seen rows and"
        " labels that the student has not, which is the setting of a pretrained teacher), `train` the student's own rows. Rows that"
        " `task.labelled` leaves without a label are for generators alone",
    )
    steps: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    seed: int = 0


class LabelerPretrain(Pretrain):
    steps: int = Field(500, ge=1)
    batch_size: int = Field(64, ge=1)
    learning_rate: float = Field(0.05, gt=0, description="peak of Nesterov SGD; warm-up, then cosine decay")
    weight_decay: float = Field(5e-4, ge=0)
    shift: int = Field(1, ge=0, description="augmentation: largest random shift in pixels, each way")
    flip: bool = Field(False, description="augmentation: random horizontal flips")


class Probe(Config):
    """Logistic regression on the frozen model's embeddings (a linear probe)."""

    split: Literal["full", "train"] = Field("train", description="labelled rows that the head is fitted on")
    l2: float = Field(1e-3, ge=0, description="of the weights, on standardised embeddings")
    iterations: int = Field(200, ge=1, description="of L-BFGS, at the most")


class TextPretrain(Pretrain):
    """AdamW with warm-up and cosine decay on the cross-entropy of labels."""

    steps: int = Field(1000, ge=1)
    batch_size: int = Field(32, ge=1)
    learning_rate: float = Field(1e-3, gt=0, description="peak")
    weight_decay: float = Field(0.01, ge=0)


class FineTune(TextPretrain):
    """All weights of a pretrained model, with a new head, on labelled rows."""

    split: Literal["full", "train"] = Field("train", description="labelled rows to train on, as `pretrain.split`")
    steps: int = Field(500, ge=1)
    learning_rate: float = Field(3e-5, gt=0, description="peak")


class TextGeneratorPretrain(Pretrain):
    """Denoising: the model learns to give back texts of which some tokens are masked."""

    steps: int = Field(2000, ge=1)
    batch_size: int = Field(64, ge=1)
    learning_rate: float = Field(1e-3, gt=0, description="peak of AdamW; warm-up, then cosine decay")
    weight_decay: float = Field(0.01, ge=0)
    agreement: float | None = Field(
        None,
        gt=0,
        le=100,
        description="stop before `steps` when the labeler agrees with itself on this share of refilled validation texts, in percent",
    )
    check_every: int = Field(500, ge=1, description="steps between looks at the agreement")


class GeneratorPretrain(Pretrain):
    steps: int = Field(1500, ge=1)
    batch_size: int = Field(128, ge=1)
    learning_rate: float = Field(2e-3, gt=0, description="peak of AdamW; warm-up, then cosine decay")
    weight_decay: float = Field(0.0, ge=0)
    consistency: float = Field(
        0.0,
        ge=0,
        description="weight w of KL(h(x) || h(dec(enc(x)))) beside the pixels' squared error: makes the generator faithful to"
        " the labeler and not only to pixels (our choice)",
    )
    consistency_start: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="share of the steps before consistency counts: of colour images the pixels are learnt first, or neither is",
    )
    latent_noise: float = Field(
        0.0,
        ge=0,
        description="standard deviation, in units of each latent dimension's own, of noise added before decoding, so that the decoder"
        " knows the neighbourhood of anchors (our choice)",
    )
    shift: int = Field(0, ge=0, description="augmentation: largest random shift in pixels, each way")
    flip: bool = Field(False, description="augmentation: random horizontal flips")
    agreement: float | None = Field(
        None,
        gt=0,
        le=100,
        description="stop before `steps` when the labeler agrees with itself on this share of validation reconstructions, in percent",
    )
    check_every: int = Field(100, ge=1, description="steps between looks at the agreement")
