"""Folders that an older version has written: what stays readable, and what is refused.

`fixtures/format_1` is a storage of tgt-ray 0.1.0 as it was at commit cf0b5ea, before stored things had format numbers:
a sweep of `fixtures/format_1.yaml`, and the same experiment as a local run.
"""

import json
import shutil
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open

import tgt_ray
from tgt_ray.core import formats, records, stored
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.loading import load_yaml
from tgt_ray.core.storage import Storage
from tgt_ray.entrypoints import api
from tgt_ray.results.report import report

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture
def old(tmp_path) -> Storage:
    shutil.copytree(FIXTURES / "format_1", tmp_path / "storage")
    return Storage(tmp_path / "storage")


@pytest.fixture
def experiment() -> dict:
    return load_yaml(FIXTURES / "format_1.yaml")["experiment"]


def test_tables_and_records_are_read(old):
    table = records.read_table(old.within("old-sweep"), "trials")
    assert list(table.status) == ["finished"] * 3 and list(table.control.dropna()) == ["distillation"]
    assert formats.number(records.read_json(old, "old-sweep", "record.json")) == 1
    assert pd.read_parquet(old.path("old-run", "gallery.parquet")).columns[0] == "anchor"


def test_a_report_is_made_of_them(old):
    page = report([old.within("old-sweep"), old.within("old-run")]).decode()
    for part in ("old-sweep", "old-run", "control distillation", "tgt-ray 0.1.0", "data:image/png;base64,"):
        assert part in page


def test_its_sweep_is_refused_for_resume_in_one_line(old):
    with pytest.raises(ConfigError) as refused:
        api.run_sweep(storage=old.root, name="old-sweep", resume=True)
    said = str(refused.value)
    assert said.startswith("--resume: sweep 'old-sweep': has format 1, written by tgt-ray 0.1.0 (commit cf0b5eadd7cd)")
    assert "begin a new sweep" in said and "\n" not in said


def test_a_sweep_of_the_format_before_this_one_is_refused_for_resume(old):
    file = Path(old.path("old-sweep", "record.json"))
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": 2}))
    with pytest.raises(ConfigError, match=r"'old-sweep': has format 2, .*and this version goes on with 3; its table"):
        api.run_sweep(storage=old.root, name="old-sweep", resume=True)
    assert not list(Path(old.path("old-sweep")).glob("owner-*")) and not list(old.within("old-sweep").files("journal"))


def test_its_run_goes_on_and_gains_what_it_lacks(old):
    with pytest.raises(ConfigError, match=r"has no student\.json.*--resume adds it"):
        tgt_ray.load_student(old.within("old-run").root)
    before = records.read_json(old, "old-run", "record.json")["result"]
    result = api.run(storage=old.root, name="old-run", local=True, resume=True)
    assert result.record["result"] == before
    assert formats.number(result.record) == formats.FORMATS["run"]
    assert len(tgt_ray.load_student(old.within("old-run").root).classes) == 10


def test_its_teachers_are_found_and_its_cache_is_made_again_with_a_line(old, experiment, caplog):
    caplog.set_level("INFO", "tgt_ray")
    result = api.run(experiment, storage=old.root, name="new", local=True)
    assert [result.record["teacher"][role]["reused"] for role in ("labeler", "generator")] == [True, True]
    assert sum("stored by an older version" in line for line in caplog.messages) == 1


@pytest.mark.parametrize("role", ["labeler", "generator"])
def test_a_teacher_of_an_unknown_format_is_made_again_with_a_line(old, experiment, caplog, role):
    caplog.set_level("INFO", "tgt_ray")
    (file,) = Path(old.path("teachers")).glob(f"{role}-*.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": 99}))
    result = api.run(experiment, storage=old.root, name="new", local=True)
    assert not result.record["teacher"][role]["reused"]
    made = [json.loads(each.read_text()) for each in Path(old.path("teachers")).glob(f"{role}-*.json") if each != file]
    assert [formats.number(each) for each in made] == [formats.FORMATS["teacher"]]
    assert sum("is stored with format 99" in line for line in caplog.messages) == 1


def test_a_checkpoint_of_an_unknown_format_is_refused(old):
    state = Path(old.path("old-run", "checkpoint", "state.pt"))
    torch.save({**torch.load(state, weights_only=True), "format": 99}, state)
    with pytest.raises(ConfigError, match=r"checkpoint: has format 99, and this version goes on with 2; begin a new"):
        api.run(storage=old.root, name="old-run", local=True, resume=True)


def test_a_table_of_an_unknown_format_is_refused(tmp_path, monkeypatch):
    folder = Storage(tmp_path)
    with monkeypatch.context() as changed:
        changed.setitem(formats.FORMATS, "table", 7)
        records.write_table(folder, pd.DataFrame({"a": [1]}), "trials")
    with pytest.raises(ConfigError, match=r"trials\.parquet: has format 7"):
        records.read_table(folder, "trials")


def test_each_kind_of_stored_thing_says_its_number(tmp_path, experiment):
    storage = Storage(tmp_path)
    api.run(experiment, storage=storage.root, name="new", local=True)
    for file in tmp_path.rglob("*.json"):
        assert formats.KEY in json.loads(file.read_text()), file
    state = torch.load(tmp_path / "new/checkpoint/state.pt", weights_only=True)
    assert state["format"] == formats.FORMATS["checkpoint"]
    for file in (tmp_path / "teacher_cache").iterdir():
        with safe_open(file, "np") as opened:
            said = opened.metadata()
            assert said.pop(stored.METADATA_KEY).startswith("crc32")
            assert said == formats.metadata("teacher_cache")
    for file in tmp_path.rglob("*.parquet"):
        assert b"tgt_ray_format" in pq.read_schema(file).metadata, file
