"""The model card of an export: what it says, and that nothing in it is taken for markup."""

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

import tgt_ray
from tests.helpers.places import ROOT
from tests.helpers.sweeps import sweep_of
from tgt_ray.core.storage import Storage
from tgt_ray.inference import card as cards
from tgt_ray.inference.export import export_student

#: What a class may be called.
ODD = (
    "<script>alert(1)</script>",
    "a | b",
    "[click](http://example.org)",
    "**bold** _it_ `code` ``",
    "two\nlines\n\n# heading",
    "---\nlicense: mit",
    "![picture](http://example.org/x.png)",
    "{{ 7 * 7 }} {% raw %}",
    "http://example.org www.example.org",
    "zero\0byte \x1b[31m",
)


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.addresses, self.text = [], [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        self.text += data


def export(folder, out, licence=None) -> str:
    student = tgt_ray.load_student(str(folder))
    record = export_student(student, "safetensors", out, Storage(Path(folder).parent), licence=licence)
    assert json.loads((out / "export.json").read_text()) == record
    return (out / "README.md").read_text(encoding="utf-8")


def shown(card: str) -> Tags:
    """The card as the hub shows it: Markdown with tables, addresses and HTML."""
    body = card.split("\n---\n", 1)[1]
    parsed = Tags()
    parsed.feed(MarkdownIt("gfm-like", {"linkify": False}).render(body))
    return parsed


@pytest.fixture(scope="module")
def of_sweep(of_digits, tmp_path_factory) -> Path:
    return sweep_of(of_digits, tmp_path_factory.mktemp("storage") / "my-sweep")


def test_the_card_of_a_run(of_digits, tmp_path):
    card, record = export(of_digits.folder, tmp_path / "mine", "Apache-2.0"), of_digits.record
    data = ModelCard(card).data
    about = {"license": "apache-2.0", "library_name": "tgt-ray", "pipeline_tag": "image-classification"}
    assert about.items() <= data.to_dict().items()
    assert {"tgt-ray", "knowledge-distillation", "safetensors"} <= set(data.tags)
    (accuracy,) = [each for each in data.eval_results if each.metric_type == "accuracy"]
    assert accuracy.metric_value == pytest.approx(record["result"]["test_accuracy"], abs=0.01)
    assert (accuracy.dataset_name, accuracy.dataset_split) == ("digits", "test")
    teacher = record["teacher"]["labeler"]
    for said in (
        *record["fingerprints"]["data"].values(),
        teacher["identity"],
        f"`balanced_accuracy` {teacher['quality']['test']['balanced_accuracy']:.2f} %",
        "None: the student has learnt from real rows alone.",
        "Trains on softened teacher probabilities, and on labels for alpha &lt; 1",
        "`seed: 0`",
        "**Temperature**: 4, by which",
        f"| this student | 0 | {record['result']['balanced_accuracy']:.2f} |",
        "| the teacher's labeler |  |",
        "No controls are recorded beside it",
        "classes had fewer than 20 labelled rows to learn from: `9` (4), `8` (6)",
        "Its teacher was trained here on the whole train split",
        "It sees grey images of 8 x 8 pixels",
        "Python 3.",
        "`Apache-2.0`, as its owner has said",
    ):
        assert said in card, said
    details = pd.read_csv(Path(of_digits.folder) / "per_class.csv")
    for row in details.itertuples():
        assert f"| {row.train_rows} | {row.rows} | {row.recall:.2f} |" in card
    assert 'tgt_ray.load_student("mine")' in card and "```python\nimport tgt_ray\n" in card
    assert shown(card).tags.count("table") == 4


def sections(card: str) -> dict[str, str]:
    """What a card says below each heading, and its block of metadata."""
    metadata, body = card.removeprefix("---\n").split("\n---\n", 1)
    return {"metadata": metadata, **{part.split("\n")[0]: part for part in body.split("\n## ")[1:]}}


def told_again(folder: Path, place: Path) -> None:
    """Check that the card of an export of a student's export says what that of the first one does."""
    first = sections(export(folder, place / "mine", "mit"))
    shutil.copytree(place / "mine", place / "elsewhere" / "mine")
    for made in (place / "mine", place / "elsewhere" / "mine"):
        again = sections(export(made, place / f"{made.parent.name}-again", "mit"))
        again["Use it"] = again["Use it"].replace(f"{made.parent.name}-again", "mine")
        assert first.keys() == again.keys()
        # Times are measured anew; the rest comes from the records.
        for name in first.keys() - {"Size and speed", "Environment"}:
            assert again[name] == first[name], name
        trained = [text["Environment"].split("\n- Exported")[0] for text in (first, again)]
        assert trained[0] == trained[1]
        assert "58,474" in first["Size and speed"] and "58,474" in again["Size and speed"], "the teacher's parameters"


def test_the_card_of_an_export_of_an_export_is_whole(of_digits, of_sweep, tmp_path):
    for number, folder in enumerate((Path(of_digits.folder), of_sweep / "best", of_sweep / "train" / "cccc")):
        (tmp_path / str(number)).mkdir()
        told_again(folder, tmp_path / str(number))


def test_an_export_of_a_version_that_kept_no_records_says_so(of_digits, tmp_path):
    export(of_digits.folder, tmp_path / "mine")
    record = json.loads((tmp_path / "mine" / "export.json").read_text())
    origin = record.pop("origin")
    (tmp_path / "mine" / "export.json").write_text(json.dumps(record))
    assert "## Results\n\nNot recorded.\n" in export(tmp_path / "mine", tmp_path / "again")
    (tmp_path / "mine" / "export.json").write_text(json.dumps({**record, "origin": origin, "format": 9}))
    with pytest.raises(tgt_ray.ConfigError, match=r"export\.json: .*use the version that has written it"):
        export(tmp_path / "mine", tmp_path / "third")


def test_the_page_lists_what_an_export_says_of_itself(of_digits, tmp_path):
    page = (ROOT / "docs/run-results.md").read_text(encoding="utf-8")
    table = page.split("## The keys of `export.json`")[1].split("\n## ")[0]
    export(of_digits.folder, tmp_path / "mine")
    for key in json.loads((tmp_path / "mine" / "export.json").read_text()):
        assert f"`{key}`" in table, key


def test_a_licence_that_was_not_given_is_said(of_digits, tmp_path):
    card = export(of_digits.folder, tmp_path / "mine")
    assert ModelCard(card).data.license == "other"
    assert "No licence was given at the export, so the metadata says `other`" in card


def test_a_licence_that_the_hub_does_not_know_keeps_its_name(of_digits, tmp_path):
    card = export(of_digits.folder, tmp_path / "mine", "Our: own\nlicence")
    data = ModelCard(card).data
    assert data.license == "other" and data.license_name == "our-own-licence", "an identifier, as the hub wants it"
    assert "`Our: own licence`, as its owner has said" in card


def test_the_best_of_a_sweep_stands_beside_its_controls(of_sweep, tmp_path):
    card = export(of_sweep / "best", tmp_path / "mine")
    assert "# `my-sweep`" in card
    assert "It is the best of 1 finished trials of a sweep, chosen by balanced\\_accuracy on the validation" in card
    assert "| control one\\_hot | 0 | 40.00 |" in card
    assert "not behind" not in card


def test_a_control_that_is_not_behind_is_said_to_be(of_sweep, tmp_path):
    shutil.copytree(of_sweep, tmp_path / "sweep")
    table = pd.read_parquet(tmp_path / "sweep" / "trials.parquet")
    table.loc[table.control == "one_hot", "balanced_accuracy"] = 100.0
    from tgt_ray.core import records

    records.write_table(Storage(tmp_path / "sweep"), table, "trials")
    card = export(tmp_path / "sweep" / "best", tmp_path / "mine")
    assert "The control one\\_hot is not behind it by balanced\\_accuracy" in card


def test_a_trial_says_that_it_is_one(of_sweep, tmp_path):
    assert "It is the best of 1 finished" in export(of_sweep / "train" / "aaaa", tmp_path / "best")
    assert "It is the control one\\_hot of a sweep" in export(of_sweep / "train" / "cccc", tmp_path / "control")


def test_a_best_folder_elsewhere_says_what_is_not_recorded(of_sweep, tmp_path):
    shutil.copytree(of_sweep / "best", tmp_path / "taken")
    card = export(tmp_path / "taken", tmp_path / "mine")
    for said in (
        "Rows and fingerprints of the splits: not recorded.",
        "How good it is, is not recorded.",
        "What its teacher had seen is not recorded.",
        "- Trained: not recorded.",
        "its teacher was not measured",
        "| this student | 0 |",
    ):
        assert said in card, said
    (tmp_path / "taken" / "metrics.json").unlink()
    (tmp_path / "taken" / "per_class.csv").unlink()
    card = export(tmp_path / "taken", tmp_path / "again")
    assert "## Results\n\nNot recorded.\n" in card and "## Each class\n\nNot recorded.\n" in card
    assert "model-index" not in card


def test_nothing_that_comes_from_data_is_markup(of_digits, tmp_path):
    shutil.copytree(of_digits.folder, tmp_path / "run")
    folder = tmp_path / "run"
    known = json.loads((folder / "student.json").read_text())
    known.pop("checksum")
    (folder / "student.json").write_text(json.dumps({**known, "classes": list(ODD)}))
    details = pd.read_csv(folder / "per_class.csv").assign(name=list(ODD))
    details.to_csv(folder / "per_class.csv", index=False)
    record = json.loads((folder / "record.json").read_text())
    record["name"] = ODD[0]
    record["data"]["left_out"] = [{"what": f"files {ODD[0]} {ODD[2]}", "count": 2, "first": "x"}]
    record["fingerprints"]["data"] = {ODD[1]: ODD[0]}
    record.pop("checksum")
    (folder / "record.json").write_text(json.dumps(record))
    card = export(folder, tmp_path / '<b>"quoted" `x`')
    metadata = yaml.safe_load(card.split("---\n")[1])
    assert metadata["license"] == "other" and metadata["model-index"][0]["name"] == ODD[0]
    parsed = shown(card)
    assert not {"script", "a", "img", "b", "em"} & set(parsed.tags) and not parsed.addresses
    assert parsed.tags.count("h1") == 1 and parsed.tags.count("h2") == 10
    for name in ODD:
        assert " ".join(cards.visible(name).split()) in parsed.text, name
    assert "\0" not in card and "\x1b" not in card
    rows = card.split("## Each class")[1].split("\n## ")[0]
    assert sum(line.startswith("|") for line in rows.splitlines()) == 12, "a row for each class, whatever its name"


@pytest.mark.parametrize("text", [*ODD, "", "`", "``a`", " "])
def test_code_is_code_in_text_and_in_tables(text):
    parsed = Tags()
    parsed.feed(MarkdownIt("gfm-like", {"linkify": False}).render(f"| a |\n|---|\n| {cards.code(text)} |\n"))
    assert parsed.tags.count("td") == 1 and parsed.tags.count("code") == bool(text.strip())
    assert parsed.text.split() == ["a", *(" ".join(cards.visible(text).split()) or "(empty)").split()]


def test_many_classes_are_the_worst_ones(of_digits, tmp_path, monkeypatch):
    monkeypatch.setattr(cards, "MOST_CLASSES", 3)
    monkeypatch.setattr(cards, "NAMED", 2)
    card = export(of_digits.folder, tmp_path / "mine")
    assert "The 3 of 10 classes that have the lowest recall." in card
    assert "`9` (4), `8` (6) and 3 more" in card
    rows = card.split("## Each class")[1].split("\n## ")[0]
    shown_recalls = [float(line.split("|")[4]) for line in rows.splitlines() if line.startswith("| `")]
    recalls = pd.read_csv(Path(of_digits.folder) / "per_class.csv").recall
    np.testing.assert_allclose(shown_recalls, np.sort(recalls)[:3], atol=0.01)


@pytest.mark.parametrize(
    "name, library, pipeline, tag",
    [
        ("safetensors", "tgt-ray", "text-classification", "safetensors"),
        ("sentence-transformers", "sentence-transformers", "feature-extraction", "sentence-transformers"),
        ("onnx", None, "text-classification", "onnx"),
        ("pt2", None, "text-classification", "pytorch"),
    ],
)
def test_the_metadata_name_a_library_of_the_hub_or_none(of_sentences, tmp_path, name, library, pipeline, tag):
    student = tgt_ray.load_student(of_sentences.folder)
    export_student(student, name, tmp_path / "mine", Storage(tmp_path))
    data = ModelCard((tmp_path / "mine" / "README.md").read_text()).data
    said = data.to_dict()
    assert (said.get("library_name"), said.get("pipeline_tag")) == (library, pipeline) and tag in said["tags"]
    assert {each.task_type for each in data.eval_results} == {"text-classification"}


def test_texts_and_pairs(of_sentences, of_pairs, tmp_path):
    card = export(of_sentences.folder, tmp_path / "texts")
    assert ModelCard(card).data.pipeline_tag == "text-classification"
    assert 'predict(["a text"])' in card and "It reads the first" in card and "bytes of a text at most." in card
    assert 'predict([("a text", "another one")])' in export(of_pairs.folder, tmp_path / "pairs")


@pytest.mark.slow
def test_queries(beir, encoder, tmp_path):
    from tests.helpers import retrieval

    run = tgt_ray.run(retrieval.experiment(beir, encoder), storage=str(tmp_path), name="queries", local=True)
    card = export(run.folder, tmp_path / "mine")
    assert ModelCard(card).data.pipeline_tag == "feature-extraction"
    assert 'search(["a text"])' in card and "documents that it was trained with" in card
    assert "## Each class" not in card and "Its synthetic rows were made by" in card


@pytest.mark.parametrize(
    "given, called",
    [("BANKING77/hub", "BANKING77/hub"), ("/home/me/secret/data", "data"), ("./data", "data"), ("digits", "digits")],
)
def test_paths_of_a_machine_stay_there(given, called):
    class Data:
        type, path = "parquet", given

    class Task:
        type, data = "text_classification", Data()

    assert cards._source(Task())["name"] == called
