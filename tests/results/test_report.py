"""The page of a run or sweep: it shows what their records say, and nothing in it is taken for markup."""

import json
import re
import shutil
from html.parser import HTMLParser

import pytest

from tests.helpers.places import ROOT
from tgt_ray.core import lines, records
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.storage import Storage
from tgt_ray.entrypoints import cli
from tgt_ray.results.report import report

MARKUP = "<script>alert(1)</script>"


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.sources = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]


@pytest.fixture
def storage(tmp_path) -> Storage:
    shutil.copytree(ROOT / "tests/fixtures/format_1", tmp_path / "storage")
    return Storage(tmp_path / "storage")


@pytest.fixture
def sweep(storage) -> Storage:
    return storage.within("old-sweep")


def test_what_users_and_errors_say_is_escaped(sweep):
    table = records.read_table(sweep, "trials")
    table["reason"] = [MARKUP, *table["reason"].iloc[1:]]
    records.write_table(sweep, table, "trials")
    record = records.read_json(sweep, "record.json")
    record["name"] = record["config"]["experiment"]["task"]["data"]["type"] = MARKUP
    sweep.write(json.dumps(record).encode(), "record.json")
    page = report([sweep]).decode()
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 3, "title, trial and settings"
    parsed = Tags()
    parsed.feed(page)
    assert "script" not in parsed.tags
    assert parsed.sources and all(source.startswith("data:image/png;base64,") for source in parsed.sources)


def test_a_page_of_a_sweep_has_every_trial_and_the_controls(sweep):
    page = report([sweep]).decode()
    for row in records.read_table(sweep, "trials").itertuples():
        assert str(row.trial) in page and f"{row.balanced_accuracy:.4g}"[:4] in page
    assert '<tr class="control">' in page and "Where the search has looked" in page


def test_the_curves_of_a_sweep_s_trials_come_from_its_journal(sweep):
    shutil.rmtree(sweep.path("tune"))
    assert "Learning curves" not in report([sweep]).decode()
    writer = lines.Writer(sweep, "journal", ([], 0), 1, lambda: None)
    trial = records.read_table(sweep, "trials").trial[0]
    for step, score in ((5, 40.0), (10, None)):
        writer.append({"kind": "report", "trial": trial, "metrics": {"step": step, "balanced_accuracy": score}})
    assert "Learning curves" in report([sweep]).decode()


def test_runs_and_sweeps_are_compared_in_one_table(storage, sweep):
    page = report([sweep, storage.within("old-run")]).decode()
    compared = re.findall(r"<table>.*?</table>", page, re.DOTALL)[0]
    assert "old-sweep" in compared and "old-run" in compared and "control distillation" in compared


def test_the_command_writes_the_page_into_the_folder_or_where_it_is_told(sweep, tmp_path):
    cli.report([sweep.root])
    assert sweep.read("report.html").startswith(b"<!doctype html>")
    cli.report([sweep.root, sweep.root], out=tmp_path / "page.html")
    assert (tmp_path / "page.html").read_bytes().startswith(b"<!doctype html>")


def test_a_sweep_in_which_nothing_has_ended_has_a_page(sweep):
    records.write_table(sweep, records.read_table(sweep, "trials").iloc[:0], "trials")
    assert "<h3>Trials</h3><p>None.</p>" in report([sweep]).decode().replace("\n", "")


def test_a_package_that_is_not_installed_has_no_version(sweep):
    record = records.read_json(sweep, "record.json")
    del record["environment"]["packages"]["tgt-ray"]
    records.write_json(sweep, record, "record.json")
    assert "with tgt-ray ?, ray " in report([sweep]).decode()


def test_the_record_of_something_else_is_refused(tmp_path):
    Storage(tmp_path).write(b"{}", "record.json")
    with pytest.raises(ConfigError, match=r"record\.json: is not the record of a run or of a sweep"):
        report([Storage(tmp_path)])


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"has no record\.json; expected the folder of a finished run or of a sweep"):
        report([Storage(tmp_path)])


def test_texts_that_were_searched_are_shown_as_they_are(sweep):
    table, key = records.read_table(sweep, "trials"), "task.data.name"
    table[key] = [r"$\frac{$", "[/b]", "<b>", "x" * 5000][: len(table)] + ["$"] * max(0, len(table) - 4)
    records.write_table(sweep, table, "trials")
    record = records.read_json(sweep, "record.json")
    record["config"]["space"] = {key: {"choice": []}}
    record["name"] = "caf\udce9"
    sweep.write(json.dumps(record).encode(), "record.json")
    page = report([sweep]).decode()
    assert r"$\frac{$" in page and "caf\ufffd" in page and '<td class=""><b>' not in page
