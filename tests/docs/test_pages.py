"""README and docs: links lead somewhere, blocks of YAML and Python are right, and commands are as they are written."""

import ast
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "docs"))

import faults
import readme
import reference

from tests.helpers.places import ROOT
from tgt_ray.core.config import validate
from tgt_ray.entrypoints import cli
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.sweeps.config import SweepConfig

PAGES = [ROOT / "README.md", ROOT / "benchmarks/README.md", *sorted((ROOT / "docs").glob("*.md"))]
IDS = [str(page.relative_to(ROOT)) for page in PAGES]
#: The pages whose sh blocks run from an empty folder. README's set the project up first: see test_readme.
RUN = [page for page in PAGES if page.parent.name == "docs"]

each_page = pytest.mark.parametrize("page", PAGES, ids=IDS)


def blocks(page: Path, *languages: str) -> list[str]:
    """The fenced blocks of a page in some languages."""
    found = re.findall(r"^( *)```(\w+)\n(.*?)^\1```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [re.sub(f"^{indent}", "", text, flags=re.MULTILINE) for indent, name, text in found if name in languages]


def prose(page: Path) -> str:
    return re.sub(r"^( *)```.*?^\1```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub and MyST make of a page's headings."""
    made = set()
    for heading in re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        made.add("".join(c for c in plain.lower() if c.isalnum() or c in " -_").strip().replace(" ", "-"))
    return made


@each_page
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith(("http://", "https://")):
            continue
        file, _, anchor = target.partition("#")
        there = (page.parent / file).resolve() if file else page
        assert there.exists(), f"{target}: no such file"
        assert there.is_relative_to(ROOT), f"{target}: outside the project"
        if anchor:
            assert anchor in anchors(there), f"{target}: no such heading"


@each_page
def test_no_placeholder_and_no_path_of_a_machine_is_left(page):
    text = page.read_text(encoding="utf-8")
    assert "@@" not in text and "TODO" not in text
    assert not re.search(r"/(work|root|home/\w+|tmp)/", text)


@each_page
def test_yaml_is_an_experiment_or_a_sweep(page):
    for text in blocks(page, "yaml"):
        data = yaml.safe_load(text)
        is_sweep = {"space", "search", "experiment"} & set(data)
        validate(SweepConfig if is_sweep else Experiment, data, text)


@each_page
def test_python_is_right(page):
    for text in blocks(page, "python"):
        ast.parse(text)


def commands(page: Path) -> Iterator[list[str]]:
    """The commands of tgt-ray in a page, as lists of their words from the command's name on."""
    for text in blocks(page, "sh", "console", "bash"):
        without_files = re.sub(r"<<'?(\w+)'?.*?^\1$", "", text, flags=re.DOTALL | re.MULTILINE)
        for line in re.sub(r"\\\n\s*", " ", without_files).splitlines():
            found = re.search(r"(?:python -m tgt_ray(?:\.|\s+)|\btgt-ray\s+)([^|>&;\s][^|>&;]*)", line)
            if found:
                yield shlex.split(found[1], comments=True)


@each_page
def test_commands_have_the_options_that_they_are_written_with(page):
    import typer.main

    app = typer.Typer(add_completion=False)
    for command in cli.COMMANDS:
        app.command()(command)
    group = typer.main.get_command(app)
    for name, *words in commands(page):
        if name == "--help":
            continue
        assert name in group.commands, name
        group.commands[name].make_context(name, [word for word in words if word != "--help"], resilient_parsing=False)


@pytest.mark.parametrize("module", [reference, readme, faults], ids=lambda module: module.__name__)
def test_a_generated_page_is_as_its_script_writes_it(module):
    assert module.PAGE.read_text(encoding="utf-8") == module.render(), f"run python docs/{module.__name__}.py"


def test_every_setting_is_described():
    written = set()
    for root in (Experiment, SweepConfig):
        for _, cls in reference.blocks(root, "", written):
            assert reference.about(cls), cls
            lacking = [
                name
                for name, info in cls.model_fields.items()
                if not info.description and not (name == "type" and reference.is_fixed(info))
            ]
            assert not lacking, (cls, lacking)
    assert len(written) > 50


def test_the_readme_is_one_page():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_all_pages_are_in_the_table_of_contents():
    listed = set(re.findall(r"^([\w-]+)$", (ROOT / "docs/index.md").read_text(encoding="utf-8"), re.MULTILINE))
    assert {page.stem for page in (ROOT / "docs").glob("*.md")} - {"index"} <= listed


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", [page for page in RUN if blocks(page, "sh")], ids=lambda page: page.stem)
def test_the_commands_of_a_page_run_from_an_empty_folder(page, tmp_path):
    script = "set -euo pipefail\n" + "\n".join(blocks(page, "sh"))
    # Only what a user has: the folder of this Python first on the path, and nothing of this checkout.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHON"))}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=800
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "docs", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "index.html").exists()
