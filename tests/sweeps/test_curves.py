"""What TensorBoard shows of sweeps."""

import errno
import os
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.backend_context import Context

from tests.helpers.storages import remote
from tests.helpers.trials import METRIC, fresh, sweep, trial
from tgt_ray.core import patience
from tgt_ray.core.config import validate
from tgt_ray.core.storage import Storage
from tgt_ray.sweeps.config import SweepConfig
from tgt_ray.sweeps.curves import Curves


def events(folder: Path) -> EventAccumulator:
    out = EventAccumulator(str(folder))
    out.Reload()
    return out


@pytest.fixture
def board(tmp_path) -> Path:
    curves = Curves(sweep(), Storage(tmp_path / "mine"))
    for one in (trial("3", 90.0, number=3), trial("1", 80.0, values={"control": "one_hot"})):
        last = one.reports.pop()
        for step, score in ((250, 70.0), (500, last[METRIC])):
            one.reports.append({**last, "step": step, METRIC: score})
            curves.reported(one)
        curves.ended(one)
    curves.ended(fresh("never"))
    return tmp_path / "mine" / "tensorboard"


def test_curves_go_over_training_steps_and_are_named_by_what_was_tried(board):
    names = sorted(folder.name for folder in (board / "curves").iterdir())
    assert names == ["01 control one_hot", "03 synthetic_ratio 0.5, temperature 2, step_size 0.1"]
    curves = events(board / "curves" / names[1])
    assert [(each.step, each.value) for each in curves.Scalars(METRIC)] == [(250, 70.0), (500, 90.0)]
    assert "step" not in set(curves.Tags()["scalars"])


def test_hparams_has_the_searched_metric_the_test_metrics_and_the_sweep(board):
    (folder,) = (board / "hparams").glob("03*")
    scores = events(folder)
    listed = [f"1_validation_{METRIC}", f"2_test_{METRIC}"]
    assert scores.Tags()["scalars"] == listed, "what lies here is what the tab lists"
    content = scores.PluginTagToContent(metadata.PLUGIN_NAME)
    begun = metadata.parse_session_start_info_plugin_data(content[metadata.SESSION_START_INFO_TAG])
    assert begun.hparams["sweep"].string_value == "mine" and begun.hparams["control"].string_value == ""
    assert begun.hparams["train.synthetic_ratio"].number_value == 0.5
    assert metadata.EXPERIMENT_TAG not in content, "the first of these would hide the keys of other sweeps"


def test_the_tab_ticks_the_searched_metric_and_its_test_first(tmp_path):
    """The tab ticks the first five metrics that its own code lists, in alphabetical order."""
    worst = validate(SweepConfig, {"search": {"metric": "worst_class_recall"}})
    for name in ("one", "two"):
        curves = Curves(worst, Storage(tmp_path / name))
        done = trial("1", None)
        others = {f"test_{each}": 50.0 for each in ("accuracy", "few_shot", "many_shot", "medium_shot", "recall")}
        done.result.update({"worst_class_recall": 40.0, "test_worst_class_recall": 41.0, **others})
        curves.ended(done)
    data = MultiplexerDataProvider(EventMultiplexer().AddRunsFromDirectory(str(tmp_path)), str(tmp_path))
    data._multiplexer.Reload()
    context = Context(TBContext(logdir=str(tmp_path), data_provider=data))
    request = RequestContext()
    told = context.hparams_metadata(request, "")
    experiment = context.experiment_from_metadata(
        request, "", True, told, context.hparams_from_data_provider(request, "", limit=100), 100
    )
    ticked = [info.name.tag for info in experiment.metric_infos][:5]
    assert ticked[:2] == ["1_validation_worst_class_recall", "2_test_worst_class_recall"]
    assert all(tag.startswith("test_") for tag in ticked[2:])
    sweeps = next(info for info in experiment.hparam_infos if info.name == "sweep")
    assert {value.string_value for value in sweeps.domain_discrete.values} == {"one", "two"} and sweeps.differs


def test_a_disk_that_is_full_for_a_while_costs_no_event(tmp_path, monkeypatch):
    curves, one, room = Curves(sweep(), Storage(tmp_path / "mine")), trial("2", 90.0, number=2), os.fsync
    waited = list[float]()
    one.result.update(
        {f"score {number}": 1.0 * number for number in range(30)}
    )  # more than a queue of tensorboardX has

    def full(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    def freed(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            monkeypatch.setattr(os, "fsync", room)

    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr(patience.time, "sleep", freed)
    curves.reported(one)
    assert len(waited) == 3
    curves.ended(one)
    (folder,) = (tmp_path / "mine" / "tensorboard" / "curves").iterdir()
    assert [each.value for each in events(folder).Scalars(METRIC)] == [90.0]
    assert [each.value for each in events(folder).Scalars("score_29")] == [29.0]


def test_a_storage_that_is_no_disk_gets_the_events(tmp_path, monkeypatch):
    curves = Curves(sweep(), remote(monkeypatch, tmp_path).within("mine"))
    one = trial("2", 90.0, number=2)
    curves.reported(one)
    curves.ended(one)
    (file,) = (tmp_path / "mine" / "tensorboard" / "curves").glob("02*/events*")
    assert [each.value for each in events(file.parent).Scalars(METRIC)] == [90.0]
    assert list((tmp_path / "mine" / "tensorboard" / "hparams").glob("02*/events*"))
    curves.close()
