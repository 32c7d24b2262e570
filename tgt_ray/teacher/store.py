"""Teachers in the storage: found by fingerprint, or pretrained once."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from tgt_ray.core import records
from tgt_ray.core.batch import InputRows
from tgt_ray.core.environment import environment
from tgt_ray.core.errors import ConfigError, concerning
from tgt_ray.core.fingerprint import digest
from tgt_ray.core.storage import Storage
from tgt_ray.models.weights import load_strictly, read_safetensors, whole
from tgt_ray.tasks import Task, TaskData, inputs_of
from tgt_ray.teacher.config import TeacherConfig
from tgt_ray.teacher.fingerprints import teacher_fingerprint
from tgt_ray.teacher.generators import Generator
from tgt_ray.teacher.labelers.base import Labeler
from tgt_ray.teacher.labelers.pretrained import PretrainedLabeler
from tgt_ray.teacher.module import Teacher
from tgt_ray.teacher.quality import _fidelity, _scores

log = logging.getLogger(__name__)

#: Makes a model whole, given the record so far; gives its quality.
Finish = Callable[[dict[str, Any]], dict[str, Any]]


class DocumentsWanted(Exception):
    """A labeler's head is to have the documents' embeddings, which are not in the storage yet. args: the name of their file."""


#: The folder of the storage with embeddings of documents (N, D), and which of them are cut (N,).
DOCUMENTS = "documents"


def prepare_teacher(
    config: TeacherConfig,
    task: Task,
    data: TaskData,
    storage: Storage,
    device: str = "cpu",
    embed_here: bool = True,
) -> tuple[Teacher, dict[str, Any]]:
    """The teacher, on `device`, and a record of where its weights come from. Pretrains what has no weights and isn't stored yet.

    embed_here: False raises DocumentsWanted where documents are to be embedded."""
    store = storage.within("teachers")
    labeler, labeler_record = _labeler(config.labeler, task, data, storage, device, embed_here)
    generator, generator_record = _generator(
        config.generator, labeler, labeler_record["fingerprint"], task, data, store, device
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
    # The weights that they begin with are drawn from torch's own generator, which the student's dropout draws from as well.
    with torch.random.fork_rng(devices=[]):
        with concerning("teacher.labeler"):
            labeler = config.labeler.build(data_shape, num_classes)
        with concerning("teacher.generator"):
            generator = config.generator.build(data_shape)
    for role, model in (("labeler", labeler), ("generator", generator)):
        fingerprint, part = record[role]["fingerprint"], getattr(config, role)
        if part.external and digest(part.facts(model)) != record[role]["facts"]:
            raise ConfigError(
                f"teacher.{role}: the settings in its folder here are not those that the run began with ({fingerprint})"
            )
        if part.stored:
            load_strictly(model, _stored(store, f"{role}-{fingerprint}", role, fingerprint), role)
        elif digest(list(state_digests(model).values())) != record[role]["state"]:
            raise ConfigError(f"teacher.{role}: its weights here are not those that the run began with ({fingerprint})")
    return Teacher(_freeze(labeler), _freeze(generator))


def _labeler(
    config: Labeler, task: Task, data: TaskData, storage: Storage, device: str, embed_here: bool
) -> tuple[nn.Module, dict[str, Any]]:
    torch.manual_seed(config.pretrain.seed)
    with concerning("teacher.labeler"):
        model = config.build(data.input_shape, data.num_classes)

    def rows(split: str) -> tuple[InputRows, Tensor]:
        table, labels = data.tables[split], data.labels(split)
        if (labels < 0).any():  # rows whose labels are not to be used
            known = np.flatnonzero(labels >= 0)
            table, labels = table.take(known), labels[known]
        return inputs_of(task, table, data.input_shape, device), torch.from_numpy(labels.copy())

    def fit(source: dict[str, Any]) -> dict[str, Any]:
        config.fit(model, *rows(config.pretrain.split))
        return quality(source)

    def fit_head(source: dict[str, Any]) -> dict[str, Any]:
        said = documents(source) if task.answers == "documents" else config.fit_head(model, *rows(config.head_split))
        return {**said, **quality(source)}

    def documents(source: dict[str, Any]) -> dict[str, Any]:
        # Queries, and how they are embedded, have no part in it.
        file = f"{digest('embedding, cut', source['fitted_by'], data.fingerprints['documents'])}.safetensors"
        if storage.exists(DOCUMENTS, file):
            there = read_safetensors(storage.read(DOCUMENTS, file), f"{DOCUMENTS}/{file} in {storage.root}")
            embedding, cut = there["embedding"], there["cut"]
        elif embed_here:
            embedding, cut = config.embed_documents(model, rows("documents")[0])
            made = {"embedding": embedding.cpu().contiguous(), "cut": cut.cpu()}
            storage.write(safetensors.torch.save(made), DOCUMENTS, file)
        else:
            raise DocumentsWanted(file)
        with torch.no_grad():
            model.get_parameter("head.weight").copy_(embedding)
        count = int(cut.sum())
        if count:
            log.warning("teacher.labeler: %d of %d documents are cut at its tokens", count, len(cut))
        return {"documents": {"count": len(cut), "cut": count}}

    def quality(source: dict[str, Any]) -> dict[str, Any]:
        return {split: _scores(model, task, data, split, device) for split in ("validation", "test")}

    split = config.head_split if config.external else config.pretrain.split
    finish: dict[str, Finish] = {"all": fit, "fit": fit_head, "own": quality}
    # Which classes have few shots is said by the student's rows.
    measured_on = digest(data.fingerprints["validation"], data.fingerprints["test"], data.class_counts.tolist())
    record = _ready(
        model, "labeler", config, [data.fingerprints[split]], finish, measured_on, storage.within("teachers"), device
    )
    if record.get("head") == "own" and isinstance(config, PretrainedLabeler):
        record |= {"own_classes": config.own_classes(model, data.class_names)}
    return model, record


def _generator(
    config: Generator,
    labeler: nn.Module,
    labeler_fingerprint: str,
    task: Task,
    data: TaskData,
    store: Storage,
    device: str,
) -> tuple[nn.Module, dict[str, Any]]:
    torch.manual_seed(config.pretrain.seed)
    with concerning("teacher.generator"):
        model = config.build(data.input_shape)

    def fit(source: dict[str, Any]) -> dict[str, Any]:
        inputs = inputs_of(task, data.tables[config.pretrain.split], data.input_shape, device)
        return {**config.fit(model, inputs, labeler, lambda: fidelity()["labeler_agreement"]), **quality(source)}

    def fidelity() -> dict[str, float]:
        return _fidelity(model, labeler, task, data, device, config.longest_text)

    def quality(source: dict[str, Any]) -> dict[str, Any]:
        # Where each row takes seconds, the fit check's few rows have to do.
        slow = getattr(model, "samples", False) and config.external
        return {} if slow else {"validation": fidelity()}

    made_from = [data.fingerprints[config.pretrain.split], labeler_fingerprint]
    measured_on = data.fingerprints["validation"]
    return model, _ready(
        model, "generator", config, made_from, {"all": fit, "own": quality}, measured_on, store, device
    )


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
    """Give `model` its weights, from elsewhere, from the store, or by training, and bring it to `device`. Returns the record.

    finish: what is still to be done, given what is known of the weights so far, and gives the model's quality: "all" of the training, "fit" the head, or nothing where the
    weights are whole ("own"). measured_on: fingerprint of what the quality follows from beside the weights.
    """
    plain = config.model_dump(mode="json", exclude={"weights"})
    todo, source = "all", dict[str, Any](pretrained_on=config.pretrain.split)
    if config.external:
        with concerning(f"teacher.{role}"):
            source = config.load_weights(model)
        todo = source.get("head", "own")
        # A head that is still to be fitted follows from the rest.
        state = [each for name, each in state_digests(model).items() if todo == "own" or not name.startswith("head.")]
        source |= {"state": digest(state), "facts": digest(config.facts(model))}
        settings = {k: v for k, v in plain.items() if k != "pretrain" and k not in config.places}
        fitted_by = [source["fitted_by"]] if "fitted_by" in source else []
        fingerprint = digest(role, settings, state, source["facts"], made_from, *fitted_by)
    else:
        fingerprint = teacher_fingerprint(role, config, made_from)
    name = f"{role}-{fingerprint}"
    if store.exists(f"{name}.json"):
        if config.stored:
            load_strictly(model, _stored(store, name, role, fingerprint), f"{role} {fingerprint} in {store.root}")
        _freeze(model).to(device)
        log.info("%s %s: reused from %s", role, fingerprint, store.root)
        # What is there may have come from another place than what was asked for now.
        record = {**records.read_json(store, f"{name}.json"), "config": plain, **source}
        if record.get("measured_on") != measured_on:
            log.info("%s %s: measured again, since other rows are there to measure it on", role, fingerprint)
            record |= {"quality": record["quality"] | finish["own"](source), "measured_on": measured_on}
            records.write_json(store, record, f"{name}.json")
        return {**record, "reused": True}
    if todo == "all":
        log.info("%s %s: pretraining on the '%s' split, once", role, fingerprint, config.pretrain.split)
    elif todo == "fit":
        log.info("%s %s: its head is fitted on labelled rows, once", role, fingerprint)
    started = time.perf_counter()
    model.requires_grad_(True).to(device)
    source |= {"quality": finish[todo](source), "measured_on": measured_on}
    source["seconds"] = round(time.perf_counter() - started, 2)
    log.info("%s %s: ready after %.1f s, stored in %s", role, fingerprint, source["seconds"], store.root)
    _freeze(model)
    if config.stored:
        store.write(safetensors.torch.save(whole(model.state_dict())), f"{name}.safetensors")
    record = {"fingerprint": fingerprint, "config": plain, **source, "environment": environment()}
    # The record is written last: where it is, the weights are whole.
    records.write_json(store, record, f"{name}.json")
    return {**record, "reused": False}


def state_digests(model: nn.Module) -> dict[str, str]:
    """Of each weight of a model on the CPU."""
    return {
        name: digest(name, value.detach().contiguous().numpy().tobytes()) for name, value in model.state_dict().items()
    }


def _stored(store: Storage, name: str, role: str, fingerprint: str) -> dict[str, Tensor]:
    return read_safetensors(store.read(f"{name}.safetensors"), f"{role} {fingerprint} in {store.root}")


def _freeze(model: nn.Module) -> nn.Module:
    """For use alone. Convolutions are faster in this layout on a CPU; what has no convolutions is as before."""
    return model.eval().requires_grad_(False).to(memory_format=torch.channels_last)
