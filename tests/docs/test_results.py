"""docs/results.md is what the records say, and no figure of it is typed by hand."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "docs"))

import results
from results_text import ResultsError, figure, markdown, shell, wrapped

DOCS = results.HERE
LONGEST_LINE = 120
#: Figures in words: "five points", "eight times the time".
IN_WORDS = re.compile(
    r"\b(two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|half a)"
    r" (times|points?|percent|seconds|minutes|seeds)\b"
)
#: A number that stands by itself. That of a name is none: BANKING77, SST-2, nDCG@10.
NUMBER = re.compile(r"(?<![\w@-])\d")


def prose(template: str) -> str:
    """What the template says itself: without expressions, code, links and headings."""
    for left_out in (
        r"\{#.*?#\}",
        r"\{%.*?%\}",
        r"\{\{.*?\}\}",
        r"^```.*?^```$",
        r"`[^`]*`",
        r"\[[^]]*\]\([^)]*\)",
        r"^#.*?$",
    ):
        template = re.sub(left_out, "", template, flags=re.DOTALL | re.MULTILINE)
    return template


def typed_figures(template: str) -> list[str]:
    """Lines of the template's prose with a figure that doesn't come from a record."""
    return [line for line in prose(template).splitlines() if NUMBER.search(line) or IN_WORDS.search(line)]


@pytest.fixture(scope="module")
def page() -> str:
    return results.PAGE.read_text(encoding="utf-8")


def test_the_page_is_what_the_records_say(page):
    assert results.render() == page, "run python docs/results.py"


def test_no_figure_is_typed_by_hand():
    assert typed_figures((DOCS / results.TEMPLATE).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "text",
    ["It has 12.3 points.", "Half of it, 50 %, is lost.", "It is 94 ± 1.", "It adds five points.", "{{ a }} or 7."],
)
def test_a_typed_figure_would_be_found(text):
    assert typed_figures(text) == [text.replace("{{ a }}", "")]


@pytest.mark.parametrize(
    "text", ["BANKING77, SST-2 and nDCG@10", "`--seeds 5`", "## In 10 lines", "{{ gain(a, 12.3) }} points"]
)
def test_names_code_and_expressions_are_no_typed_figures(text):
    assert typed_figures(text) == []


def test_a_record_that_the_page_does_not_use_is_an_error(tmp_path):
    folder = tmp_path / "records"
    folder.mkdir()
    for each in results.RECORDS.iterdir():
        (folder / each.name).symlink_to(each)
    assert results.render(folder) == results.render()
    shutil.copy(results.RECORDS / "methods-digits.json", folder / "methods-digits-more.json")
    with pytest.raises(ResultsError, match=r"doesn't use: methods-digits-more$"):
        results.render(folder)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ('score("methods-nothing", "random")', "no record 'methods-nothing'"),
        ('score("methods-digits", "nothing")', "no method 'nothing'"),
        ('score("retrieval-medquad@70", "one_hot")', "no method 'one_hot' 70"),
        ('scores({"a": "methods-digits"}, ["one_hot", "masking"])', "no method 'masking'"),
        ('picture("nothing.png", "nothing")', "no picture 'nothing.png'"),
        ('hot("hot-loops-digits", "student", threads=3)', "not measured"),
        ('explored_by("explored", "digits, imbalance 20", "nothing")', "0 points 'nothing' of digits, imbalance 20"),
        ('about("methods-imdb")', "say what it has seen"),
        ('claim(gain("methods-digits", "one_hot", "distillation") > 0)', "does not hold"),
    ],
)
def test_what_is_missing_is_an_error(asked, says):
    with pytest.raises(ResultsError, match=says):
        results.render(template="{{ " + asked + " }}")


def test_scores_are_those_of_the_record():
    record = results.read(results.RECORDS, "methods-digits")
    scores = [run["metrics"]["test_balanced_accuracy"] for run in record["results"] if run["method"] == "random"]
    said = results.render(
        template='{{ score("methods-digits", "random") }}; {{ gain("methods-digits", "random", "one_hot") }}'
    )
    mean = sum(scores) / len(scores)
    spread = (sum((score - mean) ** 2 for score in scores) / (len(scores) - 1)) ** 0.5
    assert said.startswith(f"{mean:.1f} ± {spread:.1f}; 9.")


def test_the_page_reads_well_everywhere(page):
    long = [line for line in page.splitlines() if len(line) > LONGEST_LINE and not line.startswith("|")]
    assert long == []
    assert not re.search(r"</?[a-z]+[ />]", page), "HTML"
    links = re.findall(r"\]\((\.\./[^)#]+)\)", page)
    assert links
    assert [link for link in links if not (DOCS / link).is_file()] == []


def test_the_summary_has_ten_lines_at_most(page):
    summary = page.partition("## In short\n\n")[2].partition("\n\n##")[0]
    assert 5 <= len(summary.splitlines()) <= 10


def test_halves_are_rounded_up():
    assert [figure(91.25, 1), figure(78.846, 1), figure(0.5), figure(1234.5), figure(-0.02, 1)] == [
        "91.3", "78.8", "1", "1,235", "0.0",
    ]  # fmt: skip


def test_a_table_has_no_empty_cell():
    with pytest.raises(ResultsError, match="lacks a cell"):
        markdown([["method", "test"], ["random", ""]])
    assert markdown([["method", "test"], ["random", "1.0 ± 0.1"]]).splitlines()[1] == "| --- | ---: |"


def test_no_line_begins_with_what_belongs_to_the_one_before():
    text = wrapped("word " * 23 + "a + b " * 20 + "94.1 ± 0.5 " * 20)
    assert not [line for line in text.splitlines() if line[0] in "+±" or line.endswith("±")]


def test_commands_name_no_folder_of_a_machine():
    said = shell(
        "python benchmarks/methods.py --data /home/me/digits2 --storage /tmp/x --set a.weights=/home/me/file.pt"
    )
    assert said.split() == [
        "```", "python", "benchmarks/methods.py", "--data", "FOLDER/digits2", "--storage", "FOLDER", "--set",
        "a.weights=FOLDER/file.pt", "```",
    ]  # fmt: skip


def test_the_page_is_written_without_ray_and_torch():
    code = "import sys; import results; print([name for name in ('ray', 'torch') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=DOCS, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
