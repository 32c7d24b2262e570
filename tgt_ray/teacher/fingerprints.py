"""Names the parts of a teacher, and finds stored ones, without torch.

A part has two names. Its *recipe* says how it is made: settings, data, versions of libraries and, of a generator, the
labeler that it is trained with. Its *identity* says what has come out: its weights, and the settings that change what
it says. On another processor one recipe may give another identity. Both then lie side by side in the storage, and the
first one is used for as long as it is whole. What goes on with `--resume` uses the one that it began with.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from tgt_ray.core import formats, records
from tgt_ray.core.environment import cpu_model, version
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.fingerprint import digest
from tgt_ray.core.storage import Storage
from tgt_ray.core.stored import Damaged
from tgt_ray.tasks import TaskData
from tgt_ray.teacher.config import TeacherConfig
from tgt_ray.teacher.generators import Generator
from tgt_ray.teacher.labelers.base import Labeler

log = logging.getLogger(__name__)

#: The folder of the storage that has them.
FOLDER = "teachers"
ROLES = ("labeler", "generator")


@dataclass(frozen=True)
class Recipe:
    """Names how a part of a teacher is made.

    - role: "labeler" or "generator"
    - key: 16 hex digits
    - before: the name that versions before 0.2 gave to what was made so; None where they can't have made it
    """

    role: str
    key: str
    before: str | None = None

    @property
    def state_file(self) -> str:
        """The file of a training that isn't over."""
        return f"{self.role}-{self.key}.pt"


def settings_of(part: Labeler | Generator) -> dict[str, Any]:
    """Return the settings that change what a part says, besides its weights."""
    plain = part.to_fingerprint()
    return {name: plain[name] for name in plain if name not in {"pretrain", "weights", *part.places}}


def pretrained_recipe(
    role: str, part: Labeler | Generator, made_from: list[str], before_from: list[str] | None
) -> Recipe:
    """Name the recipe of a part that is pretrained here.

    - made_from: fingerprint of its data and, for a generator, the labeler's identity
    - before_from: the same with the name that versions before 0.2 gave to the labeler; None where it has none
    """
    plain = part.to_fingerprint()
    plain.pop("weights", None)
    before = None if before_from is None else digest(role, plain, before_from)
    return Recipe(role, digest("recipe", role, plain, made_from, versions_of(part)), before)


def external_recipe(
    role: str,
    part: Labeler | Generator,
    state: list[str],
    source: Mapping[str, Any],
    made_from: list[str],
    before_from: list[str] | None,
) -> Recipe:
    """Name the recipe of a part from elsewhere.

    - state: digests of what was loaded
    - source: entries for its record, with `facts`
    - made_from, before_from: as for `pretrained_recipe`
    """
    what = role, settings_of(part), state, source["facts"]
    more = [source["fitted_by"]] if "fitted_by" in source else []
    before = None if before_from is None else digest(*what, before_from, *more)
    fitted_with = versions_of(part) if source.get("head") == "fit" else None
    return Recipe(role, digest("recipe", *what, made_from, *more, fitted_with), before)


def versions_of(part: Labeler | Generator) -> dict[str, str | None]:
    """Return the versions of the libraries that what a part learns depends on, without those of builds."""
    return {name: (version(name) or "").partition("+")[0] for name in ("torch", *part.libraries)}


def weights_digest(weights: Mapping[str, memoryview]) -> str:
    """Digest weights by name: the bytes of each in the order of its dimensions."""
    return digest(*(each for name in sorted(weights) for each in (name, weights[name])))


def identity_of(part: Labeler | Generator, role: str, weights: str, facts: str | None = None) -> str:
    """Name a part by what it is.

    - weights: their digest, see `weights_digest`
    - facts: of a part from elsewhere, the digest of its `facts`
    """
    return digest("identity", role, settings_of(part), facts, weights)


def stem(role: str, record: Mapping[str, Any]) -> str:
    """Return the name that a part's files have in the storage, without its ending.

    - record: the part's
    """
    if "recipe" not in record:  # made by a version before 0.2
        return f"{role}-{record['fingerprint']}"
    return f"{role}-{record['recipe']}-{record['identity']}"


@dataclass(frozen=True)
class Begun:
    """Says with which teacher a run or sweep was begun that is to go on.

    - what: "run" or "sweep"
    - names: the identity of each part, or the name that a version before 0.2 gave to it; None where there was none
    - parts: the records of parts, where its own record has them
    """

    what: str
    names: Mapping[str, str | None]
    parts: Mapping[str, Mapping[str, Any] | None] = field(default_factory=dict)

    @classmethod
    def of(cls, record: Mapping[str, Any], what: str) -> Begun:
        """Read it from the record of a run or sweep."""
        names = {role: record["fingerprints"].get(role) for role in ROLES}
        return cls(what, names, record.get("teacher") or {})


def _is_called(record: Mapping[str, Any], name: str) -> bool:
    return name in (record.get("identity"), record.get("fingerprint"))


class Shelf:
    """Finds the parts in the storage that a recipe has given.

    - store: the folder that has them
    - begun: what goes on; its part is taken before all others, also where another recipe has given it
    - writes: whether records of versions before 0.2 get their identity, which is written to them
    - records: those of the recipe's parts, the first one first
    """

    def __init__(
        self,
        store: Storage,
        recipe: Recipe,
        part: Labeler | Generator,
        begun: Begun | None = None,
        writes: bool = True,
    ):
        self.store, self.recipe, self.part, self.begun, self.writes = store, recipe, part, begun, writes
        self.records: list[dict[str, Any]] = []
        self._seen: set[str] = set()
        self._name = begun.names.get(recipe.role) if begun is not None else None

    def find(self, say: bool = True) -> tuple[dict[str, Any], bytes] | None:
        """Return the first part whose weights are whole: its record, and the file of its weights.

        The file is empty where none is kept.

        - say: whether the log says what is wrong with others
        - raises ConfigError: where what is to go on was begun with another part, which can't be made again here
        """
        wrong: list[str] = []
        found = self.look(wrong)
        self._check_begun(found)
        for reason in wrong if say else ():
            used = f"{self.recipe.role} {found[0].get('identity')} is used" if found else "made again"
            log.warning("%s; %s", reason, used)
        return found

    def look(self, wrong: list[str] | None = None) -> tuple[dict[str, Any], bytes] | None:
        """Return what `find` does. Each call looks for parts that have come since the last one.

        - wrong: gets what is wrong with parts that come before it
        """
        self._look()
        for record in sorted([*self._of_other_recipes(), *self.records], key=lambda each: not self._is_wanted(each)):
            content = self._weights(record, [] if wrong is None else wrong) if self.part.stored else b""
            if content is not None:
                return self._with_identity(record, content), content
        return None

    def _is_wanted(self, record: Mapping[str, Any]) -> bool:
        return self._name is not None and _is_called(record, self._name)

    def _of_other_recipes(self) -> list[dict[str, Any]]:
        """Read the record of the part that is wanted, where it was made with other versions of libraries."""
        if self._name is None or self.part.external or any(map(self._is_wanted, self.records)):
            return []
        role, names = self.recipe.role, {path.rpartition("/")[2] for path in self.store.files()}
        mine = sorted(name for name in names if name.startswith(f"{role}-") and name.endswith(f"-{self._name}.json"))
        return [found for name in mine if (found := records.find(self.store, "teacher", name)) is not None]

    def _check_begun(self, found: tuple[dict[str, Any], bytes] | None) -> None:
        """Raise ConfigError where what was begun has no part here, and where it is known that none will come.

        To make one may take long, and whoever makes another one has to refuse it after all.
        """
        if self.begun is None or self._name is None or (found is not None and self._is_wanted(found[0])):
            return
        role, name = self.recipe.role, self._name
        why = self._why_not_again() if found is None else f"{found[0].get('identity')}, which is there, is another one"
        if why is not None:
            raise ConfigError(
                f"--resume: the {self.begun.what} was begun with {role} {name}, whose weights are not whole in"
                f" {self.store.shown}; {why}; restore its files there, or start a new {self.begun.what}"
            )

    def _why_not_again(self) -> str | None:
        """Return why the part that is wanted can't be made again here; None where it can, or where nobody knows."""
        known = [*filter(self._is_wanted, self.records), *self._of_other_recipes()]
        noted = self.begun.parts.get(self.recipe.role) if self.begun is not None else None
        made = known[0] if known else noted
        if made is None or "recipe" not in made:
            return None
        if made["recipe"] != self.recipe.key:
            return "what it was made from (settings, data, versions of libraries) was not what is here now"
        cpu, trained = made["environment"]["hardware"]["cpu"], "pretrained_on" in made or made.get("head") == "fit"
        return f"it was made on another processor ({cpu})" if trained and cpu != cpu_model() else None

    def _look(self) -> None:
        role, key, before = self.recipe.role, self.recipe.key, self.recipe.before
        names = {path.rpartition("/")[2] for path in self.store.files()} - self._seen
        mine = {name for name in names if name.startswith(f"{role}-{key}-") and name.endswith(".json")}
        mine |= {f"{role}-{before}.json"} & names
        self._seen |= mine
        self.records += [found for name in mine if (found := records.find(self.store, "teacher", name)) is not None]
        # Of two that were made within a second, it is always the same one.
        self.records.sort(key=lambda each: ("beside" in each, each["environment"]["created"], stem(role, each)))

    def _weights(self, record: dict[str, Any], wrong: list[str]) -> bytes | None:
        """Read a part's weights; None where they aren't whole, the reason for which is added to `wrong`."""
        file = f"{stem(self.recipe.role, record)}.safetensors"
        where = self.store.where(file)
        try:
            return checked(self.store.read(file), self.recipe.role, self.part, record, where)
        except FileNotFoundError:
            wrong.append(f"{where}: is missing")
        except Damaged as err:
            wrong.append(err.fact)
        return None

    def _with_identity(self, record: dict[str, Any], content: bytes) -> dict[str, Any]:
        if "identity" in record or not (self.part.stored and self.writes):
            return record
        role = self.recipe.role
        where = self.store.where(f"{stem(role, record)}.safetensors")
        return with_identity(self.store, role, record, _identity_of_file(content, role, self.part, record, where))


def checked(content: bytes, role: str, part: Labeler | Generator, record: Mapping[str, Any], where: str) -> bytes:
    """Return a file of weights if they are those of the record.

    - raises Damaged: where they aren't
    """
    identity = _identity_of_file(content, role, part, record, where)
    if identity != record.get("identity", identity):
        raise Damaged.of(where, f"it has the weights of {identity}, not of {record['identity']}")
    return content


def _identity_of_file(
    content: bytes, role: str, part: Labeler | Generator, record: Mapping[str, Any], where: str
) -> str:
    try:
        start = 8 + int.from_bytes(content[:8], "little")
        header, data = json.loads(content[8:start]), memoryview(content)[start:]
        header.pop("__metadata__", None)
        weights = {name: data[slice(*about["data_offsets"])] for name, about in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as err:  # of a file without a checksum
        raise Damaged.of(where, "it is no safetensors file") from err
    return identity_of(part, role, weights_digest(weights), record.get("facts"))


def with_identity(store: Storage, role: str, record: dict[str, Any], identity: str) -> dict[str, Any]:
    """Add its identity to a record of a version before 0.2, once."""
    record = {**record, formats.KEY: formats.FORMATS["teacher"], "identity": identity}
    records.write_json(store, record, f"{stem(role, record)}.json")
    return record


def measured_on(role: str, data: TaskData) -> str:
    """Name everything besides the weights that changes the measured quality of a part."""
    if role == "generator":
        return data.fingerprints["validation"]
    # The class counts of the student's rows tell which classes are few-shot.
    return digest(data.fingerprints["validation"], data.fingerprints["test"], data.class_counts.tolist())


def stored_teacher(
    config: TeacherConfig,
    data: TaskData,
    storage: Storage,
    with_generator: bool = True,
    begun: Begun | None = None,
    writes: bool = True,
) -> dict[str, Any] | None:
    """Return the record of a pretrained teacher from the storage; None where the teacher must still be prepared.

    It must be prepared as well where its quality was measured on other rows, as those of a run with calibration rows.

    - with_generator: whether one is needed; otherwise its record is None
    - begun: what is to go on with it
    - writes: false: nothing is written, and parts of versions before 0.2 aren't found
    - raises ConfigError: where that was begun with another one, which can't be made again here
    """
    store, out = storage.within(FOLDER), dict[str, Any](labeler=None, generator=None)
    made_from: list[str] = []
    before_from: list[str] | None = []
    for role, part in (("labeler", config.labeler), ("generator", config.generator))[: 1 + with_generator]:
        if part.external:
            return None
        rows = data.fingerprints[part.pretrain.split]
        before = None if before_from is None else [rows, *before_from]
        # What is wrong is said where it is made again.
        recipe = pretrained_recipe(role, part, [rows, *made_from], before)
        found = Shelf(store, recipe, part, begun, writes).find(say=False)
        if found is None or "identity" not in found[0]:
            return None
        if found[0].get("measured_on") != measured_on(role, data):
            return None
        out[role] = {**found[0], "reused": True}
        made_from, before_from = [found[0]["identity"]], old_names(found[0])
    return out


def old_names(record: Mapping[str, Any]) -> list[str] | None:
    """Return the name that a version before 0.2 gave to a part, in a list; None where it was made later."""
    return [record["fingerprint"]] if "fingerprint" in record else None


def check_data(record: Mapping[str, Any], now: Mapping[str, Any], what: str = "sweep") -> None:
    """Raise ConfigError where data are others than when a run or sweep was started; it needs no teacher.

    - record: of the run or sweep
    - now: the present fingerprints of the data
    """
    if record["fingerprints"]["data"] != now:
        _refuse("data", record, what)


def check_same(
    record: Mapping[str, Any], now: Mapping[str, Any], teacher: Mapping[str, Any], what: str = "sweep"
) -> None:
    """Raise ConfigError where data or teacher are others than when a run or sweep was started.

    - record: of the run or sweep, perhaps of a version before 0.2
    - now: the present fingerprints
    - teacher: the present teacher's record
    """
    which = _changed(record["fingerprints"], now, teacher)
    if which is not None:
        _refuse(which, record, what)


def _refuse(which: str, record: Mapping[str, Any], what: str) -> NoReturn:
    raise ConfigError(
        f"--resume: {which} has changed since the {what} was started; its record has format"
        f" {formats.number(record)}{formats.written_by(record)}; start a new {what}"
    )


def _changed(before: Mapping[str, Any], now: Mapping[str, Any], teacher: Mapping[str, Any]) -> str | None:
    """Return which of the fingerprints is another; None where all are the same."""
    if before["data"] != now["data"]:
        return "data"
    for role in ROLES:
        if now[role] is not None and before[role] not in (now[role], teacher[role].get("fingerprint")):
            return role
    return None
