"""Models whose weights memory doesn't hold are refused before they are made."""

import pytest
import torch

from tests.helpers.text_runs import experiment as texts
from tgt_ray.core import memory
from tgt_ray.core.batch import InputSpec
from tgt_ray.core.config import validate
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.loading import with_overrides
from tgt_ray.entrypoints import api
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.models import built as module
from tgt_ray.models.built import built
from tgt_ray.models.students import ConvStudent, StudentBackbone, TextTransformerStudent, TimmStudent
from tgt_ray.models.text.vocabulary import train_tokenizer
from tgt_ray.teacher.generators import MaskedLMGenerator, MLPAutoencoderGenerator, Seq2SeqGenerator
from tgt_ray.teacher.labelers.image import ResidualLabeler
from tgt_ray.teacher.labelers.text import TextTransformerLabeler

IMAGES = InputSpec((3, 32, 32))
TEXTS = InputSpec((64,), train_tokenizer(["one two three"] * 4, 300))
SMALL = {"layers": 1, "width": 16, "heads": 2}


@pytest.fixture
def megabyte(monkeypatch):
    monkeypatch.setattr(module, "memory", lambda: 2**20)


def test_a_student_that_no_memory_holds_is_refused_with_the_arithmetic():
    huge = TextTransformerStudent(width=2**16, layers=64, heads=8)
    with pytest.raises(ConfigError, match=r"^student: its 3\.3e\+12 weights of 4 bytes take 13.* TB, and this"):
        built("student", huge, TEXTS)


@pytest.mark.parametrize(
    "part, args",
    [
        (ConvStudent(widths=(256, 256)), (IMAGES,)),
        (TimmStudent(name="resnet18"), (IMAGES,)),
        (MLPAutoencoderGenerator(), (IMAGES,)),
        (MaskedLMGenerator(layers=2, width=128), (TEXTS,)),
        (Seq2SeqGenerator(layers=2, width=128), (TEXTS,)),
        (ResidualLabeler(), (IMAGES, 10)),
        (TextTransformerLabeler(), (TEXTS, 10)),
    ],
    ids=lambda each: getattr(each, "type", ""),
)
def test_each_kind_of_model_is_counted_before_it_is_made(megabyte, part, args):
    with pytest.raises(ConfigError, match=r"^mine: its .* weights of 4 bytes take .* MB, and this machine has 1.05 MB"):
        built("mine", part, *args)


@pytest.mark.parametrize("part", [ConvStudent(), MaskedLMGenerator(**SMALL), Seq2SeqGenerator(**SMALL)])
def test_counting_changes_no_weight_that_is_drawn(part):
    spec = IMAGES if part.modality == "image" else TEXTS
    torch.manual_seed(0)
    mine = built("mine", part, spec).state_dict()
    torch.manual_seed(0)
    for name, value in part.build(spec).state_dict().items():
        assert torch.equal(value, mine[name]), name


class Own(StudentBackbone):
    """One of a user, whose size isn't known before it is made."""

    type: str = "tests.models.test_built:Own"

    def build(self, spec):
        return torch.nn.Linear(2**30, 2**30)


def test_where_it_can_t_be_counted_torch_says_so_and_the_line_is_as_short():
    with pytest.raises(ConfigError, match=r"^student: there is no memory for its weights: this machine has"):
        built("student", Own(), IMAGES)


@pytest.mark.parametrize(
    "key, part",
    [
        ("student", {"type": "conv", "widths": [512, 512]}),
        ("teacher.generator", {"type": "mlp_autoencoder", "hidden": [5000, 500]}),
    ],
)
def test_a_run_is_refused_before_the_labeler_is_trained(megabyte, tmp_path, key, part, monkeypatch):
    monkeypatch.setattr("tgt_ray.teacher.labelers.base.Labeler.fit", None)
    data = with_overrides(Experiment().model_dump(mode="json"), [(key, part)])
    with pytest.raises(ConfigError, match=f"^{key}: its .* weights"):
        api.run(validate(Experiment, data), storage=str(tmp_path), local=True)


def test_training_needs_more_than_weights(monkeypatch):
    part = ConvStudent()
    count = sum(each.numel() for each in part.build(IMAGES).parameters())
    monkeypatch.setattr(module, "memory", lambda: 4 * count)
    module.check_size("student", part, IMAGES)
    with pytest.raises(ConfigError, match=r"^student: its .* with gradients and what the optimizer keeps, take"):
        module.check_size("student", part, IMAGES, copies=3)


def test_a_batch_that_memory_does_not_hold_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "memory", lambda: 4 * 300 * 64 - 1)
    data = with_overrides(Experiment().model_dump(mode="json"), [("train.batch_size", 300)])
    with pytest.raises(ConfigError, match=r"^train\.batch_size: a worker's 300 images of 1x8x8 take 76.8 kB"):
        api.run(validate(Experiment, data), storage=str(tmp_path), local=True)
    module.check_batch(2**40, (512,))  # texts are bytes
    module.check_batch(299, (1, 8, 8))


def test_texts_too(megabyte, tmp_path, sentences):
    big = texts(sentences, student={"type": "text_transformer", "layers": 2, "width": 256, "heads": 2})
    with pytest.raises(ConfigError, match=r"^student: its .* weights"):
        api.run(big, storage=str(tmp_path), local=True)


def test_a_container_s_limit_counts(tmp_path, monkeypatch):
    files = tmp_path / "memory.max", tmp_path / "limit_in_bytes"
    monkeypatch.setattr(memory, "LIMITS", files)
    whole = memory.memory()
    assert whole > 2**20
    files[1].write_text("1048576\n")
    assert memory.memory() == 2**20
    files[0].write_text("max\n")
    assert memory.memory() == 2**20
    files[0].write_text(f"{2**60}\n")
    assert memory.memory() == whole


def test_bytes_are_said_shortly():
    assert [memory.in_bytes(each) for each in (12, 2048, 3e6, 1.5e9, 2e12)] == [
        "12 bytes",
        "2.05 kB",
        "3 MB",
        "1.5 GB",
        "2 TB",
    ]
