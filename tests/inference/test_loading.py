"""A student in the hands of a user: `tgt_ray.load_student`."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import tgt_ray
from tests.helpers.experiments import changed
from tests.helpers.text_runs import experiment
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.storage import Storage

SHORT = {"train__steps": 60, "train__eval_every": 30, "explorer__type": "none"}


@pytest.fixture(scope="module")
def trained(prepared, storage) -> tgt_ray.RunResult:
    config = changed(prepared.experiment, **SHORT, objective__posthoc_adjustment=1.0)
    return tgt_ray.run(config, storage=storage.root, name="exported", local=True)


def test_it_says_what_the_run_has_measured(trained, digits):
    student = tgt_ray.load_student(trained.folder)
    table = digits.tables["test"]
    images = prepared_images(digits, "test")
    predicted = student.predict(images)
    accuracy = 100 * (predicted.label.astype(int) == table["label"].to_numpy()).mean()
    assert accuracy == pytest.approx(trained.record["result"]["test_accuracy"])
    assert predicted.columns.tolist() == ["label", "probability"] and predicted.probability.between(0.1, 1).all()
    probabilities = student.probabilities(images)
    assert probabilities.shape == (len(images), 10)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


def prepared_images(digits, split: str) -> np.ndarray:
    from tgt_ray.tasks import ImageClassification, inputs_of

    return inputs_of(ImageClassification(), digits.tables[split], digits.input_shape)[:].numpy()


def test_bytes_and_grey_images_without_a_channel_are_taken(trained, digits):
    student = tgt_ray.load_student(trained.folder)
    images = prepared_images(digits, "validation")[:8]
    stored = np.round(images * 255).astype(np.uint8)
    np.testing.assert_allclose(student.probabilities(stored[:, 0]), student.probabilities(stored / 255.0), atol=1e-5)


@pytest.mark.parametrize(
    "images, said",
    [
        (np.zeros((2, 1, 9, 9), np.uint8), r"shape \(2, 1, 9, 9\); expected \(N, 1, 8, 8\)"),
        (np.full((2, 1, 8, 8), 16.0), "from 16 to 16; expected uint8, or floating-point values from 0 to 1"),
        (np.zeros((2, 1, 8, 8), np.int64), "int64 from 0 to 0; expected uint8"),
    ],
)
def test_images_that_it_was_not_trained_for_are_refused(trained, images, said):
    with pytest.raises(ConfigError, match=said):
        tgt_ray.load_student(trained.folder).predict(images)


@pytest.mark.parametrize("pairs", [False, True])
def test_texts_and_the_best_of_a_sweep(sentences, tmp_path, pairs):
    data = {"pair_column": "hypothesis"} if pairs else {}
    config = experiment(sentences, data=data, explorer={"type": "none"})
    result = tgt_ray.run(config, storage=str(tmp_path), name="texts", local=True)
    (tmp_path / "sweep").mkdir()
    (tmp_path / "texts").rename(tmp_path / "sweep" / "best")
    test = pq.read_table(sentences / "test.parquet")
    columns = [test[name].to_pylist() for name in (("text", "hypothesis") if pairs else ("text",))]
    texts = list(zip(*columns, strict=True)) if pairs else columns[0]
    predicted = tgt_ray.load_student(str(tmp_path / "sweep")).predict(texts)
    accuracy = 100 * (predicted.label.astype(int) == test["label"].to_numpy()).mean()
    assert accuracy == pytest.approx(result.record["result"]["test_accuracy"])


def test_white_space_around_a_text_says_nothing_and_one_text_is_no_list(sentences, tmp_path):
    short = {"steps": 4, "eval_every": 2}
    config = experiment(sentences, explorer={"type": "none"}, train=short)
    result = tgt_ray.run(config, storage=str(tmp_path), name="texts", local=True)
    student = tgt_ray.load_student(result.folder)
    one, other = student.probabilities(["  good thing \n", "good thing"])
    assert one.tolist() == other.tolist()
    with pytest.raises(ConfigError, match="inputs: one text; expected a list of texts"):
        student.predict("good thing")


def test_it_leaves_the_random_numbers_of_its_caller_alone(trained):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    tgt_ray.load_student(trained.folder)
    assert torch.rand(1) == expected


def test_no_images_have_no_predictions(trained):
    assert len(tgt_ray.load_student(trained.folder).predict(np.zeros((0, 1, 8, 8), np.float32))) == 0


def test_a_folder_without_a_student_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"has no student\.safetensors; expected the folder of a run"):
        tgt_ray.load_student(str(tmp_path))


def test_weights_of_another_architecture_are_refused(trained, prepared, storage, tmp_path):
    other = tgt_ray.run(
        changed(prepared.experiment, **SHORT, student__widths=[4, 4]), storage=storage.root, name="smaller", local=True
    )
    folder = Storage(tmp_path)
    folder.write(Storage(other.folder).read("student.safetensors"), "student.safetensors")
    folder.write(Storage(trained.folder).read("student.json"), "student.json")
    with pytest.raises(ConfigError, match="weights of another architecture"):
        tgt_ray.load_student(folder.root)
