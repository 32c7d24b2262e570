"""Finds one part of a teacher in the storage, or makes and stores it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import safetensors.torch
import torch
from torch import nn

from tgt_ray.core import formats, records
from tgt_ray.core.environment import environment
from tgt_ray.core.errors import concerning
from tgt_ray.core.fingerprint import digest
from tgt_ray.core.owner import made_once
from tgt_ray.core.patience import patiently
from tgt_ray.core.storage import Storage
from tgt_ray.models.optimise import training
from tgt_ray.models.weights import load_strictly, read_safetensors, whole
from tgt_ray.teacher import fingerprints
from tgt_ray.teacher.fingerprints import Begun, Recipe, Shelf, stem
from tgt_ray.teacher.generators import Generator
from tgt_ray.teacher.labelers.base import Labeler

log = logging.getLogger(__name__)

#: Completes a model, given the record so far; returns entries for the record, such as the model's quality.
Finish = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass
class Part:
    """Gives a part of a teacher its weights, from elsewhere, the store or training, and brings it to `device`.

    - made_from: fingerprint of its data and, for a generator, the labeler's identity
    - before_from: the same with the labeler's name of versions before 0.2; None where it has none
    - finish: completes the model, given the record so far, and measures its quality: "all" trains everything, "fit"
      fits the head, "own" has nothing left to train
    - measured_on: fingerprint of everything besides the weights that changes the measured quality
    - store: the folder of the storage that keeps parts
    - begun: what is to go on with it
    """

    config: Labeler | Generator
    role: str
    model: nn.Module
    made_from: list[str]
    before_from: list[str] | None
    finish: dict[str, Finish]
    measured_on: str
    store: Storage
    device: str
    begun: Begun | None = None

    def check_begun(self) -> None:
        """Raise ConfigError where it is known that what is to go on was begun with another part than `ready` gives."""
        Shelf(self.store, self._recipe()[0], self.config, self.begun).find(say=False)

    def ready(self) -> dict[str, Any]:
        """Find the part in the store, or make it; return its record."""
        recipe, source = self._recipe()
        shelf = Shelf(self.store, recipe, self.config, self.begun)
        found = shelf.find()
        if found is not None:
            return self._use(source, *found)
        with made_once(self.store, f"{self.role}-{recipe.key}", self.role):
            found = shelf.find(say=False)  # another one may have made it meanwhile
            return self._use(source, *found) if found is not None else self._make(shelf, source)

    @cached_property
    def _plain(self) -> dict[str, Any]:
        return self.config.model_dump(mode="json", exclude={"weights"})

    def _recipe(self) -> tuple[Recipe, dict[str, Any]]:
        """Return the recipe, and entries for the record; load weights from elsewhere."""
        config, role, made_from = self.config, self.role, (self.made_from, self.before_from)
        if not config.external:
            source: dict[str, Any] = {"pretrained_on": config.pretrain.split, "threads": config.pretrain.threads}
            return fingerprints.pretrained_recipe(role, config, *made_from), source
        with concerning(f"teacher.{role}"):
            source = config.load_weights(self.model)
        # A head that must still be fitted follows from the rest.
        fitted = source.get("head") == "fit"
        state = [each for name, each in state_digests(self.model).items() if not (fitted and name.startswith("head."))]
        source |= {"state": digest(state), "facts": digest(config.facts(self.model))}
        return fingerprints.external_recipe(role, config, state, source, *made_from), source

    def _use(self, source: dict[str, Any], record: dict[str, Any], content: bytes) -> dict[str, Any]:
        """Load a stored part; return its record.

        - source: entries that say where the weights come from this time
        """
        if content:
            where = self.store.where(f"{stem(self.role, record)}.safetensors")
            load_strictly(self.model, read_safetensors(content, where), where)
        elif "identity" not in record:
            record = fingerprints.with_identity(self.store, self.role, record, self._identity(record))
        frozen(self.model).to(self.device)
        log.info("%s %s: reused from %s", self.role, record["identity"], self.store.shown)
        place = {name: value for name, value in source.items() if name != "threads"}
        return {**self._measured({**record, "config": self._plain, **place}), "reused": True}

    def _make(self, shelf: Shelf, source: dict[str, Any]) -> dict[str, Any]:
        """Make and store the part; return its record."""
        todo = "all" if "pretrained_on" in source else source.get("head", "own")
        work = self._say_work(todo)
        self.model.requires_grad_(True).to(self.device)
        with training(work, self.store, shelf.recipe.state_file) as trained:
            quality = self.finish[todo](source)
            made = {"quality": quality, "measured_on": self.measured_on, "seconds": round(trained.seconds, 2)}
        frozen(self.model)
        identity, faster = self._identity(source), shelf.look()
        known = {"recipe": shelf.recipe.key, "identity": identity, "config": self._plain}
        record = formats.stamped("teacher", {**known, **source, **made, "environment": environment()})
        same = [each for each in shelf.records if each.get("identity") == identity]
        if shelf.records and not same:
            first = shelf.records[0].get("identity") or shelf.records[0]["fingerprint"]
            self._say_other(identity, first, faster is not None)
            record["beside"] = first
        if faster is not None and not same:
            return self._use(source, *faster)
        if same:
            record = {**same[0], **made}
        patiently(lambda: self._write(record))
        log.info("%s %s: ready after %.1f s, stored in %s", self.role, identity, made["seconds"], self.store.shown)
        return {**record, "reused": False}

    def _write(self, record: dict[str, Any]) -> None:
        name = stem(self.role, record)
        if self.config.stored:
            self.store.write(safetensors.torch.save(whole(self.model.state_dict())), f"{name}.safetensors")
        # The record is written last: if it exists, the weights are complete.
        records.write_json(self.store, record, f"{name}.json")

    def _say_work(self, todo: str) -> str:
        """Log what is about to be done, and return what its progress is called."""
        role, config = self.role, self.config
        if todo == "all":
            count = config.pretrain.threads
            log.info(
                "%s: pretraining on the '%s' split, with %d thread%s (teacher.%s.pretrain.threads), once",
                *(role, config.pretrain.split, count, "s" * (count > 1), role),
            )
            return f"pretraining the {role}"
        if todo == "fit" and isinstance(config, Labeler):
            if not config.embeds_documents:
                log.info("%s: %s on the '%s' split, once", role, config.fitting, config.head_split)
            return f"{config.fitting} of the {role}"
        return f"measuring the {role}"

    def _say_other(self, identity: str, before: str, is_there: bool) -> None:
        """Say that a recipe has given another part than before."""
        if is_there:
            log.warning("%s: %s was stored meanwhile by the same recipe, and is used", self.role, before)
            return
        log.warning(
            "%s: was %s and is %s now, by the same recipe; runs that began with the former can't go on until its"
            " weights are back; from then on new runs use it again",
            *(self.role, before, identity),
        )

    def _identity(self, record: dict[str, Any]) -> str:
        """Name the model as it is now.

        - record: its record, or what is known of it so far
        """
        state = whole(self.model.state_dict())
        weights = {name: value.reshape(-1).view(torch.uint8).numpy().data for name, value in state.items()}
        weights_digest = fingerprints.weights_digest(weights)
        return fingerprints.identity_of(self.config, self.role, weights_digest, record.get("facts"))

    def _measured(self, record: dict[str, Any]) -> dict[str, Any]:
        """Return the record of a stored part, with its quality measured again where other rows are there for it."""
        if record.get("measured_on") == self.measured_on:
            return record
        log.info("%s %s: measured again, since the rows to measure it on have changed", self.role, record["identity"])
        record |= {"quality": record["quality"] | self.finish["own"](record), "measured_on": self.measured_on}
        patiently(lambda: records.write_json(self.store, record, f"{stem(self.role, record)}.json"))
        return record


def state_digests(model: nn.Module) -> dict[str, str]:
    """Compute a digest of each weight of a model on the CPU, by name."""
    return {
        name: digest(name, value.detach().contiguous().numpy().tobytes()) for name, value in model.state_dict().items()
    }


def frozen(model: nn.Module) -> nn.Module:
    """Freeze a model for inference, in the memory layout in which convolutions are faster on a CPU."""
    return model.eval().requires_grad_(False).to(memory_format=torch.channels_last)
