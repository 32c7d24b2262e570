"""Prepares teachers: finds them in the storage by their fingerprint, or pretrains and stores them once."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from tgt_ray.core import formats, records
from tgt_ray.core.batch import InputRows, InputSpec
from tgt_ray.core.environment import environment
from tgt_ray.core.errors import ConfigError, concerning
from tgt_ray.core.fingerprint import digest
from tgt_ray.core.storage import Storage
from tgt_ray.models.weights import load_strictly, read_safetensors, whole
from tgt_ray.tasks import Task, TaskData, inputs_of
from tgt_ray.teacher import documents
from tgt_ray.teacher.config import TeacherConfig
from tgt_ray.teacher.fingerprints import teacher_fingerprint
from tgt_ray.teacher.generators import Generator
from tgt_ray.teacher.labelers.base import Labeler
from tgt_ray.teacher.labelers.pretrained import PretrainedLabeler
from tgt_ray.teacher.module import Teacher
from tgt_ray.teacher.quality import fidelity, scores

log = logging.getLogger(__name__)

#: Completes a model, given the record so far; returns entries for the record, such as the model's quality.
Finish = Callable[[dict[str, Any]], dict[str, Any]]


def prepare_teacher(
    config: TeacherConfig, task: Task, data: TaskData, storage: Storage, device: str = "cpu"
) -> tuple[Teacher, dict[str, Any]]:
    """Prepare a teacher: load its weights, from elsewhere or from the storage, or pretrain and store it.

    - device: the device that the teacher is brought to
    - returns: the teacher, and a record by role of where its weights come from
    """
    labeler, labeler_record = LabelerMaker(config.labeler, task, data, storage, device).make()
    maker = GeneratorMaker(config.generator, labeler, labeler_record["fingerprint"], task, data, storage, device)
    generator, generator_record = maker.make()
    teacher = Teacher.of(labeler, generator, config.generator)
    return teacher, {"labeler": labeler_record, "generator": generator_record}


def load_teacher(
    config: TeacherConfig, record: dict[str, Any], spec: InputSpec, num_classes: int, storage: Storage
) -> Teacher:
    """Load a teacher that `prepare_teacher` has prepared, without needing its data.

    - record: the record that `prepare_teacher` returned
    """
    # Building a model draws initial weights from torch's global generator, which the student's dropout uses as well.
    with torch.random.fork_rng(devices=[]):
        with concerning("teacher.labeler"):
            labeler = config.labeler.build(spec, num_classes)
        with concerning("teacher.generator"):
            generator = config.generator.build(spec)
    for role, part, model in (("labeler", config.labeler, labeler), ("generator", config.generator, generator)):
        _load(part, model, role, record[role], storage.within("teachers"))
    return Teacher.of(_freeze(labeler), _freeze(generator), config.generator)


def _load(part: Labeler | Generator, model: nn.Module, role: str, record: dict[str, Any], store: Storage) -> None:
    fingerprint = record["fingerprint"]
    if part.external and digest(part.facts(model)) != record["facts"]:
        raise ConfigError(
            f"teacher.{role}: the settings in its folder here are not those that the run began with ({fingerprint});"
            " every node must see the same, unchanged files"
        )
    if part.stored:
        name = f"{role}-{fingerprint}.safetensors"
        load_strictly(model, read_safetensors(store.read(name), store.where(name)), role)
    elif digest(list(state_digests(model).values())) != record["state"]:
        raise ConfigError(
            f"teacher.{role}: its weights here are not those that the run began with ({fingerprint});"
            " every node must see the same, unchanged files"
        )


@dataclass(frozen=True)
class LabelerMaker:
    """Prepares a labeler and brings it to `device`."""

    config: Labeler
    task: Task
    data: TaskData
    storage: Storage
    device: str

    def make(self) -> tuple[nn.Module, dict[str, Any]]:
        """Return the model and its record."""
        config, data = self.config, self.data
        torch.manual_seed(config.pretrain.seed)
        with concerning("teacher.labeler"):
            model = config.build(data.spec, data.num_classes)
        split = config.head_split if config.external else config.pretrain.split
        finish: dict[str, Finish] = {
            "all": partial(self._fit, model),
            "fit": partial(self._fit_head, model),
            "own": partial(self._quality, model),
        }
        # The class counts of the student's rows tell which classes are few-shot.
        measured_on = digest(data.fingerprints["validation"], data.fingerprints["test"], data.class_counts.tolist())
        store = self.storage.within("teachers")
        record = _ready(model, "labeler", config, [data.fingerprints[split]], finish, measured_on, store, self.device)
        if record.get("head") == "own" and isinstance(config, PretrainedLabeler):
            record |= {"own_classes": config.own_classes(model, data.class_names)}
        return model, record

    def _rows(self, split: str) -> tuple[InputRows, Tensor]:
        """Return inputs and labels of a split's labelled rows."""
        table, labels = self.data.tables[split], self.data.labels(split)
        if (labels < 0).any():  # rows whose labels must not be used
            known = np.flatnonzero(labels >= 0)
            table, labels = table.take(known), labels[known]
        return inputs_of(self.task, table, self.data.input_shape, self.device), torch.from_numpy(labels.copy())

    def _fit(self, model: nn.Module, source: dict[str, Any]) -> dict[str, Any]:
        self.config.fit(model, *self._rows(self.config.pretrain.split))
        return self._quality(model, source)

    def _fit_head(self, model: nn.Module, source: dict[str, Any]) -> dict[str, Any]:
        inputs, labels = self._rows(self.config.head_split)
        if self.config.embeds_documents:
            said = documents.fill_head(self.config, model, inputs, source, self.data, self.storage)
        else:
            said = self.config.fit_head(model, inputs, labels)
        return {**said, **self._quality(model, source)}

    def _quality(self, model: nn.Module, source: dict[str, Any]) -> dict[str, Any]:
        return {split: scores(model, self.task, self.data, split, self.device) for split in ("validation", "test")}


@dataclass(frozen=True)
class GeneratorMaker:
    """Prepares a generator and brings it to `device`, where `labeler` is already."""

    config: Generator
    labeler: nn.Module
    labeler_fingerprint: str
    task: Task
    data: TaskData
    storage: Storage
    device: str

    def make(self) -> tuple[nn.Module, dict[str, Any]]:
        """Return the model and its record."""
        config, data = self.config, self.data
        torch.manual_seed(config.pretrain.seed)
        with concerning("teacher.generator"):
            model = config.build(data.spec)
        made_from = [data.fingerprints[config.pretrain.split], self.labeler_fingerprint]
        finish: dict[str, Finish] = {"all": partial(self._fit, model), "own": partial(self._quality, model)}
        store, measured_on = self.storage.within("teachers"), data.fingerprints["validation"]
        return model, _ready(model, "generator", config, made_from, finish, measured_on, store, self.device)

    def _fit(self, model: nn.Module, source: dict[str, Any]) -> dict[str, Any]:
        table = self.data.tables[self.config.pretrain.split]
        inputs = inputs_of(self.task, table, self.data.input_shape, self.device)
        said = self.config.fit(model, inputs, self.labeler, lambda: self._fidelity(model)["labeler_agreement"])
        return {**said, **self._quality(model, source)}

    def _fidelity(self, model: nn.Module) -> dict[str, float]:
        teacher = Teacher.of(self.labeler, model.eval(), self.config)
        return fidelity(teacher, self.task, self.data, self.device, self.config.longest_text)

    def _quality(self, model: nn.Module, source: dict[str, Any]) -> dict[str, Any]:
        # Where each row takes seconds, only the few rows of the fit check are measured.
        slow = self.config.samples and self.config.external
        return {} if slow else {"validation": self._fidelity(model)}


def _ready(
    model: nn.Module,
    role: str,
    config: Labeler | Generator,
    made_from: list[str],
    finish: dict[str, Finish],
    measured_on: str,
    store: Storage,
    device: str,
) -> dict[str, Any]:
    """Give `model` its weights, from elsewhere, the store or training, and bring it to `device`; return its record.

    - finish: completes the model, given the record so far, and measures its quality: "all" trains everything, "fit"
      fits the head, "own" has nothing left to train
    - measured_on: fingerprint of everything besides the weights that changes the measured quality
    """
    plain = config.model_dump(mode="json", exclude={"weights"})
    todo, source = "all", dict[str, Any](pretrained_on=config.pretrain.split)
    if config.external:
        with concerning(f"teacher.{role}"):
            source = config.load_weights(model)
        todo = source.get("head", "own")
        # A head that must still be fitted follows from the rest.
        state = [each for name, each in state_digests(model).items() if todo == "own" or not name.startswith("head.")]
        source |= {"state": digest(state), "facts": digest(config.facts(model))}
        settings = {k: v for k, v in plain.items() if k != "pretrain" and k not in config.places}
        fitted_by = [source["fitted_by"]] if "fitted_by" in source else []
        fingerprint = digest(role, settings, state, source["facts"], made_from, *fitted_by)
    else:
        fingerprint = teacher_fingerprint(role, config, made_from)
    name = f"{role}-{fingerprint}"
    there = records.find(store, "teacher", f"{name}.json")
    if there is not None and _loaded(config, model, store, name, f"{role} {fingerprint}"):
        _freeze(model).to(device)
        log.info("%s %s: reused from %s", role, fingerprint, store.shown)
        # The stored weights may have come from another place than the one asked for now.
        record = {**there, "config": plain, **source}
        return {**_measured(record, f"{role} {fingerprint}", finish, source, measured_on, store, name), "reused": True}
    if todo == "all":
        log.info("%s %s: pretraining on the '%s' split, once", role, fingerprint, config.pretrain.split)
    elif todo == "fit":
        log.info("%s %s: fitting its head, once", role, fingerprint)
    started = time.perf_counter()
    model.requires_grad_(True).to(device)
    source |= {"quality": finish[todo](source), "measured_on": measured_on}
    source["seconds"] = round(time.perf_counter() - started, 2)
    log.info("%s %s: ready after %.1f s, stored in %s", role, fingerprint, source["seconds"], store.shown)
    _freeze(model)
    if config.stored:
        store.write(safetensors.torch.save(whole(model.state_dict())), f"{name}.safetensors")
    known = formats.stamped("teacher", {"fingerprint": fingerprint, "config": plain})
    record = {**known, **source, "environment": environment()}
    # The record is written last: if it exists, the weights are complete.
    records.write_json(store, record, f"{name}.json")
    return {**record, "reused": False}


def _measured(
    record: dict[str, Any],
    called: str,
    finish: dict[str, Finish],
    source: dict[str, Any],
    measured_on: str,
    store: Storage,
    name: str,
) -> dict[str, Any]:
    """Return the record of a stored model, with its quality measured again where other rows are there to measure it."""
    if record.get("measured_on") == measured_on:
        return record
    log.info("%s: measured again, since the rows to measure it on have changed", called)
    record |= {"quality": record["quality"] | finish["own"](source), "measured_on": measured_on}
    records.write_json(store, record, f"{name}.json")
    return record


def state_digests(model: nn.Module) -> dict[str, str]:
    """Compute a digest of each weight of a model on the CPU, by name."""
    return {
        name: digest(name, value.detach().contiguous().numpy().tobytes()) for name, value in model.state_dict().items()
    }


def _loaded(config: Labeler | Generator, model: nn.Module, store: Storage, name: str, called: str) -> bool:
    """Load a model's stored weights; tell whether they are there and whole, or need none."""
    if not config.stored:
        return True
    file = f"{name}.safetensors"
    content = store.find(file)
    if content is None:
        if not store.exists(file):
            log.warning("%s: is missing; made again", store.where(file))
        return False
    load_strictly(model, read_safetensors(content, store.where(file)), f"{called} in {store.shown}")
    return True


def _freeze(model: nn.Module) -> nn.Module:
    """Freeze a model for inference, in the memory layout in which convolutions are faster on a CPU."""
    return model.eval().requires_grad_(False).to(memory_format=torch.channels_last)
