"""Generators of the diffusers library."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from tgt_ray.config import ConfigError
from tgt_ray.generators.base import Generator

if TYPE_CHECKING:
    from torch import nn

    from tgt_ray.batch import InputRows


class AutoencoderKLGenerator(Generator):
    """diffusers' AutoencoderKL, the autoencoder of latent diffusion models. Needs the extra `huggingface`."""

    differentiable: ClassVar[bool] = True
    type: Literal["autoencoder_kl"] = "autoencoder_kl"
    path: str = Field(description="folder that `save_pretrained` wrote and all nodes see, or a name on the hub")
    subfolder: str | None = Field(None, description="of the autoencoder in a whole pipeline's folder, often `vae`")
    revision: str | None = Field(None, description="commit or tag on the hub")
    weights: None = Field(None, description="not used: the folder has them")
    sample: bool = Field(False, description="encode by a sample of the posterior instead of its mean")

    @property
    def external(self) -> bool:
        return True

    def build(self, input_shape: tuple[int, ...]) -> nn.Module:
        kl = _library()
        return kl.build(kl.load_config(self.path, self.subfolder, self.revision), input_shape, self.sample)

    def load_weights(self, model: Any) -> dict[str, Any]:
        from tgt_ray.models.weights import load_strictly

        load_strictly(
            model.body,
            _library().weights(self.path, self.subfolder, self.revision),
            f"teacher.generator.path: {self.path}",
        )
        return {"weights": self.path}

    def fit(
        self, model: nn.Module, inputs: InputRows, labeler: nn.Module, agreement: Callable[[], float]
    ) -> dict[str, Any]:
        raise AssertionError("its weights come from the folder")


def _library() -> Any:
    try:
        import diffusers  # noqa: F401
    except ImportError as err:
        raise ConfigError(
            "teacher.generator.type: 'autoencoder_kl' needs the package diffusers: pip install 'tgt-ray[huggingface]'"
        ) from err
    from tgt_ray.models import latent_diffusion

    return latent_diffusion
