"""Writes docs/results.md: the prose of results.md.j2, with every figure taken from a record in benchmarks/records.

    python docs/results.py

The template calls the public methods of `Page`. A record is named by its file without `.json`, or by its folder;
`NAME@200` is the part of a retrieval record with 200 labelled queries. A record, method or setting that isn't there is
an error, and so is a record or a picture that the page doesn't use.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

from common import METRIC, mean_std
from forms import summary
from hot_loops import describe
from methods import BASELINES, gap_closed
from results_records import (
    BOTH,
    RECORDS,
    RETRIEVAL,
    ROOT,
    Line,
    Record,
    base_of,
    generator_has_seen,
    labeler_has_seen,
    lines_of,
    names,
    processor,
    read,
    rows_of,
    seeds_of,
)
from results_text import ResultsError, figure, listed, markdown, mean_and_spread, say, shell, wrapped

from tgt_ray.experiment.pool import FitCheckConfig
from tgt_ray.teacher.forms.names import LEAST_AGREEMENT, MOST_KL, WORK_ROWS

HERE = Path(__file__).resolve().parent
PAGE = HERE / "results.md"
TEMPLATE = "results.md.j2"
#: Sides of the comparison with a plain loop.
SIDES = {
    "empty": "first time",
    "filled": "second time",
    "plain": "plain loop",
    "plain-bank": "plain loop with a bank",
    "plain-bank-2": "the same in two processes",
}
#: Scores of texts that are sorted into classes, and of documents that are ranked.
CLASSIFIED = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy"}
RANKED = {"ndcg_at_10": "nDCG@10", "recall_at_100": "recall@100"}
#: How many processes each side has that is a plain loop.
PLAIN = {"plain": 1, "plain-bank": 1, "plain-bank-2": 2}


class Page:
    """What the template may call. It remembers which records and pictures were used."""

    def __init__(self, folder: Path = RECORDS):
        self.folder = folder
        self.used: set[str] = set()

    def record(self, name: str) -> Record:
        """The whole record."""
        self.used.add(name)
        return read(self.folder, name)

    def line(self, name: str, method: str) -> Line:
        """What a method scored and cost."""
        name, _, labelled = name.partition("@")
        lines = lines_of(self.record(name), labelled)
        if method not in lines:
            raise ResultsError(f"{name}: no method '{method}' {labelled}; there are {', '.join(lines)}")
        return lines[method]

    def metric(self, name: str) -> str:
        return BOTH[0] if self.record(name.partition("@")[0]).get("kind") == RETRIEVAL else "test"

    def value(self, name: str, method: str, metric: str | None = None) -> float:
        """A method's mean over seeds."""
        return self.line(name, method)[metric or self.metric(name)]["mean"]

    def score(self, name: str, method: str, metric: str | None = None) -> str:
        """Mean and standard deviation as text."""
        return mean_and_spread(self.line(name, method)[metric or self.metric(name)])

    def gain(self, name: str, method: str, over: str, metric: str | None = None, other: str | None = None) -> float:
        """Points from one method to another, which may be of another record."""
        return self.value(name, method, metric) - self.value(other or name, over, metric)

    def cost(self, name: str, method: str, of: str) -> float:
        """Processor seconds of a method's run, as a multiple of another one's."""
        return self.line(name, method)["core_s"]["mean"] / self.line(name, of)["core_s"]["mean"]

    def seconds(self, name: str, method: str) -> float:
        return self.line(name, method)["core_s"]["mean"]

    def share(self, name: str, method: str) -> float:
        """Percent of the gap from one-hot to the teacher that a method closes on test."""
        found = gap_closed(*(self.value(name, each) for each in (method, "one_hot", "teacher")))
        if found is None:
            raise ResultsError(f"{name}: the teacher isn't better than one-hot")
        return found

    def kept(self, name: str, method: str, metric: str) -> float:
        """Percent of the teacher's score that the student keeps."""
        return 100 * self.value(name, method, metric) / self.value(name, "teacher", metric)

    def spread(self, name: str, *methods: str) -> float:
        """The largest standard deviation of these methods over seeds."""
        return max(self.line(name, method)[self.metric(name)]["std"] for method in methods)

    def level(self, name: str, method: str, other: str) -> bool:
        """Whether two methods differ by no more than the larger of their standard deviations."""
        return abs(self.gain(name, method, other)) <= self.spread(name, method, other)

    def better(self, name: str, method: str, than: str) -> bool:
        """Whether a method is ahead by more than the larger of both standard deviations."""
        return self.gain(name, method, than) > self.spread(name, method, than)

    def lowest(self, of: Callable[[str], float], records: Iterable[str]) -> float:
        return min(of(name) for name in records)

    def highest(self, of: Callable[[str], float], records: Iterable[str]) -> float:
        return max(of(name) for name in records)

    def claim(self, holds: bool) -> str:
        """Nothing, where the sentence that follows holds on the records."""
        if not holds:
            raise ResultsError("a sentence of the template does not hold on the records")
        return ""

    def best(self, name: str, *methods: str) -> str:
        return max(methods, key=lambda method: self.value(name, method))

    # What was compared.

    def imbalance(self, name: str) -> str:
        """How many times as many rows the first class has as the last one."""
        return f"{base_of(self.record(name))['task']['long_tail']['imbalance']:g}"

    def tail(self, name: str) -> str:
        """The rows of the first and of the last class."""
        record = self.record(name)
        tail = base_of(record)["task"]["long_tail"]
        last = tail["head"] / tail["imbalance"]
        few = f"{last:g}" if last == int(last) else f"{int(last)} or {int(last) + 1}"
        return f"{tail['head']} rows of the first class down to {few} of the last"

    def parameters(self, name: str) -> int:
        """Of the student of the record's first method."""
        return next(iter(self.record(name)["summary"].values()))["student_parameters"]

    def agrees(self, name: str) -> float:
        """Percent of the generator's reconstructions that the labeler takes for what it took the originals for."""
        return self.record(name)["teacher"]["generator"]["quality"]["validation"]["labeler_agreement"]

    def overrun(self, *records: str) -> tuple[float, float]:
        """By how much, at least and at most, runs with more steps exceed the processor time of gradient exploration."""
        spent = [
            self.cost(name, method, of="gradient")
            for name in records
            for method in self.record(name)["summary"]
            if method.endswith((" x 12", " x 3"))
        ]
        return min(spent) - 1, max(spent) - 1

    def size(self, name: str) -> float:
        """Parameters of a query encoder, as a part of its teacher's."""
        return self._beside_teacher(name, "parameters")

    def speed(self, name: str) -> float:
        """Queries a second of a query encoder, as a multiple of its teacher's."""
        return self._beside_teacher(name, "queries_per_second")

    def _beside_teacher(self, name: str, key: str) -> float:
        speeds = self.record(name)["speeds"]
        return speeds["student"][key] / speeds["teacher"][key]

    # Tables.

    def scores(
        self,
        columns: Mapping[str, str | Sequence[str]],
        methods: Sequence[str],
        share: str | None = None,
        seconds: Mapping[str, str | Sequence[str]] | None = None,
    ) -> str:
        """A row for each method, with its scores in one or more records.

        - columns: the record of each column, or several that hold its methods together
        - share: the record of a column with the share of the gap from one-hot to the teacher
        - seconds: the record of each column of processor seconds; of several records their mean
        """
        seconds = seconds or {}
        rows = [["method", *columns, *(["of the gap, one-hot to teacher"] if share else []), *seconds]]
        for method in [*methods, "teacher"]:
            row = [say(method), *(self._scores(name, method) for name in columns.values())]
            if share:
                row.append(f"{figure(self.share(share, method))} %")
            for name in seconds.values():
                spent = [self._holds(each, method) for each in ([name] if isinstance(name, str) else name)]
                row.append("-" if method == "teacher" else figure(mean(line["core_s"]["mean"] for line in spent)))
            rows.append(row)
        return markdown(rows)

    def _scores(self, name: str | Sequence[str], method: str) -> str:
        first = name if isinstance(name, str) else name[0]
        metrics = BOTH if self.metric(first) in BOTH else ("test",)
        line = self._holds(name, method)
        return " / ".join(mean_and_spread(line[metric]) for metric in metrics)

    def _holds(self, name: str | Sequence[str], method: str) -> Line:
        """The method in the first of these records that has it."""
        *most, last = [name] if isinstance(name, str) else name
        for each in most:
            if method in lines_of(self.record(each), ""):
                return self.line(each, method)
        return self.line(last, method)

    def gains(self, columns: Mapping[str, str], methods: Sequence[str], over: str) -> str:
        """A row for each method, with the points that it adds to another one."""
        rows = [[f"points over {say(over)}", *columns]]
        for method in methods:
            points = (self.gain(name, method, over) for name in columns.values())
            rows.append([say(method), *(figure(each, 1, "+") for each in points)])
        return markdown(rows)

    def about(self, *records: str, labeler: str | None = None) -> str:
        """Where figures come from: the record, seeds, steps, rows, what the teacher has seen, and the processor.

        labeler: what a labeler has seen whose weights were given.
        """
        head = ["record", "seeds", "steps", "labelled rows of the student", "the labeler has seen"]
        rows = [[*head, "the generator has seen", "processor"]]
        for name in records:
            record = self.record(name)
            train, counts = base_of(record)["train"], rows_of(record, self.folder)
            rows.append(
                [
                    self.link(name),
                    str(seeds_of(record)),
                    f"{train['steps']:,} of {train['batch_size']} rows",
                    f"{listed(each['train'] for each in counts)} of {counts[0]['full']:,}",
                    labeler_has_seen(record, counts[0], labeler),
                    generator_has_seen(record, counts[0]),
                    processor(record),
                ]
            )
        return markdown(rows)

    def source(self, *records: str) -> str:
        """Where figures of the platform come from: the record, how often it measured, and the processor."""
        rows = [["record", "measured", "processor"]]
        for name in records:
            record = self.record(name)
            if "student" in record:
                often = f"{len(record['student'])} pairs of segments, the median of their ratios"
            elif record.get("benchmark") == "serving":
                often = f"{len(record['results'][0]['pairs'])} pairs of segments, the median"
            elif "repeats" in record:
                often = f"{record['repeats']} times, the median"
            elif "found" in record:
                often = f"{len(record['found']['student'][0]['images_per_s'])} times, the median"
            else:
                often = f"{len(record['runs']['plain'])} runs of each side, the median"
            rows.append([self.link(name), often, processor(record)])
        return markdown(rows)

    def page_block(self, page: str, part: str) -> str:
        """The first block of Python on another page that has this part, so that it is written once."""
        blocks = re.findall(r"```python\n(.*?)\n```", (HERE / page).read_text(encoding="utf-8"), re.DOTALL)
        found = next((block for block in blocks if part in block), None)
        if found is None:
            raise ResultsError(f"{page}: no block of Python has '{part}'")
        return str(found)

    def link(self, name: str) -> str:
        self.record(name)
        tail = "/record.json" if name.endswith("_sweep") else ".json"
        return f"[`{name}`](../benchmarks/records/{name}{tail})"

    def picture(self, name: str, text: str) -> str:
        """A picture of the records. text: what it shows, for those who can't see it."""
        if not (self.folder / name).is_file():
            raise ResultsError(f"{self.folder.name}: no picture '{name}'")
        self.used.add(name)
        return f"![{text}](../benchmarks/records/{name})"

    def agreement(self, name: str) -> str:
        """A row for each generator: how far the labeler agrees with itself, and what the student makes of it."""
        record = self.record(name)
        rows = [
            [
                "steps of the generator",
                "agreement on reconstructions",
                "agreement on explored rows",
                record["method"],
                "gain",
            ]
        ]
        for point in sorted(record["points"], key=lambda point: point["fit_check"]["agreement_reconstructed"]):
            check, steps = point["fit_check"], f"{point['steps']} steps"
            agreed = [f"{figure(check[f'agreement_{which}'])} %" for which in ("reconstructed", "explored")]
            row = [figure(point["steps"]), *agreed, self.score(name, steps)]
            rows.append([*row, figure(self.gain(name, steps, "distillation"), 1, "+")])
        return markdown(rows)

    def generators(self, name: str, *, below: float = 101.0, above: float = -1.0) -> list[str]:
        """The generators of an agreement record whose agreement on reconstructions lies between two percentages."""
        return [
            f"{point['steps']} steps"
            for point in self.record(name)["points"]
            if above < point["fit_check"]["agreement_reconstructed"] < below
        ]

    def explored(self, name: str, measures: Mapping[str, str]) -> str:
        """A row for each point of a record of measures of explored rows, by data set, the largest gain first.

        measures: what each is called in the head of the table.
        """
        rows = [["data", "explorer", *measures.values(), "gain"]]
        for point in sorted(self.record(name)["points"], key=lambda point: (point["data"], -point["gain"])):
            there = [point["measures"].get(each) for each in measures]
            cells = ["none" if value is None else figure(value, 2) for value in there]
            rows.append([point["data"], point["name"], *cells, figure(point["gain"], 1, "+")])
        return markdown(rows)

    def correlated(self, name: str, measures: Mapping[str, str]) -> str:
        """A row for each measure: its rank correlation with the gain, over all points and within data sets.

        measures: what each is called.
        """
        found = self.record(name)["correlations"]["all"]["gain"]
        sources = sorted({source for each in found.values() for source in each["sources"]})
        counts = [
            max(each["sources"].get(source, {"points": 0})["points"] for each in found.values()) for source in sources
        ]
        within = [f"within {source} ({count} points)" for source, count in zip(sources, counts, strict=True)]
        rows = [["measure", "points", "all points", "within data sets", *within]]
        for each, called in measures.items():
            values = [found[each]["all"], found[each]["within"]]
            values += [found[each]["sources"].get(source, {}).get("within") for source in sources]
            cells = ["none" if value is None else figure(value, 2, "+") for value in values]
            rows.append([called, str(found[each]["points"]), *cells])
        return markdown(rows)

    def correlation(self, name: str, measure: str, source: str) -> float:
        """The rank correlation of a measure with the gain, within the data sets of one source."""
        found: float = self.record(name)["correlations"]["all"]["gain"][measure]["sources"][source]["within"]
        return found

    def explored_by(self, name: str, data: str, explorer: str) -> dict[str, Any]:
        """The measures and the gain of one point of such a record."""
        points = [each for each in self.record(name)["points"] if (each["data"], each["name"]) == (data, explorer)]
        if len(points) != 1:
            raise ResultsError(f"{name}: {len(points)} points '{explorer}' of {data}")
        return {**points[0]["measures"], "gain": points[0]["gain"]}

    def sweeps(self, records: Sequence[str], controls: Sequence[str]) -> str:
        """A row for each sweep: its best trial by validation, its controls and its teacher, on test."""
        rows = [["sweep", "trials", "best", *(say(control) for control in controls), "teacher"]]
        for name in records:
            lines = ["best", *controls, "teacher"]
            trials = str(len(self.record(name)["trials"]))
            rows.append([sweep_file(name), trials, *(self.score(name, line) for line in lines)])
        return markdown(rows)

    def busy_minutes(self, name: str) -> float:
        """How long the trials of a sweep kept its lanes busy."""
        record = self.record(name)
        return sum(float(trial["seconds"]) for trial in record["trials"]) / record["concurrent"] / 60

    def teacher_minutes(self, name: str) -> float:
        """How long labeler and generator of a sweep took to be made."""
        return sum(self.record(name)["teacher"][role]["seconds"] for role in ("labeler", "generator")) / 60

    def trials(self, name: str) -> str:
        """The trials of a sweep, best first by validation; a trial that was stopped early has no test score."""
        record = self.record(name)
        space = list(record["config"]["space"])
        rows = [["trial", "status", *(f"`{key}`" for key in space), "step", "validation", "test"]]
        for trial in record["trials"]:
            values = [f"{float(trial[key]):.3g}" if trial[key] else "-" for key in space]
            status = f"{trial['status']} (control)" if trial["control"] else trial["status"]
            scores = [figure(float(trial[key]), 1) if trial[key] else "-" for key in (METRIC, f"test_{METRIC}")]
            rows.append([say(trial["control"] or trial["trial"]), status, *values, trial["step"], *scores])
        return markdown(rows)

    def schedules(self, name: str) -> str:
        """A row for each way to use the teacher: what it reaches with each number of steps, and the core-seconds."""
        summary = self.record(name)["summary"]
        times = sorted({line["times"] for line in summary})
        rows = [["method", *(f"x {each}" for each in times)]]
        for method in dict.fromkeys(line["method"] for line in summary):
            there = {line["times"]: line for line in summary if line["method"] == method}
            rows.append([say(method), *(_reached(there[each]) if each in there else "-" for each in times)])
        return markdown(rows)

    def best_ways(self, *records: str) -> str:
        """The best way to use a teacher with each number of steps, and how far it is above the best distillation.

        Ways are chosen by validation, and the scores are those on test. Rows that are explored for one student alone
        cost it too much more to be compared.
        """
        summaries = {name: self.record(name)["summary"] for name in records}
        times = sorted({line["times"] for lines in summaries.values() for line in lines})
        rows = [["data", *(f"x {each}" for each in times)]]
        for name, lines in summaries.items():
            record = self.record(name)
            tail = base_of(record)["task"].get("long_tail")
            what = f"{record['data']}, " + (f"imbalance {tail['imbalance']:g}" if tail else "few labels")
            cells = [_best_way([line for line in lines if line["times"] == each]) for each in times]
            seeds = len(record["seeds"])
            rows.append([f"{what} ({seeds} seed{'s' if seeds > 1 else ''})", *cells])
        return markdown(rows)

    # Students that are taken away.

    def statics(self, name: str) -> str:
        """Students that begin with the teacher's words beside model2vec: scores, size on the disk and speed."""
        record = self.record(name)
        shown = RANKED if record["base"]["task"]["type"] == "retrieval" else CLASSIFIED
        rows = [["student", *shown.values(), "MB on disk", "texts a second"]]
        for each in record["results"]:
            scores = (mean_and_spread(mean_std([run[f"test_{key}"] for run in each["metrics"]])) for key in shown)
            speed = record["speeds"].get(each["method"])
            size = figure(each["bytes"] / 1e6, 1)
            rows.append([each["method"], *scores, size, "-" if speed is None else figure(speed)])
        scores = (figure(record["teacher"]["quality"]["test"][key], 1) for key in shown)
        rows.append([say("teacher"), *scores, "-", figure(record["speeds"]["teacher"])])
        return markdown(rows)

    def static(self, name: str, method: str, key: str) -> float:
        """A score on test of a student beside model2vec (the mean over seeds), its `bytes`, or texts a `second`."""
        record = self.record(name)
        (found,) = [each for each in record["results"] if each["method"] == method]
        if key in ("bytes", "second"):
            return float(found["bytes"] if key == "bytes" else record["speeds"][method])
        return mean(run[f"test_{key}"] for run in found["metrics"])

    def served(self, *records: str) -> str:
        """What a service answers against the module in a loop of the same thread."""
        head = ["data", "inputs a request", "clients", "service, inputs a second", "loop", "ratio"]
        rows = [[*head, "service, milliseconds", "of 95 %", "loop, milliseconds"]]
        for name in records:
            record = self.record(name)
            for case in record["results"]:
                service, loop = ([pair[side] for pair in case["pairs"]] for side in ("service", "loop"))
                speeds = [figure(median(each["inputs_per_s"] for each in side)) for side in (service, loop)]
                times = [
                    median(each[key] for each in side)
                    for side, key in ((service, "ms"), (service, "ms_95"), (loop, "ms"))
                ]
                ratio = figure(median(pair["ratio"] for pair in case["pairs"]), 2)
                asked = [str(case["inputs"]), str(case["clients"])]
                rows.append([record["data"], *asked, *speeds, ratio, *(figure(each, 1) for each in times)])
        return markdown(rows)

    def serves(self, name: str, inputs: int, clients: int) -> float:
        """Inputs a second of a service, over those of the loop."""
        for case in self.record(name)["results"]:
            if (case["inputs"], case["clients"]) == (inputs, clients):
                return median(pair["ratio"] for pair in case["pairs"])
        raise ResultsError(f"{name}: no case of {inputs} inputs and {clients} clients")

    # The platform.

    def side(self, name: str, side: str) -> dict[str, Any]:
        return self.record(name)["summary"]["sides"][side]

    def wall(self, name: str, side: str) -> float:
        """Wall seconds of a sweep, the median of its repeats."""
        seconds: float = self.side(name, side)["median_wall_s"]
        return seconds

    def against(self, name: str, side: str, other: str) -> float:
        """How many times as long one side takes as another."""
        return self.wall(name, side) / self.wall(name, other)

    def processor_seconds(self, name: str, side: str, *roles: str) -> float:
        """Processor seconds of all processes of a sweep, or of those with these roles."""
        spent = self.side(name, side)["processor_s"]
        return sum(spent.get(role, 0.0) for role in roles or spent)

    def shared_rows(self, *records: str) -> str:
        """Trials that explore rows for themselves, and trials that share them."""
        rows = [["data", "rows", "test", "best by validation", "processor seconds of a run", "rows found"]]
        for name in records:
            record = self.record(name)
            for what, side in (("of its own student", "own"), ("shared", "shared")):
                line = record["summary"][side]
                scores = [mean_and_spread(line[key]) for key in ("test", "best_test")]
                cost = [figure(line["core_s"]["mean"], 1), f"{figure(100 * line['found'])} %"]
                rows.append([record["data"], what, *scores, *cost])
        return markdown(rows)

    def spared(self, name: str) -> float:
        """How many times as long a run takes that explores rows for itself."""
        summary = self.record(name)["summary"]
        times: float = summary["own"]["core_s"]["mean"] / summary["shared"]["core_s"]["mean"]
        return times

    def lost(self, name: str) -> dict[str, Any]:
        """Points that trials lose which share rows: mean and standard deviation over seeds."""
        difference: dict[str, Any] = self.record(name)["summary"]["difference"]
        return {"mean": -difference["mean"], "std": difference["std"]}

    def levels(self, name: str) -> str:
        """What searches find that try some values of a range."""
        rows = [["values of the step size", "best of 16 trials", "points above all values (95 % interval)"]]
        for levels, found in self.record(name)["summary"]["searches"].items():
            points = f"{figure(found['difference'], 2, '+')} ± {figure(found['half_interval'], 2)}"
            rows.append([levels, mean_and_spread(found["best"]), "–" if levels == "all" else points])
        return markdown(rows)

    def walls(self, *records: str) -> str:
        """A row for each sweep: seconds with an empty bank, with a filled one, and of plain loops."""
        rows = [["sweep", *SIDES.values(), "first time / plain loop", "second time / plain loop with a bank"]]
        for name in records:
            record = self.record(name)
            explorer, trials = record["sweep"]["experiment"]["explorer"]["type"], record["sweep"]["search"]["trials"]
            ratios = [self.against(name, "empty", "plain"), self.against(name, "filled", "plain-bank")]
            times = [figure(self.wall(name, side)) for side in SIDES]
            what = f"{record['data']}, {explorer}, {trials} trials"
            rows.append([what, *times, *(figure(ratio, 2) for ratio in ratios)])
        return markdown(rows)

    def levels_of(self, name: str) -> int:
        """How many values of the step size a sweep tries."""
        levels: int = self.record(name)["sweep"]["space"]["explorer.step_size"]["levels"]
        return levels

    def where(self, name: str) -> str:
        """Where the time of a sweep goes, on each side."""
        told: dict[str, Callable[[str], str]] = {
            "wall seconds": lambda side: figure(self.wall(name, side)),
            "processor seconds of all processes": lambda side: figure(self.processor_seconds(name, side)),
            "of them generators": lambda side: self._role(name, side, "generators"),
            "of them students": lambda side: self._role(name, side, "students"),
            "of them Ray and everything else": lambda side: self._rest(name, side),
            "seconds outside of trials, each lane": lambda side: figure(self.outside(name, side)),
            "synthetic rows made": lambda side: self._made(name, side),
            "trials that ran to the end": lambda side: figure(self.side(name, side)["num_finished"]),
            "best trial, test": lambda side: mean_and_spread(self.side(name, side)["best"]["test"]),
        }
        return markdown([[self.record(name)["data"], *SIDES.values()], *self._rows(told, SIDES)])

    @staticmethod
    def _rows(told: Mapping[str, Callable[[str], str]], columns: Iterable[str]) -> list[list[str]]:
        columns = list(columns)
        return [[what, *(say_it(column) for column in columns)] for what, say_it in told.items()]

    def _role(self, name: str, side: str, role: str) -> str:
        return "–" if side in PLAIN else figure(self.processor_seconds(name, side, role))

    def _rest(self, name: str, side: str) -> str:
        if side in PLAIN:
            return "–"
        whole = self.processor_seconds(name, side)
        return figure(whole - self.processor_seconds(name, side, "generators", "students"))

    def _made(self, name: str, side: str) -> str:
        made = self.side(name, side)["rows"]["made"]
        return "–" if made is None else figure(made)

    def outside(self, name: str, side: str) -> float:
        """Seconds of a lane that go into starting and ending processes, imports, the search and checkpoints."""
        record = self.record(name)
        lanes = record["runs"][side][0].get("concurrent", PLAIN.get(side, 1))
        return self.side(name, side)["where"]["outside_s"] * record["sweep"]["search"]["trials"] / lanes

    def pairs(self, name: str, loop: str, key: str = "ratio") -> list[float]:
        """What each pair of segments of a stream record has measured."""
        return [pair[key] for pair in self.record(name)[loop]]

    def streamed(self, name: str, loop: str, key: str = "ratio") -> float:
        """The median over the pairs."""
        return median(self.pairs(name, loop, key))

    def tokens(self, name: str, loop: str) -> float:
        """Tokens a second that a student reads from the stream, or a generator makes."""
        return self.record(name)["tokens_per_row"] * self.streamed(name, loop, "streamed")

    def milliseconds(self, name: str, loop: str) -> float:
        """What a streamed request costs more, as the median over the pairs.

        The student's time is that of all rows of its batches, real ones as well.
        """
        experiment = self.record(name)["experiment"]
        rows = experiment["pool"]["rows_per_request"]
        if loop == "student":
            rows /= experiment["train"]["synthetic_ratio"]
        pairs = self.record(name)[loop]
        return 1000 * median(rows / pair["streamed"] - rows / pair["in_memory"] for pair in pairs)

    def streams(self, *records: str) -> str:
        """What streaming costs, a column for each record."""
        told: dict[str, Callable[[str], str]] = {}
        for loop in ("student", "generator"):
            told |= {
                f"{loop}, rows a second, streamed": lambda name, loop=loop: figure(
                    self.streamed(name, loop, "streamed")
                ),
                f"{loop}, streamed / in a plain loop": lambda name, loop=loop: figure(self.streamed(name, loop), 2),
                f"{loop}, lowest and highest ratio": lambda name, loop=loop: (
                    f"{figure(min(self.pairs(name, loop)), 2)} to {figure(max(self.pairs(name, loop)), 2)}"
                ),
                f"{loop}, milliseconds a request": lambda name, loop=loop: figure(self.milliseconds(name, loop)),
            }
        told["student, share of the time that it waits"] = lambda name: (
            f"{figure(100 * self.streamed(name, 'student', 'wait_share_streamed'), 1)} %"
        )
        return markdown([["measured", *(self.record(name)["data"] for name in records)], *self._rows(told, records)])

    def hot(self, name: str, loop: str, **wanted: Any) -> float:
        """Images a second with a setting, as a multiple of those with the default.

        wanted: what differs from the first setting of the loop: `processes`, `threads`, `memory` or `sets`.
        """
        first, *others = self.record(name)["found"][loop]
        looked_for = {key: {**first, **wanted}[key] for key in ("processes", "threads", "memory", "sets")}
        for settings in others:
            if {key: settings[key] for key in looked_for} == looked_for:
                return median(settings["images_per_s"]) / median(first["images_per_s"])
        raise ResultsError(f"{name}: {loop} was not measured with {wanted}")

    def hot_loops(self, *records: str) -> str:
        """Images a second with every setting that all of these records have, as a multiple of the first one's."""
        rows = [["of the first row of the loop", *(self.record(name)["data"] for name in records)]]
        found = [self.record(name)["found"] for name in records]
        for loop in found[0]:
            for settings in found[0][loop]:
                what = describe(settings)
                each = [[other for other in one[loop] if describe(other) == what] for one in found]
                if all(each):
                    speeds = [median(one[0]["images_per_s"]) for one in each]
                    firsts = [median(one[loop][0]["images_per_s"]) for one in found]
                    cells = [figure(speed / first, 2) for speed, first in zip(speeds, firsts, strict=True)]
                    rows.append([f"{loop}: {what.replace('thread(s)', 'threads')}", *cells])
        return markdown(rows)

    def form(self, name: str, role: str, form: str) -> dict[str, Any]:
        """What was found of a form of a teacher's part, the median of the repeats."""
        for each in summary(self.record(name)["found"][role]["tried"]):
            if each["form"] == form and each["lacking"] is None:
                return each
        raise ResultsError(f"{name}: {role} was not measured in the form '{form}'")

    def chosen(self, name: str, role: str) -> list[str]:
        """The forms that the repeats have chosen."""
        return sorted(set(self.record(name)["found"][role]["chosen"]))

    def forms(self, *records: str) -> str:
        """Every form that each part of these teachers has, and how often it was chosen."""
        rows = [["part", "form", "speed", "agreement", "mean KL", "seconds to start", "speed with start", "chosen"]]
        for name in records:
            record = self.record(name)
            for role, found in record["found"].items():
                config = record["experiment"]["teacher"][role]
                part = f"{record['data']}: {config.get('name') or config['type']}"
                for each in summary(found["tried"]):
                    if each["lacking"] is None:
                        often = f"{found['chosen'].count(each['form'])} of {len(found['chosen'])}"
                        shares = [f"{figure(each['agreement'], 2)} %", f"{each['kl']:.0e}"]
                        times = [figure(each[key], 2) for key in ("speed", "start_s", "worth")]
                        rows.append([part, f"`{each['form']}`", times[0], *shares, *times[1:], often])
        return markdown(rows)

    def repeats(self, name: str) -> str:
        """Sweeps of one file by several versions of the code, which must not differ."""
        record = self.record(name)
        if any(record["differences"].values()):
            raise ResultsError(f"{name}: the sweeps differ")
        rows = [["sweep", "version", "commit", "trials"]]
        for sweep in record["sweeps"]:
            version, commit = sweep["packages"]["tgt-ray"], sweep["commit"][:7]
            rows.append([sweep["name"], version, f"`{commit}`", str(len(sweep["trials"]))])
        return f"{markdown(rows)}\n\nThe same in these sweeps: {record['compared']}."

    # How it was measured.

    def command(self, name: str) -> str:
        """The command that made a record, for a shell; local folders are called FOLDER."""
        return shell(self.record(name)["command"])

    def unused(self) -> list[str]:
        """Records and pictures of the folder that the page doesn't show."""
        there = {*names(self.folder), *(each.name for each in self.folder.glob("*.png"))}
        return sorted(there - self.used)


def _best_way(lines: Sequence[Line]) -> str:
    """Name the best way among some that have one number of steps, with its points over the best distillation."""
    if not lines:
        return "-"
    plain = [line for line in lines if line["method"].startswith("distillation")]
    others = [line for line in lines if line not in plain and line["method"] != "gradient"]
    floor, best = (max(each, key=lambda line: line["validation"]["mean"]) for each in (plain, others))
    gained = best["test"]["mean"] - floor["test"]["mean"]
    kind = floor["method"].partition(" + ")[2] or "as they come"
    return f"{say(best['method'])}, {figure(gained, 1, '+')} over {figure(floor['test']['mean'], 1)} ({kind})"


def _reached(line: Line) -> str:
    """A score, and what a run costs for it."""
    return f"{mean_and_spread(line['test'])} ({figure(line['core_s']['mean'], 1)} s)"


def sweep_file(name: str) -> str:
    """A link to the file of a sweep."""
    if name == "default_sweep":
        return "[the default](../tgt_ray/default_sweep.yaml)"
    file = name.removesuffix("_sweep")
    if not (ROOT / "sweeps" / f"{file}.yaml").is_file():
        raise ResultsError(f"sweeps: no file '{file}.yaml'")
    return f"[`{file}`](../sweeps/{file}.yaml)"


def render(folder: Path = RECORDS, template: str | None = None) -> str:
    """The page as text. template: another one than results.md.j2."""
    page = Page(folder)
    environment = Environment(
        loader=FileSystemLoader(HERE),
        undefined=StrictUndefined,
        extensions=["jinja2.ext.do"],
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "whole": lambda value: figure(value),
        "tenth": lambda value: figure(value, 1),
        "hundredth": lambda value: figure(value, 2),
        "percent": lambda value: f"{figure(value)} %",
        "said": say,
        "listed": listed,
    }
    public = {name: getattr(page, name) for name in dir(page) if not name.startswith("_")}
    given = environment.get_template(TEMPLATE) if template is None else environment.from_string(template)
    constants = {
        "baselines": [f"one_hot + {name}" for name in BASELINES],
        "fit_minimum": FitCheckConfig().minimum,
        "least_agreement": f"{LEAST_AGREEMENT:g}",
        "most_kl": f"{MOST_KL:g}",
        "work_rows": f"{WORK_ROWS:,}",
    }
    text = given.render({**public, **constants})
    if template is None and (left := page.unused()):
        raise ResultsError(f"records and pictures that the page doesn't use: {', '.join(left)}")
    return wrapped(text)


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
    print(f"written: {PAGE.relative_to(ROOT)}")
