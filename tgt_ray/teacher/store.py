"""Prepares teachers, and loads prepared ones."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tgt_ray.core.batch import InputRows, InputSpec
from tgt_ray.core.errors import ConfigError, concerning
from tgt_ray.core.fingerprint import digest
from tgt_ray.core.storage import Storage
from tgt_ray.models.answers import StoredAnswers
from tgt_ray.models.built import built
from tgt_ray.models.optimise import threads
from tgt_ray.models.weights import load_strictly, read_safetensors
from tgt_ray.tasks import Task, TaskData, inputs_of
from tgt_ray.teacher import documents, fingerprints
from tgt_ray.teacher.config import TeacherConfig
from tgt_ray.teacher.fingerprints import FOLDER, Begun
from tgt_ray.teacher.forms.names import forms_of
from tgt_ray.teacher.generators import Generator
from tgt_ray.teacher.labelers.base import Labeler
from tgt_ray.teacher.labelers.pretrained import PretrainedLabeler
from tgt_ray.teacher.module import Teacher
from tgt_ray.teacher.part import Finish, Part, frozen, state_digests
from tgt_ray.teacher.quality import fidelity, scores


def prepare_teacher(
    config: TeacherConfig,
    task: Task,
    data: TaskData,
    storage: Storage,
    device: str = "cpu",
    with_generator: bool = True,
    begun: Begun | None = None,
) -> tuple[Teacher, dict[str, Any]]:
    """Prepare a teacher: load its weights, from elsewhere or from the storage, or pretrain and store it.

    - device: the device that the teacher is brought to
    - with_generator: whether one is needed
    - begun: what is to go on with it
    - returns: the teacher, and a record by role of where its weights come from; None for what isn't needed
    """
    labeler, record = LabelerMaker(config.labeler, task, data, storage, device, begun).make()
    if not with_generator:
        return Teacher(labeler, None), {"labeler": record, "generator": None}
    maker = GeneratorMaker(config.generator, labeler, record, task, data, storage, device, begun)
    generator, generator_record = maker.make()
    return Teacher.of(labeler, generator, config.generator), {"labeler": record, "generator": generator_record}


def load_teacher(
    config: TeacherConfig, record: dict[str, Any], spec: InputSpec, num_classes: int, storage: Storage
) -> Teacher:
    """Load a teacher that `prepare_teacher` has prepared, without needing its data.

    - record: the record that `prepare_teacher` returned, perhaps with `forms`
    """
    store, generator = storage.within(FOLDER), None
    # Building a model draws initial weights from torch's global generator, which the student's dropout uses as well.
    with torch.random.fork_rng(devices=[]):
        labeler = built("teacher.labeler", config.labeler, spec, num_classes)
        if record["generator"] is not None:
            generator = built("teacher.generator", config.generator, spec)
    _load(config.labeler, labeler, "labeler", record["labeler"], store)
    if generator is None:
        return Teacher(frozen(labeler), None).in_forms(forms_of(record))
    _load(config.generator, generator, "generator", record["generator"], store)
    return Teacher.of(frozen(labeler), frozen(generator), config.generator).in_forms(forms_of(record))


def _load(part: Labeler | Generator, model: nn.Module, role: str, record: dict[str, Any], store: Storage) -> None:
    identity = record["identity"]
    if part.external and digest(part.facts(model)) != record["facts"]:
        raise ConfigError(
            f"teacher.{role}: the settings in its folder here are not those that the run began with ({identity});"
            " every node must see the same, unchanged files"
        )
    if part.stored:
        name = f"{fingerprints.stem(role, record)}.safetensors"
        where = store.where(name)
        content = fingerprints.checked(store.read(name), role, part, record, where)
        weights = read_safetensors(content, where)
        if isinstance(model, StoredAnswers):
            model.make_room(weights)
        load_strictly(model, weights, role)
    elif digest(list(state_digests(model).values())) != record["state"]:
        raise ConfigError(
            f"teacher.{role}: its weights here are not those that the run began with ({identity});"
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
    begun: Begun | None = None

    def make(self) -> tuple[nn.Module, dict[str, Any]]:
        """Return the model and its record."""
        part = self._part()
        record = part.ready()
        if record.get("head") == "own" and isinstance(self.config, PretrainedLabeler):
            record |= {"own_classes": self.config.own_classes(part.model, self.data.class_names)}
        return part.model, record

    def check_begun(self) -> None:
        """Raise ConfigError where it is known that what is to go on was begun with another labeler."""
        self._part().check_begun()

    def _part(self) -> Part:
        config, data = self.config, self.data
        torch.manual_seed(config.pretrain.seed)
        model = built("teacher.labeler", config, data.spec, data.num_classes)
        with concerning("teacher.labeler"):
            config.name_classes(model, data.class_names or tuple(map(str, range(data.num_classes))))
            if not config.live:
                config.learn(model, self.task, data)
        split = config.head_split if config.external else config.pretrain.split
        finish: dict[str, Finish] = {
            "all": partial(self._fit, model),
            "fit": partial(self._fit_head, model),
            "own": partial(self._quality, model),
        }
        measured_on = fingerprints.measured_on("labeler", data)
        rows, store = data.fingerprints[split], self.storage.within(FOLDER)
        return Part(config, "labeler", model, [rows], [rows], finish, measured_on, store, self.device, self.begun)

    def _rows(self, split: str) -> tuple[InputRows, Tensor]:
        """Return inputs and labels of a split's labelled rows."""
        table, labels = self.data.tables[split], self.data.labels(split)
        if (labels < 0).any():  # rows whose labels must not be used
            known = np.flatnonzero(labels >= 0)
            table, labels = table.take(known), labels[known]
        return inputs_of(self.task, table, self.data.input_shape, self.device), torch.from_numpy(labels.copy())

    def _fit(self, model: nn.Module, source: dict[str, Any]) -> dict[str, Any]:
        rows = self._rows(self.config.pretrain.split)
        with threads(self.config.pretrain.threads):
            self.config.fit(model, *rows)
        return self._quality(model, source)

    def _fit_head(self, model: nn.Module, source: dict[str, Any]) -> dict[str, Any]:
        inputs, labels = self._rows(self.config.head_split)
        if self.config.embeds_documents:
            said = documents.fill_head(self.config, model, inputs, source, self.data, self.storage)
        else:
            said = self.config.fit_head(model, inputs, labels)
        return {**said, **self._quality(model, source)}

    def _quality(self, model: nn.Module, source: dict[str, Any]) -> dict[str, Any]:
        known = getattr(model, "answered", {})
        splits = [each for each in ("validation", "test") if len(set(known.get(each, [0]))) == 1]
        return {split: scores(model, self.task, self.data, split, self.device) for split in splits}


@dataclass(frozen=True)
class GeneratorMaker:
    """Prepares a generator and brings it to `device`, where `labeler` is already."""

    config: Generator
    labeler: nn.Module
    labeler_record: dict[str, Any]
    task: Task
    data: TaskData
    storage: Storage
    device: str
    begun: Begun | None = None

    def make(self) -> tuple[nn.Module, dict[str, Any]]:
        """Return the model and its record."""
        config, data = self.config, self.data
        torch.manual_seed(config.pretrain.seed)
        model = built("teacher.generator", config, data.spec)
        rows, old_names = data.fingerprints[config.pretrain.split], fingerprints.old_names(self.labeler_record)
        made_from, before_from = [rows, self.labeler_record["identity"]], old_names and [rows, *old_names]
        finish: dict[str, Finish] = {"all": partial(self._fit, model), "own": partial(self._quality, model)}
        store, measured_on = self.storage.within(FOLDER), fingerprints.measured_on("generator", data)
        made = config, "generator", model, made_from, before_from, finish, measured_on, store, self.device
        return model, Part(*made, self.begun).ready()

    def _fit(self, model: nn.Module, source: dict[str, Any]) -> dict[str, Any]:
        table = self.data.tables[self.config.pretrain.split]
        inputs = inputs_of(self.task, table, self.data.input_shape, self.device)
        with threads(self.config.pretrain.threads):
            said = self.config.fit(model, inputs, self.labeler, lambda: self._fidelity(model)["labeler_agreement"])
        return {**said, **self._quality(model, source)}

    def _fidelity(self, model: nn.Module) -> dict[str, float]:
        teacher = Teacher.of(self.labeler, model.eval(), self.config)
        return fidelity(teacher, self.task, self.data, self.device, self.config.longest_text)

    def _quality(self, model: nn.Module, source: dict[str, Any]) -> dict[str, Any]:
        # Where each row takes seconds, only the few rows of the fit check are measured.
        slow = self.config.samples and self.config.external
        return {} if slow else {"validation": self._fidelity(model)}
