"""Measure before any training what explored rows add to their anchors, and hold it against what students gained.

python benchmarks/explored.py --data digits|FOLDER [--gains RECORD.json,... [--gains-only]] [--generators 10,50,200]
    [--storage DIR] [--out FILE.json] [--set KEY=VALUE ...]
python benchmarks/explored.py --correlate FILE.json,... [--out FILE.json] [--plot FILE.png]
python benchmarks/explored.py --show FILE.json [--plot FILE.png]

The measures are those of the fit check, for each of several explorers. The gains come from records of methods.py and
agreement.py. benchmarks/README.md says more.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import methods
import numpy as np
from common import (
    aligned,
    apply_sets,
    at_least_one,
    base_experiment,
    command,
    data_name,
    hardware,
    main,
    number,
    record_path,
    row_counts,
    short_commit,
    what_was_seen,
    write_record,
)
from scipy.stats import rankdata, spearmanr

from tgt_ray.core.config import validate
from tgt_ray.core.environment import environment
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.storage import Storage
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.tasks import TaskData

#: Standard deviations of the noise of `random`, in units of the latent scale.
SIGMAS = (0.1, 0.25, 0.5, 1.0, 2.0)
#: Further explorers, as methods.py calls them.
OTHERS = {
    "image": ("random", "random-matched", "interpolation", "augment", "compose"),
    "text": ("masking", "random", "augment", "compose"),
}
#: What gains are over, at equal steps.
FLOOR = "distillation"
#: Measures that are held against gains, and what they are called.
MEASURES = {
    "agreement_explored": "agreement on explored rows",
    "agreement_reconstructed": "agreement on reconstructions",
    "precision_explored": "precision",
    "density_ratio": "density, over that of anchors",
    "coverage_explored": "coverage",
    "coverage_anchors": "coverage by anchors",
    "coverage_gain": "coverage, less that by anchors",
    "closer": "how much nearer unseen rows are than to anchors",
    "novelty_explored": "distance to the anchor",
    "novelty_reconstructed": "distance of reconstructions to the anchor (blur)",
    "moved_explored": "distance to the reconstruction",
    "moved_over_blur": "distance to the reconstruction, over the blur",
    "reach": "distance to the reconstruction, over that of unseen rows to anchors",
    "fresh_explored": "faithful and nearer to unseen rows than to anchors",
    "variety_ratio": "variety, over that of anchors",
    "doubt_added": "doubt, less that of unseen rows",
    "doubt_of_blur": "doubt of reconstructions, less that of anchors",
    "confidence_explored": "confidence",
    "nearest_anchors": "distance of unseen rows to anchors",
    "class_distance": "distance between classes",
}


def derived(check: dict[str, Any]) -> dict[str, float]:
    """Give the measures of a fit check, with differences and ratios of them."""
    out = {name: float(check[name]) for name in MEASURES if check.get(name) is not None}
    out |= {
        "density_ratio": check["density_explored"] / max(check["density_anchors"], 1e-9),
        "closer": 100 * (1 - check["nearest_explored"] / max(check["nearest_anchors"], 1e-9)),
        "variety_ratio": check["variety_explored"] / check["variety_anchors"],
        "doubt_added": check["doubt_explored"] - check["doubt_held_out"],
        "reach": check["moved_explored"] / max(check["nearest_anchors"], 1e-9),
    }
    if check.get("novelty_reconstructed"):
        out["moved_over_blur"] = check["moved_explored"] / check["novelty_reconstructed"]
        out["doubt_of_blur"] = check["doubt_reconstructed"] - check["doubt_anchors"]
    return out


def candidates(base: Experiment) -> dict[str, Experiment]:
    """Give the experiments whose explorers are measured in any case, by name."""
    kind = "text" if base.task.modality == "text" else "image"
    out = {name: methods.method_experiment(base, name) for name in OTHERS[kind]}
    plain = methods.method_experiment(base, "random")
    for sigma in SIGMAS:
        explorer = plain.explorer.model_copy(update={"sigma": sigma})
        out[f"random, sigma {sigma:g}"] = plain.model_copy(update={"explorer": explorer})
    return out


def differences(ours: Any, theirs: Any, where: str = "") -> Iterator[str]:
    """Name the keys that both have and whose values differ; records of older versions lack some keys."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in ours.keys() & theirs.keys():
            yield from differences(ours[key], theirs[key], f"{where}.{key}" if where else key)
    elif ours != theirs and not (isinstance(ours, list | tuple) and list(ours) == list(theirs or ())):
        yield where


#: Keys of an experiment that say where something lies.
PLACES = ("task.data.path", "teacher.labeler.weights", "teacher.generator.weights")
#: Blocks whose values must be those that the gains were measured with.
SAME = ("task", "teacher", "student", "objective")


def gained(path: Path, base: Experiment, steps: int | None) -> list[dict[str, Any]]:
    """Read a record of methods.py or agreement.py.

    - steps: pretraining steps of the generator, where several are measured
    - returns: the explorer of each plain method, its gain over distillation at equal steps, and its standard error
    - raises ConfigError: where the record is of other data, another teacher or another student
    """
    record = json.loads(path.read_text(encoding="utf-8"))
    kind = record.get("kind") or "benchmark methods"
    if kind not in ("benchmark methods", "benchmark agreement") or "base" not in record:
        raise ConfigError(f"--gains {path}: is no record of methods.py or agreement.py")
    ours, theirs = base.model_dump(mode="json"), record["base"]
    left_out = {"teacher.generator.pretrain.steps", "teacher.generator.pretrain.agreement"} if steps else set()
    left_out |= {*PLACES}
    differ = [key for block in SAME for key in differences(ours[block], theirs[block], block) if key not in left_out]
    if differ:
        raise ConfigError(
            f"--gains {path}: differs from the experiment in {', '.join(sorted(differ))}; give the record's by --set"
        )
    if kind == "benchmark agreement":
        return _of_agreement(record, path, steps)
    if steps and steps != theirs["teacher"]["generator"]["pretrain"]["steps"]:
        return []
    if FLOOR not in record["summary"]:
        raise ConfigError(f"--gains {path}: has no method '{FLOOR}', which gains are over")
    ceiling = methods.teacher_scores(record["teacher"])["test"]
    summary, seeds = record["summary"], len(record["seeds"])
    # Methods with a baseline or more steps differ in more than their rows.
    plain = {name: each["explorer"] for name, each in record["methods"].items() if not {"+", "x"} & {*name.split()}}
    return [
        {"steps": theirs["train"]["steps"]}
        | _gain(path, explorer, summary[name]["test"], summary[FLOOR]["test"], ceiling, name, seeds)
        for name, explorer in plain.items()
        if explorer["type"] not in ("none", "identity")
    ]


def _of_agreement(record: dict[str, Any], path: Path, steps: int | None) -> list[dict[str, Any]]:
    base = validate(Experiment, {**record["base"], "task": Experiment().task.model_dump(mode="json")})
    explorer = methods.method_experiment(base, record["method"]).explorer.model_dump(mode="json")
    ceiling = methods.teacher_scores({"labeler": record["labeler"]})["test"]
    bar, seeds = record["bars"][FLOOR], len(record["seeds"])
    there = [each for each in record["points"] if each["steps"] == steps]
    trained = {"steps": base.train.steps}
    return [trained | _gain(path, explorer, each["test"], bar, ceiling, record["method"], seeds) for each in there]


def _gain(
    path: Path,
    explorer: dict[str, Any],
    score: dict[str, Any],
    floor: dict[str, Any],
    ceiling: float | None,
    method: str,
    seeds: int,
) -> dict[str, Any]:
    spread = [each["std"] for each in (score, floor)]
    return {
        "record": path.stem,
        "method": method,
        "explorer": explorer,
        "gain": score["mean"] - floor["mean"],
        "error": None if None in spread else float(np.sqrt(sum(each**2 for each in spread) / seeds)),
        "gap_closed": methods.gap_closed(score["mean"], floor["mean"], ceiling),
    }


def wanted(base: Experiment, gains: Sequence[dict[str, Any]], others: bool = True) -> list[dict[str, Any]]:
    """List the explorers to measure: those of the gains.

    - others: also some in any case
    """
    out: list[dict[str, Any]] = []
    for name, experiment in candidates(base).items() if others else ():
        plain = experiment.explorer.model_dump(mode="json")
        if not any(plain == each["experiment"].explorer.model_dump(mode="json") for each in out):
            out.append({"name": name, "experiment": experiment, "gains": []})
    for gain in gains:
        there = [each for each in out if _same(each["experiment"], gain["explorer"])]
        if not there:
            experiment = validate(Experiment, {**base.model_dump(mode="json"), "explorer": gain["explorer"]})
            there = [{"name": gain["method"], "experiment": experiment, "gains": []}]
            out += there
        there[0]["gains"].append({key: value for key, value in gain.items() if key != "explorer"})
    return out


def _same(experiment: Experiment, explorer: dict[str, Any]) -> bool:
    ours = experiment.explorer.model_dump(mode="json")
    return ours["type"] == explorer["type"] and not list(differences(ours, explorer))


def points(
    base: Experiment,
    data: TaskData,
    storage: Storage,
    gains: Sequence[dict[str, Any]],
    steps: int | None,
    others: bool = True,
) -> list[dict[str, Any]]:
    """Make the teacher, unless the storage has it, and measure each explorer; for the parameters see `wanted`."""
    from tgt_ray.teacher.store import prepare_teacher
    from tgt_ray.training import fit_check

    teacher, record = prepare_teacher(base.teacher, base.task, data, storage)
    out = []
    for each in wanted(base, gains, others):
        experiment, own = each["experiment"], each["gains"]
        check = fit_check.ready(experiment, teacher, record, data, storage)
        point = {
            "name": each["name"],
            "explorer": experiment.explorer.model_dump(mode="json"),
            "generator_steps": steps,
            "generator": record["generator"]["identity"],
            "fit_check": check,
            "gains": own,
        }
        out.append(point)
        print(f"{each['name']}: coverage {check['coverage_explored']:.1f} %, {len(own)} gain(s)", flush=True)
    return out


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Measure the explorers with one generator or several, and give the record."""
    plain = apply_sets(base_experiment(args.data), args.sets)
    base, storage, made_on = validate(Experiment, plain), Storage(args.storage), environment()
    if base.fit_check.on_low == "skip" or base.task.has_documents:
        raise ConfigError("--data, --set: give a task with classes, and a fit_check.on_low other than skip")
    data = base.task.load(storage)
    found: list[dict[str, Any]] = []
    for steps in args.generators or [None]:
        sets = [f"teacher.generator.pretrain.steps={steps}", "teacher.generator.pretrain.agreement=null"]
        here = validate(Experiment, apply_sets(plain, sets)) if steps else base
        gains = [gain for path in args.gains for gain in gained(Path(path), here, steps)]
        print(f"generator{f' of {steps} steps' if steps else ''}: {len(gains)} gain(s)", flush=True)
        found += points(here, data, storage, gains, steps, others=not found and not args.gains_only)
    config, rows = base.model_dump(mode="json"), row_counts(data)
    return {
        "kind": "benchmark explored",
        "command": command("explored.py"),
        "data": data_name(args.data),
        "teacher_has_seen": what_was_seen(config, rows),
        "rows": rows,
        "base": config,
        "environment": made_on,
        "gains": {
            Path(path).stem: json.loads(Path(path).read_text(encoding="utf-8"))["command"] for path in args.gains
        },
        "points": found,
    }


def group(record: dict[str, Any]) -> str:
    """Name what gains of a record are compared within: the data, and how much of it the student has."""
    task = record["base"]["task"]
    tail, labelled = task["long_tail"], task.get("labelled")
    some = f", imbalance {tail['imbalance']:g}" if tail else f", {labelled['rows']} labels" if labelled else ""
    return f"{record['data']}{some}"


def joined(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Give the points of a record that have a gain, with their measures; of several gains the mean."""
    out = []
    for point in record["points"]:
        own = point["gains"]
        if not own or point["fit_check"].get("coverage_explored") is None:
            continue
        closed = [each["gap_closed"] for each in own if each["gap_closed"] is not None]
        decoded = point["generator_steps"] and point["fit_check"].get("novelty_reconstructed") is not None
        steps = f", generator of {point['generator_steps']} steps" if decoded else ""
        out.append(
            {
                "data": group(record),
                "source": record["data"],
                "kind": "text" if "max_bytes" in record["base"]["task"] else "image",
                "name": f"{point['name']}{steps}",
                "gain": mean(each["gain"] for each in own),
                "error": own[0]["error"],
                "gap_closed": mean(closed) if closed else None,
                "records": sorted({each["record"] for each in own}),
                "measures": derived(point["fit_check"]),
            }
        )
    return out


def correlations(found: Sequence[dict[str, Any]], against: str) -> dict[str, Any]:
    """Correlate each measure with what was gained, by Spearman's rank correlation.

    - against: `gain` or `gap_closed`
    - returns: by measure, the number of points and the correlation over all of them, with its p-value as if they were
      independent, which they are not; and over ranks within each data set of at least three points, for all of these
      and for each source of data
    """
    out = {}
    for name in MEASURES:
        some = [each for each in found if each["measures"].get(name) is not None and each[against] is not None]
        if len(some) < 3:
            continue
        x, y = [each["measures"][name] for each in some], [each[against] for each in some]
        # Of what is the same everywhere there is none.
        overall = spearmanr(x, y) if len({*x}) > 1 and len({*y}) > 1 else None
        ranks = _ranks(some, x, y)
        together = [pair for pairs in ranks.values() for pair in pairs]
        out[name] = {
            "points": len(some),
            "all": None if overall is None else float(overall.statistic),
            "p": None if overall is None else float(overall.pvalue),
            "points_within": len(together),
            "within": _correlation(together),
            "sources": {
                source: {"points": len(pairs), "within": _correlation(pairs)} for source, pairs in ranks.items()
            },
        }
    return out


def _ranks(some: Sequence[dict[str, Any]], x: list[float], y: list[float]) -> dict[str, list[tuple[float, float]]]:
    """Rank points within each data set of at least three, from -1 to 1, so that large sets don't have larger ranks.

    - returns: pairs of ranks, by source of the data
    """
    out: dict[str, list[tuple[float, float]]] = {}
    for data in dict.fromkeys(each["data"] for each in some):
        mine = [number for number, each in enumerate(some) if each["data"] == data]
        if len(mine) >= 3:
            pair = [2 * (rankdata([values[i] for i in mine]) - 1) / (len(mine) - 1) - 1 for values in (x, y)]
            out.setdefault(some[mine[0]]["source"], []).extend(zip(*pair, strict=True))
    return out


def _correlation(pairs: Sequence[tuple[float, float]]) -> float | None:
    varied = len(pairs) >= 3 and np.ptp(pairs, axis=0).all()
    return float(np.corrcoef(np.array(pairs).T)[0, 1]) if varied else None


def correlate(args: argparse.Namespace) -> dict[str, Any]:
    """Read records of this script, and correlate over all their points."""
    records = {Path(path).stem: json.loads(Path(path).read_text(encoding="utf-8")) for path in args.correlate}
    for name, record in records.items():
        if record.get("kind") != "benchmark explored":
            raise ConfigError(f"--correlate {name}: is no record of explored.py with --data")
    found = [point for record in records.values() for point in joined(record)]
    if len(found) < 3:
        raise ConfigError(f"--correlate: {len(found)} points with a gain; give records that were made with --gains")
    kinds = {
        "all": found,
        **{kind: some for kind in ("image", "text") if len(some := [e for e in found if e["kind"] == kind]) >= 3},
    }
    return {
        "kind": "benchmark explored, correlated",
        "command": command("explored.py"),
        "measured": {
            name: {key: record[key] for key in ("command", "data", "teacher_has_seen", "rows", "environment", "gains")}
            for name, record in records.items()
        },
        "environment": environment(),
        "points": found,
        "correlations": {
            kind: {against: correlations(some, against) for against in ("gain", "gap_closed")}
            for kind, some in kinds.items()
        },
    }


def render(record: dict[str, Any]) -> str:
    """Write either kind of record as text."""
    if "correlations" in record:
        return _render_correlated(record)
    head = [
        f"{group(record)}: {len(record['points'])} explorers, as the labeler sees their rows; {record['command']}",
        record["teacher_has_seen"],
        hardware(record["environment"]),
    ]
    names = ("agreement_explored", "precision_explored", "density_ratio", "coverage_gain", "novelty_explored",
             "novelty_reconstructed", "moved_explored", "fresh_explored", "variety_ratio", "doubt_added")  # fmt: skip
    rows = [["explorer", *names, "gain"]]
    for point in record["points"]:
        measures = derived(point["fit_check"])
        steps = f" ({point['generator_steps']} steps)" if point["generator_steps"] else ""
        gain = mean(each["gain"] for each in point["gains"]) if point["gains"] else None
        rows.append([point["name"] + steps, *(number(measures.get(name)) for name in names), number(gain)])
    return "\n".join(head) + "\n\n" + aligned(rows)


def _render_correlated(record: dict[str, Any]) -> str:
    found = record["points"]
    sets = sorted({each["data"] for each in found})
    head = [
        f"{len(found)} points of {len(sets)} data sets ({'; '.join(sets)}); Spearman's rank correlation of each measure"
        " with the gain over distillation at equal steps",
        "*within*: of ranks within each data set; points of a data set share teacher and students, so they are not"
        " independent",
        *(
            f"measured by commit {short_commit(each['environment']['commit'])}: {each['command']}"
            for each in record["measured"].values()
        ),
        record["command"],
    ]
    every = record["correlations"]["all"]["gain"]
    sources = sorted({source for each in every.values() for source in each["sources"]})
    rows = [["measure", "points", "gain", "gap closed", "within", *(f"within {source}" for source in sources)]]
    for name, called in MEASURES.items():
        gain, closed = (record["correlations"]["all"][against].get(name) for against in ("gain", "gap_closed"))
        if gain is None:
            continue
        cells = [gain["all"], closed and closed["all"], gain["within"]]
        cells += [gain["sources"].get(source, {}).get("within") for source in sources]
        rows.append([called, str(gain["points"]), *(number(each) for each in cells)])
    return "\n".join(head) + "\n\n" + aligned(rows)


def plot(record: dict[str, Any], path: Path) -> None:
    """Draw the gain against each of the measures that go with it most, with a colour for each data set."""
    from matplotlib.figure import Figure

    if "correlations" not in record:
        raise ConfigError("--plot: draws a record of --correlate")
    of_gain = record["correlations"]["all"]["gain"]
    best = sorted(of_gain, key=lambda name: -abs(of_gain[name]["all"] or 0.0))[:6]
    figure = Figure(figsize=(11, 6.5), layout="constrained")
    panels = figure.subplots(2, 3, sharey=True).ravel()
    for axes, name in zip(panels, best, strict=False):
        for data in sorted({each["data"] for each in record["points"]}):
            some = [each for each in record["points"] if each["data"] == data and name in each["measures"]]
            axes.scatter([each["measures"][name] for each in some], [each["gain"] for each in some], s=16, label=data)
        axes.axhline(0, color="black", linewidth=0.6)
        axes.set(xlabel=f"{name} (rank correlation {number(of_gain[name]['all'])})")
    for axes in (panels[0], panels[3]):
        axes.set(ylabel="gain over distillation, points")
    panels[0].legend(fontsize=6)
    figure.savefig(path, dpi=120)


def run(args: argparse.Namespace) -> None:
    """Do what the options ask for."""
    if args.show:
        record = json.loads(Path(args.show).read_text(encoding="utf-8"))
    else:
        record = correlate(args) if args.correlate else measure(args)
    print(render(record))
    if not args.show:
        stem = "explored" if args.correlate else f"explored-{data_name(args.data)}"
        write_record(record, record_path(args.out, args.storage, stem))
    if args.plot:
        plot(record, Path(args.plot))


def files(text: str) -> list[str]:
    return text.split(",")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--data",
        metavar="digits|FOLDER",
        help="digits, or a folder named like one of the YAML files here (without _lt)",
    )
    what.add_argument("--correlate", type=files, metavar="FILE.json,...", help="records of this script to correlate")
    what.add_argument("--show", metavar="FILE.json", help="print the table of a record and run nothing")
    parser.add_argument(
        "--gains", type=files, default=[], metavar="FILE.json,...", help="records of methods.py and agreement.py"
    )
    parser.add_argument(
        "--generators",
        type=lambda text: [at_least_one(each) for each in text.split(",")],
        help="pretraining steps of several generators, as agreement.py has them; those after the first are measured"
        " with the explorers of the gains alone",
    )
    parser.add_argument("--gains-only", action="store_true", help="measure the explorers of the gains alone")
    parser.add_argument("--storage", default="results", help="folder for teachers and fit checks")
    parser.add_argument("--out", metavar="FILE.json", help="the record (default: in the storage)")
    parser.add_argument("--plot", metavar="FILE.png", help="gain against measures, of --correlate, as a picture")
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="KEY=VALUE")
    return parser.parse_args()


if __name__ == "__main__":
    main(lambda: run(parse()))
