"""Runs of the benchmarks are kept and resumed."""

import argparse
import json
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from tests.helpers.experiments import TINY, tiny
from tests.helpers.places import ROOT
from tgt_ray.core.environment import environment
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.storage import Storage
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.teacher.forms.choice import Compared, Tried

sys.path.insert(0, str(ROOT / "benchmarks"))

import common
import explored
import forms
import methods
import retrieval
import schedules
import serving
import static


@pytest.fixture
def trained(monkeypatch):
    """The methods and seeds that were trained, and not taken from the storage; in this process."""
    names, run_one, threads = [], methods.run_one, torch.get_num_threads()

    def noted(method, experiment, made):
        names.append((method, experiment.train.seed))
        return run_one(method, experiment, made)

    monkeypatch.setattr(methods, "run_one", noted)
    monkeypatch.setattr(methods, "ProcessPoolExecutor", ThreadPoolExecutor)
    yield names
    torch.set_num_threads(threads)


def measure(storage, seeds, names, resume=True, **sets):
    sets = {
        "train.steps": 4,
        "train.eval_every": 4,
        "teacher.labeler.pretrain.steps": 5,
        "teacher.generator.pretrain.steps": 5,
        "fit_check.on_low": "skip",
    } | {key.replace("__", "."): value for key, value in sets.items()}
    return methods.measure(
        argparse.Namespace(
            data="digits",
            sets=[f"{key}={value}" for key, value in sets.items()],
            methods=names,
            storage=str(storage),
            seeds=seeds,
            jobs=1,
            resume=resume,
        )
    )


def test_finished_runs_are_kept_and_only_what_is_missing_is_trained(tmp_path, trained, monkeypatch, capsys):
    monkeypatch.setattr("tgt_ray.core.environment.commit", lambda: "a" * 40)
    first = measure(tmp_path, 1, "one_hot,distillation")
    assert trained == [("one_hot", 0), ("distillation", 0)]
    monkeypatch.setattr("tgt_ray.core.environment.commit", lambda: "b" * 40)
    more = measure(tmp_path, 2, "one_hot,random,distillation")
    assert trained[2:] == [("random", 0), ("one_hot", 1), ("random", 1), ("distillation", 1)]
    assert "2/6 runs taken" in capsys.readouterr().out
    assert [(each["method"], each["seed"]) for each in more["results"]] == [
        (method, seed) for method in ("one_hot", "random", "distillation") for seed in (0, 1)
    ]
    assert more["results"][0] == first["results"][0]
    assert "of 6 runs some were made by other commits: 2 by aaaaaaaaaaaa" in methods.render(more)
    assert "other commits" not in methods.render(first)


def test_runs_of_a_record_serve_a_storage_that_never_made_them(tmp_path, trained):
    first = measure(tmp_path / "one", 1, "one_hot,distillation")
    common.write_record(first, tmp_path / "record.json")
    record = str(tmp_path / "record.json")
    more = measure(tmp_path / "two", 2, "one_hot,distillation", resume=record)
    assert trained[2:] == [("one_hot", 1), ("distillation", 1)]
    assert more["results"][0] == first["results"][0]
    measure(tmp_path / "three", 1, "one_hot", resume=record, teacher__labeler__pretrain__seed=1)
    assert trained[4:] == [("one_hot", 0)], "another teacher's runs are no runs of this one"
    (tmp_path / "record.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"record\.json is no record of methods\.py or schedules\.py"):
        measure(tmp_path / "two", 1, "one_hot", resume=record)


def test_anchors_as_they_are_are_a_method_of_the_same_teacher(tmp_path, trained):
    record = measure(tmp_path, 1, "anchors,random")
    assert [each["method"] for each in record["results"]] == ["anchors", "random"]
    assert record["methods"]["anchors"]["explorer"] == {"type": "identity", "anchors": "natural"}


def test_a_run_of_something_else_is_not_taken_for_it(tmp_path, trained):
    measure(tmp_path, 1, "one_hot")
    for sets in ({"train.learning_rate": 0.5}, {"task.long_tail.imbalance": 10}, {"teacher.labeler.pretrain.seed": 1}):
        measure(tmp_path, 1, "one_hot", **{key.replace(".", "__"): value for key, value in sets.items()})
    assert len(trained) == 4
    measure(tmp_path, 1, "one_hot", resume=False)
    assert len(trained) == 5, "without --resume all is trained"


def test_what_anchors_are_to_the_last_bit_names_no_run():
    """Which answers anchors have follows from the methods beside it."""
    fingerprints = {"labeler": "a", "anchors": {"columns": {}}}
    one = methods.run_name(Experiment(), fingerprints)
    more = {**fingerprints, "anchors": {"columns": {"logits": "b"}}}
    assert methods.run_name(Experiment(), more) == one
    weights = [
        Experiment(teacher={"labeler": {"type": "timm", "name": "resnet18", "weights": f"{place}.safetensors"}})
        for place in ("/a/w", "/b/w")
    ]
    assert len({methods.run_name(each, fingerprints) for each in weights}) == 1, "wherever its files lie"
    other = {**fingerprints, "labeler": "c"}
    assert methods.run_name(Experiment(), other) != one


def test_changes_of_inputs_have_a_strength_of_their_own():
    base = Experiment()
    assert base.explorer.step_size == 0.25, "a length in latent space"
    for name in ("augment", "compose"):
        explorer = methods.method_experiment(base, name).explorer
        assert explorer.type == name and explorer.step_size == 0.5
    strong = Experiment(explorer={"type": "augment", "step_size": 0.9, "anchors": "balanced"})
    assert methods.method_experiment(strong, "compose").explorer.step_size == 0.9
    shifted = methods.method_experiment(base, "distillation + shift").train
    seen = methods.method_experiment(base, "distillation + consistent").train
    assert shifted.relabelled is None and seen.relabelled.shift == shifted.augment.shift == 1


def test_consistent_teaching_is_prepared_for(tmp_path, trained):
    record = measure(tmp_path, 1, "distillation,distillation + consistent,augment")
    assert [each["method"] for each in record["results"]] == [*record["methods"]]


def test_who_was_given_weights_is_said_of_few_labels_too():
    labeler = {"weights": "labeler.safetensors", "path": None}
    teacher = {"labeler": labeler, "generator": {"weights": None, "path": "a/b"}}
    task = {"labelled": {"rows": 5}, "long_tail": None, "unlabelled": None}
    said = common.what_was_seen({"task": task, "teacher": teacher}, {"train": 5, "full": 20})
    assert said.endswith("the generator is a/b, the weights of the labeler were given by the user.")
    task = {"labelled": None, "long_tail": None, "unlabelled": "anchors"}
    said = common.what_was_seen({"task": task, "teacher": teacher}, {"train": 5, "full": 20})
    assert said.startswith("Of 20 train rows the student has 5 labelled rows")


def test_a_checkout_with_changes_is_not_its_commit():
    results = [{"commit": "a" * 40}, {"commit": "a" * 40 + "+changes"}, {"commit": None}, {}]
    (line,) = common.other_commits(results, {"commit": "a" * 40})
    assert line == "of 4 runs some were made by other commits: 1 by aaaaaaaaaaaa+changes, 1 by unknown"


def test_what_spans_are_is_said_where_a_method_of_theirs_ran():
    records = ROOT / "benchmarks/records"
    record = json.loads((records / "retrieval-medquad.json").read_text())
    says = "finds; `spans` are words of documents, since no trained query generator is at hand\n"
    assert says in retrieval.render(record)
    record["methods"] = {name: each for name, each in record["methods"].items() if not name.startswith("spans")}
    said = retrieval.render(record)
    assert "`spans`" not in said
    assert "and their documents what it finds\n" in said


def test_forms_of_a_teacher_are_measured_and_shown(tmp_path, monkeypatch):
    speeds = iter([1.0, 5.0, 3.0, 7.0])

    def tried(self):
        return [Tried("folded", lacking="none"), Tried("bfloat16", next(speeds), 99.9, 1e-6, 0.0, 0.1, 30.0, 2)]

    monkeypatch.setattr(Compared, "tried", tried)
    found = forms.measure(tiny(), Storage(tmp_path), repeats=2)
    assert found["found"]["labeler"]["chosen"] == ["bfloat16", "bfloat16"] and found["rows"] > 100
    folded, half = forms.summary(found["found"]["generator"]["tried"])
    assert (folded["lacking"], folded["speed"], half["speed"]) == ("none", None, 6.0)
    text = forms.render({"data": "digits", "command": "c", "environment": environment(), **found})
    assert "labeler: bfloat16" in text and "99.90" in text and "none" in text


def test_the_teachers_share_of_a_schedule_is_counted(tmp_path, monkeypatch):
    """Rows of a bank are paid once for all trials; those that are explored for a student alone, by each."""
    monkeypatch.setattr(methods, "ProcessPoolExecutor", ThreadPoolExecutor)
    threads = torch.get_num_threads()
    sets = ["train.steps=6", "train.eval_every=6", "train.batch_size=16", "fit_check.on_low=skip"]
    sets += [f"teacher.{role}.pretrain.steps=5" for role in ("labeler", "generator")] + ["pool.rows_per_request=16"]
    args = argparse.Namespace(
        data="digits",
        sets=sets,
        methods=["distillation", "distillation + consistent", "random", "random of 16", "gradient", "gradient shared"],
        times=[1, 2],
        rows=64,
        most_explored=1,
        flip=False,
        storage=str(tmp_path),
        seeds=1,
        jobs=1,
        resume=True,
    )
    record = schedules.measure(args)
    torch.set_num_threads(threads)
    lines = {(each["method"], each["times"]): each for each in record["results"]}
    assert set(lines) == {(name, 1) for name in args.methods} | {
        (name, 2) for name in args.methods if not name.startswith("gradient")
    }
    for (name, _), each in lines.items():
        assert each["core_s"] == pytest.approx(each["student_s"] + each["share_s"]) and each["student_s"] > 0
        alone = name == "gradient"
        assert each["share_s"] == pytest.approx(each["teacher_s"] / (1 if alone else 16), rel=0.5 if alone else 1e-6)
    assert lines["distillation + consistent", 1]["teacher_s"] == pytest.approx(
        16 * lines["distillation", 1]["teacher_s"]
    )
    taken = [lines["random", 2]["metrics"][name] for name in ("rows_made", "rows_found")]
    assert sum(taken) == 2 * 6 * 8 + 2 * 16  # with those whose loss is compared at the end
    assert lines["gradient shared", 1]["metrics"]["rows_made"] == 0
    assert "x 2" in schedules.render(record) and "gradient shared" in schedules.render(record)
    again = schedules.measure(args)
    torch.set_num_threads(threads)
    assert again["results"] == record["results"]


def test_rows_that_are_used_again_cost_once():
    """A run takes 96 rows of a bank of 64, and the teacher took 0.1 s for each; labelling takes 8 s."""
    last = {"rows_made": 32, "rows_found": 64, "teacher_seconds": 3.2, "teacher_seconds_saved": 6.4}
    long = ["train.steps=12", "train.batch_size=16", "pool.rows_per_request=16", "train.synthetic_ratio=0.5"]
    base = Experiment.model_validate(common.apply_sets(common.base_experiment("digits"), long))
    told = {name: schedules.schedule(base, name, 1, 64) for name in ("random", "gradient", "gradient shared")}
    costs = {name: schedules.cost(each, last, 10.0, 8.0) for name, each in told.items()}
    assert costs["random"] == pytest.approx({"student_s": 6.8, "teacher_s": 14.4, "share_s": 0.9, "core_s": 7.7})
    assert costs["gradient"]["share_s"] == pytest.approx(9.6 + 0.5)
    assert costs["gradient shared"]["share_s"] == pytest.approx((9.6 + 8) / 16)


def test_a_schedule_may_have_another_setting_of_its_explorer():
    told = schedules.schedule(Experiment(), "interpolation with partners=3 of 128", 2, 64)
    assert (told.explorer.partners, told.pool.bank.rows, told.train.steps) == (3, 128, 2 * Experiment().train.steps)


@pytest.mark.parametrize("method", ["random of many", "random shared", "unknown", "random with sigma"])
def test_a_schedule_that_is_none_is_refused(method):
    with pytest.raises(ConfigError, match="--methods"):
        schedules.schedule(Experiment(), method, 1, 64)


def gains_record(data: str, **changes) -> dict:
    """A record as methods.py writes one, of the experiment that `tiny` is, without its results."""
    sets = {key.replace("__", "."): value for key, value in changes.items()}
    base = tiny(*sets.items()).model_dump(mode="json")
    names = {"distillation": {"type": "none"}, "random": {"type": "random", "sigma": 0.5}}
    names |= {"gradient + crt": {"type": "gradient"}, "random x 3": {"type": "random"}}
    names |= {"interpolation": {"type": "interpolation", "reach": 0.7}}
    scores = {"distillation": 80.0, "random": 83.0, "gradient + crt": 99.0, "random x 3": 99.0, "interpolation": 79.0}
    return {
        "kind": "benchmark methods",
        "command": "python benchmarks/methods.py",
        "data": data,
        "seeds": [0, 1, 2, 3],
        "base": base,
        "teacher": {"labeler": {"quality": {"test": {"balanced_accuracy": 90.0}}}, "generator": None},
        "methods": {name: {"explorer": explorer} for name, explorer in names.items()},
        "summary": {name: {"test": {"mean": score, "std": 1.0}} for name, score in scores.items()},
    }


def measured_explorers(tmp_path, record: dict, generators=None, gains_only=False) -> dict:
    path = tmp_path / "methods-digits.json"
    path.write_text(json.dumps(record))
    sets = {**TINY, "fit_check.rows": 60}
    return explored.measure(
        argparse.Namespace(
            data="digits",
            sets=[f"{key}={json.dumps(value)}" for key, value in sets.items()],
            gains=[str(path)],
            generators=generators,
            gains_only=gains_only,
            storage=str(tmp_path),
        )
    )


def test_explored_rows_are_measured_and_gains_join_them(tmp_path):
    record = measured_explorers(tmp_path, gains_record("digits"))
    of_name = {point["name"]: point for point in record["points"]}
    assert {"random", "random-matched", "augment", "compose", "random, sigma 2"} <= of_name.keys()
    (gain,) = of_name["random"]["gains"]
    assert gain["gain"] == 3.0 and gain["gap_closed"] == pytest.approx(30) and gain["error"] == pytest.approx(0.5**0.5)
    reached = [point for point in record["points"] if point["explorer"].get("reach") == 0.7]
    assert [point["gains"][0]["gain"] for point in reached] == [-1.0], "explorers of the record are measured as well"
    assert sum(len(point["gains"]) for point in record["points"]) == 2, "no method with a baseline or more steps"
    assert record["gains"] == {"methods-digits": "python benchmarks/methods.py"}
    assert "random, sigma 2" in explored.render(record) and "3.00" in explored.render(record)


def test_gains_of_another_experiment_are_refused(tmp_path):
    with pytest.raises(
        ConfigError, match=r"differs from the experiment in task\.long_tail\.imbalance; give the record"
    ):
        measured_explorers(tmp_path, gains_record("digits", task__long_tail__imbalance=10))
    with pytest.raises(ConfigError, match=r"is no record of methods\.py or agreement\.py"):
        measured_explorers(tmp_path, {"kind": "benchmark sweep"})


def test_gains_are_of_the_generator_with_as_many_steps(tmp_path):
    record = measured_explorers(tmp_path, gains_record("digits"), generators=[2, 3])
    few = measured_explorers(tmp_path, gains_record("digits"), generators=[3], gains_only=True)
    assert [point["name"] for point in few["points"]] == ["random", "interpolation"]
    steps = {point["generator_steps"] for point in record["points"] if point["gains"]}
    assert steps == {3} and {point["generator_steps"] for point in record["points"]} == {2, 3}


def points_of(data: str, gains: list[float], coverage: list[float]) -> dict:
    checks = [{**dict.fromkeys(CHECK, 1.0), "coverage_gain": c, "coverage_explored": c} for c in coverage]
    return {
        "kind": "benchmark explored",
        "command": "c",
        "data": data,
        "teacher_has_seen": "",
        "rows": {},
        "base": {"task": {"long_tail": None}},
        "environment": environment(),
        "gains": {"r": "c"},
        "points": [
            {"name": str(i), "generator_steps": None, "fit_check": check, "gains": [
                {"record": "r", "gain": gain, "gap_closed": gain, "error": None}
            ]}
            for i, (gain, check) in enumerate(zip(gains, checks, strict=True))
        ],
    }  # fmt: skip


CHECK = ("density_explored", "density_anchors", "nearest_explored", "nearest_anchors", "variety_explored",
         "variety_anchors", "doubt_explored", "doubt_held_out", "moved_explored")  # fmt: skip


def test_measures_are_correlated_over_data_sets_and_within_each(tmp_path):
    """Within each data set the gain rises with coverage; over both of them it falls."""
    files = {"a": points_of("a", [1, 2, 3, 4], [51, 52, 53, 54]), "b": points_of("b", [11, 12, 13, 14], [1, 2, 3, 4])}
    for name, record in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    args = argparse.Namespace(correlate=[str(tmp_path / f"{name}.json") for name in files])
    record = explored.correlate(args)
    found = record["correlations"]["all"]["gain"]["coverage_gain"]
    assert found["points"] == found["points_within"] == 8
    assert found["within"] == pytest.approx(1) and found["all"] == pytest.approx(-0.524, abs=1e-3)
    assert {source: each["points"] for source, each in found["sources"].items()} == {"a": 4, "b": 4}
    assert record["correlations"]["all"]["gain"]["closer"]["all"] is None, "it is the same everywhere"
    assert "8 points of 2 data sets (a; b)" in explored.render(record)
    explored.plot(record, tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 1000
    with pytest.raises(ConfigError, match="2 points with a gain"):
        (tmp_path / "few.json").write_text(json.dumps(points_of("a", [1, 2], [1, 2])))
        explored.correlate(argparse.Namespace(correlate=[str(tmp_path / "few.json")]))


@pytest.mark.parametrize("kind", ["documents", "classes"])
def test_static_students_are_measured_beside_model2vec(kind, beir, sentences, encoder, tmp_path, monkeypatch):
    from tests.helpers import retrieval as things
    from tests.helpers import text_runs

    pytest.importorskip("skeletoken", reason="model2vec distils with it")
    if kind == "documents":
        plain = things.experiment(beir, encoder).model_dump(mode="json")
    else:
        labeler = {"type": "text_encoder", "path": str(encoder), "max_tokens": 24}
        generator = text_runs.GENERATORS["masked_lm"]
        teacher = {"labeler": labeler, "generator": generator}
        plain = text_runs.experiment(sentences, teacher=teacher).model_dump(mode="json")
    monkeypatch.setattr(static, "base_experiment", lambda data: plain)
    monkeypatch.setattr(static, "LAPS", 1)
    args = argparse.Namespace(
        data="things",
        sets=["train.steps=4", "train.eval_every=4"],
        methods=["static, distillation", "from scratch"],
        dims=[8, 4],
        seeds=1,
        storage=str(tmp_path),
        resume=False,
    )
    record = static.measure(args)
    named = ["static, distillation, 8", "from scratch", "model2vec, 8", "static, distillation, 4", "model2vec, 4"]
    assert [each["method"] for each in record["results"]] == named
    assert set(record["speeds"]) == {*named, "teacher"} and min(record["speeds"].values()) > 0
    sizes = {each["method"]: each["bytes"] for each in record["results"]}
    assert sizes["static, distillation, 8"] > sizes["static, distillation, 4"] > 0
    table = static.render(json.loads(json.dumps(record)))
    assert "texts a second" in table and "model2vec, 4" in table
    args.resume = True
    again = static.measure(args)
    assert [each["metrics"] for each in again["results"]][:2] == [each["metrics"] for each in record["results"]][:2]
    args.sets = ["train.steps=2", "train.eval_every=2"]
    with pytest.raises(ConfigError, match=r"--resume: .* is of another experiment"):
        static.measure(args)


def test_service_and_loop_are_measured_alike_and_a_ratio_is_of_a_pair():
    asked: list[int] = []
    found = serving.measured([asked.append] * 2, 0.05, size=4)
    assert sorted(asked) == list(range(len(asked)))
    assert found["inputs_per_s"] * 0.05 < 4 * len(asked) and found["ms"] <= found["ms_95"]
    assert serving.requests_of(list(range(7)), 3) == [[0, 1, 2], [3, 4, 5]]

    def pair(service: float, loop: float) -> dict:
        sides = {"service": service, "loop": loop}
        return {side: {"inputs_per_s": speed, "ms": 1.0, "ms_95": 2.0} for side, speed in sides.items()} | {
            "ratio": service / loop
        }

    pairs = [pair(10, 100), pair(30, 100), pair(90, 100)]
    record = {
        "data": "digits",
        "command": "python benchmarks/serving.py",
        "environment": environment(),
        "results": [{"inputs": 1, "clients": 4, "pairs": pairs}],
    }
    assert serving.render(record).splitlines()[-1].split() == ["1", "4", "30", "100", "0.30", "1.0", "2.0", "1.0"]
