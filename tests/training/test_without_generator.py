"""A generator is made only if some run or trial makes rows with it."""

import pytest

from tests.helpers import text_runs
from tests.helpers.experiments import changed, short, tiny
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.storage import Storage
from tgt_ray.entrypoints import api
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.results.report import report
from tgt_ray.sweeps.concurrency import checked
from tgt_ray.sweeps.config import SweepConfig
from tgt_ray.teacher.generators.autoencoders import Autoencoder


@pytest.fixture
def never(monkeypatch):
    """A generator can neither be built nor trained."""

    def refuse(*args):
        raise AssertionError("a generator was made, and nothing needs it")

    for cls in (Autoencoder, type(tiny().teacher.generator)):
        monkeypatch.setattr(cls, "fit", refuse)
        monkeypatch.setattr(cls, "build", refuse)


WITHOUT = [{"explorer.type": "none"}, {"explorer.type": "identity"}, {"train.synthetic_ratio": 0.0}]


@pytest.mark.parametrize("values", WITHOUT, ids=lambda values: str(*values.items()))
def test_a_run_without_one_makes_loads_and_checks_none(never, tmp_path, values):
    experiment = short(tiny(), values)
    result = api.run(experiment, storage=str(tmp_path), name="a", local=True)
    assert result.record["teacher"]["generator"] is None and result.record["teacher"]["fit_check"] == {}
    assert result.record["fingerprints"]["generator"] is None and result.record["fingerprints"]["labeler"]
    assert {file.name.split("-")[0] for file in (tmp_path / "teachers").iterdir()} == {"labeler"}
    page = report([Storage(tmp_path / "a")]).decode()
    assert "Labeler (conv)" in page and "Generator (" not in page
    again = api.run(storage=str(tmp_path), name="a", local=True, resume=True)
    assert again.record["result"] == result.record["result"]


def test_unchanged_anchors_are_the_same_with_and_without_one(tmp_path):
    experiment = short(tiny(), {"explorer.type": "identity", "explorer.anchors": "balanced"})
    without = api.run(experiment, storage=str(tmp_path), name="a", local=True).record["result"]
    api.run(short(tiny(), {"explorer.type": "random"}), storage=str(tmp_path), name="b", local=True)
    again = api.run(experiment, storage=str(tmp_path), name="c", local=True).record["result"]
    assert again["train_loss"] == without["train_loss"] and again["test_accuracy"] == without["test_accuracy"]


def test_texts_can_do_without_one(sentences, tmp_path):
    experiment = changed(text_runs.experiment(sentences), {"explorer": {"type": "identity"}, "train.steps": 4})
    record = api.run(experiment, storage=str(tmp_path), name="a", local=True).record
    assert record["teacher"]["generator"] is None


@pytest.mark.parametrize(
    ("base", "space", "needs"),
    [
        ({}, {}, True),
        ({}, {"explorer.type": ["none", "identity"]}, False),
        ({"explorer.type": "none"}, {"explorer.type": ["none", "random"]}, True),
        ({"explorer.type": "identity"}, {"explorer.type": ["identity", "random"]}, True),
        ({"train.synthetic_ratio": 0.0}, {}, False),
        ({}, {"train.synthetic_ratio": [0.0]}, False),
        ({"train.synthetic_ratio": 0.0}, {"train.synthetic_ratio": [0.0, 0.5]}, True),
        (
            {"train.synthetic_ratio": 0.0, "explorer.type": "none"},
            {"explorer": [{"type": "none"}, {"type": "random"}], "train.synthetic_ratio": [0.0, 0.5]},
            True,
        ),
        ({"explorer.type": "none"}, {}, False),
    ],
)
def test_the_space_of_a_sweep_decides(base, space, needs):
    experiment = changed(Experiment(), {"explorer.type": "random", **base})
    choices = {"train.learning_rate": [0.1, 0.2], **space}
    sweep = SweepConfig.model_validate(
        {
            "experiment": experiment.model_dump(mode="json"),
            "space": {key: {"choice": values} for key, values in choices.items()},
            "search": {"controls": ["one_hot", "distillation", "anchors"]},
        }
    )
    assert checked(sweep).uses_generator is needs
    if experiment.uses_generator and needs:
        assert checked(sweep) == experiment, "the sweep's own is checked where it may be"


def test_a_run_that_was_begun_with_another_teacher_does_not_go_on(tmp_path, monkeypatch):
    experiment = short(tiny(), {"explorer.type": "none"})
    stopped = Storage(tmp_path / "a")
    with monkeypatch.context() as patch:

        def interrupted(headline, metrics):
            raise KeyboardInterrupt

        patch.setattr(api, "_log_report", interrupted)
        with pytest.raises(KeyboardInterrupt):
            api.run(experiment, storage=str(tmp_path), name="a", local=True)
    state = stopped.read("checkpoint", "state.pt")
    other = tmp_path / "other"
    api.run(changed(experiment, {"teacher.labeler.pretrain.seed": 1}), storage=str(other), name="b", local=True)
    # As where its weights were lost, and another processor has made others of the same recipe.
    for kind in ("json", "safetensors"):
        (mine,) = (tmp_path / "teachers").glob(f"labeler-*.{kind}")
        mine.unlink()
    monkeypatch.setattr(type(experiment.teacher.labeler), "fit", lambda self, *args: None)
    with pytest.raises(ConfigError, match=r"another teacher \(labeler \w+.* restore its files in teachers/, or begin"):
        api.run(storage=str(tmp_path), name="a", local=True, resume=True)
    assert stopped.read("checkpoint", "state.pt") == state
