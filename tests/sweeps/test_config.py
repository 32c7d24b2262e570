"""What a sweep says: its file, its search, its trials and controls."""

import pytest
import yaml

from tests.helpers.configs import again, refusal
from tests.helpers.places import ROOT
from tgt_ray.core.config import validate
from tgt_ray.core.loading import load_yaml
from tgt_ray.core.signals.of_labeler import EMBEDDING
from tgt_ray.entrypoints.api import Source
from tgt_ray.sweeps.config import SweepConfig, default_sweep

SWEEP_FILES = [ROOT / "tgt_ray" / "default_sweep.yaml", *sorted((ROOT / "sweeps").glob("*.yaml"))]


def test_a_sweep_survives_yaml(tmp_path):
    config = validate(
        SweepConfig,
        {
            "space": {
                "explorer.step_size": {"loguniform": [0.1, 1]},
                "train.synthetic_ratio": {"uniform": [0, 1]},
                "explorer.steps": {"integers": [1, 3]},
                "explorer.anchors": {"choice": ["natural", "balanced", 0.5]},
            },
            "search": {"algorithm": "random", "trials": 3, "concurrent": 2, "controls": ["one_hot"]},
        },
    )
    assert again(config, tmp_path) == config
    assert again(SweepConfig(), tmp_path) == SweepConfig()


@pytest.mark.parametrize("file", SWEEP_FILES, ids=lambda file: file.name)
def test_shipped_sweeps_are_valid(file, tmp_path):
    config = validate(SweepConfig, load_yaml(file), str(file))
    assert again(config, tmp_path) == config
    assert file.read_text().startswith("#"), "the header says the command, runtime and score"


def test_the_default_sweep_is_the_shipped_file():
    assert default_sweep() == yaml.safe_load(SWEEP_FILES[0].read_text())


@pytest.mark.parametrize("value", ["several", 1.5])
def test_a_wrong_value_of_a_key_that_takes_two_kinds_is_refused_with_its_own_path(value):
    message = refusal(SweepConfig, {"search": {"concurrent": value}})
    assert message.startswith("search.concurrent: ")
    assert repr(value) in message


def test_a_grid_needs_choices():
    message = refusal(
        SweepConfig, {"search": {"algorithm": "grid"}, "space": {"train.synthetic_ratio": {"uniform": [0, 1]}}}
    )
    assert "space.train.synthetic_ratio: grid search needs a choice" in message


def test_unknown_metric_and_control_are_refused_with_the_nearest():
    assert "did you mean 'accuracy'?" in refusal(SweepConfig, {"search": {"metric": "acuracy"}})
    assert "did you mean 'one_hot'?" in refusal(SweepConfig, {"search": {"controls": ["onehot"]}})


def test_a_trial_gets_all_values_of_its_point():
    sweep = SweepConfig()
    trial = sweep.trial_experiment(
        {"train.synthetic_ratio": 0.25, "objective.temperature": 3.0, "explorer.step_size": 0.5}
    )
    assert (trial.train.synthetic_ratio, trial.objective.temperature, trial.explorer.step_size) == (0.25, 3.0, 0.5)
    assert trial.task == sweep.experiment.task


def test_a_trial_of_another_type_keeps_the_other_values_of_its_block():
    sweep = validate(
        SweepConfig,
        {
            "space": {
                "explorer.type": {"choice": ["gradient", "random-matched"]},
                "explorer.step_size": {"uniform": [0.1, 0.9]},
            }
        },
    )
    trial = sweep.trial_experiment({"explorer.type": "random-matched", "explorer.step_size": 0.123})
    assert trial.explorer.type == "random-matched"
    assert trial.explorer.step_size == 0.123


def test_a_grid_has_all_points():
    sweep = validate(
        SweepConfig,
        {
            "space": {
                "objective.temperature": {"choice": [1, 2, 4]},
                "explorer.type": {"choice": ["random", "gradient"]},
            },
            "search": {"algorithm": "grid", "controls": ["distillation"]},
        },
    )
    assert sweep.num_trials == 3 * 2 + 1
    points = {(p["objective.temperature"], p["explorer.type"]) for p in sweep.first_points()}
    assert points == {(t, e) for t in (1, 2, 4) for e in ("random", "gradient")}


def test_the_experiment_as_written_is_tried_first_where_the_space_holds_it():
    assert SweepConfig().first_points() == [
        {"train.synthetic_ratio": 0.5, "objective.temperature": 4.0, "explorer.step_size": 0.25}
    ]
    outside = validate(SweepConfig, {"space": {"train.synthetic_ratio": {"uniform": [0.6, 0.9]}}})
    assert outside.first_points() == []


def test_where_anchors_have_no_labels_a_control_takes_them_as_they_are():
    task = {"type": "text_classification", "data": {"type": "parquet", "path": "x"}, "labelled": {"rows": 9}}
    text = {"type": "text_transformer"}
    teacher = {"labeler": text, "generator": {"type": "masked_lm"}}
    base = {"task": task, "teacher": teacher, "student": text, "explorer": {"type": "random", "anchors": "balanced"}}

    def controls(search=None, **changes):
        space = {"objective.temperature": {"uniform": [1, 2]}}
        return validate(SweepConfig, {"experiment": {**base, **changes}, "space": space, "search": search or {}})

    sweep = controls()
    assert sweep.search.controls == ["one_hot", "distillation", "distillation_balanced", "anchors"]
    assert sweep.num_trials == 16 and sweep.unchanged_anchors()
    made = sweep.trial_experiment({"control": "anchors"})
    assert made.streams and made.explorer.type == "identity" and made.explorer.anchors == "balanced"
    assert made.objective == sweep.experiment.objective and made.teacher == sweep.experiment.teacher
    assert controls({"controls": ["one_hot"]}).search.controls == ["one_hot"]
    ignored = controls(task={**task, "unlabelled": "ignore"})
    assert ignored.search.controls == ["one_hot", "distillation", "distillation_balanced"]
    assert not ignored.unchanged_anchors()
    assert controls(explorer={"type": "none"}).search.controls == ["one_hot", "distillation"]
    assert SweepConfig().search.controls == ["one_hot", "distillation"]


def test_controls_follow_what_the_space_explores_and_not_only_the_base():
    task = {"type": "text_classification", "data": {"type": "parquet", "path": "x"}, "labelled": {"rows": 9}}
    text = {"type": "text_transformer"}
    base = {
        "task": task,
        "teacher": {"labeler": text, "generator": {"type": "masked_lm"}},
        "student": text,
        "explorer": {"type": "none"},
    }
    both = {"explorer.type": {"choice": ["none", "random"]}}
    for space in (both, {"explorer": {"choice": [{"type": "none"}, {"type": "random", "sigma": 1.0}]}}):
        sweep = validate(SweepConfig, {"experiment": base, "space": space})
        assert sweep.search.controls == ["one_hot", "distillation", "anchors"]
        assert sweep.trial_experiment({"control": "anchors"}).streams
    zero = {**base, "explorer": {"type": "random"}, "train": {"synthetic_ratio": 0.0}}
    ratios = {"train.synthetic_ratio": {"uniform": [0.0, 0.8]}}
    assert "anchors" in validate(SweepConfig, {"experiment": zero, "space": ratios}).search.controls
    fixed = {"objective.temperature": {"uniform": [1, 2]}}
    assert "anchors" not in validate(SweepConfig, {"experiment": zero, "space": fixed}).search.controls


@pytest.mark.parametrize(("anchors", "needed"), [("balanced", True), (0.5, True), (0.9, False), ("natural", False)])
def test_where_anchors_are_balanced_a_control_samples_so(anchors, needed):
    space = {"objective.temperature": {"uniform": [1, 2]}}
    of_base = {"experiment": {"explorer": {"type": "gradient", "anchors": anchors}}, "space": space}
    of_space = {"space": {"explorer.anchors": {"choice": ["natural", anchors]}}}
    for sweep in (validate(SweepConfig, each) for each in (of_base, of_space)):
        assert ("distillation_balanced" in sweep.search.controls) == needed
    made = validate(SweepConfig, of_base).trial_experiment({"control": "distillation_balanced"})
    assert made.train.sampling == "balanced" and not made.streams
    assert validate(SweepConfig, of_base).trial_experiment({"control": "distillation"}).train.sampling == "natural"
    already = {"experiment": {**of_base["experiment"], "train": {"sampling": "balanced"}}, "space": space}
    assert "distillation_balanced" not in validate(SweepConfig, already).search.controls


def test_controls_are_augmented_as_trials_are():
    def augmented(space, **train):
        sweep = validate(SweepConfig, {"experiment": {"train": train}, "space": space})
        return [sweep.trial_experiment({"control": name}).train for name in ("distillation", "one_hot")]

    for train in augmented({"train.augment.shift": {"choice": [1, 2, 3]}, "train.steps": {"integers": [600, 900]}}):
        assert train.augment.shift == 2 and 600 <= train.steps <= 900
    for train in augmented({"train.augment": {"choice": [{"shift": 1}, {"shift": 2, "flip": True}]}}):
        assert train.augment.flip
    # What the space holds stays, and what it doesn't search is the experiment's own.
    for train in augmented({"train.augment.shift": {"choice": [0, 1]}}, augment={"shift": 0, "mixup": 0.2}):
        assert train.augment.shift == 0 and train.augment.mixup == 0.2
    for train in augmented({"train.synthetic_ratio": {"uniform": [0.6, 0.9]}}, augment={"flip": True}):
        assert train.augment.flip and train.synthetic_ratio == 0.5


def test_a_sweep_says_what_its_trials_may_minimise():
    space = {"objective.subclasses": {"choice": [2, 4]}, "train.learning_rate": {"loguniform": [0.001, 0.1]}}
    sweep = SweepConfig.model_validate({"experiment": {"objective": {"type": "lelp"}}, "space": space})
    assert [objective.subclasses for objective in sweep.objectives()[:2]] == [2, 4]
    types = {"space": {"objective.type": {"choice": ["distillation", "lelp"]}}}
    assert [EMBEDDING in each.signals for each in SweepConfig.model_validate(types).objectives()][:2] == [False, True]
    assert [each.type for each in SweepConfig().objectives()][:3] == ["distillation"] * 3  # its space has a temperature


def test_a_new_type_in_a_sweep_s_experiment_keeps_what_it_knows(caplog):
    data = {"experiment": {"explorer": {"type": "gradient", "sigma": 0.5, "anchors": "balanced"}}}
    source = Source(
        data, overrides=[("experiment.explorer.type", "random-matched"), ("experiment.explorer.sigma", 0.25)]
    )
    explorer = source.build(SweepConfig).experiment.explorer
    assert (explorer.type, explorer.anchors, explorer.sigma) == ("random-matched", "balanced", 0.25)
    assert not caplog.records


def test_a_sweep_that_cannot_have_the_control_of_anchors_says_why():
    task = {"type": "retrieval", "data": {"type": "beir", "path": "x"}, "labelled": {"rows": 9}}
    base = {
        "task": task,
        "teacher": {"labeler": {"type": "dual_encoder", "path": "some/encoder"}, "generator": {"type": "spans"}},
        "student": {"type": "text_transformer"},
        "explorer": {"type": "random"},
        "objective": {"type": "embed_distill"},
    }
    space = {"train.synthetic_ratio": {"uniform": [0.2, 0.8]}}

    def why(search=None, **changes):
        return validate(
            SweepConfig, {"experiment": {**base, **changes}, "space": space, "search": search or {}}
        ).why_no_anchors()

    said = why()
    assert said is not None and "takes anchors as they are" in said and "starts from documents" in said
    assert why({"controls": ["one_hot"]}) is None, "as the user has chosen"
    assert why(task={**task, "unlabelled": "ignore"}) is None, "there is nothing that plain distillation leaves out"
    assert why(teacher={**base["teacher"], "generator": {"type": "masked_lm"}}) is None, "it has the control"
    assert SweepConfig().why_no_anchors() is None


def test_what_trials_of_another_type_do_not_have_is_known():
    def names(explorer, **space):
        data = {"experiment": {"explorer": explorer}, "space": {"objective.temperature": {"uniform": [1, 2]}, **space}}
        return validate(SweepConfig, data).of_one_type()

    own = {"type": "gradient", "anchors": "balanced", "step_size": 0.125}
    types = {"choice": ["gradient", "random"]}
    assert names(own, **{"explorer.type": types}) == {"explorer.type": ["anchors", "step_size"]}
    anchors = {"explorer.anchors": {"choice": ["balanced", "natural"]}}
    assert names(own, **{"explorer.type": types}, **anchors) == {"explorer.type": ["step_size"]}
    assert names({"type": "gradient"}, **{"explorer.type": types}) == {}
    assert names(own, **{"explorer.type": {"choice": ["gradient"]}}) == {} == SweepConfig().of_one_type()


def test_controls_bring_what_their_objectives_need():
    """A control keeps what the experiment has, also where no trial does."""
    data = {
        "experiment": {"objective": {"type": "distillation", "conformal": {"gamma": 5}}},
        "space": {"objective.conformal": {"choice": [None]}, "train.synthetic_ratio": {"uniform": [0.1, 0.9]}},
    }
    sweep = validate(SweepConfig, data)
    assert {each.conformal is None for each in sweep.objectives()} == {True, False}
    assert max(each.calibration_rows for each in sweep.objectives()) == 9
