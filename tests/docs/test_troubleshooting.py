"""docs/troubleshooting.md has a row for each warning and error that the program can print."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE, PAGE = ROOT / "tgt_ray", ROOT / "docs" / "troubleshooting.md"

#: Calls whose first text is shown to users: the logs' warnings, and why a run has failed.
SHOWN_CALLS = {"log.warning": 0, "log.log": 1, "self._end": 1, "self.warn": 0, "bank.warn": 0}
#: Methods whose results become a part of a message.
SHOWN_RESULTS = {"lacking"}
#: Messages that are neither raised nor logged as warnings: the reason of a lost trial, and last lines of a sweep.
ELSEWHERE = {
    "core/stored.py": ["is damaged (", "; restore it from a copy, or begin anew without it"],
    "data/columns.py": ["is not a JSON object"],
    "distributed/pool_actor.py": ["pool.bank: generators make rows of"],
    "distributed/lines.py": ["more lines are only in the logs of its workers, which Ray keeps"],
    "distributed/base.py": [
        "a process of the local Ray has ended (",
        "this machine is no node of the Ray cluster any more",
    ],
    "distributed/cluster.py": [
        "cannot connect to that cluster",
        "cannot start a local Ray",
    ],
    "teacher/fingerprints.py": [
        "which is there, is another one",
        "what it was made from (settings, data, versions of libraries) was not what is here now",
        "it was made on another processor (",
    ],
    "inference/service.py": ["content-type: '", "; send fewer inputs at once"],
    "sweeps/table.py": ["the trial's process was lost"],
    "sweeps/trial.py": ["its run was stopped"],
    "results/speed.py": ["how small and how fast the student is, was not measured ("],
    "entrypoints/summary.py": ["no trial has finished", "is not behind the best trial by validation"],
}
#: Messages that no user of the commands sees, each with the reason.
HIDDEN = {
    "module 'tgt_ray' has no attribute": "Python's own words for a wrong name in a program",
    "is not the name of a file or folder": "names of runs are checked before, in other words",
    "needs a storage for its decoded images": "runs and sweeps always have a storage",
    "… values for … rows": "a programming error: columns are made with the rows that they belong to",
    "its weights come from the folder": "a programming error: nothing pretrains such a generator",
    "there is nothing to train": "a programming error: nothing pretrains such a generator",
    "the block of a consumed request came twice": "a programming error, which the stream looks out for",
    "the block of request index": "a programming error, which the stream looks out for",
    "warning: …": "the fit check's message follows, which has a row",
    "': legal are": "search.controls refuses a wrong name before, in other words",
}
#: What stands in a message for a value that is known only when it is printed.
VALUE = "…"


@dataclass(frozen=True)
class Message:
    where: str
    text: str


def plain(text: str) -> str:
    return " ".join(text.split())


def templates(node: ast.AST | None, tree: ast.AST) -> list[str]:
    """What an expression may give as text, with VALUE for what isn't known.

    - tree: where names and functions of the expression are looked for
    """
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.JoinedStr):
        return ["".join(str(each.value) if isinstance(each, ast.Constant) else VALUE for each in node.values)]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = (templates(each, tree) or [VALUE] for each in (node.left, node.right))
        return [a + b for a in left for b in right]
    if isinstance(node, ast.IfExp):
        return [*templates(node.body, tree), *templates(node.orelse, tree)]
    if isinstance(node, ast.Name):
        assigned = [each for each in ast.walk(tree) if isinstance(each, ast.Assign)]
        found = [each for each in assigned if ast.unparse(each.targets[0]) == node.id]
        return [text for each in found for text in templates(each.value, tree)]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return [text for each in functions(tree, node.func.id) for text in results(each, tree)]
    return []


def functions(tree: ast.AST, *names: str) -> list[ast.FunctionDef]:
    return [each for each in ast.walk(tree) if isinstance(each, ast.FunctionDef) and each.name in names]


def results(function: ast.FunctionDef, tree: ast.AST) -> list[str]:
    returns = [each for each in ast.walk(function) if isinstance(each, ast.Return)]
    return [text for each in returns for text in templates(each.value, tree)]


def said(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and template of each message of a module."""
    for function in functions(tree, *SHOWN_RESULTS):
        yield from ((function.lineno, text) for text in results(function, tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            # Of pydantic's errors the first argument is the kind, and the values have names in braces.
            custom = ast.unparse(node.exc.func) == "PydanticCustomError"
            given = node.exc.args[1:2] if custom else node.exc.args[:1]
            found = [text for each in given for text in templates(each, tree)]
            yield from ((node.lineno, re.sub(r"\{\w+\}", VALUE, text) if custom else text) for text in found)
        elif isinstance(node, ast.Call) and (place := SHOWN_CALLS.get(ast.unparse(node.func))) is not None:
            found = [text for each in node.args[place : place + 1] for text in templates(each, tree)]
            yield from ((node.lineno, re.sub(r"%[.\d]*[a-z]", VALUE, text).replace("%%", "%")) for text in found)


def messages() -> list[Message]:
    out = []
    for file in sorted(SOURCE.rglob("*.py")):
        name, content = file.relative_to(SOURCE).as_posix(), file.read_text(encoding="utf-8")
        found = [Message(f"{name}:{line}", as_written(text)) for line, text in said(ast.parse(content))]
        for text in ELSEWHERE.get(name, []):
            assert text in content, f"{name} says no more: {text}"
            found.append(Message(name, text))
        out += [each for each in found if re.search(r"\w", each.text)]
    return out


def as_written(text: str) -> str:
    """A message as the page writes it: values that touch are one."""
    return re.sub(f"{VALUE}+", VALUE, plain(text))


def hidden(message: Message) -> bool:
    return any(start in message.text for start in HIDDEN)


def covers(text: str, message: Message) -> bool:
    """Whether a text of the page is this message; of those in ELSEWHERE only a part is looked for."""
    return message.text == text or (":" not in message.where and message.text in text)


def tables(page: str) -> Iterator[list[list[str]]]:
    """Rows of cells of each table, its head first."""
    for table in re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE):
        rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in table.splitlines()]
        yield [[plain(cell.replace("\\|", "|")) for cell in row] for row in rows if set("".join(row)) - set("-: ")]


def listed(page: str, head: str) -> list[str]:
    """All texts in code style in the first cells of the tables whose first column has this head."""
    first = [row[0] for rows in tables(page) if rows[0][0] == head for row in rows[1:]]
    return [text.strip() for cell in first for _, text in re.findall(r"(`+)(.+?)\1(?!`)", cell)]


@pytest.fixture(scope="module")
def page() -> str:
    return PAGE.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def found() -> list[Message]:
    return messages()


def test_each_message_has_a_row(page, found):
    there = listed(page, "Message")
    missing = [each for each in found if not hidden(each) and not any(covers(text, each) for text in there)]
    assert not missing, "\n".join(f"{each.where}: {each.text}" for each in missing)


def test_what_is_hidden_is_still_there(found):
    assert [start for start in HIDDEN if not any(start in each.text for each in found)] == []


def test_no_row_is_about_a_message_that_is_gone(page, found):
    shown = [each for each in found if not hidden(each)]
    assert [text for text in listed(page, "Message") if not any(covers(text, each) for each in shown)] == []


def test_no_message_has_two_rows(page):
    there = listed(page, "Message")
    assert sorted(text for text in set(there) if there.count(text) > 1) == []


def test_the_first_problems_quote_messages(page, found):
    quoted = listed(page, "You see")
    assert len(quoted) >= 10
    assert [text for text in quoted if not any(text.removesuffix(VALUE) in each.text for each in found)] == []


def test_each_row_says_what_it_means_and_what_to_do(page):
    rows = [row for rows in tables(page) for row in rows]
    assert [row for row in rows if len(row) != 3 or not all(row)] == []


def test_messages_are_found_in_all_their_forms(found):
    """Raised with an f-string, a sum, a name, a function's result; logged; a reason; a part of another message."""
    texts = [each.text for each in found]
    for expected in (
        "--name …: use letters, digits, '.', '_' and '-', starting with a letter or digit",
        "unknown key '…'; …",
        "task.data.image_shape: … needs … bytes, … has …",
        "the labeler agrees with itself on … % of the generator's reconstructions",
        "…: has …; left out",
        "its workers were lost … times after step …",
        "the task's answers are classes, not documents",
        "the trial's process was lost",
    ):
        assert any(text.startswith(expected) for text in texts), expected
    assert len(texts) > 290
