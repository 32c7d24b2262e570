"""Measure what a search loses where the explorer's settings have a few levels, so that trials share synthetic rows.

python benchmarks/levels.py --data digits|FOLDER [--trials 64] [--levels 4,6,8] [--seeds 10] [--storage DIR]
    [--out FILE.json] [--jobs N] [--set KEY=VALUE ...]
python benchmarks/levels.py --show FILE.json

Trials at random points of the default sweep's space are trained once. A smooth function is fitted to their scores, on
which each search is then run many times. benchmarks/README.md says more.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from statistics import mean
from typing import Any

import methods
import numpy as np
import optuna
from common import (
    METRIC,
    aligned,
    apply_sets,
    at_least_one,
    base_experiment,
    command,
    data_name,
    hardware,
    main,
    mean_std,
    plus_minus,
    row_counts,
    run_options,
    show_or_measure,
    what_was_seen,
)
from scipy.stats import qmc, t

from tgt_ray.core.config import validate
from tgt_ray.core.environment import environment
from tgt_ray.core.loading import with_overrides
from tgt_ray.core.memory import keep_freed_memory
from tgt_ray.core.storage import Storage
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.sweeps.config import default_sweep
from tgt_ray.sweeps.space import Distribution, from_optuna
from tgt_ray.teacher.transfer_set import Prepared

#: The key that gets levels, and how many trials a search has.
KEY, SEARCHED = "explorer.step_size", 16


def default_space() -> dict[str, Distribution]:
    """Return the default sweep's space, of which all values are tried."""
    plain = {key: {k: v for k, v in each.items() if k != "levels"} for key, each in default_sweep()["space"].items()}
    return {key: validate(Distribution, each) for key, each in plain.items()}


def point(space: dict[str, Distribution], unit: np.ndarray) -> dict[str, float]:
    """Map numbers from 0 to 1 to values, each on its distribution's own scale."""
    out = {}
    for (key, each), share in zip(space.items(), unit, strict=True):
        low, high = each.ends()
        out[key] = low * (high / low) ** share if each.loguniform else low + (high - low) * share
    return out


def unit(space: dict[str, Distribution], values: dict[str, float]) -> list[float]:
    """Map values to numbers from 0 to 1; the opposite of `point`."""
    out = []
    for key, each in space.items():
        low, high = each.ends()
        up, whole = (
            (math.log(values[key] / low), math.log(high / low)) if each.loguniform else (values[key] - low, high - low)
        )
        out.append(up / whole)
    return out


def train(base: Experiment, prepared: Prepared, storage: Storage, values: dict[str, float]) -> dict[str, Any]:
    """Train a trial in this process, and give its values and its score on validation."""
    import torch

    from tgt_ray.training.local import train_local

    torch.set_num_threads(1)
    keep_freed_memory()
    sets = [("pool.bank.mode", "none"), *values.items()]
    experiment = validate(Experiment, with_overrides(base.model_dump(mode="json"), sets))
    score = train_local(experiment, prepared, storage).history[-1][METRIC]
    print(f"{', '.join(f'{key} {value:.3g}' for key, value in values.items())}: {score:.2f}", flush=True)
    return {**values, METRIC: score}


def fitted(space: dict[str, Distribution], trials: list[dict[str, Any]]) -> Any:
    """Fit a Gaussian process to the scores, with noise."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    kernel = ConstantKernel() * Matern([0.5] * len(space), nu=2.5) + WhiteKernel()
    model = GaussianProcessRegressor(kernel, normalize_y=True, n_restarts_optimizer=5, random_state=0)
    return model.fit([unit(space, each) for each in trials], [each[METRIC] for each in trials])


def search(space: dict[str, Distribution], model: Any, levels: int | None, seed: int, noise: float) -> float:
    """Search with TPE, and return what the best trial by its noisy score is worth."""
    here = {**space, KEY: space[KEY].model_copy(update={"levels": levels})}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    rng, worth = np.random.default_rng(seed), []
    for _ in range(SEARCHED):
        trial = study.ask({key: each.to_optuna() for key, each in here.items()})
        score = float(model.predict([unit(space, from_optuna(here, trial.params))])[0])
        study.tell(trial, score + noise * rng.normal())
        worth.append(score)
    return worth[study.best_trial.number]


def summarise(record: dict[str, Any]) -> dict[str, Any]:
    """Run every search on the fitted function; differences to the search of all values have a 95 % interval."""
    space, count = default_space(), record["seeds"]
    model = fitted(space, record["trials"])
    noise = float(np.std([each[METRIC] for each in record["trials"]]) * math.sqrt(model.kernel_.k2.noise_level))
    found = {
        str(levels or "all"): [search(space, model, levels, seed, noise) for seed in range(count)]
        for levels in (None, *record["levels"])
    }
    out: dict[str, Any] = {
        "noise": noise,
        "fit": float(model.score([unit(space, e) for e in record["trials"]], [e[METRIC] for e in record["trials"]])),
        "searches": {},
    }
    for levels, scores in found.items():
        lost = [own - every for own, every in zip(scores, found["all"], strict=True)]
        half = float(t.ppf(0.975, count - 1) * np.std(lost, ddof=1) / math.sqrt(count))
        out["searches"][levels] = {"best": mean_std(scores), "difference": mean(lost), "half_interval": half}
    return out


def render(record: dict[str, Any]) -> str:
    """Write the record as text."""
    summary = record["summary"]
    head = [
        f"{record['data']}: {len(record['trials'])} trials at points of the default sweep's space (Sobol), of which a"
        f" Gaussian process explains {100 * summary['fit']:.0f} % of the variance; noise of a score"
        f" {summary['noise']:.2f} points",
        record["teacher_has_seen"],
        f"{SEARCHED} trials with TPE on that function, with that noise; what the best one is worth, validation balanced"
        f" accuracy in percent, mean ± standard deviation over {record['seeds']} seeds; {record['command']}",
        hardware(record["environment"]),
    ]
    rows = [[f"levels of {KEY}", "best", "difference to all values (95 % interval)"]]
    rows += [
        [
            name,
            plus_minus(each["best"]),
            "-" if name == "all" else f"{each['difference']:+.2f} ± {each['half_interval']:.2f}",
        ]
        for name, each in summary["searches"].items()
    ]
    return "\n".join(head) + "\n\n" + aligned(rows)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Prepare the teacher, train the trials, and give the record."""
    from tgt_ray.training.local import prepare_local

    base = methods.with_seed(validate(Experiment, apply_sets(base_experiment(args.data), args.sets)), 0)
    storage, made_on, space = Storage(args.storage), environment(), default_space()
    data = base.task.load(storage)
    prepared = prepare_local(base, data, storage)
    places = qmc.Sobol(len(space), seed=0).random(args.trials)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.jobs, context) as pool:
        points = [point(space, each) for each in places]
        trials = list(pool.map(train, repeat(base), repeat(prepared), repeat(storage), points))
    config, rows = base.model_dump(mode="json"), row_counts(data)
    record = {
        "kind": "benchmark levels",
        "command": command("levels.py"),
        "data": data_name(args.data),
        "seeds": args.seeds,
        "levels": args.levels,
        "teacher_has_seen": what_was_seen(config, rows),
        "rows": rows,
        "metric": METRIC,
        "fingerprints": prepared.fingerprints,
        "base": config,
        "environment": made_on,
        "trials": trials,
    }
    return {**record, "summary": summarise(record)}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    run_options(parser, None)
    parser.set_defaults(seeds=10)
    parser.add_argument("--trials", type=at_least_one, default=64, help="trials that are trained")
    parser.add_argument(
        "--levels",
        type=lambda text: [at_least_one(each) for each in text.split(",")],
        default=[4, 6, 8],
        help=f"numbers of levels of {KEY}",
    )
    return parser.parse_args()


if __name__ == "__main__":
    main(lambda: show_or_measure(parse(), "levels", measure, render))
