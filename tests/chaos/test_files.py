"""Each kind of stored file of a sweep that was killed is damaged in each way; `--resume` must end as undisturbed.

KINDS says beforehand what happens: "healed" files are made again, or nothing needs them; "previous checkpoint": the
trial goes on from the one before; "refused" in one line: what can't be made again. Readers of single files see flips by
the thousand in tests/fuzz and tests/core.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.chaos.sweep import Sweep, copied_without_sweep
from tgt_ray.core.errors import ConfigError, RunFailed
from tgt_ray.entrypoints import api

pytestmark = [pytest.mark.ray, pytest.mark.chaos, pytest.mark.timeout(600)]

#: Ways to damage a file: what is left of its bytes.
HOW = {
    "cut": lambda content: content[: len(content) // 2],
    "emptied": lambda content: b"",
    "removed": None,
    "flipped in the middle": lambda content: flipped(content, len(content) // 2),
    "flipped near the end": lambda content: flipped(content, len(content) - 1 - len(content) // 20),
}


def flipped(content: bytes, place: int) -> bytes:
    if not content:
        return b"\x15"  # its time alone says something
    return content[:place] + bytes([content[place] ^ 0x15]) + content[place + 1 :]


@dataclass(frozen=True)
class Kind:
    """Files of a storage, and what happens when one is damaged.

    - patterns: of their paths; the first file that fits is damaged
    - then: what happens
    - refused: the ways in which that one is refused all the same
    """

    name: str
    patterns: tuple[str, ...]
    then: str = "healed"
    refused: tuple[str, ...] = ()


#: The best trial that has ended is the third one, and the fourth goes on.
KINDS = [
    Kind("the sweep's journal", ("a/journal.jsonl",), refused=("emptied", "removed")),
    Kind("the sweep's settings", ("a/sweep.yaml",)),
    Kind("the sweep's record", ("a/record.json",)),
    Kind("the table (CSV)", ("a/trials.csv",)),
    Kind("the table (Parquet)", ("a/trials.parquet",)),
    Kind("Optuna's journal", ("a/optuna_journal.log",)),
    Kind("state of a trial that goes on", ("a/train/4/state.pt",), "previous checkpoint"),
    Kind("its state before that", ("a/train/4/state.previous.pt",)),
    Kind("state of a trial that has ended", ("a/train/[123]/state*.pt",)),
    Kind("student of a trial that is not the best", ("a/train/1/student.*",)),
    Kind("weights of the best trial's student", ("a/train/3/student.safetensors",), "refused", tuple(HOW)),
    Kind("settings of the best trial's student", ("a/train/3/student.json",), "refused", tuple(HOW)),
    Kind("pictures and tables of a trial", ("a/train/[12]/gallery.*", "a/train/[12]/per_class.csv")),
    Kind("picture of the fit check", ("a/fit_check.png",)),
    Kind("curves", ("a/tensorboard/*",)),
    Kind("files of the owner", ("a/owner-*",)),
    Kind("settings of a bank", ("bank/*/bank.json",)),
    Kind("rows of a bank", ("bank/*/chunk-*",)),
    Kind("rows of a bank that a gallery shows", ("bank/*/shown-*",)),
    Kind("when a bank was used", ("bank/*/last_use",)),
    Kind("fit check", ("fit_checks/*.json",)),
    Kind("pictures of fit checks", ("fit_checks/*.png",)),
    Kind("the teacher's answers", ("teacher_cache/*",)),
    Kind("weights of a labeler", ("teachers/labeler-*.safetensors",)),
    Kind("record of a labeler", ("teachers/labeler-*.json",)),
    Kind("weights of a generator", ("teachers/generator-*.safetensors",)),
    Kind("record of a generator", ("teachers/generator-*.json",)),
    Kind("messages", ("logs/*",)),
]
#: Files that are there while a process works, and no longer.
PASSING = ("*.tmp", "a/train/[34]/*", "a/train/*/student.*", "a/train/*/gallery.*", "bank/*/in_use-*")


@pytest.fixture(scope="session")
def killed(calm, tmp_path_factory) -> Iterator[Path]:
    """The storage of a sweep whose driver was killed while its last trial was trained."""
    place = tmp_path_factory.mktemp("killed") / "storage"
    running = Sweep(copied_without_sweep(calm.storage, place), calm.file).begin()
    try:
        (driver,) = running.wait_for("last report", "driver")
        driver.kill()
        running.killed()
        yield place
    finally:
        running.end_by_force()


def paths(storage: Path) -> list[str]:
    return sorted(str(file.relative_to(storage)) for file in storage.rglob("*") if file.is_file())


def of(kind: Kind, storage: Path) -> list[Path]:
    return [storage / path for path in paths(storage) if any(fnmatch(path, each) for each in kind.patterns)]


def test_each_file_is_of_a_kind(killed):
    patterns = [pattern for kind in KINDS for pattern in kind.patterns] + list(PASSING)
    assert [path for path in paths(killed) if not any(fnmatch(path, each) for each in patterns)] == []


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_file_is_damaged_between_two_commands(killed, calm, case, ray_cluster, tmp_path, kind, how):
    storage = Path(shutil.copytree(killed, tmp_path / "storage"))
    file, *_ = of(kind, storage)
    then = "refused" if how in kind.refused else kind.then
    case.note(fault=how, of=kind.name, then=then)
    change = HOW[how]
    if change is None:
        file.unlink()
    else:
        file.write_bytes(change(file.read_bytes()))
    sweep = Sweep(storage, calm.file)
    if then == "refused":
        with pytest.raises((ConfigError, RunFailed)) as refused:
            api.run_sweep(storage=str(storage), name="a", resume=True)
        assert file.name in str(refused.value) and "\n" not in str(refused.value)
        return
    api.run_sweep(storage=str(storage), name="a", resume=True)
    sweep.compare(calm.table)
