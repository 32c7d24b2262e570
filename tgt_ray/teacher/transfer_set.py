"""Joins real rows with what the teacher says of them: the transfer set, as plain tables that need no torch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, TypeAlias

import numpy as np
import safetensors.numpy

from tgt_ray.core.batch import InputSpec
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.fingerprint import digest, digest_of_array
from tgt_ray.core.signals.base import Signal, unique
from tgt_ray.core.signals.of_generator import LATENT
from tgt_ray.core.signals.of_labeler import TOP
from tgt_ray.core.signals.values import Columns, concat_columns, flat
from tgt_ray.core.storage import Storage
from tgt_ray.objectives import Objective
from tgt_ray.objectives.facts import Facts, Fit, Fitted, Rows
from tgt_ray.tasks import Table, TaskData
from tgt_ray.teacher.cache import TeacherCache
from tgt_ray.teacher.fingerprints import FOLDER, ROLES, stem
from tgt_ray.teacher.forms.names import form_facts, forms_of, speaker
from tgt_ray.teacher.generators import Generator
from tgt_ray.teacher.versions import Changes, Versions

log = logging.getLogger(__name__)

#: Tables, or the versions of one's rows, each with the signals that are wanted of its rows.
Asked: TypeAlias = list[tuple[Table | Versions, tuple[Signal, ...]]]
#: Asks the teacher about rows. Returns the columns of the signals for each table, in the order of its rows.
TeacherPass: TypeAlias = Callable[[Asked], list[Columns]]


@dataclass(frozen=True)
class StudentData:
    """Holds what a student worker needs of a task.

    - tables: the splits train, validation and test, and further tables of the task
    - spec: what the student needs to know to be built
    - num_classes: K
    - columns: columns of the objectives' signals, of the train rows in the table's order
    - versions: the same columns of augmented train rows, by the key of how they are changed, see
      `tgt_ray.teacher.versions`
    - fits: the results of fits that objectives start from
    - starts_from: names of the tables that explorers start from; some may be missing in `tables`
    - taught_by: identities of labeler and generator, None where there is no generator, and the forms they run in where
      these aren't the reference
    - fingerprints: those of the tables
    """

    tables: dict[str, Table]
    spec: InputSpec
    num_classes: int
    columns: Columns
    fits: Fitted
    class_names: tuple[str, ...] = ()
    starts_from: tuple[str, ...] = ("train", "unlabelled")
    taught_by: dict[str, str | None] = field(default_factory=dict)
    fingerprints: dict[str, str] = field(default_factory=dict)
    versions: dict[str, Columns] = field(default_factory=dict)

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.spec.shape

    @property
    def anchor_tables(self) -> tuple[Table, ...]:
        """The rows that explorers start from."""
        return tuple(self.tables[name] for name in self.starts_from if name in self.tables)

    @property
    def facts(self) -> Facts:
        """What a criterion may know about the task and its teacher."""
        return Facts(self.num_classes, self.class_counts, self.class_names, self.columns, self.fits)

    @cached_property
    def class_counts(self) -> np.ndarray:
        """Rows of each class in the train split, (K,)."""
        return np.bincount(self.tables["train"]["label"].to_numpy(), minlength=self.num_classes)


@dataclass(frozen=True)
class Anchors:
    """Holds the rows that explorers start from: those of the train split, then others.

    - ids: (N,)
    - labels: (N,); for a row without a label, the class that the labeler predicts
    - latents: (N, L) float32; (N, 0) where the generator starts from the inputs themselves
    - columns: what the teacher cache has of these rows, for runs that take anchors unchanged
    """

    ids: np.ndarray
    labels: np.ndarray
    latents: np.ndarray
    columns: Columns = field(default_factory=dict)

    def digests(self) -> dict[str, Any]:
        """Fingerprint what explorers really get, to the last bit.

        Where latents or answers are made again, on another machine or with other threads, their last digits may
        differ, and with them the rows that are made from them.

        - returns: those of `rows` (ids and labels), of `latents`, and of each column by its name, `columns`
        """
        said = {name: flat({name: values}) for name, values in self.columns.items()}
        return {
            "rows": digest(*map(digest_of_array, (self.ids, self.labels))),
            "latents": digest_of_array(np.ascontiguousarray(self.latents)),
            "columns": {name: digest(*map(digest_of_array, parts.values())) for name, parts in said.items()},
        }


@dataclass(frozen=True)
class Prepared:
    """Holds everything that runs on one task and teacher share.

    - teacher: the teacher's record
    - fingerprints: fingerprints of what this was made from
    - account: what was read of the data, and what was left out
    """

    student: StudentData
    anchors: Anchors
    teacher: dict[str, Any]
    fingerprints: dict[str, Any]
    account: dict[str, Any]


def prepare(
    data: TaskData,
    teacher: dict[str, Any],
    generator: Generator,
    objectives: Sequence[Objective],
    teacher_pass: TeacherPass,
    storage: Storage,
    unchanged: bool = False,
    changes: Sequence[Changes] = (),
) -> Prepared:
    """Join the task's rows with what the teacher says of them, from the teacher cache or by `teacher_pass`.

    - teacher: the teacher's record
    - objectives: the objectives that runs on this may have
    - unchanged: whether some of the runs take anchors unchanged
    - changes: how runs augment train rows that the teacher labels as it sees them
    - raises ConfigError: where all objectives of one type do not fit the task and its teacher, or rows that one of them
      is calibrated on are not held out
    """
    log_classes(teacher)
    made_by = {role: part and part["identity"] for role in ROLES for part in [teacher[role]]}
    latents = teacher["generator"] is not None and not generator.contextual
    versions = {how.key: Versions(data.tables["train"], how) for how in changes}
    named = {key: digest(data.fingerprints["train"], key) for key in versions}
    speakers = {role: speaker(teacher, role) for role in ROLES}
    cache = TeacherCache(storage, {**data.fingerprints, **named}, speakers)
    own, fits = needs(objectives)
    check_tables(data, fits.values())
    kept = signals_of_unchanged(data, generator, own) if unchanged else ()
    wanted = wanted_signals(data, generator, own, list(fits.values()), kept, latents)
    fill(cache, {**data.tables, **versions}, {**wanted, **dict.fromkeys(versions, own)}, teacher_pass)
    head = partial(labeler_head, teacher, storage, data.num_classes)
    tables = {name: data.tables[name] for name in rows_of_students(data)}
    student = StudentData(
        tables,
        data.spec,
        data.num_classes,
        cache.read_signals("train", own),
        {name: find(fit, cache, data, head) for name, fit in fits.items()},
        data.class_names,
        generator.starts_from,
        {**made_by, **{f"{role}'s form": form for role, form in forms_of(teacher).items()}},
        rows_of_students(data),
        {key: cache.read_signals(key, own) for key in versions},
    )
    check_objectives(objectives, student.facts)
    # Without a form other than the reference, names are those of before there were forms.
    forms = {"forms": form_facts(teacher)} if form_facts(teacher) else {}
    fingerprints = {"data": data.fingerprints, **made_by, **forms}
    whole = digest(data.fingerprints["train"], *made_by.values(), *forms.values())
    anchors = anchors_of(cache, data, generator, kept, latents)
    fingerprints |= {"teacher_cache": whole, "anchors": anchors.digests()}
    return Prepared(student, anchors, teacher, fingerprints, data.account())


def rows_of_students(data: TaskData) -> dict[str, str]:
    """Return the fingerprints of the tables that students get."""
    return {name: data.fingerprints[name] for name in data.tables if name not in ("full", "calibration")}


def needs(objectives: Sequence[Objective]) -> tuple[tuple[Signal, ...], dict[str, Fit]]:
    """Return the cached signals and the fits, by name, that runs with these objectives share.

    - raises ConfigError: where two that differ have the same name, since each run would get the other's values
    """
    fits: dict[str, Fit] = {}
    for fit in (fit for each in objectives for fit in each.fits):
        if fits.setdefault(fit.name, fit).key() != fit.key():
            raise ConfigError(f"objective: two fits that differ are called '{fit.name}'; let its name say its settings")
    try:
        return unique(signal for each in objectives for signal in each.signals if signal.cached), fits
    except ValueError as err:
        raise ConfigError(f"objective: {err}; let its name say its settings") from err


def check_tables(data: TaskData, fits: Iterable[Fit]) -> None:
    """Raise ConfigError where a fit's rows are not there: those of calibration are held out on request alone."""
    for fit in fits:
        if fit.split not in data.tables:
            raise ConfigError(
                f"objective: needs rows in the table '{fit.split}', and the data has {', '.join(data.tables)}; hold"
                " them out with tgt_ray.tasks.with_calibration(task, data, objective.calibration_rows)"
            )


def wanted_signals(
    data: TaskData,
    generator: Generator,
    own: Sequence[Signal],
    fits: Sequence[Fit],
    of_anchors: Sequence[Signal] = (),
    latents: bool = True,
) -> dict[str, tuple[Signal, ...]]:
    """Return the signals that the teacher is asked for, by split: for objectives, for fits and for anchors.

    - own: the signals that objectives need of train rows
    - of_anchors: further signals of all anchors
    - latents: whether the generator starts from latents that are kept
    """
    wanted: dict[str, list[Signal]] = {"train": list(own)}
    for fit in fits:
        wanted.setdefault(fit.split, []).extend(fit.signals)
    for name in generator.starts_from:
        if name in data.tables:
            wanted.setdefault(name, []).extend([*_of_anchors(data, name, latents), *of_anchors])
    return {name: unique(signals) for name, signals in wanted.items()}


def signals_of_unchanged(data: TaskData, generator: Generator, own: Sequence[Signal]) -> tuple[Signal, ...]:
    """Return the signals of unchanged anchors that the teacher cache can give.

    Those that look at labels are left out where an anchor has none: its class is the one that the labeler predicts,
    which isn't known before the labeler is asked.
    """
    labelled = all((data.labels(name) >= 0).all() for name in generator.starts_from if name in data.tables)
    return tuple(
        each for each in own if each.by == "labeler" and each.synthetic and (labelled or not each.looks_at_labels)
    )


def _of_anchors(data: TaskData, name: str, latents: bool) -> tuple[Signal, ...]:
    """Return the signals that anchors need of the rows of a table."""
    return (*([LATENT] if latents else []), *([TOP] if (data.labels(name) < 0).any() else []))


def fill(
    cache: TeacherCache,
    tables: Mapping[str, Table | Versions],
    wanted: dict[str, tuple[Signal, ...]],
    teacher_pass: TeacherPass,
) -> None:
    """Ask the teacher, in one pass, for what the cache does not have."""
    missing = {split: signals for split, all_ in wanted.items() if (signals := cache.missing(split, all_))}
    if not missing:
        return
    if cache.holds_older():
        log.info("teacher_cache: outputs stored by an older version are not used; the teacher is asked again, once")
    said = teacher_pass([(tables[split], signals) for split, signals in missing.items()])
    for (split, signals), columns in zip(missing.items(), said, strict=True):
        cache.keep(split, signals, columns)


def find(fit: Fit, cache: TeacherCache, data: TaskData, head: Callable[[int | None], np.ndarray]) -> Any:
    """Return the result of a fit, from the cache or computed now.

    - head: returns the weight of the labeler's head, given the size of its embeddings (None: not known)
    """
    key = cache.fit_key(fit.split, fit.key())
    there = cache.find(key) if fit.stored else None
    if there is not None:
        return fit.load(there)
    columns = cache.read_signals(fit.split, fit.signals)
    embedding = columns.get("embedding")
    dim = embedding.shape[1] if isinstance(embedding, np.ndarray) else None
    arrays = fit.of(Rows(columns, data.labels(fit.split), data.num_classes, partial(head, dim)))
    if fit.stored:
        cache.write(key, arrays)
    return fit.load(arrays)


def anchors_of(
    cache: TeacherCache, data: TaskData, generator: Generator, signals: Sequence[Signal], has_latents: bool
) -> Anchors:
    """Read the rows that explorers start from, with labels, latents and the columns of some signals from the cache."""
    parts, said = [], []
    for name in generator.starts_from:
        if name not in data.tables:
            continue
        labels = data.labels(name)
        columns = cache.read_signals(name, _of_anchors(data, name, has_latents))
        if "top_class" in columns:
            labels = np.where(labels < 0, np.asarray(columns["top_class"]), labels)
        latents = columns.get("latent", np.empty((len(labels), 0), np.float32))
        parts.append((data.tables[name]["id"].to_numpy(), labels, latents))
        said.append(cache.read_signals(name, signals))
    ids, labels, latents = (np.concatenate(each) for each in zip(*parts, strict=True))
    return Anchors(ids, labels, latents, concat_columns(said))


def log_classes(teacher: dict[str, Any]) -> None:
    """Log how the labeler embeds, and which of its own classes stand for the task's, where its record says so."""
    for what, encoder in teacher["labeler"].get("encoders", {}).items():
        log.info("teacher.labeler: %s", how_embedded(what, encoder))
    own = teacher["labeler"].get("own_classes", [])
    if own:
        pairs = ", ".join(f"'{theirs}' for '{ours}'" for theirs, ours in own[:SHOWN_CLASSES])
        log.info("teacher.labeler: its own classes: %s%s", pairs, ", ..." if len(own) > SHOWN_CLASSES else "")


#: The largest number of classes that a log line names.
SHOWN_CLASSES = 10
#: Who decides whether embeddings are normalised: the user, the model's files, or neither of them.
SAID_BY = {
    "config": "set by teacher.labeler.normalize",
    "files": "set by its files",
    "default": "its files say nothing: cosine, the default of sentence-transformers; set teacher.labeler.normalize",
}
POOLED = {"cls": "the first token", "mean": "the mean of tokens", "model": "as its classifier pools"}


def how_embedded(what: str, encoder: dict[str, Any]) -> str:
    """Describe a sentence encoder in one line for the log.

    - what: what it embeds, such as "queries"
    - encoder: its entry in the labeler's record
    """
    return (
        f"{what} by {encoder['path']}: after the prompt '{encoder['prompt']}', up to {encoder['max_tokens']} tokens,"
        f" {POOLED[encoder['pooling']]}, {'normalised to length 1' if encoder['normalize'] else 'not normalised'}"
        f" ({SAID_BY[encoder['normalize_said_by']]})"
    )


def labeler_head(teacher: dict[str, Any], storage: Storage, num_classes: int, dim: int | None) -> np.ndarray:
    """Read the weight (K, D) of the labeler's linear head from the storage.

    - dim: D, size of the embeddings; None: not known
    - raises ConfigError: where the labeler has no such head, or its head does not take these embeddings
    """
    record = teacher["labeler"]
    kind = record["config"]["type"]
    weights = safetensors.numpy.load(storage.read(FOLDER, f"{stem('labeler', record)}.safetensors"))
    if "head.weight" not in weights:
        raise ConfigError(no_head(kind))
    head: np.ndarray = weights["head.weight"]
    if head.shape != (num_classes, head.shape[1] if dim is None else dim):
        raise ConfigError(
            f"teacher.labeler.type: {kind}: the weight of its `head` is {list(head.shape)}, but it gives {num_classes}"
            f" logits and embeddings of {dim} numbers; the objective needs the embedding that its head takes"
        )
    return head


def no_head(kind: str) -> str:
    """Say that a labeler of this type lacks what the objective needs."""
    return (
        f"teacher.labeler.type: {kind}: it has no linear layer `head`, which the objective needs; use another"
        " labeler or objective"
    )


def check_objectives(objectives: Sequence[Objective], facts: Facts) -> None:
    """Raise ConfigError where all objectives of one type do not fit.

    Where some of a type fit, the trials of the others fail later, each with its reason.
    """
    refused: dict[str, ConfigError] = {}
    fitting: set[str] = set()
    for objective in objectives:
        try:
            objective.check(facts)
            fitting.add(objective.type)
        except ConfigError as err:
            refused.setdefault(objective.type, err)
    for kind, reason in refused.items():
        if kind not in fitting:
            raise reason


def log_teacher(prepared: Prepared) -> None:
    """Log where the weights of labeler and generator come from."""
    for role, about in ((role, prepared.teacher[role]) for role in ROLES):
        if about is None:
            log.info("generator: none, since no rows are made with it")
            continue
        source = about.get("weights") or f"pretrained on the '{about.get('pretrained_on')}' split"
        how = "reused" if about["reused"] else f"made in {about['seconds']:.1f} s" if "seconds" in about else "loaded"
        log.info("%s %s: %s, %s", role, about["identity"], source, how)
