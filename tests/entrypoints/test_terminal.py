"""What a person sees while a command runs."""

import logging
import os
import signal
import subprocess
import sys

import pytest

from tests.helpers.storages import storage_at
from tgt_ray.core import progress
from tgt_ray.core.errors import ConfigError, RunFailed
from tgt_ray.core.storage import Storage
from tgt_ray.entrypoints import cli, terminal

log = logging.getLogger("tgt_ray.somewhere")


@pytest.fixture
def fresh(monkeypatch):
    """Makes logging as in a fresh process: without the handlers that pytest adds when a test begins."""

    def clear(*handlers: logging.Handler) -> None:
        monkeypatch.setattr(terminal.OURS, "propagate", False)
        monkeypatch.setattr(terminal.OURS, "handlers", list(handlers))

    return clear


def test_messages_are_lines_on_stdout_from_their_level_up(capsys, fresh):
    fresh()
    for level, seen in ((logging.WARNING, ["w"]), (logging.INFO, ["i", "w"]), (logging.DEBUG, ["d", "i", "w"])):
        with terminal.messages(level):
            log.debug("d")
            log.info("i")
            log.warning("w")
        assert capsys.readouterr().out.split() == seen
    log.warning("afterwards")
    assert capsys.readouterr().out == ""


def test_whoever_has_set_up_logging_keeps_it(capsys, caplog, fresh):
    fresh(caplog.handler)
    with terminal.messages():
        log.warning("here")
    assert capsys.readouterr().out == "" and caplog.messages == ["here"]


def test_what_libraries_write_to_stderr_lies_in_a_file_that_is_named(tmp_path, capfd, fresh):
    fresh()
    with terminal.messages(), terminal.libraries_to_file(Storage(tmp_path), "mine"):
        os.write(2, b"core_worker.cc: of no use\n")  # as C++ does
        print("a warning", file=sys.__stderr__)
    out, err = capfd.readouterr()
    assert (tmp_path / "logs/mine.log").read_text() == "core_worker.cc: of no use\na warning\n"
    assert out.strip() == f"messages of Ray and other libraries: {tmp_path}/logs/mine.log" and err == ""
    os.write(2, b"back\n")
    assert capfd.readouterr().err == "back\n"


@pytest.fixture(params=["folder", "other file system"])
def storage(request, tmp_path) -> Storage:
    return storage_at(tmp_path, request.param == "folder", "logs")


def test_a_second_run_of_that_name_adds_to_the_file_and_silence_leaves_none(storage, tmp_path, fresh):
    fresh()
    for said in (b"one\n", b"", b"two\n"):
        with terminal.messages(), terminal.libraries_to_file(storage, "mine"):
            os.write(2, said)
    assert (tmp_path / "logs/mine.log").read_text() == "one\ntwo\n"
    with terminal.messages(), terminal.libraries_to_file(storage, "other"):
        pass
    assert not (tmp_path / "logs/other.log").exists()
    with pytest.raises(ConfigError), terminal.messages(), terminal.libraries_to_file(storage, "other"):
        raise ConfigError("train.steps: too few")
    assert not (tmp_path / "logs/other.log").exists()


def test_an_error_keeps_what_was_written_before_it(storage, tmp_path, fresh):
    fresh()
    with pytest.raises(RunFailed), terminal.messages(), terminal.libraries_to_file(storage, "mine"):
        os.write(2, b"why\n")
        raise RunFailed("it failed")
    assert (tmp_path / "logs/mine.log").read_text() == "why\n"


def test_what_was_said_is_there_when_the_process_is_killed(tmp_path):
    code = (
        "import os, sys; from tgt_ray.core.storage import Storage; from tgt_ray.entrypoints.terminal import *\n"
        "with messages(), libraries_to_file(Storage(sys.argv[1]), 'mine'): os.write(2, b'why'); os.abort()"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)])
    assert done.returncode == -signal.SIGABRT
    assert (tmp_path / "logs/mine.log").read_text().startswith("why")


def test_whoever_has_set_up_logging_sees_all_on_stderr(tmp_path, capfd, fresh):
    fresh(logging.StreamHandler(sys.__stderr__))
    with terminal.messages(), terminal.libraries_to_file(Storage(tmp_path), "mine"):
        log.warning("mine")
        os.write(2, b"of a library\n")
    assert capfd.readouterr().err == "mine\nof a library\n" and not (tmp_path / "logs").exists()


def test_with_verbose_everything_stays_on_the_terminal(tmp_path, capfd, fresh):
    fresh()
    with terminal.messages(logging.DEBUG), terminal.libraries_to_file(Storage(tmp_path), "mine"):
        os.write(2, b"shown\n")
    assert capfd.readouterr().err == "shown\n" and not (tmp_path / "logs").exists()


@pytest.mark.parametrize("error", [ConfigError("train.steps: too few"), RunFailed("train.steps: too few")])
def test_an_error_in_a_notebook_is_one_line(error, capsys):
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell()
    shell.user_ns["error"] = error
    shell.run_cell("raise error")
    said = capsys.readouterr()
    assert (said.out + said.err).strip().splitlines() == [f"{type(error).__name__}: train.steps: too few"]


def test_quiet_and_verbose_exclude_each_other(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["tgt-ray", "train", "--local", "--quiet", "--verbose"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2 and capsys.readouterr().err.startswith("error: --quiet, --verbose: give one")


def test_all_commands_are_listed(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["tgt-ray", "--help"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert all(f" {command.__name__} " in shown for command in cli.COMMANDS)


def test_a_message_with_a_name_that_is_not_utf_8_is_shown(fresh, monkeypatch):
    import io

    for encoding, wanted in (("utf-8", "caf\\udce9 \u2026"), ("ascii", "caf\\udce9 \\u2026")):
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr(sys, "stdout", stream)
        fresh()
        with terminal.messages():
            log.info("caf\udce9 \u2026")
        stream.flush()
        assert stream.buffer.getvalue().decode(encoding).strip() == wanted


def test_long_phases_are_bars_on_a_terminal_and_lines_elsewhere(monkeypatch, fresh, capsys):
    fresh()
    monkeypatch.setattr(progress, "FIRST_S", 0.0)
    monkeypatch.setenv("TERM", "xterm")

    def work() -> str:
        with terminal.messages(), progress.progress("decoding images", 2, "images") as phase:
            phase.advance()
            log.info("beside it")
            phase.advance()
        return capsys.readouterr().out

    lines = work().splitlines()
    assert lines[0].startswith("decoding images: 1 of 2 images in 0 s") and "beside it" in lines
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    screen = work()
    assert "\x1b[" in screen and "/2" in screen and "beside it" in screen
    assert "of 2 images in" not in screen  # no line beside the bar


def test_a_log_that_somebody_has_removed_hides_no_error(tmp_path, fresh):
    fresh()
    storage = Storage(tmp_path)
    with pytest.raises(RunFailed, match="taken over"), terminal.messages(), terminal.libraries_to_file(storage, "mine"):
        (tmp_path / "logs" / "mine.log").unlink()
        raise RunFailed("another command has taken over")
