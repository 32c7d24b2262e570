"""Explores the space of inputs around anchors, without a generator (function matching)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from tgt_ray.teacher.explorers.base import Around, Explorer, Neighbourhood

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class InputChanges(Explorer):
    """Changes inputs at random: images by shifts, flips, crops and mixtures; texts by words left out and spans mixed.

    The task's kind of inputs decides; settings for the other kind are refused.
    """

    keeps_class: ClassVar[bool] = False
    #: Settings for images, and for texts.
    of_kind: ClassVar[dict[str, tuple[str, ...]]] = {
        "image": ("shift", "crop", "flip", "mix", "randaugment"),
        "text": ("dropout", "span"),
    }

    step_size: float = Field(
        0.5,
        ge=0,
        le=1,
        description="strength of all changes but `flip` and `randaugment`; higher moves farther from the anchor; 0:"
        " none of them",
    )
    shift: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="images: at strength 1, the largest shift in each direction, as a share of the image's size",
    )
    crop: float = Field(
        0.5, ge=0, lt=1, description="images: at strength 1, the largest share of the image's area that is cut away"
    )
    flip: bool = Field(False, description="images: flip each horizontally with probability 1/2")
    mix: Literal["none", "mixup", "cutmix", "either"] = Field(
        "mixup",
        description="images: mix each with another one: by MixUp, CutMix, or either of them with probability 1/2; at"
        " strength 1 the other one has a share of up to one half",
    )
    randaugment: str | None = Field(
        None,
        pattern=r"^rand(-((m|n|inc|mmax)\d+|(mstd|p)[\d.]+))*$",
        description="images: timm's RandAugment by its config string, such as rand-m9-mstd0.5, whatever the strength;"
        " absent: none",
    )
    dropout: float = Field(
        0.4,
        ge=0,
        lt=1,
        description="texts: at strength 1, the largest share of words that are left out; each text draws its own share",
    )
    span: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="texts: at strength 1, the largest share of words that a span of another text takes; each text"
        " draws its own share; 0: texts are not mixed",
    )

    @property
    def libraries(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("timm", "pillow") if self.randaugment else ()

    def change(self, inputs: Tensor, around: Around) -> Tensor:
        if inputs.is_floating_point():
            return self._changed_images(inputs.float(), around)
        return self._changed_texts(inputs, around)

    def _changed_images(self, images: Tensor, around: Around) -> Tensor:
        rng = around.rng
        changed = self._moved(images, rng)
        if self.mix == "none" or not self.step_size:
            return changed
        return self._mixed(changed, self._moved(around.others().float(), rng), rng)

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

    def _changed_texts(self, rows: Tensor, around: Around) -> Tensor:
        """Change texts as words, so that each model puts its own special tokens and padding around the result."""
        import torch

        from tgt_ray.core.texts import to_bytes, to_texts
        from tgt_ray.models.text.augment import with_spans, without_words

        rng = around.rng

        def thinned(some: Tensor) -> list[str]:
            return without_words(to_texts(some.cpu().numpy()), self.dropout * self.step_size, rng)

        texts = thinned(rows)
        if self.span * self.step_size:
            texts = with_spans(texts, thinned(around.others()), self.span * self.step_size, rng)
        return torch.from_numpy(to_bytes(texts, rows.shape[1])).to(rows.device)


class Augment(InputChanges):
    """Changes anchors at random and mixes them, and lets the teacher label exactly what the student sees.

    Images are shifted, flipped, cropped and mixed; texts lose words, and get a span of another one. It follows function
    matching (Beyer et al. 2022, arXiv 2106.05237), which crops and mixes images and trains for long. One strength for
    all changes, which operations there are, all of them for texts, and the defaults are our choices. No generator is
    needed. Words are what white space separates; characters in scripts without it.
    """

    type: Literal["augment"] = "augment"
    decodes: ClassVar[bool] = False

    def explore(self, latents_BL: Tensor, near: Neighbourhood) -> Tensor:
        return latents_BL
