"""LELP in runs: what is kept of the teacher, rows with its embeddings, and going on after a stop."""

import io
import shutil
import sys

import numpy as np
import pytest
import safetensors.numpy
import torch

from tests.helpers.lelp import lelp, statistics_of
from tests.helpers.stops import Killed, killed
from tgt_ray import run
from tgt_ray.core.signals.of_labeler import LOGITS
from tgt_ray.core.storage import Storage
from tgt_ray.distributed.wire import pack, unpack
from tgt_ray.entrypoints import cli
from tgt_ray.experiment.controls import control
from tgt_ray.teacher.store import load_teacher
from tgt_ray.teacher.synthesizer import Recipe, Synthesizer, check_block
from tgt_ray.training import checkpoint, local
from tgt_ray.training.files import STATE_FILE
from tgt_ray.training.local import prepare_local, train_local
from tgt_ray.training.reader import SyntheticReader
from tgt_ray.training.run import StudentRun
from tgt_ray.training.student import build_student


@pytest.fixture(scope="module")
def ready(quick_experiment, digits, storage, prepared):
    return prepare_local(lelp(quick_experiment), digits, storage)


def test_what_does_not_fit_is_refused_by_the_command_line_before_training(
    quick_experiment, ready, storage, tmp_path, monkeypatch, capsys
):
    file = tmp_path / "experiment.yaml"
    file.write_text(lelp(quick_experiment, objective__subclasses=50).model_dump_json())
    monkeypatch.setattr("tgt_ray.training.loop.train_student", lambda *args: pytest.fail("training was started"))
    argv = ["train", str(file), "--local", "--storage", storage.root, "--name", "refused"]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit) as ended:
        cli.main(cli.train)
    stderr = capsys.readouterr().err
    assert ended.value.code == 2 and stderr.count("\n") == 1
    assert stderr.startswith("error: objective.subclasses: 50, but at most ") and "class " in stderr
    assert not storage.exists("refused")


def test_statistics_are_made_once_where_an_objective_needs_them(
    ready, prepared, storage, quick_experiment, digits, monkeypatch
):
    """The teacher and its outputs are those of a storage that an objective without embeddings has used before."""
    assert "embedding" not in prepared.prepared.student.columns and not prepared.prepared.student.fits
    assert ready.fingerprints == prepared.prepared.fingerprints
    data, there = ready.student, statistics_of(ready.student)
    teacher = load_teacher(quick_experiment.teacher, ready.teacher, data.spec, data.num_classes, storage)
    with torch.no_grad():
        said = teacher.labeler(quick_experiment.task.inputs(digits.tables["train"], (1, 8, 8)))
    np.testing.assert_allclose(data.columns["embedding"], said.embedding, atol=1e-4)
    np.testing.assert_array_equal(there.class_N, said.logits.argmax(dim=1))
    np.testing.assert_array_equal(there.head_KD, teacher.labeler.head.weight)
    np.testing.assert_array_equal(there.count_K, np.bincount(there.class_N, minlength=10))
    monkeypatch.setattr("tgt_ray.training.local.ask_teacher", lambda *args: pytest.fail("asked again"))
    monkeypatch.setattr("tgt_ray.objectives.embeddings.fit", lambda *args: pytest.fail("fitted again"))
    again = prepare_local(lelp(quick_experiment, objective__subclasses=1), digits, storage).student
    np.testing.assert_array_equal(again.columns["embedding"], data.columns["embedding"])
    np.testing.assert_array_equal(statistics_of(again).mean_KD, there.mean_KD)


def test_without_need_there_are_none(prepared, storage, tmp_path, digits, quick_experiment, monkeypatch):
    shutil.copytree(storage.path("teachers"), tmp_path / "teachers")
    own = Storage(tmp_path)
    prepare_local(quick_experiment, digits, own)
    assert len(own.files("teacher_cache")) == 2, "logits and latents"
    # And where the teacher is asked for the first time, once is enough for all.
    shutil.rmtree(tmp_path / "teacher_cache")
    asked = []
    ask = local.ask_teacher
    monkeypatch.setattr(local, "ask_teacher", lambda *args: asked.append(args) or ask(*args))
    assert prepare_local(lelp(quick_experiment), digits, own).student.fits
    assert len(asked) == 1 and len(own.files("teacher_cache")) == 4, "embeddings, and what follows from them"


def test_rows_carry_the_labeler_s_embedding_where_it_is_needed(ready, quick_experiment, storage):
    config, data = lelp(quick_experiment, explorer__type="random"), ready.student
    teacher = load_teacher(config.teacher, ready.teacher, data.spec, data.num_classes, storage)
    without, with_them = (
        Synthesizer(teacher, ready.anchors, Recipe(24, signals))(0, 0, config.explorer)
        for signals in ((LOGITS,), config.objective.signals)
    )
    assert set(with_them.columns) - set(without.columns) == {"embedding"}
    with torch.no_grad():
        said = teacher.labeler(torch.from_numpy(with_them.inputs))
    np.testing.assert_allclose(with_them.columns["embedding"], said.embedding, atol=1e-4)
    assert with_them.columns["embedding"].dtype == np.float32
    for block in (without, with_them):
        again = unpack(pack(0, block))
        assert again.columns.keys() == block.columns.keys() and again.shown.keys() == block.shown.keys()
        for part in ("columns", "shown"):
            there = getattr(again, part)
            assert all(np.array_equal(there[name], values) for name, values in getattr(block, part).items())
        assert np.array_equal(again.inputs, block.inputs) and np.array_equal(again.anchor, block.anchor)
    inputs, columns = SyntheticReader(iter([with_them])).take(5, 0)
    np.testing.assert_array_equal(columns["embedding"], with_them.columns["embedding"][:5])
    assert SyntheticReader(iter([without])).take(5, 0)[1].keys() == {"logits"}
    assert len(inputs) == len(columns["logits"]) == 5
    with_them.columns["embedding"][3, 0] = np.nan
    with pytest.raises(ValueError, match=r"request 0: .*'embedding'"):
        check_block(with_them)


RUNS = {
    "random": {"explorer__type": "random", "train__synthetic_ratio": 0.37, "objective__alpha": 0.5},
    # A gradient's rows depend on when they were made: exactly the same only from a request's end on.
    "gradient": {"train__synthetic_ratio": 0.75},
    "only synthetic, random directions": {
        "explorer__type": "interpolation",
        "train__synthetic_ratio": 1.0,
        "objective__directions": "random",
    },
    "two phases, everywhere, norms by source": {
        "explorer__type": "random",
        "train__second_phase": {"type": "crt", "share": 0.5},
        "train__batch_norm": "per_source",
        "train__augment": {"shift": 1},
        "objective__null_space": False,
    },
    "scaled head": {"explorer__type": "none", "train__second_phase": {"type": "lws", "share": 0.5}},
}


@pytest.mark.parametrize("values", RUNS.values(), ids=RUNS)
def test_a_resumed_run_equals_an_uninterrupted_one(ready, quick_experiment, storage, tmp_path, values):
    config, checkpoints = lelp(quick_experiment, **values), Storage(tmp_path)
    whole = train_local(config, ready, storage)
    with pytest.raises(Killed):
        train_local(config, ready, storage, checkpoints, killed)
    state = torch.load(io.BytesIO(checkpoints.read(STATE_FILE)), weights_only=True)
    assert not [name for name in state["model"] if "targets" in name], "what follows from the cache isn't stored"
    torch.manual_seed(1234)
    resumed = train_local(config, ready, storage, checkpoints)
    assert [row["step"] for row in resumed.history] == [4, 8, 12]
    assert checkpoint.weights(resumed.student) == checkpoint.weights(whole.student)
    parts = {f"train_{kind}{name}" for kind in ("kl_", "subclass_kl_") for name in ("real", "synthetic")}
    assert all(parts <= row.keys() and np.isfinite([row[part] for part in parts]).all() for row in whole.history)


@pytest.mark.parametrize("explorer", ["random", "gradient"])
def test_a_run_from_its_beginning(quick_experiment, ready, storage, explorer):
    config = lelp(
        quick_experiment, explorer__type=explorer, train__steps=120, train__eval_every=60, train__batch_size=32
    )
    result = run(config, storage=storage.root, name=f"lelp-{explorer}", local=True)
    assert result.metrics.iloc[-1]["test_balanced_accuracy"] > 40
    assert (result.metrics["train_subclass_kl_synthetic"] > 0).all()
    weights = safetensors.numpy.load(storage.read(f"lelp-{explorer}", "student.safetensors"))
    assert weights["criterion.head.weight"].shape[0] == 10 * 2
    for name in ("one_hot", "distillation"):
        assert train_local(control(config, name), ready, storage).step == 120


def test_half_precision_leaves_the_targets_in_float32(quick_experiment, ready, storage):
    full, half = (
        lelp(quick_experiment, explorer__type="random", train__precision=p, pool__precision=p)
        for p in ("float32", "bfloat16")
    )
    criterion = build_student(half, ready.student).criterion
    rows = torch.from_numpy(ready.student.columns["embedding"][:32])
    with torch.autocast("cpu", torch.bfloat16):
        inside = criterion.targets(rows)
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, criterion.targets(rows))
    losses = [train_local(c, ready, storage).history[-1]["train_loss"] for c in (full, half)]
    assert losses[0] != losses[1] and losses[1] == pytest.approx(losses[0], rel=0.1)


@pytest.mark.slow
def test_a_compiled_student_trains_alike(quick_experiment, ready, storage):
    if shutil.which("c++") is None:
        pytest.skip("torch.compile needs a C++ compiler")
    configs = [lelp(quick_experiment, explorer__type="none", train__compile=on) for on in (True, False)]
    losses = [train_local(config, ready, storage).history[-1]["train_loss"] for config in configs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_a_run_on_what_was_prepared_without_embeddings_is_a_mistake_in_the_code(prepared, quick_experiment):
    with pytest.raises(AssertionError, match="no embedding"):
        StudentRun(lelp(quick_experiment), prepared.prepared.student)
