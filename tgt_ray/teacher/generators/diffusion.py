"""These generators use models of the diffusers library."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from tgt_ray.core.batch import InputSpec
from tgt_ray.core.config import FolderOrName
from tgt_ray.core.errors import ConfigError
from tgt_ray.teacher.generators.base import Generator

if TYPE_CHECKING:
    from torch import nn

    from tgt_ray.core.batch import InputRows


class AutoencoderKLGenerator(Generator):
    """The autoencoder of latent diffusion models: AutoencoderKL of diffusers. It needs the extra `huggingface`."""

    differentiable: ClassVar[bool] = True
    places: ClassVar[frozenset[str]] = frozenset({"weights", "path", "subfolder", "revision"})
    type: Literal["autoencoder_kl"] = "autoencoder_kl"
    path: FolderOrName = Field(
        description="folder that `save_pretrained` wrote and all nodes see, `package:NAME/FOLDER` for a folder in an"
        " installed Python package, or a name on the hub"
    )
    subfolder: str | None = Field(
        None, description="subfolder of the autoencoder, often `vae`, where `path` is a whole pipeline"
    )
    revision: str | None = Field(None, description="commit or tag on the hub")
    weights: None = Field(None, description="not used: `path` has the weights")
    sample: bool = Field(False, description="encode to a sample of the posterior instead of its mean")

    @property
    def external(self) -> bool:
        return True

    def build(self, spec: InputSpec) -> nn.Module:
        kl = _library()
        config = kl.load_config(self.path, self.subfolder, self.revision)
        return kl.build(config, spec.shape, self.sample, self.path)

    def load_weights(self, model: Any) -> dict[str, Any]:
        from tgt_ray.models.weights import load_strictly

        load_strictly(
            model.body,
            _library().weights(self.path, self.subfolder, self.revision),
            f"teacher.generator.path: {self.path}",
        )
        return {"weights": self.path}

    def facts(self, model: Any) -> dict[str, Any]:
        return model.facts()

    def fit(
        self, model: nn.Module, inputs: InputRows, labeler: nn.Module, agreement: Callable[[], float]
    ) -> dict[str, Any]:
        raise AssertionError("its weights come from the folder")


class ImageVariationGenerator(Generator):
    """Embeds an image and draws new images for the embedding by diffusion: StableUnCLIPImg2ImgPipeline of diffusers.

    It is for random and interpolating exploration, since no gradient flows through the drawn images. It needs the extra
    `huggingface`.
    """

    samples: ClassVar[bool] = True
    # The weights have gigabytes, so every process loads them from their own place.
    stored: ClassVar[bool] = False
    places: ClassVar[frozenset[str]] = frozenset({"weights", "path", "revision"})
    type: Literal["image_variation"] = "image_variation"
    path: FolderOrName = Field(
        description="folder that `save_pretrained` wrote and all nodes see, `package:NAME/FOLDER` for a folder in an"
        " installed Python package, or a name on the hub, such as stabilityai/stable-diffusion-2-1-unclip-small"
    )
    revision: str | None = Field(None, description="commit or tag on the hub")
    weights: None = Field(None, description="not used: `path` has the weights")
    steps: int = Field(20, ge=1, le=10**6, description="diffusion steps for each image; fewer are faster and coarser")
    guidance: float = Field(
        10.0,
        ge=1,
        le=1e6,
        description="scale of classifier-free guidance; higher follows the embedding more closely; 1: none, which takes"
        " half the time",
    )
    noise_level: int = Field(
        0, ge=0, le=10**6, description="noise that the pipeline itself adds to embeddings; higher gives more variation"
    )
    size: int | None = Field(
        None, ge=8, le=2**14, description="height and width of the drawn images, in pixels; absent: the pipeline's own"
    )
    rows_at_once: int = Field(
        8, ge=1, le=2**20, description="images that are drawn together; choose as many as memory holds"
    )

    @property
    def external(self) -> bool:
        return True

    @property
    def most_rows(self) -> int | None:
        return self.rows_at_once

    def build(self, spec: InputSpec) -> nn.Module:
        _diffusers(self.type)
        from tgt_ray.models.image import image_variation

        options = self.model_dump(include={"size", "steps", "guidance", "noise_level", "rows_at_once"})
        return image_variation.load(self.path, self.revision, spec.shape, **options)

    def load_weights(self, model: Any) -> dict[str, Any]:
        return {"weights": self.path}

    def facts(self, model: Any) -> dict[str, Any]:
        return model.facts()

    def fit(
        self, model: nn.Module, inputs: InputRows, labeler: nn.Module, agreement: Callable[[], float]
    ) -> dict[str, Any]:
        raise AssertionError("its weights come from the folder")


def _library() -> Any:
    _diffusers("autoencoder_kl")
    from tgt_ray.models.image import latent_diffusion

    return latent_diffusion


def _diffusers(kind: str) -> None:
    try:
        import diffusers  # noqa: F401
    except ImportError as err:
        raise ConfigError(
            f"teacher.generator.type: '{kind}' needs the package diffusers: pip install 'tgt-ray[huggingface]'"
        ) from err
