"""With which settings a sweep goes on, and what of its files is healed or refused."""

import shutil
from pathlib import Path

import pytest

from tests.helpers.owners import held
from tests.helpers.trials import METRIC, VALUES, opened, sweep
from tgt_ray.core import formats, lines
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.loading import dump_yaml
from tgt_ray.core.storage import Storage
from tgt_ray.core.stored import Damaged
from tgt_ray.entrypoints import api
from tgt_ray.sweeps.going_on import check_states, settings_of
from tgt_ray.sweeps.journal import Journal
from tgt_ray.sweeps.table import trial_table
from tgt_ray.training.files import PREVIOUS_FILE, STATE_FILE

CONFIG = sweep(controls=["one_hot"])


@pytest.fixture
def folder(tmp_path) -> Storage:
    """The folder of a sweep that was killed: a control and two trials have ended, one goes on, one is to begin."""
    out = Storage(tmp_path / "mine")
    journal = opened(out, CONFIG)
    out.write(dump_yaml(CONFIG).encode(), "sweep.yaml")
    journal.keep_record({"format": 3, "kind": "sweep"})
    for number, values in enumerate([{"control": "one_hot"}, VALUES, VALUES, VALUES]):
        known = journal.begin(values, None if number == 0 else number - 1)
        journal.report(known, {"step": 250, METRIC: 50.0 + number}, 1.0)
        if number < 2:
            journal.report(known, {"step": 500, METRIC: 60.0 + number, f"test_{METRIC}": 59.0}, 2.0)
            journal.end(known, "finished")
    journal.end(journal.trials[3], "failed", "out of luck")
    return out


def goes_on(folder: Storage, *sets: tuple) -> Journal:
    """Read what is there, and begin a command."""
    journal = Journal.read(folder)
    settings_of(folder, "mine", journal, sets)
    return journal


def facts(journal: Journal) -> list:
    table = trial_table(CONFIG, journal.trials.values())
    return table.astype(object).where(table.notna(), None).to_dict("records")


def test_a_whole_sweep_goes_on_as_it_is(folder, caplog):
    journal = goes_on(folder)
    assert [each.name for each in journal.unfinished] == ["4"] and journal.ended == 3
    assert [(row["trial"], row["status"], row["reason"]) for row in facts(journal)] == [
        ("2", "finished", None),
        ("1", "finished", None),
        ("4", "interrupted", None),
        ("3", "failed", "out of luck"),
    ]
    assert not caplog.records


@pytest.mark.parametrize("moved", ["copied", "renamed"])
def test_a_folder_that_was_copied_or_renamed_goes_on_by_itself(folder, tmp_path, moved):
    before = facts(Journal.read(folder))
    (shutil.copytree if moved == "copied" else shutil.move)(folder.base, tmp_path / "other")
    content = {file.name: file.read_bytes() for file in Path(folder.base).glob("*")}
    there = Storage(tmp_path / "other")
    journal = opened(there, CONFIG)
    journal.begin(VALUES, 3)
    assert facts(Journal.read(there))[:4] == before
    assert all(Path(folder.base, name).read_bytes() == each for name, each in content.items()), "the original stays"
    assert str(tmp_path).encode() not in (tmp_path / "other" / "journal.jsonl").read_bytes()


def test_wherever_the_journal_is_cut_no_trial_that_had_ended_before_is_lost(folder, caplog):
    path = Path(folder.path("journal.jsonl"))
    content = path.read_bytes()
    whole, _ = lines.read(folder, "journal")
    first = len(content.splitlines(keepends=True)[0])
    for place in range(first, len(content), 97):
        path.write_bytes(content[:place])
        journal = goes_on(folder)
        kept = whole[: content[: place + 1].count(b"\n")]
        ended = {str(each["trial"]): each["status"] for each in kept if each["kind"] == "end"}
        assert {each.name: each.status for each in journal.trials.values() if each.status} == ended, place
    assert {record.levelname for record in caplog.records} == {"WARNING"}
    assert all("are cut off, or have other bytes" in message and "\n" not in message for message in caplog.messages)
    path.write_bytes(content[: first - 9])
    with pytest.raises(Damaged, match=r"journal\.jsonl: is damaged \(no line with the sweep's settings is whole\)"):
        goes_on(folder)


def test_a_line_that_was_destroyed_costs_nothing_that_others_say(folder):
    path, before = Path(folder.path("journal.jsonl")), facts(Journal.read(folder))
    content = path.read_bytes().splitlines(keepends=True)
    for number in range(1, len(content)):
        path.write_bytes(b"".join([*content[:number], b"garbage\n", *content[number + 1 :]]))
        after = {row["trial"]: row for row in facts(goes_on(folder))}
        for row in before:
            if row["status"] == "finished" and b'"kind": "end"' not in content[number]:
                assert after[row["trial"]] == row, "an end says all that its row needs"


@pytest.mark.parametrize("content", [None, b"", b"garbage: [", b"\x00\xff\n", b"- 1\n"])
def test_settings_that_are_damaged_or_gone_are_those_of_the_journal(folder, content, caplog):
    path = Path(folder.path("sweep.yaml"))
    path.unlink()
    if content is not None:
        path.write_bytes(b"# checksum: crc32 00000000\n"[: 27 * bool(content)] + content)
    assert settings_of(folder, "mine", Journal.read(folder), ()) == CONFIG
    (message,) = caplog.messages
    assert message.endswith("; written anew from the sweep's journal")


@pytest.mark.parametrize("sealed", [False, True])
def test_settings_that_somebody_has_changed_are_refused_with_the_difference(folder, sealed):
    path = Path(folder.path("sweep.yaml"))
    text = path.read_text()
    assert "batch_size: 64" in text
    body = text if sealed else text.partition("\n")[2]
    path.write_text(body.replace("batch_size: 64", "batch_size: 65", 1))
    said = r"--resume: experiment\.\S*batch_size was 64 and is 65, and that would change trials that were trained;"
    with pytest.raises(ConfigError, match=said) as refused:
        goes_on(folder)
    assert "\n" not in str(refused.value)


def test_another_sweep_may_have_what_somebody_has_changed(folder, tmp_path):
    path = Path(folder.path("sweep.yaml"))
    path.write_text(path.read_text().replace("batch_size: 64", "batch_size: 65"))
    found = api.fork_of("mine", str(tmp_path), {"search.seed": 5})
    assert found.experiment.train.batch_size == 65 and found.search.seed == 5
    with pytest.raises(ConfigError, match=r"search: unknown key 'trails'"):
        api.fork_of("mine", str(tmp_path), {"search.trails": 5})
    with pytest.raises(ConfigError, match="there is no sweep 'gone'"):
        api.fork_of("gone", str(tmp_path))


def test_more_trials_controls_and_lanes_are_taken_and_noted(folder, caplog):
    caplog.set_level("INFO", "tgt_ray")
    sets = [("search.trials", 32), ("search.concurrent", 2), ("search.controls", ["one_hot", "distillation"])]
    journal = Journal.read(folder)
    longer = settings_of(folder, "mine", journal, sets)
    assert longer.num_trials == 34 and longer.search.concurrent == 2
    assert "--resume: search.trials was 4 and is 32" in caplog.messages
    opened(folder, longer)
    settings = Journal.read(folder).settings
    assert settings is not None and settings["search"]["trials"] == 32
    folder.write(dump_yaml(longer).encode(), "sweep.yaml")
    assert settings_of(folder, "mine", Journal.read(folder), ()) == longer


@pytest.mark.parametrize(
    "key, value, why",
    [
        ("search.seed", 5, r"search\.seed was 0 and is 5, and that would change trials"),
        ("search.scheduler", "none", r"search\.scheduler was 'asha' and is 'none'"),
        ("experiment.train.batch_size", 65, r"experiment\.train\.batch_size was"),
        ("search.trials", 2, r"search\.trials 2: 3 trials have begun already; --resume can only add some"),
        ("search.controls", ["distillation"], r"search\.controls: 'one_hot' has begun already; --resume can only add"),
        ("search.trails", 2, r"--set: search: unknown key 'trails'"),
    ],
)
def test_what_would_change_trials_that_were_trained_is_refused(folder, key, value, why):
    with pytest.raises(ConfigError, match=why):
        goes_on(folder, (key, value))


def test_a_sweep_that_has_lost_its_journal_is_refused(folder):
    Path(folder.path("journal.jsonl")).unlink()
    folder.write(b'{\n  "format": 3\n}\n', "record.json")
    with pytest.raises(Damaged, match=r"journal\.jsonl: is damaged \(it is missing\)"):
        goes_on(folder)


def test_a_sweep_that_was_killed_before_its_first_trial_begins_afresh(tmp_path):
    there = Storage(tmp_path / "new")
    there.write(dump_yaml(CONFIG).encode(), "sweep.yaml")
    journal = Journal.read(there)
    assert settings_of(there, "new", journal, ()) == CONFIG and journal.record is None


def test_a_journal_of_a_later_version_is_refused(folder, monkeypatch):
    monkeypatch.setitem(formats.FORMATS, "journal", 0)
    with pytest.raises(ConfigError, match=r"journal\.jsonl: has format 1.*use the version that has written it"):
        goes_on(folder)


def test_what_an_overtaken_command_still_writes_does_not_count(folder):
    slow, quick = opened(folder, CONFIG), Journal.read(folder)
    quick.begin_command(held(folder), CONFIG.model_dump(mode="json"))
    quick.end(quick.trials[4], "finished")
    slow.end(slow.trials[4], "failed", "its driver was stopped for two minutes")
    assert Journal.read(folder).trials[4].status == "finished"


def test_a_trial_whose_states_are_damaged_begins_anew_and_strange_folders_are_emptied(folder, caplog):
    for name in ("4", "9"):
        for file in (STATE_FILE, PREVIOUS_FILE):
            folder.write(b"", "train", name, file)
    check_states(Journal.read(folder), folder)
    assert not folder.files("train", "4") and not folder.files("train", "9")
    (message,) = caplog.messages
    assert "state.pt: is damaged (it is empty); trial 4 begins anew" in message
