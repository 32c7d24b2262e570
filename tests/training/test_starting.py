"""A training that begins with the weights of another student: `train.start_from`, `--from`."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import tgt_ray
from tests.helpers.experiments import changed
from tests.helpers.text_runs import SIZE, experiment
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.kept import KeptStudent
from tgt_ray.core.storage import Storage

SHORT = {"train__steps": 8, "train__eval_every": 4, "explorer__type": "none"}


@pytest.fixture(scope="module")
def first(prepared, storage) -> tgt_ray.RunResult:
    """A short run on digits."""
    return tgt_ray.run(changed(prepared.experiment, **SHORT), storage=storage.root, name="start-first", local=True)


def weights(folder) -> dict[str, np.ndarray]:
    return safetensors.numpy.load((Path(folder) / "student.safetensors").read_bytes())


def again(prepared, storage, folder, name, **changes) -> tgt_ray.RunResult:
    """A run that starts from a folder and doesn't move: its learning rate is nearly 0."""
    still = {"train__learning_rate": 1e-30, "train__weight_decay": 0, **SHORT, **changes}
    config = changed(prepared.experiment, **still)
    return tgt_ray.run(config, storage=storage.root, name=name, local=True, start_from=str(folder))


def test_it_begins_with_the_weights_and_says_so(first, prepared, storage, caplog):
    with caplog.at_level(logging.INFO):
        result = again(prepared, storage, first.folder, "start-still")
    here, there = weights(result.folder), weights(first.folder)
    moved = [name for name in here if "running" not in name and "num_batches" not in name]
    assert moved and all(np.allclose(here[name], there[name]) for name in moved)
    digest = KeptStudent.at(first.folder).weights_digest
    assert result.record["started_from"] == {"folder": first.folder, "weights": digest, "head": "kept"}
    assert result.record["experiment"]["train"]["start_from"] == first.folder
    assert json.loads((Path(result.folder) / "student.json").read_text())["started_from"]["weights"] == digest
    assert f"train.start_from: {first.folder}, weights {digest}; its head is kept" in caplog.text
    # The student is as good as the one that it began with, and can be used without that one's folder.
    assert tgt_ray.load_student(result.folder).parameters == tgt_ray.load_student(first.folder).parameters


def test_a_training_learns_on(first, prepared, storage):
    result = again(prepared, storage, first.folder, "start-on", train__learning_rate=1e-3)
    assert any(not np.array_equal(value, weights(first.folder)[name]) for name, value in weights(result.folder).items())


def with_classes(folder, names, to: Path) -> str:
    """A copy of a student's folder in which its classes have other names."""
    for file in ("student.json", "student.safetensors"):
        Storage(to).write(Storage(folder).read(file), file)
    known = json.loads(Storage(to).read("student.json"))
    known["classes"] = names
    Storage(to).write(json.dumps(known).encode(), "student.json")
    return str(to)


@pytest.mark.parametrize(
    ("names", "why"),
    [
        ([*"0123456"], "it was for 7 classes, and here are 10"),
        ([*"012345678x"], "class 9 was 'x', and is '9' here"),
        ([*"1023456789"], "its classes come in another order here"),
    ],
)
def test_the_head_starts_anew_where_classes_differ(first, prepared, storage, tmp_path, caplog, names, why):
    folder = with_classes(first.folder, names, tmp_path / "other")
    with caplog.at_level(logging.INFO):
        result = again(prepared, storage, folder, f"start-classes-{len(names)}-{names[0]}{names[-1]}")
    assert result.record["started_from"]["head"] == f"new: {why}"
    assert f"its head starts anew ({why})" in caplog.text
    here, there = weights(result.folder), weights(first.folder)
    assert np.allclose(here["backbone.layers.0.weight"], there["backbone.layers.0.weight"])
    assert not np.allclose(here["criterion.head.weight"], there["criterion.head.weight"])


def test_another_objective_keeps_a_head_that_fits_and_else_begins_one(first, prepared, storage):
    same = again(prepared, storage, first.folder, "start-consistency", objective={"type": "consistency"})
    assert same.record["started_from"]["head"] == "kept"
    other = again(prepared, storage, first.folder, "start-lelp", objective={"type": "lelp", "subclasses": 2})
    said = "new: the weight 'head.weight' was [10, 32], and the objective asks for [20, 32]"
    assert other.record["started_from"]["head"] == said


def refusal(prepared, storage, folder, **changes) -> str:
    with pytest.raises(ConfigError) as refused:
        again(prepared, storage, folder, "start-refused", **changes)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_another_student_is_refused_by_the_setting_that_differs(first, prepared, storage):
    said = refusal(prepared, storage, first.folder, student__widths=[4, 8])
    assert said == (
        f"student.widths: [4, 8], and the student in {first.folder}, which train.start_from names, has [8, 16, 32];"
        " give its own settings"
    )


def test_another_architecture_is_refused_by_its_first_weight(first, prepared, storage):
    said = refusal(prepared, storage, first.folder, train__batch_norm="per_source", explorer__type="random")
    assert "weights of another architecture; first difference at 'layers.1.norm.weight': absent" in said


def test_a_folder_without_a_student_is_refused(prepared, storage, tmp_path):
    said = refusal(prepared, storage, tmp_path)
    assert said == f"--from: {tmp_path}: has no student.safetensors; expected the folder of a run, a trial or a sweep"


def test_weights_that_are_damaged_are_refused(first, prepared, storage, tmp_path):
    shutil.copytree(first.folder, tmp_path / "run")
    file = tmp_path / "run" / "student.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(bytes(content))
    assert "is damaged" in refusal(prepared, storage, tmp_path / "run")


def test_a_run_goes_on_and_not_with_other_weights(first, prepared, storage, tmp_path):
    shutil.copytree(first.folder, tmp_path / "start")
    config = changed(prepared.experiment, **SHORT, train__start_from=str(tmp_path / "start"))
    whole = tgt_ray.run(config, storage=storage.root, name="start-resumed", local=True)
    folder = Path(whole.folder)
    expected = weights(folder)
    (folder / "record.json").unlink()
    (folder / "checkpoint" / "state.pt").unlink()
    (folder / "checkpoint" / "state.previous.pt").rename(folder / "checkpoint" / "state.pt")  # of step 4
    resumed = tgt_ray.run(storage=storage.root, name="start-resumed", local=True, resume=True)
    assert resumed.record["started_from"] == whole.record["started_from"]
    assert all(np.array_equal(value, expected[name]) for name, value in weights(folder).items())
    other = tgt_ray.run(changed(config, train__seed=5), storage=storage.root, name="start-other", local=True)
    shutil.copy(Path(other.folder) / "student.safetensors", tmp_path / "start")
    with pytest.raises(ConfigError, match=r"--resume: the run began with the weights \w{16}, and .* has \w{16} now"):
        tgt_ray.run(storage=storage.root, name="start-resumed", local=True, resume=True)


def test_a_setting_does_the_same_as_the_argument(first, prepared, storage):
    config = changed(prepared.experiment, **SHORT, train__start_from=first.folder)
    result = tgt_ray.run(config, storage=storage.root, name="start-setting", local=True)
    assert result.record["started_from"]["head"] == "kept"
    assert changed(config, train__start_from=None).fingerprint() == changed(prepared.experiment, **SHORT).fingerprint()


def test_a_secret_in_a_uri_is_refused(prepared):
    with pytest.raises(ConfigError, match=r"train.start_from: has a secret in it"):
        changed(prepared.experiment, train__start_from="s3://bucket/run?secret_key=abc")


@pytest.fixture(scope="module")
def texts(sentences, storage) -> tgt_ray.RunResult:
    return tgt_ray.run(
        experiment(sentences, explorer={"type": "none"}), storage=storage.root, name="start-texts", local=True
    )


def test_a_text_student_keeps_its_vocabulary(texts, sentences, storage):
    """The new task has another one, learnt from other texts; the block `student` is the folder's."""
    config = experiment(
        sentences,
        explorer={"type": "none"},
        task={"vocabulary": 300},
        train={"steps": 2, "batch_size": 16, "learning_rate": 1e-30, "weight_decay": 0, "eval_every": 2},
    ).model_dump(mode="json")
    del config["student"]
    result = tgt_ray.run(config, storage=storage.root, name="start-texts-on", local=True, start_from=texts.folder)
    assert result.record["experiment"]["student"] == texts.record["experiment"]["student"]
    here, there = (json.loads((Path(each.folder) / "tokenizer.json").read_text()) for each in (result, texts))
    assert here["model"] == there["model"] and len(there["model"]["vocab"]) > 300
    one, other = (tgt_ray.load_student(each.folder) for each in (result, texts))
    asked = ["the film was joy today", "this book is noise today"]
    np.testing.assert_allclose(one.scores(asked), other.scores(asked), atol=1e-5)


def test_gradients_through_another_vocabulary_are_refused(texts, sentences, storage):
    config = experiment(sentences, explorer={"type": "gradient"}, task={"vocabulary": 300})
    with pytest.raises(ConfigError, match=r"has another vocabulary than the task, and explorer.type 'gradient'"):
        tgt_ray.run(config, storage=storage.root, name="start-refused", local=True, start_from=texts.folder)


def test_a_setting_of_training_alone_may_differ(texts, sentences, storage):
    config = experiment(
        sentences, explorer={"type": "none"}, student={"type": "text_transformer", **SIZE, "dropout": 0}
    )
    result = tgt_ray.run(config, storage=storage.root, name="start-dropout", local=True, start_from=texts.folder)
    assert result.record["started_from"]["head"] == "kept"


@pytest.mark.ray
@pytest.mark.slow
def test_on_ray_it_begins_with_the_same_weights(ray_cluster, first, prepared, storage):
    """With an explorer that looks at the student, whose generators build it as well."""
    on_policy = {"explorer": {"type": "gradient", "steps": 1}, "pool__rows_per_request": 32}
    config = changed(prepared.experiment, **{**SHORT, "explorer__type": "gradient"}, train__start_from=first.folder)
    config = changed(config, **on_policy)
    result = tgt_ray.run(config, storage=storage.root, name="start-on-ray")
    assert result.record["started_from"]["head"] == "kept"


def test_a_sweep_begins_with_each_student_that_its_space_names(first, prepared, tmp_path):
    from tgt_ray.sweeps.config import SweepConfig
    from tgt_ray.sweeps.driver import starts_of

    plain = changed(prepared.experiment, **SHORT).model_dump(mode="json")
    space = {"train.start_from": {"choice": [None, first.folder]}}
    sweep = SweepConfig.model_validate({"experiment": plain, "space": space, "search": {"controls": ["one_hot"]}})
    sweep.check_files()
    assert starts_of(sweep) == {first.folder: KeptStudent.at(first.folder).weights_digest}
    (starting,) = sweep.starting()
    assert starting.train.start_from == first.folder
    none = {"train.seed": {"choice": [0, 1]}}
    assert starts_of(SweepConfig.model_validate({"experiment": plain, "space": none})) == {}
    wrong = {"train.start_from": {"choice": [None, str(tmp_path)]}}
    with pytest.raises(ConfigError, match=r"space.train.start_from = .*: train.start_from: .* has no student"):
        SweepConfig.model_validate({"experiment": plain, "space": wrong}).check_files()


def test_from_is_an_option_of_train(first, prepared, storage, tmp_path, capsys):
    from tgt_ray.core.loading import dump_yaml
    from tgt_ray.entrypoints.cli import main, train

    file = tmp_path / "experiment.yaml"
    file.write_text(dump_yaml(changed(prepared.experiment, **SHORT)))
    (tmp_path / "empty").mkdir()
    command = ["train", str(file), "--local", "--storage", storage.root, "--quiet", "--from"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", [*command, first.folder, "--name", "start-command"])
        with pytest.raises(SystemExit) as ended:
            main(train)
        assert not ended.value.code
        patch.setattr("sys.argv", [*command, str(tmp_path / "empty"), "--name", "start-nowhere"])
        with pytest.raises(SystemExit) as ended:
            main(train)
    assert ended.value.code == 2
    assert f"error: --from: {tmp_path}/empty: has no student.safetensors" in capsys.readouterr().err
    record = json.loads((Path(storage.root) / "start-command" / "record.json").read_text())
    assert record["started_from"]["folder"] == first.folder


STILL = {"steps": 1, "batch_size": 16, "learning_rate": 1e-30, "weight_decay": 0, "eval_every": 1}


def test_a_student_of_queries_goes_on_in_the_space_of_documents(beir, encoder, storage, texts, sentences):
    from tests.helpers import retrieval

    plain = retrieval.experiment(beir, encoder, explorer={"type": "none"})
    first = tgt_ray.run(plain, storage=storage.root, name="start-queries", local=True)
    still = retrieval.experiment(beir, encoder, explorer={"type": "none"}, train=STILL)
    again = tgt_ray.run(still, storage=storage.root, name="start-queries-on", local=True, start_from=first.folder)
    assert again.record["started_from"]["head"] == "kept"
    assert again.record["result"]["test_ndcg_at_10"] == pytest.approx(first.record["result"]["test_ndcg_at_10"])
    # A student of queries can also begin to learn classes.
    config = experiment(sentences, explorer={"type": "none"}, train=STILL).model_dump(mode="json")
    del config["student"]
    other = tgt_ray.run(config, storage=storage.root, name="start-from-queries", local=True, start_from=first.folder)
    assert other.record["started_from"]["head"] == "new: it was for documents, and here are classes"


def test_a_pretrained_student_needs_its_own_folder_no_more(sentences, text_models, storage, tmp_path):
    shutil.copytree(text_models / "encoder", tmp_path / "encoder")
    student = {"type": "text_encoder", "path": str(tmp_path / "encoder"), "max_tokens": 24}
    config = experiment(sentences, explorer={"type": "none"}, student=student)
    first = tgt_ray.run(config, storage=storage.root, name="start-pretrained", local=True)
    shutil.rmtree(tmp_path / "encoder")
    still = changed(config, {f"train.{name}": value for name, value in STILL.items()})
    again = tgt_ray.run(still, storage=storage.root, name="start-pretrained-on", local=True, start_from=first.folder)
    one, other = (tgt_ray.load_student(each.folder) for each in (first, again))
    np.testing.assert_allclose(one.scores(["a film"]), other.scores(["a film"]), atol=1e-5)


@pytest.mark.ray
@pytest.mark.slow
def test_a_sweep_on_ray_says_what_its_trials_began_with(ray_cluster, first, prepared, storage):
    plain = changed(prepared.experiment, **SHORT).model_dump(mode="json")
    space = {"train.start_from": {"choice": [None, first.folder]}}
    search = {"algorithm": "grid", "controls": ["one_hot"], "scheduler": "none"}
    result = tgt_ray.run_sweep(
        {"experiment": plain, "space": space, "search": search}, storage=storage.root, name="start-sweep"
    )
    record = json.loads(storage.read("start-sweep", "record.json"))
    assert record["started_from"] == {first.folder: KeptStudent.at(first.folder).weights_digest}
    known = [
        json.loads(storage.read("start-sweep", "train", trial, "student.json")).get("started_from", {}).get("head")
        for trial in result.trials.trial
    ]
    assert sorted(map(str, known)) == ["None", "None", "kept"], "the control begins as the experiment says"
