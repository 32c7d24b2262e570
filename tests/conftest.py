"""What tests of several folders use: a small teacher on digits, one local Ray, and the folder of real data."""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import tgt_ray
from tgt_ray.core.batch import InputSpec
from tgt_ray.core.loading import with_overrides
from tgt_ray.core.storage import Storage
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.models import timing
from tgt_ray.tasks import TaskData
from tgt_ray.teacher.transfer_set import Prepared

QUICK_TEACHER = [("teacher.labeler.pretrain.steps", 150), ("teacher.generator.pretrain.steps", 300)]

torch.set_num_threads(1)
# What is measured of models in tests is that it is measured.
timing.SECONDS, timing.CALLS, timing.MOST_SECONDS = 0.0, 1, 0.0


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden", action="store_true", help="make what tests/teacher/bank/test_golden_rows.py compares")
    parser.addoption("--record", metavar="FILE", help="append what tests/chaos finds to FILE, for docs/faults.py")


@dataclass(frozen=True)
class Ready:
    experiment: Experiment
    prepared: Prepared


@pytest.fixture(scope="session")
def storage(tmp_path_factory) -> Storage:
    return Storage(tmp_path_factory.mktemp("storage"))


@pytest.fixture(scope="session")
def quick_experiment() -> Experiment:
    """The default experiment with a quickly made teacher."""
    return Experiment.model_validate(with_overrides(Experiment().model_dump(mode="json"), QUICK_TEACHER))


@pytest.fixture(scope="session")
def digits(quick_experiment) -> TaskData:
    return quick_experiment.task.load()


@pytest.fixture(scope="session")
def prepared(storage, quick_experiment, digits) -> Ready:
    from tgt_ray.training.local import prepare_local

    return Ready(quick_experiment, prepare_local(quick_experiment, digits, storage))


@pytest.fixture(scope="session")
def teacher(prepared, storage):
    """The small teacher, loaded."""
    from tgt_ray.teacher.store import load_teacher

    data = prepared.prepared.student
    return load_teacher(prepared.experiment.teacher, prepared.prepared.teacher, data.spec, data.num_classes, storage)


@pytest.fixture(scope="session")
def synthesizer(prepared, teacher):
    """What makes rows of the small teacher."""
    from tests.helpers.blocks import ROWS
    from tgt_ray.teacher.synthesizer import Recipe, Synthesizer

    return Synthesizer(teacher, prepared.prepared.anchors, Recipe(ROWS))


@pytest.fixture(scope="session")
def student(prepared):
    """An untrained student, to be looked at."""
    from tgt_ray.training.student import build_student

    return build_student(prepared.experiment, prepared.prepared.student).eval().requires_grad_(False)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real data sets that TGT_RAY_DATA names; tests that need one are skipped without it."""
    folder = os.environ.get("TGT_RAY_DATA")
    if not folder:
        pytest.skip("TGT_RAY_DATA is not set: no folder of real data sets")
    return Path(folder)


@pytest.fixture(scope="session")
def ray_cluster():
    """One local Ray for all tests of a session that don't start their own."""
    import ray

    from tgt_ray.distributed import cluster

    with cluster.connect():
        assert ray.is_initialized()
        yield


@pytest.fixture(scope="session")
def processes() -> Callable[[bytes], set[int]]:
    """(part) -> processes of this machine whose command line contains it."""

    def find(part: bytes) -> set[int]:
        found = set()
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                try:
                    command = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
                except OSError:
                    continue  # it has just ended
                if part in command:
                    found.add(int(folder.name))
        return found

    return find


@pytest.fixture(scope="session")
def beir(tmp_path_factory) -> Path:
    """A folder in BEIR's layout: 48 documents, and queries that these answer."""
    from tests.helpers import retrieval

    return retrieval.write(tmp_path_factory.mktemp("beir") / "things")


@pytest.fixture(scope="session")
def encoder(tmp_path_factory) -> Path:
    """A folder with an encoder that finds those documents by their words."""
    from tests.helpers import retrieval

    folder = tmp_path_factory.mktemp("models") / "encoder"
    retrieval.save_encoder(folder)
    return folder


@pytest.fixture(scope="session")
def writer(encoder, tmp_path_factory) -> Path:
    """A folder with a model that writes queries of those documents."""
    from tests.helpers import retrieval

    folder = tmp_path_factory.mktemp("models") / "writer"
    retrieval.save_writer(encoder, folder)
    return folder


@pytest.fixture(scope="session")
def text_spec() -> InputSpec:
    """Rows of bytes with the vocabulary of a few short texts."""
    from tests.helpers.text_models import TEXTS, WIDTH
    from tgt_ray.models.text.vocabulary import train_tokenizer

    return InputSpec((WIDTH,), train_tokenizer(TEXTS, 400))


@pytest.fixture(scope="session")
def text_models(text_spec, tmp_path_factory) -> Path:
    """A folder with a folder for each kind of small model of those texts."""
    from tests.helpers.text_models import save_models

    root = tmp_path_factory.mktemp("models")
    save_models(text_spec, root)
    return root


@pytest.fixture(scope="session")
def t5(tmp_path_factory) -> str:
    """A folder with a small T5."""
    from tests.helpers.text_models import save_t5

    path = tmp_path_factory.mktemp("t5")
    save_t5(path)
    return str(path)


@pytest.fixture(scope="session")
def sentences(tmp_path_factory) -> Path:
    """A folder of sentences that are good or bad."""
    from tests.helpers.text_runs import write_sentences

    root = tmp_path_factory.mktemp("texts")
    write_sentences(root)
    return root


@pytest.fixture(scope="session")
def of_digits(prepared, storage):
    """A run on digits, of a moment."""
    from tests.helpers.experiments import changed

    short = {"train.steps": 60, "train.eval_every": 30, "explorer.type": "none"}
    return tgt_ray.run(changed(prepared.experiment, short), storage=storage.root, name="of-digits", local=True)


@pytest.fixture(scope="session")
def of_sentences(sentences, tmp_path_factory):
    """A run on sentences, of a moment."""
    return _text_run(sentences, tmp_path_factory)


@pytest.fixture(scope="session")
def of_pairs(sentences, tmp_path_factory):
    """The same on pairs of sentences."""
    return _text_run(sentences, tmp_path_factory, data={"pair_column": "hypothesis"})


def _text_run(sentences, tmp_path_factory, **changes):
    from tests.helpers.text_runs import experiment

    config = experiment(sentences, explorer={"type": "none"}, **changes)
    return tgt_ray.run(config, storage=str(tmp_path_factory.mktemp("texts")), name="texts", local=True)


@pytest.fixture
def signals_as_usual():
    """Signals as a terminal's command has them: tests may run under nohup, and pytest-xdist ignores Ctrl-C."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
