"""`python -m tgt_ray export`: the licence that it asks for, what it says, and what it refuses."""

import io
import json
import sys

import pytest
from huggingface_hub import ModelCard

from tests.helpers.commands import command
from tgt_ray.entrypoints import terminal


def test_a_folder_of_folders_that_are_not_there_is_refused(monkeypatch, capsys, of_digits, tmp_path):
    assert export(monkeypatch, of_digits.folder, "--out", tmp_path / "nowhere" / "mine", "--quiet") == 2
    assert f"error: --out {tmp_path}/nowhere/mine: there is no folder {tmp_path}/nowhere" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def export(monkeypatch, *args: object) -> int:
    return command(monkeypatch, "export", *args, "--format", "safetensors")


@pytest.fixture
def asking(monkeypatch):
    """A terminal before which somebody answers with this line."""

    def answers(line: str) -> None:
        monkeypatch.setattr(terminal, "can_ask", lambda: True)
        monkeypatch.setattr(sys, "stdin", io.StringIO(f"{line}\n"))

    return answers


@pytest.mark.parametrize("said, licence", [("mit", "mit"), ("  ", None)])
def test_a_terminal_is_asked_for_the_licence(monkeypatch, capsys, of_digits, tmp_path, asking, said, licence):
    asking(said)
    assert export(monkeypatch, of_digits.folder, "--out", tmp_path / "mine") == 0
    printed = capsys.readouterr()
    assert "Licence of the student" in printed.err and printed.out == f"{tmp_path / 'mine'}\n"
    assert json.loads((tmp_path / "mine" / "export.json").read_text())["license"] == licence
    assert ModelCard((tmp_path / "mine" / "README.md").read_text()).data.license == (licence or "other")


@pytest.mark.parametrize("more", [["--license", "apache-2.0"], ["--quiet"]])
def test_nobody_is_asked_who_has_said_it_or_wants_no_lines(monkeypatch, capsys, of_digits, tmp_path, asking, more):
    asking("mit")
    assert export(monkeypatch, of_digits.folder, "--out", tmp_path / "mine", *more) == 0
    assert "Licence" not in capsys.readouterr().err
    card = ModelCard((tmp_path / "mine" / "README.md").read_text())
    assert card.data.license == ("apache-2.0" if "--license" in more else "other")


def test_the_end_of_an_export_says_how_small_and_fast_the_student_is(monkeypatch, caplog, of_digits, tmp_path):
    caplog.set_level("INFO")
    assert export(monkeypatch, of_digits.folder, "--out", tmp_path / "mine", "--license", "mit") == 0
    (line,) = [message for message in caplog.messages if message.startswith("student: ")]
    assert "with 1 thread" in line and "its teacher is" in line
    found = json.loads((tmp_path / "mine" / "export.json").read_text())["speed"]
    assert found["student"]["rows"] == 64 and found["teacher"]["threads"] and found["against_teacher"]


def test_ctrl_c_leaves_nothing_and_says_so(monkeypatch, caplog, of_digits, tmp_path):
    def pressed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("tgt_ray.inference.export.compared", pressed)
    assert export(monkeypatch, of_digits.folder, "--out", tmp_path / "mine", "--quiet") == 130
    assert caplog.messages[-1] == f"interrupted: nothing was written to {tmp_path / 'mine'}"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "more, said",
    [
        (["--public"], "error: --public: has no effect without --push OWNER/NAME; leave it out"),
        (["--push", "mine"], "error: --push mine: expected OWNER/NAME"),
    ],
)
def test_what_cannot_be_uploaded_is_refused_before_anything_is_written(
    monkeypatch, capsys, of_digits, tmp_path, more, said
):
    assert export(monkeypatch, of_digits.folder, "--out", tmp_path / "mine", *more) == 2
    assert said in capsys.readouterr().err and not list(tmp_path.iterdir())
