"""docs/run-results.md names every file, column and key that runs and sweeps leave."""

import csv
import json
import re
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import pytest

from tests.helpers import retrieval, text_runs
from tests.helpers.pictures import write_pictures
from tests.helpers.places import ROOT
from tgt_ray.core.formats import FORMATS
from tgt_ray.core.loading import with_overrides
from tgt_ray.core.storage import RESERVED
from tgt_ray.data import ImageFolder, in_this_process
from tgt_ray.entrypoints import api
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.tasks.classification import Classification
from tgt_ray.tasks.retrieval import Retrieval

PAGE = (ROOT / "docs/run-results.md").read_text(encoding="utf-8")
OLD_SWEEP = ROOT / "tests/fixtures/format_1/old-sweep"
#: Runs on digits that together have every part of a loss for classes.
RUNS = {
    "gradient": {"explorer.type": "gradient"},
    "conformal": {"objective.conformal": {}},
    "lelp": {"objective.type": "lelp", "objective.subclasses": 2},
    "consistency": {"objective.type": "consistency"},
}
#: Keys of records whose values are described as a whole.
WHOLE = {
    "experiment",
    "config",
    "result",
    "cluster",
    "data",
    "quality",
    "packages",
    "encoders",
    "ledger",
    "anchors",
    "speed",
}


def named(heading: str) -> set[str]:
    """What stands as code in the first cells of the tables below a heading, down to the next one of its kind."""
    (text,) = re.findall(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    cells = re.findall(r"^\| (`[^|]*) \|", text, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def lacking(columns: Iterable[str], *headings: str) -> set[str]:
    """Columns that have no row below any of the headings; metrics of the test split are named without their prefix."""
    known = set().union(*map(named, headings))
    return {name for name in columns if name not in known and name.removeprefix("test_") not in known}


def keys(record: dict, above: str = "") -> set[str]:
    """The dotted keys of a record."""
    out = set()
    for name, value in record.items():
        if isinstance(value, dict) and name not in WHOLE:
            out |= keys(value, f"{above}{name}.")
        else:
            out.add(f"{above}{name}")
    return out


@pytest.fixture(scope="module")
def left(prepared, storage, sentences, beir, encoder) -> dict[str, Path]:
    """The folders of runs of all kinds, in one storage."""
    plain = prepared.experiment.model_dump(mode="json")
    short = {"train.steps": 4, "train.eval_every": 2, "pool.rows_per_request": 64, "explorer.type": "random"}
    experiments = {
        name: Experiment.model_validate(with_overrides(plain, list({**short, **changes}.items())))
        for name, changes in RUNS.items()
    }
    experiments["texts"] = text_runs.experiment(sentences)
    experiments["queries"] = retrieval.experiment(
        beir, encoder, student={"max_tokens": 24}, objective={"document_encoder": "student"}
    )
    return {
        name: Path(api.run(each, storage=storage.root, name=f"left-{name}", local=True).folder)
        for name, each in experiments.items()
    }


def test_every_column_of_a_report_is_documented(left):
    lines = [line for folder in left.values() for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found = set().union(*(json.loads(line) for line in lines))
    assert {"train_sure", "train_subclass_kl_real", "train_distance_documents", "lag_p50", "train_weight_real"} <= found
    assert lacking(found, "Metrics", "The lines of `metrics.jsonl`") == set()


def test_every_metric_of_a_task_is_documented():
    assert lacking([*Classification.metric_names, *Retrieval.metric_names], "Metrics") == set()


def test_every_column_of_the_table_of_trials_is_documented():
    with (OLD_SWEEP / "trials.csv").open() as file:
        found = set(next(csv.reader(file)))
    assert {"gap_s", "idle_s", "setup_s", "lane", "generator_utilisation", "dropped_blocks"} <= found
    headings = ("Metrics", "The lines of `metrics.jsonl`", "The columns of `trials.csv` and `trials.parquet`")
    assert lacking(found, *headings) == set()


def test_what_only_runs_on_ray_have_is_documented():
    """As the source names it, since no Ray is started here."""
    source = "".join(
        (ROOT / "tgt_ray/distributed" / name).read_text() for name in ("lane_worker.py", "coordinator.py", "stream.py")
    )
    given = {"lane", "idle_s", "setup_s", "gap_s", "requests_granted", "generator_utilisation", "dropped_blocks"}
    assert [name for name in given if f'"{name}"' not in source] == []
    assert set(re.findall(r'"(\w+_s)":', source)) <= given | {"wait_s"}
    assert lacking(given, "The lines of `metrics.jsonl`", "The columns of `trials.csv` and `trials.parquet`") == set()


def test_every_status_is_documented():
    source = (ROOT / "tgt_ray/sweeps/table.py").read_text()
    said = set(re.findall(r'"(finished|stopped early|failed|interrupted)"', source))
    assert len(said) == 4
    assert lacking({*said, "running", "pending"}, "The columns of `trials.csv` and `trials.parquet`") == set()


@pytest.mark.parametrize(
    ("file", "heading"),
    [
        ("per_class.csv", "The columns of `per_class.csv`"),
        ("per_query.csv", "The columns of `per_query.csv`"),
        ("gallery.parquet", "The columns of `gallery.parquet`"),
    ],
)
def test_every_column_of_the_other_tables_is_documented(left, file, heading):
    found = [folder / file for folder in left.values() if (folder / file).exists()]
    assert found
    for each in found:
        table = pd.read_csv(each) if each.suffix == ".csv" else pd.read_parquet(each)
        assert lacking(table.columns, heading) == set(), each


def test_every_key_of_a_record_is_documented(left):
    records = [json.loads((folder / "record.json").read_text()) for folder in left.values()]
    records.append({**json.loads((OLD_SWEEP / "record.json").read_text()), "format": FORMATS["sweep"]})
    known = named("The keys of `record.json`")
    for record in records:
        teacher = record.pop("teacher")
        assert keys(record) <= known
        found = set().union(*(teacher[role] for role in ("labeler", "generator")), teacher["fit_check"])
        assert {*found, *(f"teacher.{part}" for part in teacher)} <= known
        for role in ("labeler", "generator"):
            for name in set(teacher[role]["quality"]) | set(teacher[role].get("encoders", {})):
                assert f"`{name}`" in PAGE, name


def test_every_key_of_speed_is_documented(left):
    known = named("The keys of `speed`")
    for folder in left.values():
        record = json.loads((folder / "record.json").read_text())
        student, teacher = record["speed"]["student"], record["teacher"]["labeler"]["speed"]
        found = {*record["speed"], *record["speed"]["against_teacher"], *student, *student["threads"][0]}
        assert {"rows_per_second", "latency_p95", "load"} <= found
        assert found | set(teacher) <= known | {
            "rows_per_second",
            "latency",
            "latency_p95",
            "latency_ms",
            "latency_p95_ms",
        }
        assert all(f"`{name}`" in PAGE for name in found)


def test_every_key_of_student_json_is_documented(left):
    for folder in left.values():
        found = set(json.loads((folder / "student.json").read_text()))
        assert found <= named("The keys of `student.json`")


@pytest.fixture(scope="module")
def tree() -> list[str]:
    """The lines of the storage's tree."""
    return re.search(r"```text\nresults/\n(.*?)```", PAGE, re.DOTALL)[1].splitlines()


def test_every_file_is_in_the_tree(left, storage, tree, tmp_path_factory):
    pictures = tmp_path_factory.mktemp("pictures")
    write_pictures(pictures)
    source = ImageFolder(path=pictures, size=8)
    source.read(source.scan(), storage, in_this_process)
    root, listed = Path(storage.root), {line.split()[0].rstrip("/") for line in tree}
    files = [file.relative_to(root) for file in root.rglob("*") if file.is_file()]
    files += [file.relative_to(OLD_SWEEP) for file in OLD_SWEEP.rglob("*") if file.is_file()]
    assert {"documents", "vocabularies", "data_cache", "fit_checks", "teachers"} <= {file.parts[0] for file in files}
    strange = [file for file in files if file.parts[0] != "tune" and not place(file) <= listed]
    assert strange == []


def place(file: Path) -> set[str]:
    """The name of a file and of the folder at its top, as the tree has them."""
    named = re.sub(r"^(\w+)-[0-9a-f]{16}-[0-9a-f]{16}\b", r"\1-<recipe>-<identity>", file.name)
    name = re.sub(r"[0-9a-f]{16}", "<fingerprint>", named)
    name = re.sub(r"^(train|validation|test)-\d+\.arrow$", "<split>-<number>.arrow", name)
    name = re.sub(r"^(request|shown)-\d{8}\b", r"\1-<number>", name)
    name = re.sub(r"^chunk-\d{8}-[0-9a-f]{8}\b", "chunk-<number>-<random>", name)
    if file.parts[0] == "logs":
        name = "<name>.log"
    return {name, file.parts[0]} if file.parts[0] in RESERVED else {name}


def test_every_shared_folder_is_in_the_tree(tree):
    listed = {line.strip().split()[0] for line in tree if line.startswith("  ") and not line.startswith("    ")}
    assert {f"{name}/" for name in RESERVED} <= listed


def test_every_format_number_is_documented():
    text = PAGE.partition("## Format numbers")[2]
    written = dict(re.findall(r"^\| ([a-z ]+)[^|]*\| (\d) \|", text, re.MULTILINE))
    said = {name.strip().replace(" ", "_"): int(number) for name, number in written.items()}
    assert {kind: FORMATS[kind] for kind in said if kind in FORMATS} == {
        kind: number for kind, number in said.items() if kind in FORMATS
    }
    assert {"run", "sweep", "checkpoint", "student", "table", "teacher", "fit_check", "teacher_cache"} <= set(said)
