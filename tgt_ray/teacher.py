"""Floor 3: the teacher as frozen modules: found by fingerprint, or pretrained once and stored. No ray."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from tgt_ray import records
from tgt_ray.batch import InputRows
from tgt_ray.config import digest
from tgt_ray.experiment import TeacherConfig
from tgt_ray.generators import Generator
from tgt_ray.labelers import Labeler, PretrainedLabeler
from tgt_ray.models.weights import load_strictly, read_safetensors
from tgt_ray.prepared import teacher_fingerprint
from tgt_ray.pretraining import fit_linear_head
from tgt_ray.storage import Storage
from tgt_ray.tasks import Task, TaskData, inputs_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Teacher:
    """labeler(inputs) -> Outputs; generator.encode(inputs) -> latents (B, L), generator.decode(latents) -> inputs."""

    labeler: nn.Module
    generator: nn.Module

    def to(self, device: str) -> Teacher:
        return Teacher(self.labeler.to(device), self.generator.to(device))


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
    for role, model in (("labeler", labeler), ("generator", generator)):
        fingerprint = record[role]["fingerprint"]
        load_strictly(model, _stored(store, f"{role}-{fingerprint}", role, fingerprint), role)
    return Teacher(_freeze(labeler), _freeze(generator))


@torch.no_grad()
def teacher_outputs(
    teacher: Teacher, inputs: InputRows, batch_size: int = 512, device: str = "cpu"
) -> dict[str, np.ndarray]:
    """Logits (N, K) and latents (N, L) of N rows, float32."""
    logits, latents = [], []
    for part in inputs.split(batch_size):
        there = part.to(device)
        logits.append(teacher.labeler(there).logits.cpu())
        latents.append(teacher.generator.encode(there).cpu())  # type: ignore[operator]
    return {"logits": torch.cat(logits).numpy(), "latent": torch.cat(latents).numpy()}


def _labeler(config: Labeler, task: Task, data: TaskData, store: Storage) -> tuple[nn.Module, dict[str, Any]]:
    torch.manual_seed(config.pretrain.seed)
    model = config.build(data.input_shape, data.num_classes)

    def rows(split: str) -> tuple[InputRows, Tensor]:
        labels = torch.from_numpy(data.labels(split).copy())
        return inputs_of(task, data.tables[split], data.input_shape), labels

    def fit() -> dict[str, Any]:
        config.fit(model, *rows(config.pretrain.split))
        return quality()

    def fit_head() -> dict[str, Any]:
        assert isinstance(config, PretrainedLabeler)
        train_accuracy = fit_linear_head(model, *rows(config.probe.split), config.probe)
        return {"probe": {"split": config.probe.split, "train_accuracy": train_accuracy}, **quality()}

    def quality() -> dict[str, Any]:
        return {split: _scores(model, task, data, split) for split in ("validation", "test")}

    split = config.probe.split if isinstance(config, PretrainedLabeler) and config.external else config.pretrain.split
    made_from = [data.fingerprints[split]]
    return model, _ready(model, "labeler", config, made_from, {"all": fit, "fit": fit_head, "own": quality}, store)


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
        inputs = inputs_of(task, data.tables[config.pretrain.split], data.input_shape)
        return {**config.fit(model, inputs, labeler, lambda: fidelity()["labeler_agreement"]), **quality()}

    def fidelity() -> dict[str, float]:
        return _fidelity(model, labeler, task, data)

    def quality() -> dict[str, Any]:
        return {"validation": fidelity()}

    made_from = [data.fingerprints[config.pretrain.split], labeler_fingerprint]
    return model, _ready(model, "generator", config, made_from, {"all": fit, "own": quality}, store)


def _ready(
    model: nn.Module,
    role: str,
    config: Labeler | Generator,
    made_from: list[str],
    finish: dict[str, Callable[[], dict[str, Any]]],
    store: Storage,
) -> dict[str, Any]:
    """Give `model` its weights: from elsewhere, from the store, or by training. Returns the record.

    finish: what is still to be done, and gives the model's quality: "all" of the training, "fit" the head, or nothing where the
    weights are whole ("own").
    """
    plain = config.model_dump(mode="json", exclude={"weights"})
    todo, source = "all", dict[str, Any](pretrained_on=config.pretrain.split)
    if config.external:
        source = config.load_weights(model)
        todo = source.get("head", "own")
        # A head that is still to be fitted follows from the rest.
        state = [
            digest(name, value.detach().contiguous().numpy().tobytes())
            for name, value in model.state_dict().items()
            if todo == "own" or not name.startswith("head.")
        ]
        fingerprint = digest(role, {k: v for k, v in plain.items() if k != "pretrain"}, state, made_from)
    else:
        fingerprint = teacher_fingerprint(role, config, made_from)
    name = f"{role}-{fingerprint}"
    if store.exists(f"{name}.json"):
        load_strictly(model, _stored(store, name, role, fingerprint), f"{role} {fingerprint} in {store.root}")
        _freeze(model)
        log.info("%s %s: reused from %s", role, fingerprint, store.root)
        return {**records.read_json(store, f"{name}.json"), "reused": True}
    if todo == "all":
        log.info("%s %s: pretraining on the '%s' split, once", role, fingerprint, config.pretrain.split)
    elif todo == "fit":
        log.info("%s %s: its head is fitted on labelled rows, once", role, fingerprint)
    started = time.perf_counter()
    model.requires_grad_(True)
    source["quality"] = finish[todo]()
    source["seconds"] = round(time.perf_counter() - started, 2)
    log.info("%s %s: ready after %.1f s, stored in %s", role, fingerprint, source["seconds"], store.root)
    _freeze(model)
    store.write(
        safetensors.torch.save({k: v.contiguous() for k, v in model.state_dict().items()}),
        f"{name}.safetensors",
    )
    record = {"fingerprint": fingerprint, "config": plain, **source, "environment": records.environment()}
    # The record is written last: where it is, the weights are whole.
    records.write_json(store, record, f"{name}.json")
    return {**record, "reused": False}


def _stored(store: Storage, name: str, role: str, fingerprint: str) -> dict[str, Tensor]:
    return read_safetensors(store.read(f"{name}.safetensors"), f"{role} {fingerprint} in {store.root}")


def _freeze(model: nn.Module) -> nn.Module:
    """For use alone. Convolutions are faster in this layout on a CPU; what has no convolutions is as before."""
    return model.eval().requires_grad_(False).to(memory_format=torch.channels_last)


@torch.no_grad()
def _scores(model: nn.Module, task: Task, data: TaskData, split: str) -> dict[str, Any]:
    model.eval()
    inputs = inputs_of(task, data.tables[split], data.input_shape)
    logits = torch.cat([model(part).logits for part in inputs.split(512)])
    return task.evaluate(logits.numpy(), data.labels(split), data.class_counts)


@torch.no_grad()
def _fidelity(generator: nn.Module, labeler: nn.Module, task: Task, data: TaskData) -> dict[str, float]:
    """On validation rows: squared error of reconstructions, and how often the labeler says of them what it says of the row."""
    generator.eval()
    inputs = inputs_of(task, data.tables["validation"], data.input_shape)
    agree, error = 0, 0.0
    for part in inputs.split(512):
        again = generator.decode(generator.encode(part))  # type: ignore[operator]
        error += float((again - part).square().mean()) * len(part)
        agree += int((labeler(again).logits.argmax(1) == labeler(part).logits.argmax(1)).sum())
    return {"reconstruction_mse": error / len(inputs), "labeler_agreement": 100 * agree / len(inputs)}
