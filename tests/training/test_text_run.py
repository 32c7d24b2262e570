"""A run on texts in one process with a user's own models: few labels, unlabelled anchors, and what is shown."""

import io
import logging

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.helpers.pages import SAFE, Cells
from tgt_ray import run
from tgt_ray.core.batch import InputSpec
from tgt_ray.core.config import validate
from tgt_ray.core.storage import Storage
from tgt_ray.core.texts import SEPARATOR, to_texts
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.models.image.conv import Classifier
from tgt_ray.models.students import StudentBackbone
from tgt_ray.results import fit_pages, gallery
from tgt_ray.teacher.generators import Generator
from tgt_ray.teacher.labelers.base import Labeler
from tgt_ray.teacher.store import prepare_teacher
from tgt_ray.teacher.transfer_set import StudentData
from tgt_ray.training.checkpoint import real_rows
from tgt_ray.training.run import StudentRun

WIDTH = 24


class Letters(nn.Module):
    """How often each byte occurs, embedded."""

    dim = 8

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(256, self.dim)

    def forward(self, inputs):
        assert inputs.dtype == torch.uint8
        counts = F.one_hot(inputs.long(), 256).float()
        return self.embed(counts.sum(dim=1) / 4)


class LettersLabeler(Labeler):
    modality = "text"
    type: str = "tests.training.test_text_run:LettersLabeler"

    def build(self, spec, num_classes):
        return Classifier(Letters(), num_classes)

    def fit(self, model, inputs, labels):
        assert (labels >= 0).all() and len(inputs) == len(labels) == 8, "only what is labelled"
        optimizer = torch.optim.Adam(model.parameters(), 0.05)
        for _ in range(60):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs[:]).logits, labels).backward()
            optimizer.step()


class Spelling(nn.Module):
    """Latents are bytes."""

    def encode(self, inputs):
        return inputs.float()

    def decode(self, latents):
        return latents.round().clamp(0, 255).to(torch.uint8)


class SpellingGenerator(Generator):
    modality = "text"
    type: str = "tests.training.test_text_run:SpellingGenerator"

    def build(self, spec):
        return Spelling()

    def fit(self, model, inputs, labeler, agreement):
        assert len(inputs) == 40, "what has no label is a text all the same"
        return {}


class LettersStudent(StudentBackbone):
    modality = "text"
    type: str = "tests.training.test_text_run:LettersStudent"

    def build(self, spec):
        return Letters()


@pytest.fixture
def experiment(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for split, count in (("train", 40), ("validation", 20), ("test", 20)):
        words = ["".join(rng.choice(list("abc" if n % 2 else "xyz"), 9)) for n in range(count)]
        labels = [n % 2 for n in range(count)]
        pq.write_table(
            pa.table({"text": words, "more": ["<i>", "&"] * (count // 2), "label": labels}), folder / f"{split}.parquet"
        )
    (folder / "labels.json").write_text('["<b>up</b>", "down"]')
    return validate(
        Experiment,
        {
            "task": {
                "type": "text_classification",
                "data": {"type": "parquet", "path": str(folder), "pair_column": "more"},
                "max_bytes": WIDTH,
                "labelled": {"rows": 8},
            },
            "teacher": {
                "labeler": {"type": "tests.training.test_text_run:LettersLabeler"},
                "generator": {"type": "tests.training.test_text_run:SpellingGenerator"},
            },
            "student": {"type": "tests.training.test_text_run:LettersStudent"},
            "explorer": {"type": "random", "sigma": 0.1, "anchors": "balanced"},
            "train": {"steps": 40, "eval_every": 20, "batch_size": 16},
            "pool": {"rows_per_request": 32},
        },
    )  # fmt: skip


def test_a_run_on_texts(experiment, tmp_path, caplog):
    with caplog.at_level(logging.INFO, "tgt_ray"):
        result = run(experiment, storage=str(tmp_path / "results"), name="texts", local=True)
    folder = Storage(tmp_path / "results").within("texts")
    assert result.metrics.iloc[-1]["test_accuracy"] == 100, "the letters differ"
    check = result.record["teacher"]["fit_check"]
    assert check["exact_copy_reconstructed"] == check["agreement_reconstructed"] == 100
    assert check["exact_copy_explored"] < 100 and 0 < check["distinct_2_explored"] <= 1
    assert "reconstruction_mse" not in check and "exact copies 100.0 % of reconstructions" in caplog.text
    quality = result.record["teacher"]["generator"]["quality"]["validation"]
    assert quality == {"exact_copy_rate": 100, "labeler_agreement": 100}
    assert {"train", "full", "validation", "test", "unlabelled"} == result.record["fingerprints"]["data"].keys()

    rows = pd.read_parquet(io.BytesIO(folder.read(gallery.ROWS_FILE)))
    assert not folder.exists(gallery.PICTURE_FILE) and "shape" not in rows
    assert rows.anchor_text.str.fullmatch(f"[a-z]{{9}}{SEPARATOR}(<i>|&)").all()
    assert (rows.reconstructed == rows.anchor_text).all() and (rows.explored != rows.anchor_text).any()
    source = pq.read_table(tmp_path / "texts" / "train.parquet").to_pandas()
    assert (rows.anchor_text.str.split(SEPARATOR).str[0] == source.text[rows.anchor].to_numpy()).all()

    for name in (gallery.PAGE_FILE, fit_pages.PAGE_FILE):
        page = Cells(folder.read(name))
        assert page.tags <= SAFE, "what texts and names hold is no markup"
        assert any("<b>up</b>" in cell for cell in page.cells) and any(" / <i> [" in cell for cell in page.cells)
    assert not folder.exists(fit_pages.PICTURE_FILE)


def test_the_gallery_finds_anchors_with_and_without_labels(experiment):
    data = experiment.task.load()
    columns = {"logits": np.zeros((8, 2), np.float32)}
    student = StudentRun(experiment, StudentData(data.tables, InputSpec((WIDTH,)), 2, columns, {}, data.class_names))
    ids = {split: data.tables[split]["id"].to_pylist() for split in ("train", "unlabelled")}
    asked = np.array([ids["unlabelled"][3], ids["train"][5], ids["unlabelled"][0], ids["train"][5]])
    inputs, labels = real_rows(student, asked)
    full = data.tables["full"]
    assert to_texts(inputs) == [full["text"][row].as_py() for row in asked.tolist()]
    assert labels.tolist() == [-1, asked[1] % 2, -1, asked[1] % 2]
    only, _ = real_rows(student, asked[[1]])
    assert to_texts(only) == [full["text"][int(asked[1])].as_py()]


def test_labels_that_are_not_to_be_used_are_not_what_the_teacher_learns(experiment, tmp_path):
    data = experiment.task.load()
    storage = Storage(tmp_path / "storage")
    _, record = prepare_teacher(experiment.teacher, experiment.task, data, storage)  # its `fit` looks at the labels
    assert record["labeler"]["quality"]["validation"]["accuracy"] == 100
