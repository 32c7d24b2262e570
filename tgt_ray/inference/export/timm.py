"""Writes students of timm's architectures as timm's own checkpoints."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tgt_ray.core.errors import ConfigError
from tgt_ray.inference.export.base import Format, Options, Student, linear_head
from tgt_ray.inference.export.comparing import compare, own_answers, random_images
from tgt_ray.inference.export.rows import Data
from tgt_ray.inference.students import LoadedRetriever, LoadedStudent
from tgt_ray.models.image.preprocess import Preprocess, PretrainedBackbone
from tgt_ray.models.image.source_norm import join_norms
from tgt_ray.models.students import TimmStudent

WEIGHTS = "model.safetensors"


class Timm(Format):
    """A folder that `timm.create_model` opens."""

    name: ClassVar[str] = "timm"
    usage: ClassVar[str] = (
        "import timm\n"
        "from PIL import Image\n"
        'model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()\n'
        "transform = timm.data.create_transform(**timm.data.resolve_data_config(model=model))\n"
        'image = Image.open(INPUT).convert("RGB" if model.pretrained_cfg["input_size"][0] == 3 else "L")\n'
        'print(model.pretrained_cfg["label_names"][int(model(transform(image)[None]).argmax())])'
    )

    def check(self, student: Student) -> None:
        """Only students of timm with one linear layer as their head."""
        whole_model(student, self.name)

    def write(self, student: Student, folder: Path, data: Data, options: Options) -> dict[str, Any]:
        import timm

        whole = whole_model(student, self.name)
        timm.models.save_for_hf(
            whole.model,
            folder,
            model_config={"label_names": list(whole.classes)},
            model_args=whole.arguments,
            safe_serialization=True,
        )
        images = random_images(student)
        call = {"num_classes": len(whole.classes), **whole.arguments}
        opened = timm.create_model(f"local-dir:{folder}", pretrained=True)
        again = timm.create_model(whole.architecture, checkpoint_path=folder / WEIGHTS, **call)
        _, expected = own_answers(student, images)
        compare(self.name, expected, _scores(again, whole.prepared(images)))
        return {
            "compared": compare(self.name, expected, _scores(opened, transformed(opened.pretrained_cfg, images))),
            "create_model": {"model_name": whole.architecture, **call},
            "student_size": list(student.input_shape),
            "temperature": whole.student.temperature,
        }


@dataclass(frozen=True)
class Whole:
    """A student as one model of timm.

    - preprocess: what goes before `model`
    - architecture: timm's name of it, without a tag
    - arguments: of `timm.create_model`, beside the number of classes
    """

    student: LoadedStudent
    preprocess: Preprocess
    model: Any
    architecture: str
    arguments: dict[str, Any]

    @property
    def classes(self) -> tuple[str, ...]:
        return self.student.classes

    @torch.no_grad()
    def prepared(self, images_NCHW: Tensor) -> Tensor:
        """Return images as the model of timm takes them."""
        prepared: Tensor = self.preprocess(images_NCHW.to(self.student.device)).cpu()
        return prepared


def transformed(pretrained_cfg: Mapping[str, Any], images_NCHW: Tensor) -> Tensor:
    """Prepare images in [0, 1] by timm's own transform for a model."""
    import timm

    change = timm.data.create_transform(**timm.data.resolve_data_config({}, pretrained_cfg=dict(pretrained_cfg)))
    colours = images_NCHW.expand(-1, pretrained_cfg["input_size"][0], -1, -1)  # grey images become coloured ones
    return torch.stack([change(each) for each in colours])


def whole_model(student: Student, format_name: str) -> Whole:
    """Join a student's body and head in one model of timm.

    - raises ConfigError: where the student isn't one of timm, or its head isn't one linear layer
    """
    import timm

    backbone, config = student.module.backbone, student.experiment.student
    timm_body = isinstance(config, TimmStudent) and isinstance(backbone, PretrainedBackbone)
    if isinstance(student, LoadedRetriever) or not timm_body:
        raise ConfigError(
            f"--format {format_name}: is for students of type 'timm', and this one is of type '{config.type}'; take"
            " safetensors, onnx or pt2"
        )
    assert isinstance(config, TimmStudent) and isinstance(backbone, PretrainedBackbone)
    head = linear_head(student, format_name)
    body = copy.deepcopy(backbone.body).cpu()
    join_norms(body)
    registered = timm.get_pretrained_cfg(config.name, allow_unregistered=True) or timm.models.PretrainedCfg()
    architecture = config.name.partition(".")[0]
    channels = backbone.preprocess.channels
    size = backbone.preprocess.size or student.input_shape[1:]
    sized = {"img_size": list(size)} if registered.fixed_input_size else {}
    arguments = {"in_chans": channels, **sized, **config.options}
    about = {
        "architecture": architecture,
        "num_classes": len(student.classes),
        "fixed_input_size": registered.fixed_input_size,
        "first_conv": registered.first_conv,
        "classifier": registered.classifier,
        **_preparation(backbone.preprocess, (channels, *size), student.input_shape),
    }
    with torch.random.fork_rng(devices=[]):  # first weights are drawn, and then replaced
        model = timm.create_model(architecture, pretrained_cfg=about, num_classes=len(student.classes), **arguments)
    _fill(model, body, head, f"--format {format_name}: timm's '{config.name}'")
    return Whole(student, backbone.preprocess, model.eval().requires_grad_(False), architecture, arguments)


def _preparation(preprocess: Preprocess, shape: tuple[int, ...], student_shape: tuple[int, ...]) -> dict[str, Any]:
    """Say how timm is to prepare images.

    - shape: (C, H, W) that the model takes
    - student_shape: (C, H, W) that images are brought to before, by bicubic interpolation
    """
    _, height, width = shape
    resized = shape[1:] != student_shape[1:]
    return {
        "input_size": shape,
        "interpolation": preprocess.mode if resized else "bicubic",
        "crop_pct": 1.0,
        # The student's images are stretched where the model wants another shape of them.
        "crop_mode": "center" if height * student_shape[2] == width * student_shape[1] else "squash",
        "mean": tuple(preprocess.mean.flatten().tolist()),
        "std": tuple(preprocess.std.flatten().tolist()),
    }


def _fill(model: nn.Module, body: nn.Module, head: nn.Linear, where: str) -> None:
    """Give a model of timm the weights of a body and of a head.

    - where: begin of a message
    - raises ConfigError: where its head has other layers than one linear one
    """
    named = model.pretrained_cfg["classifier"]  # type: ignore[index]
    # A model with a second head for distillation takes the mean of both, so both are the same here.
    heads = (named,) if isinstance(named, str) else tuple(named or ())
    own, state = model.state_dict(), body.state_dict()
    left = own.keys() - state.keys()
    for name in heads:
        for part, value in (("weight", head.weight), ("bias", head.bias)):
            key = f"{name}.{part}"
            if key in left and own[key].numel() == value.numel():
                state[key] = value.detach().reshape(own[key].shape)
    if state.keys() != own.keys() or not all(f"{name}.bias" in left for name in heads):
        raise ConfigError(f"{where} has a head of other layers than one linear one; take safetensors, onnx or pt2")
    model.load_state_dict(state)


@torch.no_grad()
def _scores(model: nn.Module, prepared_NCHW: Tensor) -> Any:
    return model.eval()(prepared_NCHW).float().numpy()
