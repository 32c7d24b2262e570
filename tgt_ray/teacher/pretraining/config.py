"""Configures how weights are trained where none are given."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tgt_ray.core.config import SINCE_0_2, Config, Seed


class Pretrain(Config):
    """Trains weights where none are given, once; they are then stored and reused."""

    split: Literal["full", "train"] = Field(
        "full",
        description="rows to train on: `full` is the train split before the long tail, so the teacher sees rows and"
        " labels that the student does not, which is the setting of a pretrained teacher; `train` has the student's own"
        " rows. Rows that `task.labelled` leaves without a label are for generators only",
    )
    steps: int = Field(ge=1, le=10**9, description="training steps, each on one batch")
    batch_size: int = Field(ge=1, le=2**20, description="rows of one step")
    learning_rate: float = Field(gt=0, le=1e30, description="largest learning rate")
    weight_decay: float = Field(ge=0, le=1e6, description="weight decay of the optimizer; higher regularises more")
    seed: Seed = Field(0, description="seed of the initial weights and of all draws in training")
    threads: int = Field(
        1,
        ge=1,
        le=1024,
        description="threads that compute on the CPU, however many there are, since the last digits of the weights"
        " depend on it; more are faster for models from some millions of weights up, on a machine that has as many"
        " cores free",
        json_schema_extra=SINCE_0_2,
    )


class LabelerPretrain(Pretrain):
    """Trains an image labeler on the cross-entropy of labels, by SGD with Nesterov momentum."""

    steps: int = Field(500, ge=1, le=10**9, description="training steps, each on one batch")
    batch_size: int = Field(64, ge=1, le=2**20, description="rows of one step")
    learning_rate: float = Field(
        0.05,
        gt=0,
        le=1e30,
        description="largest learning rate of Nesterov SGD, after a warm-up and before cosine decay",
    )
    weight_decay: float = Field(
        5e-4, ge=0, le=1e6, description="weight decay of the optimizer; higher regularises more"
    )
    shift: int = Field(1, ge=0, le=1024, description="augmentation: largest random shift in pixels, in each direction")
    flip: bool = Field(False, description="augmentation: random horizontal flips")


class Probe(Config):
    """A linear probe: fits a linear head on the frozen model's embeddings by logistic regression."""

    split: Literal["full", "train"] = Field(
        "train", description="labelled rows that the head is fitted on, as for `pretrain.split`"
    )
    l2: float = Field(
        1e-3, ge=0, le=1e6, description="L2 penalty of the weights, on standardised embeddings; higher regularises more"
    )
    iterations: int = Field(200, ge=1, le=10**6, description="largest number of iterations of L-BFGS")


class TextPretrain(Pretrain):
    """Trains a text labeler on the cross-entropy of labels, by AdamW with warm-up and cosine decay."""

    steps: int = Field(1000, ge=1, le=10**9, description="training steps, each on one batch")
    batch_size: int = Field(32, ge=1, le=2**20, description="rows of one step")
    learning_rate: float = Field(
        1e-3, gt=0, le=1e30, description="largest learning rate of AdamW, after a warm-up and before cosine decay"
    )
    weight_decay: float = Field(
        0.01, ge=0, le=1e6, description="weight decay of the optimizer; higher regularises more"
    )


class FineTune(TextPretrain):
    """Trains all weights of a pretrained text model, with a new head, on labelled rows."""

    split: Literal["full", "train"] = Field("train", description="labelled rows to train on, as for `pretrain.split`")
    steps: int = Field(500, ge=1, le=10**9, description="training steps, each on one batch")
    learning_rate: float = Field(
        3e-5, gt=0, le=1e30, description="largest learning rate of AdamW, after a warm-up and before cosine decay"
    )


class TextGeneratorPretrain(Pretrain):
    """Trains a text generator to restore masked tokens (denoising)."""

    steps: int = Field(2000, ge=1, le=10**9, description="training steps, each on one batch")
    batch_size: int = Field(64, ge=1, le=2**20, description="rows of one step")
    learning_rate: float = Field(
        1e-3, gt=0, le=1e30, description="largest learning rate of AdamW, after a warm-up and before cosine decay"
    )
    weight_decay: float = Field(
        0.01, ge=0, le=1e6, description="weight decay of the optimizer; higher regularises more"
    )
    agreement: float | None = Field(
        None,
        gt=0,
        le=100,
        description="stop before `steps` once the labeler predicts the same class for a validation text and its"
        " refilled version in this percentage of cases; absent: train for all steps",
    )
    check_every: int = Field(500, ge=1, le=10**9, description="steps between measurements of the agreement")


class GeneratorPretrain(Pretrain):
    """Trains an autoencoder of images to reconstruct them, by AdamW."""

    steps: int = Field(1500, ge=1, le=10**9, description="training steps, each on one batch")
    batch_size: int = Field(128, ge=1, le=2**20, description="rows of one step")
    learning_rate: float = Field(
        2e-3, gt=0, le=1e30, description="largest learning rate of AdamW, after a warm-up and before cosine decay"
    )
    weight_decay: float = Field(0.0, ge=0, le=1e6, description="weight decay of the optimizer; higher regularises more")
    consistency: float = Field(
        0.0,
        ge=0,
        le=1e6,
        description="weight of KL(h(x) || h(dec(enc(x)))), for the labeler h, in addition to the pixels' squared error;"
        " higher makes reconstructions keep what the labeler sees, not only the pixels (our choice)",
    )
    consistency_start: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="share of the steps before `consistency` counts; for colour images pixels must be learnt first, or"
        " neither is learnt",
    )
    latent_noise: float = Field(
        0.0,
        ge=0,
        le=1e6,
        description="standard deviation of noise added before decoding, in units of each latent dimension's own"
        " standard deviation; higher makes the decoder learn a wider neighbourhood of anchors (our choice)",
    )
    shift: int = Field(0, ge=0, le=1024, description="augmentation: largest random shift in pixels, in each direction")
    flip: bool = Field(False, description="augmentation: random horizontal flips")
    agreement: float | None = Field(
        None,
        gt=0,
        le=100,
        description="stop before `steps` once the labeler predicts the same class for a validation row and its"
        " reconstruction in this percentage of cases; absent: train for all steps",
    )
    check_every: int = Field(100, ge=1, le=10**9, description="steps between measurements of the agreement")
