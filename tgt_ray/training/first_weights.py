"""Give a student the weights of one that was trained before (`train.start_from`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from tgt_ray.core.batch import InputSpec
from tgt_ray.core.errors import concerning
from tgt_ray.core.kept import WEIGHTS_FILE, KeptStudent
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.models.weights import load_strictly, read_safetensors
from tgt_ray.objectives.criteria.base import Criterion

#: The setting, for messages.
KEY = "train.start_from"


def start_of(experiment: Experiment) -> KeptStudent | None:
    """Find the student that an experiment's student starts from; None where it starts from its own first weights."""
    if experiment.train.start_from is None:
        return None
    with concerning(KEY):
        return KeptStudent.at(experiment.train.start_from)


def spec_from(kept: KeptStudent, spec: InputSpec) -> InputSpec:
    """Return what a student is built for that goes on with another one's tokenizer, if that has one."""
    return InputSpec(spec.shape, kept.tokenizer or spec.tokenizer)


def take_weights(
    backbone: nn.Module, criterion: Criterion, kept: KeptStudent, classes: Sequence[str] | None
) -> dict[str, Any]:
    """Put the weights of a trained student into another one.

    The head starts anew where it has other classes, or none that fits.

    - classes: names of the present classes; None: documents are ranked
    - returns: what is recorded of it, as plain data
    - raises ConfigError: where the backbone has another architecture; it names the first weight that differs
    """
    state = read_safetensors(kept.weights, kept.storage.where(WEIGHTS_FILE))
    where = f"{KEY}: {kept.storage.shown}"
    load_strictly(backbone, _part(state, "backbone"), where)
    head = _part(state, "criterion")
    why = _other_classes(kept.classes, classes) or _other_head(criterion, head)
    if why is None:
        load_strictly(criterion, head, where)
    return {
        "folder": kept.storage.shown,
        "weights": kept.weights_digest,
        "head": "kept" if why is None else f"new: {why}",
    }


def said(started: Mapping[str, Any] | None) -> str:
    """Say in one line what a student has started from."""
    if started is None:
        return f"{KEY}: none"
    head = "its head is kept" if started["head"] == "kept" else f"its head starts anew ({started['head'][5:]})"
    return f"{KEY}: {started['folder']}, weights {started['weights']}; {head}"


def _part(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}


def _other_classes(there: Sequence[str] | None, here: Sequence[str] | None) -> str | None:
    """Say why a head of these classes is none for those here; None where they are the same."""
    if there is None or here is None:
        kinds = ["documents" if each is None else "classes" for each in (there, here)]
        return None if kinds[0] == kinds[1] else f"it was for {kinds[0]}, and here are {kinds[1]}"
    if tuple(there) == tuple(here):
        return None
    if len(there) != len(here):
        return f"it was for {len(there)} classes, and here are {len(here)}"
    if sorted(there) == sorted(here):
        return "its classes come in another order here"
    first = next(place for place, (one, other) in enumerate(zip(there, here, strict=True)) if one != other)
    return f"class {first} was '{there[first]}', and is '{here[first]}' here"


def _other_head(criterion: Criterion, state: Mapping[str, Tensor]) -> str | None:
    """Say why the weights of a head don't fit a criterion; None where they do."""
    own = criterion.state_dict()
    for name in [*own, *state]:
        have, want = (str(list(each[name].shape)) if name in each else "absent" for each in (state, own))
        if have != want:
            return f"the weight '{name}' was {have}, and the objective asks for {want}"
    return None
