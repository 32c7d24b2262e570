"""Makes a frozen module run in another form: folded, in bfloat16, compiled, or by OpenVINO."""

from __future__ import annotations

import copy
import importlib.util
import os
import shutil
import sys
import time
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils.fusion import fuse_conv_bn_eval

from tgt_ray.core.batch import Outputs
from tgt_ray.core.errors import ConfigError
from tgt_ray.models.numerics import autocast
from tgt_ray.teacher.forms.names import REFERENCE

#: Layers whose weights autocast converts at each call.
CONVERTED = (nn.Linear, _ConvNd)
#: The largest number of such layers that are compiled (our choice): each took one to five seconds where it was tried.
MOST_COMPILED = 20


class NoSuchForm(Exception):
    """A module has no such form here; the message says why."""


class Says(nn.Module):
    """A labeler that gives plain tensors: inputs (B, ...) -> logits (B, K), embedding (B, E)."""

    def __init__(self, labeler: nn.Module):
        super().__init__()
        self.labeler = labeler

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        said = self.labeler(inputs)
        return said.logits, said.embedding


class Decodes(nn.Module):
    """A generator that decodes: latents (B, L) -> inputs (B, ...), as the only one of a tuple."""

    def __init__(self, generator: Any):
        super().__init__()
        self.generator = generator

    def forward(self, latents_BL: Tensor) -> tuple[Tensor, ...]:
        return (self.generator.decode(latents_BL),)


class InForm:
    """Calls a frozen module in a form, without gradients, and gives float32.

    It is made ready at its first call, which shows the shape and the device of its inputs.

    - module: maps a tensor (B, ...) to a tuple of tensors; it stays as it is
    """

    def __init__(self, form: str, module: nn.Module):
        self.form, self.module = form, module
        self.ready: Callable[[Tensor], tuple[Tensor, ...]] | None = None

    def __call__(self, inputs: Tensor) -> tuple[Tensor, ...]:
        device, precision = inputs.device.type, "bfloat16" if "bfloat16" in self.form.split("+") else "float32"
        # Numbers that a compiler draws would change those of the student's dropout.
        with torch.no_grad(), torch.random.fork_rng(devices=[], enabled=self.ready is None):
            if self.ready is None:
                self.ready = made(self.form, self.module, inputs)
            with autocast(device, precision):  # type: ignore[arg-type]
                return tuple(each.float() for each in self.ready(inputs))


def labels_in(form: str, labeler: nn.Module) -> Callable[[Tensor], Outputs]:
    """Return what a labeler says in a form, as a function of inputs (B, ...)."""
    if form == REFERENCE:
        return labeler
    run = InForm(form, Says(labeler))
    return lambda inputs: Outputs(*run(inputs))


def decodes_in(form: str, generator: Any) -> Callable[[Tensor], Tensor]:
    """Return what a generator decodes in a form, as a function of latents (B, L)."""
    run = InForm(form, Decodes(generator))
    return lambda latents_BL: run(latents_BL)[0]


def made(form: str, module: nn.Module, example: Tensor) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """Bring a module into a form.

    - example: of its inputs
    - raises NoSuchForm: where it has none
    """
    for part in form.split("+"):
        module = STEPS[part](module, example)
    return module


def check_there(form: str, role: str) -> None:
    """Raise ConfigError where this machine lacks what the form needs, which the one that chose it had."""
    for part in form.split("+"):
        lacking = LACKING[part]() if part in LACKING else None
        if lacking is not None:
            raise ConfigError(
                f"teacher.run_as: fast, and the {role} was found to be fastest in the form '{form}', but on this"
                f" machine {lacking}; install it on every node, or set reference"
            )


def folded(module: nn.Module, example: Tensor) -> nn.Module:
    """Return a copy whose batch norms are part of the convolutions that they follow."""
    out = copy.deepcopy(module)
    if not _fold(out):
        raise NoSuchForm("it has no batch norm that follows a convolution")
    return out.to(memory_format=torch.channels_last)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, (_ConvNd, _BatchNorm)) or super().is_leaf_module(module, name)


def _fold(module: nn.Module) -> int:
    """Fold batch norms in place; return how many."""
    if not any(isinstance(each, _BatchNorm) for each in module.modules()):
        return 0
    try:
        graph = _Tracer().trace(module)
    except Exception:  # code that looks at values can't be traced, and raises anything; its parts may be
        return sum(_fold(child) for child in module.children())
    called = [node.target for node in graph.nodes if node.op == "call_module"]
    count = 0
    for node in graph.nodes:
        before = node.args[0] if node.op == "call_module" and node.args else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) > 1:
            continue
        names = str(before.target), str(node.target)
        conv, norm = (module.get_submodule(name) for name in names)
        rest = _after(norm)
        once = all(called.count(name) == 1 for name in names)
        if isinstance(conv, _ConvNd) and isinstance(norm, _BatchNorm) and rest is not None and once:
            fused = fuse_conv_bn_eval(conv, norm, transpose=isinstance(conv, _ConvTransposeNd))
            module.set_submodule(names[0], fused)
            module.set_submodule(names[1], rest)
            count += 1
    return count


def _after(norm: nn.Module) -> nn.Module | None:
    """Return what is left of a batch norm once it is folded; None where it can't be."""
    if not isinstance(norm, _BatchNorm) or not norm.track_running_stats:
        return None
    timm = sys.modules.get("timm.layers")  # a model of timm's has loaded it
    if timm is not None and isinstance(norm, timm.BatchNormAct2d):
        return nn.Sequential(norm.drop, norm.act)
    return nn.Identity() if type(norm) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d) else None


def in_bfloat16(module: nn.Module, example: Tensor) -> nn.Module:
    """Return a copy with the weights in bfloat16 that autocast would otherwise convert at each call."""
    out = copy.deepcopy(module)
    for layer in out.modules():
        if isinstance(layer, CONVERTED):
            layer.to(torch.bfloat16)
    return out


def compiled(module: nn.Module, example: Tensor) -> nn.Module:
    """Return the module compiled for any number of rows."""
    if not example.is_floating_point():
        raise NoSuchForm("it makes tokens of texts, which is no work for a compiler")
    if (lacking := _no_compiler()) is not None:
        raise NoSuchForm(lacking)
    if (count := sum(isinstance(each, CONVERTED) for each in module.modules())) > MOST_COMPILED:
        raise NoSuchForm(f"it has {count} layers, and compiling more than {MOST_COMPILED} takes minutes")
    return torch.compile(module, dynamic=True)  # type: ignore[return-value]


@cache
def seconds_to_import(step: str) -> float:
    """Start the library of a step, once in a process; return the seconds that it took.

    - raises NoSuchForm: where it isn't there
    """
    if step not in LACKING:
        return 0.0
    started = time.perf_counter()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        STEPS[step](nn.Sequential(nn.Linear(1, 1)), torch.zeros(2, 1))(torch.zeros(2, 1))
    return time.perf_counter() - started


def _no_compiler() -> str | None:
    """Say that there is no compiler for C++, which torch.compile needs for a CPU; None where there is one."""
    named = os.environ.get("CXX")
    there = any(shutil.which(name) for name in ([named] if named else ["g++", "clang++"]))
    return None if there else "there is no C++ compiler"


def by_openvino(module: nn.Module, example: Tensor) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """Return a module that OpenVINO computes in float32, with as many threads as torch has here."""
    if example.device.type != "cpu" or not example.is_floating_point():
        raise NoSuchForm("OpenVINO is used for images on a CPU alone")
    if (lacking := _no_openvino()) is not None:
        raise NoSuchForm(lacking)
    import openvino

    shape = openvino.PartialShape([-1, *example.shape[1:]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's tracing, which OpenVINO uses
        model = openvino.convert_model(module, example_input=example[:2].contiguous(), input=shape)
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "ENABLE_CPU_PINNING": False,  # several processes share the machine
    }
    run = openvino.Core().compile_model(model, "CPU", settings)

    def call(inputs: Tensor) -> tuple[Tensor, ...]:
        said = run(inputs.float().contiguous().numpy())
        # Copied, since OpenVINO writes its next outputs to the same place.
        return tuple(torch.from_numpy(said[number].copy()) for number in range(len(run.outputs)))

    return call


def _no_openvino() -> str | None:
    """Say that OpenVINO is not installed; None where it is."""
    return None if importlib.util.find_spec("openvino") else "OpenVINO is not installed (`tgt-ray[openvino]`)"


STEPS: dict[str, Callable[..., Any]] = {
    "folded": folded,
    "bfloat16": in_bfloat16,
    "compiled": compiled,
    "openvino": by_openvino,
}
#: What says that a machine lacks what a step needs.
LACKING = {"compiled": _no_compiler, "openvino": _no_openvino}
