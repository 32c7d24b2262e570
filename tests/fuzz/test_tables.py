"""Tables of texts: what is written is what is read; damaged files are refused in one line, or read as they are."""

import csv
import io
import json
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.fuzz.runs import fuzzed
from tests.fuzz.test_settings import one_line
from tgt_ray.core.config import validate
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.texts import clean
from tgt_ray.tasks import TaskData, TextClassification

NAMES = ("no", "yes")
#: Texts without surrogates, and without what CSV can't tell from an end of line.
TEXTS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0\r\n\x1f\x85\u2028\u2029"), max_size=30)
ROWS = st.lists(st.tuples(TEXTS.filter(clean), st.sampled_from(NAMES)), min_size=2, max_size=12)


def read(folder: Path, kind: str, **settings: object) -> TaskData:
    source = {"type": kind, "path": folder, "label_names": NAMES, **settings}
    return validate(TextClassification, {"type": "text_classification", "data": source}).scan()


def written(kind: str, rows: list[tuple[str, str]]) -> bytes:
    if kind == "jsonl":
        lines = [json.dumps({"text": text, "label": label, "other": [label]}) for text, label in rows]
        return ("\n".join(lines) + "\n").encode()
    if kind == "csv":
        sink = io.StringIO()
        csv.writer(sink).writerows([("text", "label"), *rows])
        return sink.getvalue().encode()
    buffer = io.BytesIO()
    pq.write_table(pa.table({"text": [text for text, _ in rows], "label": [label for _, label in rows]}), buffer)
    return buffer.getvalue()


def write(folder: Path, kind: str, rows: list[tuple[str, str]]) -> None:
    both = [("a text of yes", "yes"), ("a text of no", "no")]
    for split, content in (("train", [*both, *rows]), ("validation", both), ("test", both)):
        (folder / f"{split}.{kind}").write_bytes(written(kind, content))


@fuzzed()
@given(st.sampled_from(["csv", "jsonl", "parquet"]), ROWS)
@example("csv", [('"', "no"), ('\\"', "yes")])
@example("csv", [("a,b", "no"), ("1", "yes")])
@example("jsonl", [("2020-01-01", "no"), ("\ufeff x", "yes")])
def test_what_is_written_is_read(kind, rows):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, kind, rows)
        table = read(folder, kind, **({"quoted": True} if kind == "csv" else {})).tables["train"]
        assert table["text"].to_pylist()[2:] == [clean(text) for text, _ in rows]
        assert [NAMES[label] for label in table["label"].to_pylist()[2:]] == [label for _, label in rows]


def test_a_parquet_file_whose_column_has_a_name_that_is_no_utf8(tmp_path):
    """Where pyarrow opens one it raises an error of Python's own."""
    write(tmp_path, "parquet", [("a", "no")])
    file = tmp_path / "train.parquet"
    file.write_bytes(file.read_bytes().replace(b"text", b"\xccext"))
    with pytest.raises(ConfigError, match=r"train\.parquet: not a readable Parquet file") as refused:
        read(tmp_path, "parquet")
    one_line(refused.value)


@fuzzed()
@given(st.sampled_from(["csv", "jsonl", "parquet"]), ROWS, st.data())
def test_damaged_files_are_refused_in_a_line_or_read(kind, rows, data):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, kind, rows)
        file = folder / f"{data.draw(st.sampled_from(['train', 'test']))}.{kind}"
        content = bytearray(file.read_bytes())
        place = data.draw(st.integers(0, len(content) - 1))
        how = data.draw(st.sampled_from(["change", "cut", "end", "insert", "empty"]))
        if how == "change":
            content[place] = data.draw(st.integers(0, 255))
        elif how == "cut":
            del content[place : place + data.draw(st.integers(1, 40))]
        elif how == "insert":
            content[place:place] = data.draw(st.binary(min_size=1, max_size=5))
        else:
            del content[0 if how == "empty" else place :]
        file.write_bytes(content)
        try:
            read(folder, kind)
        except ConfigError as err:
            one_line(err)
            assert str(folder) in str(err) or "task." in str(err), "names the file or the setting"
