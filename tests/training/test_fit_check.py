"""Whether the teacher fits its task, measured before anything trains."""

import io
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tests.helpers.experiments import changed
from tgt_ray import run
from tgt_ray.core.config import validate
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.loading import with_overrides
from tgt_ray.core.storage import Storage
from tgt_ray.entrypoints import cli
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.results import fit_pages
from tgt_ray.tasks.metrics.shares import above_chance, interval
from tgt_ray.teacher import explored
from tgt_ray.teacher.generators import Generator
from tgt_ray.teacher.module import Teacher
from tgt_ray.training import fit_check

SHORT = {"train.steps": 6, "train.eval_every": 3, "train.batch_size": 8, "pool.rows_per_request": 16}


class Perfect(nn.Module):
    """Latents are the pixels."""

    def encode(self, inputs):
        return inputs.flatten(1)

    def decode(self, latents):
        return latents.unflatten(1, (1, 8, 8))


class Blind(Perfect):
    """Whatever the latent, the same picture."""

    def decode(self, latents):
        return torch.zeros(len(latents), 1, 8, 8)


class BlindGenerator(Generator):
    type: str = "tests.training.test_fit_check:BlindGenerator"

    def build(self, spec):
        return Blind()

    def fit(self, model, inputs, labeler, agreement):
        return {}


@pytest.fixture
def experiment(prepared) -> Experiment:
    return changed(prepared.experiment, SHORT)


@pytest.fixture
def labeler(teacher):
    return teacher.labeler


def blind(experiment: Experiment, **check) -> Experiment:
    data = with_overrides(experiment.model_dump(mode="json"), [("explorer.type", "random")])
    data["teacher"]["generator"] = BlindGenerator()
    data["fit_check"] = {**data["fit_check"], **check}
    return validate(Experiment, data)


def test_a_generator_that_loses_nothing_agrees_wholly(experiment, labeler, digits):
    still = changed(experiment, explorer__sigma=0.0, explorer__step_size=0.0)
    result, _ = fit_check.measure(still, Teacher(labeler, Perfect()), digits)
    assert result["reconstruction_mse"] == 0
    assert result["agreement_reconstructed"] == result["agreement_explored"] == 100
    assert result["accuracy"] == result["accuracy_reconstructed"] == result["accuracy_explored"] > 80
    assert result["rows"] == len(digits.labels("validation")) and result["rows_per_second"] > 0


def test_longer_steps_are_trusted_less(experiment, labeler, digits):
    near, far = (
        fit_check.measure(changed(experiment, explorer__sigma=sigma), Teacher(labeler, Perfect()), digits)[0]
        for sigma in (0.1, 3.0)
    )
    assert near["agreement_explored"] > far["agreement_explored"] + 20


def test_a_blind_generator_agrees_by_chance(experiment, labeler, digits):
    result, _ = fit_check.measure(blind(experiment), Teacher(labeler, Blind()), digits)
    assert result["agreement_reconstructed"] < 30 and result["reconstruction_mse"] > 0.05


def test_rows_of_another_shape_are_refused(experiment, labeler, digits):
    class Wide(Perfect):
        def decode(self, latents):
            return super().decode(latents).expand(-1, 3, -1, -1)

    with pytest.raises(
        ConfigError, match=r"teacher\.generator: decodes rows of shape 3x8x8, but the task's inputs are 1x8x8"
    ):
        fit_check.measure(experiment, Teacher(labeler, Wide()), digits)


@pytest.mark.parametrize(
    ("check", "explored", "least"),
    [
        ({}, 39.9, 40),  # half of the minimum, which is 80
        ({}, 40.0, None),
        ({"minimum": 60}, 29.0, 30),
        ({"minimum": 60}, 31.0, None),
        ({"minimum_explored": 70}, 69.0, 70),
        ({"minimum_explored": 0}, 0.0, None),
        ({"minimum": 0}, 0.0, None),
    ],
)
def test_explored_rows_have_a_minimum_of_their_own(experiment, caplog, check, explored, least):
    """What the labeler says of the row counts, and not the class of its anchor."""
    result = {"rows": 8, "explorer": "random", "rows_per_second": 99.0, "device": "1 thread(s)"}
    result |= {"accuracy": 90.0, "agreement_reconstructed": 95.0, "reconstruction_mse": 0.1}
    result |= {"agreement_explored": explored, "accuracy_explored": 3.0}
    with caplog.at_level(logging.INFO, "tgt_ray"):
        fit_check.judge(changed(experiment, **{f"fit_check__{key}": value for key, value in check.items()}), result)
    assert "it gives 3.0 % of explored rows the class of their anchor" in caplog.text
    warnings = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    said = f"the labeler agrees with itself on {explored:.1f} % of explored rows (random), less than"
    assert [f"{said} fit_check.minimum_explored {least:g}: " in each for each in warnings] == [True] * (
        least is not None
    )
    strict = changed(experiment, fit_check__on_low="fail", **{f"fit_check__{key}": v for key, v in check.items()})
    if least is None:
        fit_check.judge(strict, result)
    else:
        with pytest.raises(ConfigError, match=r"of explored rows \(random\), less than fit_check\.minimum_explored"):
            fit_check.judge(strict, result)


@pytest.mark.parametrize("form", ["reference", "fast"])
def test_whose_speed_it_is_is_said_where_rows_will_come_faster(experiment, caplog, form):
    result = dict.fromkeys(("accuracy", "agreement_reconstructed", "agreement_explored", "reconstruction_mse"), 99.0)
    result |= {"rows": 8, "explorer": "random", "rows_per_second": 99.0, "device": "1 thread(s)"}
    with caplog.at_level(logging.INFO, "tgt_ray"):
        fit_check.judge(changed(experiment, teacher__run_as=form), result)
    said = "99 explored rows a second on 1 thread(s)"
    assert (f"{said}, by the teacher's reference form: the" if form == "fast" else f"{said}: the") in caplog.text


@pytest.mark.parametrize(("per_second", "warned"), [(3.0, False), (1.5, True)])
def test_a_call_that_takes_long_is_warned_of(experiment, caplog, per_second, warned):
    result = dict.fromkeys(("accuracy", "agreement_reconstructed", "agreement_explored", "reconstruction_mse"), 99.0)
    fit_check.judge(
        experiment, {**result, "rows": 8, "explorer": "random", "rows_per_second": per_second, "device": "1 thread(s)"}
    )
    assert ("pool.rows_per_request: a call of 16 rows takes about 11 seconds at this speed" in caplog.text) == warned


def test_low_agreement_warns_or_refuses_as_asked(experiment, digits, tmp_path, caplog):
    with caplog.at_level(logging.INFO, "tgt_ray"):
        run(blind(experiment), storage=str(tmp_path), name="warned", local=True)
    assert "less than fit_check.minimum 80" in caplog.text
    assert f"fit of the teacher on {len(digits.labels('validation'))} held-out rows" in caplog.text
    with pytest.raises(
        ConfigError, match=r"agrees with itself on \d+\.\d % of the generator's reconstructions, less than"
    ):
        run(blind(experiment, on_low="fail"), storage=str(tmp_path), name="refused", local=True)
    assert not Storage(tmp_path).exists("refused"), "nothing half-written"
    caplog.clear()
    with caplog.at_level(logging.INFO, "tgt_ray"):
        off = run(blind(experiment, on_low="skip"), storage=str(tmp_path), name="off", local=True)
    assert off.record["teacher"]["fit_check"] == {} and "fit of the teacher" not in caplog.text
    run(blind(experiment, on_low="fail", minimum=0), storage=str(tmp_path), name="content", local=True)


def judged(experiment, caplog, **result) -> str:
    """What is said of a result of 200 rows of two classes, but for what the test gives."""
    plain = {"rows": 200, "explorer": "random", "rows_per_second": 99.0, "device": "cpu", "agreement_explored": 90.0}
    whole = {"accuracy": 90.0, "agreement_reconstructed": 90.0, "reconstruction_mse": 0.1, "majority": 50.0, **plain}
    whole |= result
    low_high = {f"{k}_interval": interval(whole[v], 200) for k, v in SHARES.items()}
    rows = dict.fromkeys(("accuracy_rows", "agreement_rows"), 200)
    above = {"agreement_above_chance": above_chance(whole["agreement_reconstructed"], whole["majority"])}
    with caplog.at_level(logging.INFO, "tgt_ray"):
        fit_check.judge(experiment, {**low_high, **rows, **above, **whole})
    return "\n".join(record.message for record in caplog.records)


SHARES = {"accuracy": "accuracy", "agreement": "agreement_reconstructed"}


def test_agreement_is_said_with_its_interval_and_corrected_for_chance(experiment, caplog):
    said = judged(experiment, caplog)
    assert "reconstructions 90.0 % (95 % interval 85.1 to 93.4, 200 rows)" in said
    assert "corrected for chance 80.0 %: the largest class has 50.0 % of the rows" in said and "warning" not in said


def test_with_two_classes_more_agreement_is_asked_for(experiment, caplog):
    """A generator that had hardly learnt agreed on 81.8 % of two classes."""
    low = {"agreement_reconstructed": 81.8}
    assert "less than fit_check.minimum 80 (88.9 here, since the largest class has 50.0 %" in judged(
        experiment, caplog, **low
    )
    caplog.clear()
    assert "less than" not in judged(experiment, caplog, **low, majority=10.0)
    assert fit_check.needed_agreement(80, 5) == fit_check.needed_agreement(80, 10) == 80
    assert fit_check.needed_agreement(0, 90) == 0 and fit_check.needed_agreement(100, 50) == 100


@pytest.mark.parametrize(
    ("result", "says"),
    [
        ({"accuracy": 55.0}, "which is not clearly above the 50.0 % of the largest class"),
        ({"accuracy": 60.0}, None),
        ({"accuracy": 88.0, "majority": 90.0, "agreement_reconstructed": 99.0}, "not clearly above the 90.0 %"),
        ({"accuracy": 88.0, "majority": 90.0, "agreement_reconstructed": 99.0, "balanced_above_chance": 60.0}, None),
        ({"accuracy": 20.0, "majority": 2.0}, "less than fit_check.minimum_accuracy 30"),
    ],
)
def test_a_labeler_at_chance_is_warned_of_or_refused(experiment, caplog, result, says):
    said = judged(experiment, caplog, **result)
    assert ("warning: the labeler is right on" in said) == (says is not None) and (says or "") in said
    strict = changed(experiment, fit_check__on_low="fail")
    if says:
        with pytest.raises(ConfigError, match=says):
            judged(strict, caplog, **result)
    else:
        judged(strict, caplog, **result)


def test_agreement_is_one_number_in_the_check_and_in_the_quality_of_the_generator(experiment, storage):
    teacher = run(changed(experiment, fit_check__rows=50), storage=storage.root, name="one", local=True).record[
        "teacher"
    ]
    check, quality = teacher["fit_check"], {role: teacher[role]["quality"]["validation"] for role in fit_check.TEACHER}
    assert check["agreement_reconstructed"] == quality["generator"]["labeler_agreement"]
    assert check["accuracy"] == quality["labeler"]["accuracy"]
    assert check["agreement_rows"] > check["rows"] == 50
    low, high = check["agreement_interval"]
    assert low < check["agreement_reconstructed"] < high <= 100


def test_what_explored_rows_add_is_measured_from_the_anchors_of_a_run(experiment, labeler, digits, caplog):
    """With 4 anchors in the rarest class, moved anchors cover unseen digits that the anchors themselves don't."""
    moved, still = (
        changed(experiment, explorer={"type": "random", "sigma": sigma, "anchors": "balanced"}) for sigma in (0.2, 0.0)
    )
    result, nothing = (fit_check.measure(each, Teacher(labeler, Perfect()), digits)[0] for each in (moved, still))
    assert result["explored_rows"] == result["rows"] and result["explored_by"] == "random"
    assert result["coverage_gain"] > 3 > nothing["coverage_gain"] == 0
    assert result["coverage_anchors"] == nothing["coverage_anchors"] < 95
    with caplog.at_level(logging.INFO, "tgt_ray"):
        fit_check.judge(moved, result)
    said = f"{result['precision_explored']:.1f} % of them lie among unseen rows, and {result['fresh_explored']:.1f} %"
    assert f"as the labeler sees explored rows, {said} nearer to these than to any anchor" in caplog.text
    times = result["variety_explored"] / result["variety_anchors"]
    assert f"they are {times:.2f} times as varied as their anchors" in caplog.text


def test_a_gradient_is_stood_in_for_and_that_is_said(experiment, labeler, digits, caplog):
    result, _ = fit_check.measure(experiment, Teacher(labeler, Perfect()), digits)
    assert (result["explorer"], result["explored_by"]) == ("gradient", "random-matched")
    with caplog.at_level(logging.INFO, "tgt_ray"):
        fit_check.judge(experiment, result)
    assert "as the labeler sees explored rows, here those of random-matched, " in caplog.text


def test_a_check_of_other_anchors_is_another_one(experiment, prepared, digits):
    teacher = prepared.prepared.teacher
    other = replace(digits, fingerprints={**digits.fingerprints, "train": "0" * 16})
    assert fit_check.key(experiment, teacher, digits) != fit_check.key(experiment, teacher, other)


def test_of_many_anchors_some_are_drawn_as_the_explorer_draws_them(experiment, labeler, digits, monkeypatch):
    seen = []
    real = explored.measure

    def noted(teacher, explorer, anchors, *args):
        seen.append(anchors.labels)
        return real(teacher, explorer, anchors, *args)

    monkeypatch.setattr(explored, "measure", noted)
    monkeypatch.setattr(fit_check, "MOST_ANCHORS", 150)
    monkeypatch.setattr(fit_check, "FEWEST_ANCHORS", 10)
    for how in ("natural", "balanced"):
        of_kind = changed(experiment, explorer={"type": "random", "anchors": how})
        fit_check.measure(of_kind, Teacher(labeler, Perfect()), digits)
    natural, balanced = (np.bincount(labels) for labels in seen)
    assert natural.sum() < len(digits.labels("train")) and natural.argmax() == 0
    assert balanced[-1] == 4 >= natural[-1] and balanced[0] < natural[0]


def test_a_slow_generator_is_measured_on_fewer_rows(experiment, labeler, digits):
    short = changed(experiment, explorer__type="random", fit_check__seconds=1e-9)
    result, _ = fit_check.measure(short, Teacher(labeler, Blind()), digits)
    assert result["rows"] == 64 and result["rows_per_second"] > 0


def test_the_first_rows_that_are_measured_are_of_all_classes():
    labels = np.repeat(np.arange(10), 50)  # class by class, as folders are read
    rows = fit_check.held_out_rows(len(labels), 200)
    assert len(set(rows.tolist())) == 200 and len(set(labels[rows[:40]].tolist())) > 7


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3, "3 seconds"), (119, "119 seconds"), (600, "10 minutes"), (9000, "2 hours"), (1e6, "12 days")],
)
def test_durations_are_said_in_the_unit_that_suits_them(seconds, text):
    assert fit_check.duration(seconds) == text


def test_nothing_is_measured_where_no_rows_are_made(experiment, prepared, digits, storage):
    plain = changed(experiment, explorer__type="none")
    assert fit_check.stored(plain, prepared.prepared.teacher, digits, storage) == {}


def test_a_check_is_measured_once(experiment, digits, tmp_path, monkeypatch):
    store = str(tmp_path)
    first = run(experiment, storage=store, name="first", local=True)

    def never(*args):
        raise AssertionError("measured again")

    monkeypatch.setattr(fit_check, "measure", never)
    second = run(changed(experiment, train__seed=5), storage=store, name="second", local=True)
    assert first.record["teacher"]["fit_check"] == second.record["teacher"]["fit_check"]
    with pytest.raises(AssertionError, match="measured again"):
        run(changed(experiment, explorer__step_size=0.9), storage=store, name="third", local=True)


def test_the_gallery_lies_beside_the_results(experiment, tmp_path):
    run(experiment, storage=str(tmp_path), name="shown", local=True)
    picture = Image.open(io.BytesIO(Storage(tmp_path).read("shown", fit_pages.PICTURE_FILE)))
    assert picture.format == "PNG" and picture.width > picture.height > 200


def test_strict_is_a_flag_of_the_command(tmp_path, monkeypatch, capsys):
    """A generator trained for a single step is refused in one line."""
    sets = [
        "teacher.labeler.pretrain.steps=150",
        "teacher.generator.pretrain.steps=1",
        *(f"{k}={v}" for k, v in SHORT.items()),
    ]
    arguments = ["train", "--local", "--strict", "--storage", str(tmp_path), "--name", "strict"]
    for each in sets:
        arguments += ["--set", each]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as stopped:
        cli.main(cli.train)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: the labeler agrees with itself on") and error.count("\n") == 1
    assert not (tmp_path / "strict").exists()
