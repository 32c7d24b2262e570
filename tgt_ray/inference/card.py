"""Writes the model card of an export: README.md, with the block of metadata that the hub of Hugging Face reads.

Whatever comes from data or from a user (names of classes, of files, settings) stands in code style, where Markdown and
HTML mean nothing, or escaped. What no record says is said to be not recorded.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined

from tgt_ray.core.config import Component
from tgt_ray.core.errors import cut
from tgt_ray.core.memory import in_bytes
from tgt_ray.core.texts import visible
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.inference.licences import metadata_of
from tgt_ray.inference.origin import Origin
from tgt_ray.inference.students import LoadedRetriever
from tgt_ray.results import speed

if TYPE_CHECKING:
    from tgt_ray.inference.export.base import Format, Student

#: The card's name, as hubs look for it.
CARD_FILE = "README.md"
#: Classes in the table at most, those with the lowest recall first where there are more, and classes that a sentence
#: names (our choice).
MOST_CLASSES, NAMED = 200, 20
#: Rows below which a class has few, as the metric `few_shot` counts them.
FEW = 20
#: How the hub calls tasks, and the libraries that open a model; files of ONNX and torch.export need none, and are found
#: by tags (huggingface.co/docs/hub/model-cards).
PIPELINES = {"image": "image-classification", "text": "text-classification"}
LIBRARIES = {"transformers": "transformers", "timm": "timm", "sentence-transformers": "sentence-transformers"}
LIBRARIES |= {"safetensors": "tgt-ray"}
FORMAT_TAGS = {"pt2": "pytorch"}
#: What Markdown gives a meaning inside of a line, beside HTML's characters.
_MARKDOWN = re.compile(r"([\\`*_{}\[\]|~$#!])")


@dataclass(frozen=True)
class Export:
    """What a card is about.

    - chosen: the format
    - folder: of the export, by whose name the card calls it
    - record: what is recorded of the export so far, with `speed`, `bytes` and `environment`
    - licence: as the user has named it; None: the user hasn't
    """

    student: Student
    origin: Origin
    chosen: Format
    folder: Path
    record: dict[str, Any]
    licence: str | None = None

    @property
    def experiment(self) -> Experiment:
        return self.student.experiment

    @property
    def name(self) -> str:
        return str((self.origin.record or {}).get("name", self.folder.name))

    @property
    def retrieves(self) -> bool:
        return isinstance(self.student, LoadedRetriever)


def card(export: Export) -> str:
    """Return the card."""
    environment = Environment(
        loader=PackageLoader("tgt_ray.inference", ""), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"code": code, "escaped": escaped, "number": _number, "in_bytes": in_bytes}
    details = _details(export)
    text = environment.get_template("card.md.j2").render(
        metadata=_metadata(export).to_yaml().strip(),
        export=export,
        experiment=export.experiment,
        usage=usage(export),
        record=export.origin.record or {},
        splits=_splits(export.origin),
        source=_source(export.experiment.task),
        inputs={"image": "images", "text": "texts"}.get(export.student.modality, "rows"),
        method=list(_method(export.experiment)),
        teacher=export.origin.teacher,
        generator=(export.origin.record or {}).get("teacher", {}).get("generator"),
        labeler_name=_called(export.experiment.teacher.labeler),
        results=_results(export),
        chosen_as=_chosen_as(export),
        classes=details,
        all_classes=0 if details is None else len(details),
        most_classes=MOST_CLASSES,
        speeds=speed.table(export.record["speed"]["student"], export.record["speed"].get("teacher")),
        busy=speed.busy(export.record["speed"]["student"]),
        not_compared=speed.why_not(export.record["speed"]["student"], export.record["speed"].get("teacher")),
        limits=list(_limits(export, details)),
    )
    return visible(text)


def code(value: Any) -> str:
    """Return a value in code style, in which nothing that it says has a meaning, also inside of a table."""
    text = " ".join(cut(visible(str(value)), 200).split())
    if not text:
        return "(empty)"
    fence = "`" * (1 + max((len(each) for each in re.findall("`+", text)), default=0))
    space = " " if text[0] == "`" or text[-1] == "`" else ""
    return f"{fence}{space}{text}{space}{fence}".replace("|", "\\|")


def escaped(value: Any) -> str:
    """Return a text as running text, in which Markdown and HTML mean nothing."""
    text = " ".join(visible(str(value)).split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKDOWN.sub(r"\\\1", text).replace("://", ":&#47;&#47;").replace("www.", "www&#46;")


def usage(export: Export) -> str:
    """Return lines of Python that use the export."""
    pairs = export.experiment.task.pair_column is not None
    if export.student.modality == "image":
        inputs = '["picture.png"]'
    else:
        inputs = '[("a text", "another one")]' if pairs else '["a text"]'
    name = export.folder.name.replace("\\", "\\\\").replace('"', '\\"')
    lines = export.chosen.usage_for(export.student).replace("INPUTS", inputs).replace("FOLDER", name)
    return visible(lines).replace("```", "` ` `")


def _metadata(export: Export) -> ModelCardData:
    task, result, name = export.experiment.task, export.origin.result or {}, export.chosen.name
    source, pipeline = _source(task), PIPELINES.get(task.modality)
    task_type = pipeline = "feature-extraction" if export.retrieves else pipeline
    if name == "sentence-transformers":  # which gives embeddings, whatever the student was trained for
        pipeline = "feature-extraction"
    tested = [metric for metric in task.metric_names if f"test_{metric}" in result]
    about = {"task_type": task_type or task.type, "dataset_type": source["type"], "dataset_name": source["name"]}
    found = [
        EvalResult(
            **about,
            dataset_split="test",
            metric_type=metric,
            metric_value=round(float(result[f"test_{metric}"]), 2),
            metric_name=f"{metric.replace('_', ' ')} (%)",
        )
        for metric in tested
    ]
    return ModelCardData(
        **metadata_of(export.licence),
        library_name=LIBRARIES.get(name),
        pipeline_tag=pipeline,
        tags=["tgt-ray", "knowledge-distillation", "teacher-guided-training", FORMAT_TAGS.get(name, name)],
        metrics=tested or None,
        model_name=export.name if found else None,
        eval_results=found or None,
    )


def _source(task: Any) -> dict[str, str]:
    """Return the type of a task's data and what they are called, without folders, which say something of a machine."""
    data = getattr(task, "data", None)
    kind = str(getattr(data, "type", task.type))
    name = getattr(data, "name", None) or getattr(data, "path", None)
    return {"type": kind, "name": _last(str(name)) if name else kind}


def _splits(origin: Origin) -> list[dict[str, Any]]:
    """Return a row for each split, with its fingerprint and, where that is recorded, its number of rows."""
    record = origin.record or {}
    rows = record.get("data", {}).get("rows", {})
    prints = record.get("fingerprints", {}).get("data", {})
    return [{"split": name, "rows": rows.get(name), "fingerprint": prints[name]} for name in prints]


def _last(text: str) -> str:
    """Return the last part of a path; a name of the hub has two."""
    path = PurePath(text)
    return path.name or text if path.is_absolute() or text.startswith((".", "~")) or len(path.parts) > 2 else text


def _called(part: Component) -> str:
    """Say a component's type, and the name or path of the model that it is."""
    named = next((value for key in ("name", "path", "weights") if (value := getattr(part, key, None))), None)
    return f"{part.type} {_last(str(named))}" if named else str(part.type)


def _first_words(part: Component) -> str:
    """Return the first paragraph of a component's documentation."""
    return " ".join((inspect.getdoc(type(part)) or "").split("\n\n")[0].split())


def _settings(part: Component) -> list[str]:
    """Return a component's plain settings, without its type, its pretraining and what is absent."""
    out = []
    for key, value in part.model_dump(mode="json").items():
        if key == "type" or value is None or isinstance(value, dict):
            continue
        out.append(f"{key}: {_last(value) if isinstance(value, str) else value}")
    return out


def _method(experiment: Experiment) -> Iterator[dict[str, Any]]:
    """Yield what the method was made of: a title, a sentence and settings."""
    objective, explorer, train = experiment.objective, experiment.explorer, experiment.train
    yield _block("Student", experiment.student)
    yield _block("Objective", objective)
    temperature = getattr(objective, "temperature", None)
    if temperature is not None:
        yield _line("Temperature", f"{temperature:g}, by which the probabilities of teacher and student are softened.")
    if not experiment.streams:
        yield _line("Synthetic rows", "None: the student has learnt from real rows alone.")
    else:
        share = f"{100 * experiment.synthetic_ratio:.3g} % of the rows of each batch (the synthetic ratio)"
        made = f", made by the teacher's generator {_called(experiment.teacher.generator)}"
        yield _line("Synthetic rows", share + (made if experiment.uses_generator else "") + ".")
        yield _block("Explorer and step size", explorer)
    yield _line("Training", "", [f"{key}: {getattr(train, key)}" for key in TRAINING])


#: Settings of the training that a card names.
TRAINING = ("steps", "batch_size", "optimizer", "learning_rate", "weight_decay", "sampling", "precision", "seed")


def _block(title: str, part: Component) -> dict[str, Any]:
    return {"title": title, "type": _called(part), "says": _first_words(part), "settings": _settings(part)}


def _line(title: str, says: str, settings: list[str] | None = None) -> dict[str, Any]:
    return {"title": title, "type": "", "says": says, "settings": settings or []}


def _seen(teacher: dict[str, Any] | None) -> str:
    """Say which rows the teacher's labeler had seen."""
    if teacher is None:
        return "What its teacher had seen is not recorded."
    split = teacher.get("pretrained_on")
    if split == "full":
        return "Its teacher was trained here on the whole train split, also on rows that the student doesn't get."
    if split is not None:
        return f"Its teacher was trained here on the split {split}."
    fitted = {"fit": ", and its head was fitted on rows of this task", "own": ", with a head of its own"}
    return (
        f"The weights of its teacher come from elsewhere{fitted.get(teacher.get('head', ''), '')}. What they were"
        " trained on is not recorded: if rows of the test split were among it, the figures are too good."
    )


def _results(export: Export) -> dict[str, Any] | None:
    """Return the table of test scores: who, with which seed, by each metric; None where nothing is recorded."""
    origin, task = export.origin, export.experiment.task
    if origin.result is None:
        return None
    metrics = [name for name in task.metric_names if f"test_{name}" in origin.result or name in origin.result]
    rows = [_row("this student", origin.result, metrics, export.experiment.train.seed)]
    seed = (origin.record or {}).get("config", {}).get("experiment", {}).get("train", {}).get("seed")
    if origin.trials is not None:
        finished = origin.trials[(origin.trials.status == "finished") & origin.trials.control.notna()]
        rows += [
            _row(f"control {each['control']}", each, metrics, _seed_of(each, seed))
            for each in finished.to_dict("records")
            if each["trial"] != origin.result.get("trial")
        ]
    quality = (origin.teacher or {}).get("quality", {})
    if quality.get("test"):
        said = {f"test_{name}": value for name, value in quality["test"].items()} | quality.get("validation", {})
        rows.append(_row("the teacher's labeler", said, metrics, None))
    return {"metrics": metrics, "rows": rows, "first": metrics[0] if metrics else ""}


def _row(who: str, said: dict[Any, Any], metrics: list[str], seed: int | None) -> dict[str, Any]:
    tested = [said.get(f"test_{name}") for name in metrics]
    return {"who": who, "seed": seed, "test": tested, "validation": said.get(metrics[0]) if metrics else None}


def _seed_of(trial: dict[Any, Any], usual: int | None) -> int | None:
    own = trial.get("train.seed")
    return usual if own is None or own != own else int(own)


def _chosen_as(export: Export) -> list[str]:
    """Say how the student was chosen among others, and whether controls are behind it."""
    origin, result = export.origin, export.origin.result or {}
    if not origin.sweeps or origin.trials is None or "trial" not in result:
        return ["No controls are recorded beside it, so these figures don't show what the method adds."]
    trials, search = origin.trials, (origin.record or {})["config"]["search"]
    metric, sign = search["metric"], 1 if search["mode"] == "max" else -1
    finished = trials[trials.status == "finished"]
    searched = finished[finished.control.isna()]
    if len(searched) and searched.iloc[0].trial == result["trial"]:
        said = [
            f"It is the best of {len(searched)} finished trials of a sweep, chosen by {metric} on the validation split,"
            " which makes its own score there a little too good. The test split was measured once, at the end of each"
            " trial."
        ]
    elif result.get("control"):
        said = [f"It is the control {result['control']} of a sweep: a plainer run to compare with."]
    else:
        said = ["It is one trial of a sweep, and not the one that the sweep has chosen."]
    for row in finished[finished.control.notna()].to_dict("records"):
        if row["trial"] != result["trial"] and sign * row[metric] >= sign * result[metric]:
            said.append(
                f"The control {row['control']} is not behind it by {metric} on the validation split: this sweep shows"
                " no gain over it."
            )
    return said


def _details(export: Export) -> pd.DataFrame | None:
    """Return the test recall of each class; None where it isn't recorded."""
    return None if export.retrieves else export.origin.per_class


def _limits(export: Export, details: pd.DataFrame | None) -> Iterator[str]:
    """Yield what a user should know before relying on the student; the texts are escaped."""
    experiment, student, origin = export.experiment, export.student, export.origin
    if experiment.streams:
        who = _called(experiment.teacher.generator) if experiment.uses_generator else "changes of real rows"
        maker = f"{code(who)} and labelled by {code(_called(experiment.teacher.labeler))}"
        yield f"Its synthetic rows were made by {maker}: what these get wrong, it may have learnt."
    yield escaped(_seen(origin.teacher))
    yield "The figures are of one test split and, for each row of the table, of one seed."
    if origin.result is None:
        yield "What it reaches on its test split is not recorded in the folder that it was exported from."
    yield from _of_data(origin)
    if isinstance(student, LoadedRetriever):
        yield f"It ranks the {len(student.documents):,} documents that it was trained with."
        if not student.embeds_documents:
            yield "It embeds queries alone; new documents need the teacher."
    else:
        yield from _of_classes(student.classes, student.class_counts, details)
        if "calibration" not in student.about:
            yield "Its probabilities are not calibrated."
    if student.modality == "image":
        channels, height, width = student.input_shape
        colour = "grey" if channels == 1 else "colour"
        yield f"It sees {colour} images of {height} x {width} pixels; others are brought to that size."
    elif student.modality == "text":
        yield f"It reads the first {student.input_shape[0]:,} bytes of a text at most."


def _of_data(origin: Origin) -> Iterator[str]:
    about = (origin.record or {}).get("data", {})
    for split, count in about.get("leaks", {}).items():
        if count:
            yield f"{count:,} rows of {code(split)} are in train as well."
    for each in about.get("left_out", []):
        yield f"Of the data, {each['count']:,} {escaped(each['what'])} were left out."


def _of_classes(classes: tuple[str, ...], counts_K: np.ndarray, details: pd.DataFrame | None) -> Iterator[str]:
    yield f"It knows {len(classes):,} classes, and gives one of them to whatever it sees."
    few = [(classes[number], int(counts_K[number])) for number in np.argsort(counts_K, kind="stable")]
    few = [each for each in few if each[1] < FEW]
    if few:
        named = ", ".join(f"{code(name)} ({count})" for name, count in few[:NAMED])
        more = f" and {len(few) - NAMED} more" if len(few) > NAMED else ""
        yield f"{len(few)} of the classes had fewer than {FEW} labelled rows to learn from: {named}{more}."
    if details is not None and (untested := len(classes) - int((details["rows"] > 0).sum())):
        yield f"{untested} of the classes have no row in the test split, so their recall is not known."


def _number(value: Any, digits: int = 2) -> str:
    return "–" if value is None or value != value else f"{value:,.{digits}f}"
