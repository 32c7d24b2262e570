"""Floor 3: the teacher as frozen modules: found by fingerprint, or pretrained once and stored. No ray."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from tgt_ray import records
from tgt_ray.config import ConfigError, digest
from tgt_ray.experiment import TeacherConfig
from tgt_ray.generators import Generator
from tgt_ray.labelers import Labeler
from tgt_ray.prepared import teacher_fingerprint
from tgt_ray.storage import Storage
from tgt_ray.tasks import Task, TaskData

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Teacher:
    """labeler(inputs) -> Outputs; generator.encode(inputs) -> latents (B, L), generator.decode(latents) -> inputs."""

    labeler: nn.Module
    generator: nn.Module


def prepare_teacher(
    config: TeacherConfig, task: Task, data: TaskData, storage: Storage
) -> tuple[Teacher, dict[str, Any]]:
    """The teacher and a record of where its weights come from. Pretrains what has no weights and isn't stored yet."""
    store = storage.within("teachers")
    labeler, labeler_record = _labeler(config.labeler, task, data, store)
    generator, generator_record = _generator(
        config.generator, labeler, labeler_record["fingerprint"], task, data, store
    )
    return Teacher(labeler, generator), {"labeler": labeler_record, "generator": generator_record}


def load_teacher(
    config: TeacherConfig,
    record: dict[str, Any],
    data_shape: tuple[int, ...],
    num_classes: int,
    storage: Storage,
) -> Teacher:
    """A teacher that `prepare_teacher` has made ready, without its data."""
    store = storage.within("teachers")
    labeler, generator = config.labeler.build(data_shape, num_classes), config.generator.build(data_shape)
    _load(labeler, store.read(f"labeler-{record['labeler']['fingerprint']}.safetensors"), "labeler")
    _load(generator, store.read(f"generator-{record['generator']['fingerprint']}.safetensors"), "generator")
    return Teacher(_freeze(labeler), _freeze(generator))


@torch.no_grad()
def teacher_outputs(teacher: Teacher, inputs: Tensor, batch_size: int = 512) -> dict[str, np.ndarray]:
    """Logits (N, K) and latents (N, L) of N rows, float32."""
    logits, latents = [], []
    for part in inputs.split(batch_size):
        logits.append(teacher.labeler(part).logits)
        latents.append(teacher.generator.encode(part))  # type: ignore[operator]
    return {"logits": torch.cat(logits).numpy(), "latent": torch.cat(latents).numpy()}


def _labeler(config: Labeler, task: Task, data: TaskData, store: Storage) -> tuple[nn.Module, dict[str, Any]]:
    torch.manual_seed(config.pretrain.seed)
    model = config.build(data.input_shape, data.num_classes)

    def fit() -> dict[str, Any]:
        table = data.tables[config.pretrain.split]
        config.fit(model, task.inputs(table, data.input_shape), torch.from_numpy(table["label"].to_numpy().copy()))
        return {split: _scores(model, task, data, split) for split in ("validation", "test")}

    return model, _ready(model, "labeler", config, [data.fingerprints[config.pretrain.split]], fit, store)


def _generator(
    config: Generator,
    labeler: nn.Module,
    labeler_fingerprint: str,
    task: Task,
    data: TaskData,
    store: Storage,
) -> tuple[nn.Module, dict[str, Any]]:
    torch.manual_seed(config.pretrain.seed)
    model = config.build(data.input_shape)

    def fit() -> dict[str, Any]:
        config.fit(model, task.inputs(data.tables[config.pretrain.split], data.input_shape), labeler)
        return {"validation": _fidelity(model, labeler, task, data)}

    made_from = [data.fingerprints[config.pretrain.split], labeler_fingerprint]
    return model, _ready(model, "generator", config, made_from, fit, store)


def _ready(
    model: nn.Module, role: str, config: Labeler | Generator, made_from: list[str], fit: Any, store: Storage
) -> dict[str, Any]:
    """Give `model` its weights: from the user's file, from the store, or by `fit`. Returns the record."""
    plain = config.model_dump(mode="json", exclude={"weights"})
    if config.weights is not None:
        content = _read_weights(config.weights, role)
        fingerprint = digest(role, {k: v for k, v in plain.items() if k != "pretrain"}, content)
        _load(model, content, f"teacher.{role}.weights: {config.weights}")
        source: dict[str, Any] = {"weights": str(config.weights)}
    else:
        fingerprint = teacher_fingerprint(role, config, made_from)
    name = f"{role}-{fingerprint}"
    if config.weights is None and store.exists(f"{name}.json"):
        _load(model, store.read(f"{name}.safetensors"), f"{role} {fingerprint} in {store.root}")
        log.info("%s %s: reused from %s", role, fingerprint, store.root)
        return {**records.read_json(store, f"{name}.json"), "reused": True}
    if config.weights is None:
        log.info("%s %s: pretraining on the '%s' split, once", role, fingerprint, config.pretrain.split)
        started = time.perf_counter()
        model.requires_grad_(True)
        source = {"pretrained_on": config.pretrain.split, "quality": fit()}
        source["seconds"] = round(time.perf_counter() - started, 2)
        log.info("%s %s: pretrained in %.1f s and stored in %s", role, fingerprint, source["seconds"], store.root)
    _freeze(model)
    store.write(
        safetensors.torch.save({k: v.contiguous() for k, v in model.state_dict().items()}),
        f"{name}.safetensors",
    )
    record = {"fingerprint": fingerprint, "config": plain, **source, "environment": records.environment()}
    # The record is written last: where it is, the weights are whole.
    records.write_json(store, record, f"{name}.json")
    return {**record, "reused": False}


def _read_weights(path: Path, role: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as err:
        raise ConfigError(f"teacher.{role}.weights: cannot read {path} ({err.strerror})") from err


def _load(model: nn.Module, content: bytes, where: str) -> None:
    """Strictly load safetensors bytes, and freeze."""
    try:
        state = safetensors.torch.load(content)
    except Exception as err:  # safetensors raises its own type and, for short files, others
        raise ConfigError(f"{where}: not a whole safetensors file ({err})") from err
    own = model.state_dict()
    for key in [*own, *state]:
        if key not in state or key not in own or own[key].shape != state[key].shape:
            have, want = (str(list(s[key].shape)) if key in s else "absent" for s in (state, own))
            raise ConfigError(
                f"{where}: weights of another architecture; first difference at '{key}': {have}, expected {want}"
            )
    model.load_state_dict(state)
    _freeze(model)


def _freeze(model: nn.Module) -> nn.Module:
    """For use alone. Convolutions are faster in this layout on a CPU; what has no convolutions is as before."""
    return model.eval().requires_grad_(False).to(memory_format=torch.channels_last)


@torch.no_grad()
def _scores(model: nn.Module, task: Task, data: TaskData, split: str) -> dict[str, Any]:
    model.eval()
    inputs = task.inputs(data.tables[split], data.input_shape)
    logits = torch.cat([model(part).logits for part in inputs.split(512)])
    return task.evaluate(logits.numpy(), data.labels(split))


@torch.no_grad()
def _fidelity(generator: nn.Module, labeler: nn.Module, task: Task, data: TaskData) -> dict[str, float]:
    """On validation rows: squared error of reconstructions, and how often the labeler says of them what it says of the row."""
    generator.eval()
    inputs = task.inputs(data.tables["validation"], data.input_shape)
    agree, error = 0, 0.0
    for part in inputs.split(512):
        again = generator.decode(generator.encode(part))  # type: ignore[operator]
        error += float((again - part).square().mean()) * len(part)
        agree += int((labeler(again).logits.argmax(1) == labeler(part).logits.argmax(1)).sum())
    return {"reconstruction_mse": error / len(inputs), "labeler_agreement": 100 * agree / len(inputs)}
