"""What the command `data` shows before anything is trained."""

import re

from tests.helpers import retrieval, text_runs
from tests.helpers.commands import command
from tests.helpers.pictures import write_pictures
from tests.results.test_report import MARKUP, Tags
from tgt_ray.core.loading import dump_yaml
from tgt_ray.entrypoints import api
from tgt_ray.results import data_page


def listed(monkeypatch, capsys, *words: str) -> str:
    monkeypatch.setenv("COLUMNS", "200")
    code, said = command(monkeypatch, "data", *words), capsys.readouterr()
    assert code == 0, said.err
    return said.out


def test_images_are_shown_with_classes_and_samples(tmp_path, monkeypatch, capsys):
    write_pictures(tmp_path / "data")
    (tmp_path / "data/train/red").rename(tmp_path / f"data/train/{MARKUP.replace('/', '')}")
    for split in ("test", "validation"):
        (tmp_path / f"data/{split}/red").rename(tmp_path / f"data/{split}/{MARKUP.replace('/', '')}")
    file = tmp_path / "e.yaml"
    file.write_text(f"task: {{type: image_classification, data: {{type: folder, path: {tmp_path / 'data'}}}}}")
    page = tmp_path / "data.html"
    out = listed(monkeypatch, capsys, str(file), "--storage", str(tmp_path / "s"), "--html", str(page))
    assert re.search(r"green +│ +2 +│ +8 +│ +2 +│ +3 │", out), out
    assert re.search(r"test rows in train +│ +9 │", out) and "3 x 12 x 12" in out and "Left out: nothing" in out
    parsed = Tags()
    parsed.feed(page.read_text())
    assert "script" not in parsed.tags and parsed.tags.count("img") == 3
    assert not (tmp_path / "s/teachers").exists(), "nothing is trained"


def test_texts_are_shown_with_their_lengths_and_what_is_cut(sentences, tmp_path, monkeypatch, capsys):
    file = tmp_path / "e.yaml"
    file.write_text(dump_yaml(text_runs.experiment(sentences)))
    sets = ["--set", "task.max_bytes=12"]
    out = listed(monkeypatch, capsys, str(file), "--storage", str(tmp_path / "s"), *sets)
    assert "median bytes" in out and re.search(r"test +│ +\d+ +│ +\d+ +│ +\d+ +│ +\d+ +│ +12 │", out)
    task, data = api.read_data(str(file), str(tmp_path / "s"))
    assert data.tables["train"]["text"][0].as_py()[:20] in out
    assert "<li" in data_page.page(task, data).decode()


def test_documents_and_queries_are_shown_and_a_sweep_s_file_is_taken(beir, encoder, tmp_path, monkeypatch, capsys):
    file = tmp_path / "sweep.yaml"
    plain = dump_yaml(retrieval.experiment(beir, encoder)).replace("\n", "\n  ")
    file.write_text(f"experiment:\n  {plain}\nspace: {{train.learning_rate: {{choice: [0.1]}}}}\n")
    out = listed(monkeypatch, capsys, str(file), "--storage", str(tmp_path / "s"))
    assert re.search(r"documents +│ +48 ", out) and "classes" not in out


def test_of_many_classes_the_terminal_shows_the_most_and_the_least_frequent():
    task, data = api.read_data({})
    assert data.num_classes == 10
    (part,) = [each for each in data_page.parts(task, data) if "class" in each.title]
    counts = [row["train"] for row in part.rows]
    assert counts == sorted(counts, reverse=True) and len(counts) == 10
