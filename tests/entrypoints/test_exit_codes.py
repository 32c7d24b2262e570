"""The exit codes that the page lists, each as a command ends with it; and a sweep that only says what it would do."""

import re
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray

from tests.helpers.commands import command as run
from tgt_ray.core.errors import ConfigError, RunFailed
from tgt_ray.entrypoints import api, cli

PAGE = (Path(__file__).parents[2] / "docs/run-results.md").read_text(encoding="utf-8")


def raising(error):
    def call(*args, **more):
        raise error

    return call


def asked(number):
    return lambda *args, **more: signal.raise_signal(number)


def result(best=None, interrupted=False):
    """What is left of a sweep's result for its command."""
    return lambda *args, **more: SimpleNamespace(best=best, interrupted=interrupted, lines=lambda: iter([]))


@pytest.mark.parametrize(
    ("command", "does", "code"),
    [
        ("train", lambda *args, **more: "done", 0),
        ("train", raising(RunFailed("it diverged")), 1),
        ("train", raising(ConfigError("train.steps: too few")), 2),
        ("train", raising(KeyboardInterrupt()), 130),
        ("train", asked(signal.SIGTERM), 143),
        ("train", asked(signal.SIGHUP), 129),
        ("sweep", result(best="a trial"), 0),
        ("sweep", result(), 1),
        ("sweep", raising(ConfigError("space: empty")), 2),
        ("sweep", result(best="a trial", interrupted=True), 130),
        ("sweep", raising(KeyboardInterrupt()), 130),
        ("sweep", asked(signal.SIGTERM), 143),
    ],
)
def test_commands_end_with_the_codes_of_the_page(monkeypatch, signals_as_usual, command, does, code):
    monkeypatch.setattr(api, "run" if command == "train" else "run_sweep", does)
    assert run(monkeypatch, "--quiet", of=(getattr(cli, command),)) == code


def test_the_page_lists_these_codes_once():
    (table,) = re.findall(r"\| code \| meaning \|\n(?:\|.*\n)+", PAGE)
    assert re.findall(r"^\| (\d+) \|", table, re.MULTILINE) == ["0", "1", "2", "129", "130", "143"]
    other = (Path(__file__).parents[2] / "docs/cluster.md").read_text(encoding="utf-8")
    assert "| code |" not in other and "run-results.md#exit-codes" in other


def test_a_dry_run_says_what_would_run_and_starts_nothing(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", raising(AssertionError("Ray was started")))
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert run(monkeypatch, "--dry-run", of=(cli.sweep,)) == 0
    said = capsys.readouterr().out
    assert "12 trials: 10 by tpe, and 2 controls" in said and "  control one_hot" in said
    assert said.count("synthetic_ratio ") == 5 and "and 5 more, whose values follow from results" in said
    assert "of this machine: the run asks for 1 x train worker of 0.5 CPU" in said and "trials at once: 2" in said
    assert list(tmp_path.iterdir()) == []
    assert run(monkeypatch, "--dry-run", "--set", "experiment.train.workers=64", of=(cli.sweep,)) == 2
    assert "the run asks for 64 x train worker" in capsys.readouterr().err
    assert run(monkeypatch, "--dry-run", "--resume", "--name", "x", of=(cli.sweep,)) == 2
