"""One HTML page of one or several runs and sweeps, from their records alone: it loads nothing and runs nothing."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from tgt_ray.core import lines, records
from tgt_ray.core.errors import ConfigError, cut
from tgt_ray.core.storage import Storage
from tgt_ray.core.texts import visible
from tgt_ray.results import speed

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

#: The page's name in a run's folder.
REPORT_FILE = "report.html"
#: Pictures that a run keeps, with what they show.
KEPT = {
    "gallery.png": ("Synthetic rows", "Rows that the student has trained on, with what the teacher says of them."),
    "fit_check.png": ("Teacher's fit", "Held-out rows, as a generator decodes them if there is one, and as explored."),
}
#: Columns of the trials' table that nobody compares trials by.
LEFT_OUT = ("lane",)
#: Who a sweep's best trial is compared under.
BEST = "best trial"
#: Lines of controls.
STYLES = ("--", ":", "-.", (0, (1, 5)), (0, (5, 5)))
#: Trials whose curves are drawn.
CURVES = 30


@dataclass
class Picture:
    title: str
    about: str
    base64: str


@dataclass
class Table:
    """Rows with the same keys; those with a value at the key `marked` are shown paler."""

    title: str
    rows: list[dict[str, Any]]
    marked: str = ""


@dataclass
class Section:
    """One run or sweep on the page."""

    kind: str
    name: str
    facts: list[str]
    settings: str
    pictures: list[Picture] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    compared: dict[str, Any] = field(default_factory=dict)


def report(folders: Sequence[Storage]) -> bytes:
    """The page. ConfigError where a folder has no record of a run or sweep."""
    sections = [_section(folder) for folder in folders]
    environment = Environment(
        loader=PackageLoader("tgt_ray.results", ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["cell"] = _cell
    title = f"{sections[0].kind} {sections[0].name}" if len(sections) == 1 else f"{len(sections)} runs"
    compared = [section.compared for section in sections]
    keys = list(dict.fromkeys(key for row in compared for key in row))
    rows = [{key: row.get(key) for key in keys} for row in compared] if len(sections) > 1 else []
    page = environment.get_template("report.html").render(title=title, runs=sections, compared=rows)
    return visible(page).encode()


def _section(folder: Storage) -> Section:
    if not folder.exists("record.json"):
        raise ConfigError(f"{folder.shown}: has no record.json; expected the folder of a finished run or of a sweep")
    record = records.read_json(folder, "record.json")
    if record.get("kind") not in ("run", "sweep"):
        raise ConfigError(f"{folder.where('record.json')}: is not the record of a run or of a sweep")
    section = (_sweep if record["kind"] == "sweep" else _run)(folder, record)
    for file, (title, about) in KEPT.items():
        for where in ([], ["best"]):
            if folder.exists(*where, file):
                content = base64.b64encode(folder.read(*where, file)).decode()
                section.pictures.append(Picture(title, about, content))
            page = f"{PurePath(file).stem}.html"
            if folder.exists(*where, page):
                section.facts.append(f"{title}: {'/'.join([*where, page])} in this folder.")
    section.tables += [*_speed(record), *_teacher(record["teacher"])]
    return section


def _run(folder: Storage, record: dict[str, Any]) -> Section:
    import pandas as pd

    history = pd.DataFrame(records.read_jsonl(folder, "metrics.jsonl"))
    tested = {key.removeprefix("test_"): value for key, value in record["result"].items() if key.startswith("test_")}
    headline = record.get("metric", next(iter(tested)))  # records of format 1 don't say which
    settings = yaml.safe_dump(record["experiment"], sort_keys=False)
    out = Section("run", record["name"], _about(folder, record), settings)
    out.compared = {"run": record["name"], "metric": headline, "student": tested[headline]}

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.plot(history["step"], history[headline], marker="o")
        axes.set(xlabel="step", ylabel=f"validation {headline}")

    out.pictures.append(_picture("Validation", f"{headline} of the validation split while the student trained.", draw))
    out.tables.append(Table("Test split", [{"metric": key, "value": value} for key, value in tested.items()]))
    out.tables.append(Table("Reports", _rows(history)))
    return out


def _sweep(folder: Storage, record: dict[str, Any]) -> Section:
    if not folder.exists("trials.parquet"):
        raise ConfigError(f"{folder.shown}: no trial of this sweep has ended yet; try again later")
    trials = records.read_table(folder, "trials")
    config, metric = record["config"], record["config"]["search"]["metric"]
    out = Section("sweep", record["name"], _about(folder, record), yaml.safe_dump(config, sort_keys=False))
    tested = trials[trials.status == "finished"]
    searched = tested[tested.control.isna()]
    teacher = record["teacher"]["labeler"].get("quality", {}).get("test", {}).get(metric)
    scores = {f"control {row.control}": row[f"test_{metric}"] for row in _controls(tested)}
    if len(searched):
        scores = {BEST: searched.iloc[0][f"test_{metric}"], **scores}  # the table is sorted: the best is first
    scores |= {"teacher": teacher} if teacher is not None else {}
    out.compared = {"run": record["name"], "metric": metric, **scores}
    out.pictures += [_comparison(scores, metric)] if scores else []
    out.pictures += _of_trials(folder, trials, list(config["space"]), metric)
    shown = trials.drop(columns=[name for name in LEFT_OUT if name in trials])
    out.tables.append(Table("Trials", _rows(shown), marked="control"))
    return out


def _of_trials(folder: Storage, trials: pd.DataFrame, keys: list[str], metric: str) -> Iterable[Picture]:
    searched = trials[trials.control.isna()]

    def values(figure: Figure) -> None:
        for axes, key in zip(figure.subplots(1, len(keys), sharey=True, squeeze=False)[0], keys, strict=True):
            axes.scatter(
                [_word(value) if isinstance(value, str) else value for value in searched[key]], searched[metric]
            )
            for style, row in zip(STYLES, _controls(trials), strict=False):
                axes.axhline(row[metric], linestyle=style, color="grey", label=f"control {row.control}")
            axes.set(xlabel=key)
        figure.axes[0].set(ylabel=f"validation {metric}")
        if figure.axes[0].get_legend_handles_labels()[0]:
            figure.axes[0].legend(fontsize=7)

    about = "Each point is a trial. Grey lines are the controls."
    yield _picture("Where the search has looked", about, values, width=max(6, 3.6 * len(keys)))
    shown = trials.head(CURVES)
    curves = _reports(folder, map(str, shown.trial))

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for place, (trial, control) in enumerate(zip(curves, shown.control, strict=True)):
            steps, scores = ([_number(each.get(key)) for each in curves[trial]] for key in ("step", metric))
            style: dict[str, Any] = {"linewidth": 2.5 if place == 0 else 1}
            if control:
                style = {"color": "grey", "linestyle": "--"}
            axes.plot(steps, scores, marker=".", label=f"control {control}" if control else trial, **style)
        axes.set(xlabel="step", ylabel=f"validation {metric}")
        axes.legend(fontsize=7, ncols=2)

    if any(curves.values()):
        yield _picture("Learning curves", f"The first {CURVES} trials of the table at most.", draw)


def _comparison(compared: dict[str, Any], metric: str) -> Picture:
    """compared: scores on the test split, by who has them"""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        colours = ["tab:blue" if name == BEST else "darkgrey" for name in compared]
        axes.bar_label(axes.barh(list(compared), list(compared.values()), color=colours), fmt=" %.2f")
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.set(xlabel=f"test {metric}")

    about = "Scores on the test split. Trials are chosen on the validation split; one seed each."
    return _picture("Best trial and controls", about, draw, height=0.6 + 0.45 * len(compared))


def _controls(trials: pd.DataFrame) -> list[pd.Series]:
    return [row for _, row in trials[trials.control.notna()].iterrows()]


def _reports(folder: Storage, trials: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
    """What trials have reported, as the sweep's journal has it; nothing of those that have not begun."""
    out: dict[str, list[dict[str, Any]]] = {trial: [] for trial in trials}
    if lines.files_of(folder, "journal"):
        whole, _ = lines.read(folder, "journal")
        for each in whole:
            if each["kind"] == "report" and str(each["trial"]) in out:
                out[str(each["trial"])].append(each["metrics"])
        return out
    # A sweep of a version before 0.2, which had no journal.
    there = [trial for trial in out if folder.exists("tune", trial, "result.json")]
    return out | {trial: records.read_jsonl(folder, "tune", trial, "result.json") for trial in there}


def _number(value: Any) -> float:
    """Return a number of a report; JSON has none that isn't finite."""
    return math.nan if value is None else float(value)


def _about(folder: Storage, record: dict[str, Any]) -> list[str]:
    environment = record["environment"]
    # A package that was on the path without being installed has no version.
    packages = ", ".join(f"{name} {environment['packages'].get(name, '?')}" for name in ("tgt-ray", "ray", "torch"))
    hardware = environment["hardware"]
    return [
        f"Folder: {folder.shown}",
        f"Recorded {environment['created']} with {packages}, commit {environment['commit'] or 'unknown'}.",
        f"Machine: {hardware['cpus']} CPUs ({hardware['cpu']}), {hardware['memory_gib']} GiB.",
    ]


def _speed(record: dict[str, Any]) -> Iterable[Table]:
    found = record.get("speed") or {}
    if "student" in found:
        yield Table("Size and speed", speed.table(found["student"], record["teacher"]["labeler"].get("speed")))


def _teacher(teacher: dict[str, Any]) -> Iterable[Table]:
    for role in ("labeler", "generator"):
        if teacher[role] is None:  # no rows were made
            continue
        quality = teacher[role].get("quality", {})
        rows = [{"split": split, **values} for split, values in quality.items() if isinstance(values, dict) and values]
        if rows:
            yield Table(f"{role.capitalize()} ({teacher[role]['config']['type']})", rows)
    if teacher.get("fit_check"):
        yield Table("Teacher's fit check", [{"measured": k, "value": v} for k, v in teacher["fit_check"].items()])


def _word(value: str) -> str:
    """Return a text as it stands at an axis."""
    return cut(visible(value), 40)


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


def _cell(value: Any) -> str:
    if value is None or value != value:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _picture(title: str, about: str, draw: Callable[[Figure], None], width: float = 7, height: float = 4) -> Picture:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    buffer = io.BytesIO()
    # What is searched may be text with dollar signs, which are no formulas.
    with rc_context({"text.parse_math": False}):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        figure.savefig(buffer, format="png", dpi=110)
    return Picture(title, about, base64.b64encode(buffer.getvalue()).decode())
