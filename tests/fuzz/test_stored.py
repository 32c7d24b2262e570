"""Damaged files of a storage: what may be made again is, with the same result; the rest is refused in one line.

WHAT says beforehand which is which. No damage may end in a traceback or in another result, but for files whose format
has no room for a checksum.
"""

import functools
import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.runs import fuzzed, scratch
from tests.fuzz.test_folders import image
from tests.fuzz.test_settings import one_line
from tests.helpers.experiments import changed, short, tiny
from tgt_ray import load_student
from tgt_ray.core import records
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.storage import Storage
from tgt_ray.entrypoints import api
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.results.ledger import SUMMED
from tgt_ray.results.report import report
from tgt_ray.training import states
from tgt_ray.training.local import prepare_local

#: What happens to files of these names: "healed" are made again, or nothing reads them; "refused" are so by whom the
#: words name; "plain" files have no checksum, so that what is left of them is read.
WHAT = [
    ("teachers/*", "healed"),
    ("teacher_cache/*", "healed"),
    ("data_cache/*", "healed"),
    ("fit_checks/*", "healed"),
    ("a/experiment.yaml", "refused by resume"),
    ("a/checkpoint/*", "healed"),
    ("a/student.*", "refused by load"),
    ("a/record.json", "refused by report"),
    ("a/metrics.jsonl", "plain, refused by report"),
    ("a/*", "plain"),
]
KINDS = ("teachers", "teacher_cache", "data_cache", "fit_checks", "a")
HOW = ["flip", "flip", "cut", "empty", "removed", "other", "swapped"]


def what(name: str) -> str:
    return next(said for pattern, said in WHAT if fnmatch(name, pattern))


@functools.cache
def original() -> Path:
    """A storage with a finished run on images of a folder, and with what a second experiment has prepared."""
    folder = scratch("stored")
    number = 0
    for split, count in (("train", 12), ("validation", 6), ("test", 6)):
        for label in ("cat", "cow", "dog"):
            (folder / "data" / split / label).mkdir(parents=True)
            for row in range(count):
                (folder / "data" / split / label / f"{row}.png").write_bytes(image(number, "PNG", "L"))
                number += 1
    api.run(experiment(folder), storage=str(folder / "storage"), name="a", local=True)
    prepared(experiment(folder, 10), folder / "storage")
    return folder


def experiment(folder: Path, size: int = 8) -> Experiment:
    cheap = tiny(("explorer.type", "random"), ("fit_check.rows", 16), ("fit_check.minimum", 0))
    data = {"type": "folder", "path": str(folder / "data"), "size": size}
    return short(changed(cheap, {"task": {"type": "image_classification", "data": data}}))


def prepared(config: Experiment, storage: Path) -> list[np.ndarray]:
    """What training gets: rows, labels, and what the teacher says of them."""
    found = prepare_local(config, config.task.load(Storage(storage)), Storage(storage))
    rows = [np.asarray(table[name].to_pylist()) for table in found.student.tables.values() for name in ("id", "label")]
    pixels = [np.asarray(table["image"].to_pylist()) for table in found.student.tables.values()]
    columns = [np.asarray(each) for _, each in sorted(found.student.columns.items())]
    return [*rows, *pixels, *columns, found.anchors.latents]


PIXELS = np.random.default_rng(5).random((4, 3, 8, 8)).astype(np.float32)


@functools.cache
def before() -> dict[str, Any]:
    storage = original() / "storage"
    checkpoint = Storage(storage / "a" / "checkpoint")
    return {
        "prepared": prepared(experiment(original()), storage),
        "scores": load_student(str(storage / "a")).probabilities(PIXELS),
        "states": [checkpoint.read(name) for name in ("state.pt", "state.previous.pt")],
        "student": (storage / "a/student.safetensors").read_bytes(),
        "result": records.read_json(Storage(storage), "a", "record.json")["result"],
        "report": report([Storage(storage / "a")]),
    }


def names(storage: Path) -> list[str]:
    return sorted(str(file.relative_to(storage)) for file in storage.rglob("*") if file.is_file())


class Said(logging.Handler):
    """Keeps what is logged."""

    def __init__(self):
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record):
        self.lines.append(record.getMessage())


def damaged(storage: Path, draw: Any) -> tuple[str, list[str]]:
    """Damage a file or two; return how, and their names."""
    all_names = names(storage)
    kind = draw(st.sampled_from(KINDS))
    name = draw(st.sampled_from([each for each in all_names if each.startswith(f"{kind}/")]))
    how, file = draw(st.sampled_from(HOW)), storage / name
    content = bytearray(file.read_bytes())
    if how == "flip":
        end = len(content) - 1
        content[draw(st.integers(0, end) | st.integers(max(0, end - 200), end))] ^= draw(st.integers(1, 255))
        file.write_bytes(content)
    elif how == "cut":
        file.write_bytes(content[: draw(st.integers(0, len(content) - 1))])
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "removed":
        file.unlink()
    else:
        other = draw(
            st.sampled_from([each for each in all_names if each.rpartition(".")[2] == name.rpartition(".")[2]])
        )
        theirs = (storage / other).read_bytes()
        file.write_bytes(theirs)
        if how == "swapped":
            (storage / other).write_bytes(content)
            return how, [name, other]
    return how, [name]


def same(there: list[np.ndarray]) -> bool:
    wanted = before()["prepared"]
    return len(there) == len(wanted) and all(map(np.array_equal, there, wanted))


class Refused(Exception):
    pass


def asked(call: Any, by: str, touched: list[str]) -> Any:
    """Call it; a refusal must be one that is said beforehand."""
    try:
        return call()
    except ConfigError as err:
        one_line(err)
        assert any(f"refused by {by}" in what(name) for name in touched), f"{by}: {err}"
        raise Refused from err


@contextmanager
def damaged_copy(draw: Any) -> Iterator[tuple[Path, str, Any]]:
    """A copy of the storage in which something is damaged: its folder, how, and which files."""
    with tempfile.TemporaryDirectory() as folder:
        storage = Path(shutil.copytree(original() / "storage", Path(folder) / "storage"))
        yield storage, *damaged(storage, draw)


@fuzzed(few=60)
@given(st.data())
def test_damaged_files_are_made_again_or_refused_and_give_no_other_result(data):
    whole = before()
    with damaged_copy(data.draw) as (storage, how, touched):
        said = Said()
        logging.getLogger("tgt_ray").addHandler(said)
        try:
            assert same(prepared(experiment(original()), storage)), (how, touched)
            again = prepared(experiment(original()), storage)
        finally:
            logging.getLogger("tgt_ray").removeHandler(said)
        assert same(again)
        assert said.lines.count("made again") <= 4, "what was healed is whole"
        # A state that is damaged falls back to the one before.
        checkpoint = Storage(storage / "a" / "checkpoint")
        states.check(checkpoint)
        assert states.last_whole(checkpoint) in whole["states"], (how, touched)
        try:
            scores = asked(lambda: load_student(str(storage / "a")).probabilities(PIXELS), "load", touched)
            assert np.array_equal(scores, whole["scores"]), (how, touched)
        except Refused:
            pass


@pytest.mark.parametrize(
    "one, other",
    [
        ("data_cache/*/train-*.arrow", "data_cache/*/train-*.arrow"),
        ("data_cache/*/record.json", "data_cache/*/record.json"),
        ("data_cache/*/test-*.arrow", "data_cache/*/validation-*.arrow"),
        ("teacher_cache/*", "teacher_cache/*"),
        ("teachers/labeler-*.json", "teachers/generator-*.json"),
        ("teachers/labeler-*.safetensors", "teachers/labeler-*.safetensors"),
        ("fit_checks/*.json", "teachers/labeler-*.json"),
    ],
)
def test_files_in_each_other_s_place_have_failed(one, other, tmp_path):
    """Each was whole by its checksum: rows of other splits were taken, or a key was missing."""
    storage = Path(shutil.copytree(original() / "storage", tmp_path / "storage"))
    firsts, lasts = sorted(storage.glob(one)), sorted(storage.glob(other))
    first, last = firsts[0], lasts[-1]
    a, b = first.read_bytes(), last.read_bytes()
    assert a != b
    first.write_bytes(b)
    last.write_bytes(a)
    assert before() and same(prepared(experiment(original()), storage))
    assert same(prepared(experiment(original()), storage))


@fuzzed(few=6, many=200)
@given(st.data())
def test_runs_on_a_damaged_storage_end_with_the_same_student(data):
    whole = before()
    with damaged_copy(data.draw) as (storage, how, touched):
        config = experiment(original())
        if data.draw(st.booleans(), label="resume"):
            try:
                result = asked(
                    lambda: api.run(storage=str(storage), name="a", local=True, resume=True), "resume", touched
                )
            except Refused:
                return
            name = "a"
        else:
            result, name = api.run(config, storage=str(storage), name="b", local=True), "b"
        timed = ("_s", "wait_share", *SUMMED, "bank_bytes")
        for key, value in result.record["result"].items():
            assert key.endswith(timed) or value == whole["result"][key], (how, touched, key)
        assert (storage / name / "student.safetensors").read_bytes() == whole["student"], (how, touched)
        assert b"<html" in report([Storage(storage / name)])


@fuzzed(few=6, many=200)
@given(st.data())
def test_a_report_of_damaged_records_is_refused_or_the_same(data):
    whole = before()
    with damaged_copy(data.draw) as (storage, how, touched):
        try:
            page = asked(lambda: report([Storage(storage / "a")]), "report", touched)
        except Refused:
            return
        plain = any("plain" in what(name) for name in touched)
        shown = page.replace(str(storage).encode(), str(original() / "storage").encode())
        assert plain or shown == whole["report"], (how, touched)


@functools.cache
def sweep() -> Path:
    """The folder of a sweep, as this version writes its tables."""
    folder = original() / "sweep"
    old = Path(__file__).parents[1] / "fixtures/format_1/old-sweep"
    shutil.copytree(old, folder)
    there = Storage(folder)
    records.write_table(there, records.read_table(there, "trials"), "trials")
    records.write_json(there, records.read_json(there, "record.json"), "record.json")
    there.write((folder / "sweep.yaml").read_bytes(), "sweep.yaml")
    return folder


@functools.cache
def sweep_before() -> Any:
    return records.read_table(Storage(sweep()), "trials")


@fuzzed(few=60)
@given(st.sampled_from(["record.json", "trials.parquet", "sweep.yaml", "trials.csv"]), st.data())
def test_the_tables_of_a_sweep_are_refused_or_the_same(name, data):
    wanted, record = sweep_before(), records.read_json(Storage(sweep()), "record.json")
    with tempfile.TemporaryDirectory() as folder:
        there = Storage(shutil.copytree(sweep(), Path(folder) / "s"))
        file = Path(folder) / "s" / name
        content = bytearray(file.read_bytes())
        place = data.draw(st.integers(0, len(content) - 1))
        how = data.draw(st.sampled_from(["flip", "cut", "empty", "other"]))
        if how == "flip":
            content[place] ^= data.draw(st.integers(1, 255))
        other = sweep() / data.draw(st.sampled_from(["record.json", "trials.parquet", "trials.csv"]))
        file.write_bytes({"cut": content[:place], "empty": b"", "other": other.read_bytes()}.get(how, bytes(content)))
        for call, right, owner in (
            (lambda: records.read_table(there, "trials"), wanted, "trials.parquet"),
            (lambda: records.read_json(there, "record.json"), record, "record.json"),
        ):
            try:
                found = call()
            except ConfigError as err:
                one_line(err)
                assert name == owner, err
            else:
                table = owner == "trials.parquet"
                assert found.equals(right) if table else {key: found[key] for key in right} == right
