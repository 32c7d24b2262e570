"""Explores the space of inputs around anchors, without a generator (function matching)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from tgt_ray.teacher.explorers.base import Around, Explorer, Neighbourhood

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Augment(Explorer):
    """Shifts, flips, crops and mixes anchors, and lets the teacher label exactly what the student sees.

    It follows function matching (Beyer et al. 2022, arXiv 2106.05237), which crops and mixes images and trains for
    long. One strength for all changes, which operations there are, and their defaults are our choices. No generator is
    needed.
    """

    type: Literal["augment"] = "augment"
    modality: ClassVar[str] = "image"
    decodes: ClassVar[bool] = False

    step_size: float = Field(
        0.5, ge=0, le=1, description="strength of all changes; higher moves farther from the anchor; 0: it stays itself"
    )
    shift: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="at strength 1, the largest shift in each direction, as a share of the image's size",
    )
    crop: float = Field(
        0.5, ge=0, lt=1, description="at strength 1, the largest share of the image's area that is cut away"
    )
    flip: bool = Field(False, description="flip each image horizontally with probability 1/2")
    mix: Literal["none", "mixup", "cutmix", "either"] = Field(
        "mixup",
        description="mix each anchor with another one: by MixUp, CutMix, or either of them with probability 1/2; at"
        " strength 1 the other one has a share of up to one half",
    )
    randaugment: str | None = Field(
        None,
        pattern=r"^rand(-((m|n|inc|mmax)\d+|(mstd|p)[\d.]+))*$",
        description="timm's RandAugment by its config string, such as rand-m9-mstd0.5, whatever the strength; absent:"
        " none",
    )

    def explore(self, latents_BL: Tensor, near: Neighbourhood) -> Tensor:
        return latents_BL

    def change(self, inputs: Tensor, around: Around) -> Tensor:
        rng = around.rng
        changed = self._moved(inputs, rng)
        if self.mix == "none" or not self.step_size:
            return changed
        return self._mixed(changed, self._moved(around.others(), rng), rng)

    def _moved(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """Change each image by itself."""
        import torch

        from tgt_ray.models.image.augment import augment, crop, rand_augment

        shift = round(self.shift * self.step_size * max(images.shape[2:]))
        images = augment(images, shift, self.flip, rng)
        if self.crop * self.step_size:
            images = crop(images, 1 - self.crop * self.step_size, rng)
        if self.randaugment:
            number = int(torch.randint(2**31, (1,), generator=rng))
            images = rand_augment(images, self.randaugment, number)
        return images

    def _mixed(self, images: Tensor, others: Tensor, rng: torch.Generator) -> Tensor:
        import torch

        from tgt_ray.models.image.augment import cutmix, mixup

        share_B = torch.rand(len(images), generator=rng) * self.step_size / 2
        if self.mix == "mixup":
            return mixup(images, others, share_B)
        cut = cutmix(images, others, share_B, rng)
        if self.mix == "cutmix":
            return cut
        chosen = (torch.rand(len(images), generator=rng) < 0.5).to(images.device)
        return torch.where(chosen[:, None, None, None], cut, mixup(images, others, share_B))
