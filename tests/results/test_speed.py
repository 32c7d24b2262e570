"""How small and fast a student is, in words and tables."""

import re
from typing import Any

import pytest

from tests.helpers.places import ROOT
from tgt_ray.results import speed


def measured(times: float, **changes: Any) -> dict[str, Any]:
    """A model that is so many times as large and slow as another."""
    one = {"threads": 1, "latency_ms": 0.2 * times, "latency_p95_ms": 0.5 * times, "rows_per_second": 60_000 / times}
    return {
        "bytes": round(12_300 * times),
        "parameters": round(3_000 * times),
        "cpu": "one",
        "load": 0.3,
        "rows": 64,
        "threads": [one, {**one, "threads": 2}],
        **changes,
    }


def test_the_teacher_is_held_against_the_student():
    found = speed.against(measured(1), measured(8))
    assert found == pytest.approx(
        {"bytes": 8, "parameters": 8, "latency": 8, "latency_p95": 8, "rows_per_second": 8}, rel=1e-3
    )
    assert speed.line(measured(1), measured(8)) == (
        "student: 12.3 kB, 3,000 parameters; with 1 thread 0.2 ms for one row, 60,000 rows a second 64 at a time; its"
        " teacher is 8 times larger (98.4 kB, 24,000 parameters) and takes 8 times longer (1.6 ms, 7,500 rows a second)"
    )


def test_a_student_that_is_larger_is_said_to_be():
    assert "its teacher is 4 times smaller" in speed.line(measured(4), measured(1))
    assert "and takes 4 times shorter" in speed.line(measured(4), measured(1))


@pytest.mark.parametrize(
    "teacher, why",
    [
        (None, "its teacher was not measured"),
        (measured(8, cpu="another"), "its teacher was measured on another processor (another)"),
        (measured(8, parameters=0), "its teacher has no weights"),
    ],
)
def test_what_cannot_be_compared_is_said(teacher, why):
    assert speed.against(measured(1), teacher) == {}
    assert speed.line(measured(1), teacher).endswith(f"; {why}")


def test_a_busy_machine_is_said():
    assert "(while 7 processes wanted each CPU)" in speed.line(measured(1, load=7.0), None)


def test_lines_are_those_of_the_best_trial():
    teacher = {"labeler": {"speed": measured(8)}}
    record = {"teacher": teacher, "speed": {"trial": "a", "student": measured(1)}}
    assert list(speed.lines(record, "a")) == [speed.line(measured(1), measured(8))]
    assert list(speed.lines(record, "b")) == [], "another trial was the best when it was measured"
    assert list(speed.lines({})) == []
    lacking = {"teacher": teacher, "speed": {"lacking": "no lane was free"}}
    assert list(speed.lines(lacking)) == ["how small and how fast the student is, was not measured (no lane was free)"]


def test_the_table_has_a_row_for_each_model_and_number_of_threads():
    rows = speed.table(measured(1), measured(8))
    assert [(row["model"], row["threads"]) for row in rows] == [
        ("student", 1), ("student", 2), ("teacher's labeler", 1), ("teacher's labeler", 2)
    ]  # fmt: skip
    assert len(speed.table(measured(1), None)) == 2


def test_the_page_shows_the_form_of_the_line_without_figures_of_its_own():
    page = (ROOT / "docs/student.md").read_text(encoding="utf-8")
    (form,) = re.findall(r"^student: .* parameters; .*$", page, re.MULTILINE)
    assert re.fullmatch(re.escape(form).replace("…", r"\d[\d.,]*"), speed.line(measured(1), measured(100)))
    assert not re.search(r"\d", re.sub("with 1 thread|64 at a time", "", form))
