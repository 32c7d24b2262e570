"""Folders of students that were never trained, and programs that open exports without this package."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import tgt_ray
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.storage import Storage
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.inference.export import export_student
from tgt_ray.inference.students import LoadedRetriever, LoadedStudent
from tgt_ray.objectives import Facts
from tgt_ray.training.checkpoint import weights
from tgt_ray.training.description import describe, documents_file
from tgt_ray.training.files import DOCUMENTS_FILE, STUDENT_FILE, TOKENIZER_FILE, WEIGHTS_FILE
from tgt_ray.training.student import build_student


def write_student(config: Experiment, folder: Path, embeddings: np.ndarray | None = None) -> str:
    """The folder of a student with random weights.

    embeddings: of the documents that a student of retrieval ranks
    """
    data, files = config.task.load(), {}
    facts = None
    if embeddings is not None:
        facts = Facts(len(embeddings), np.ones(len(embeddings), np.int64), fits={"head": embeddings})
        files[DOCUMENTS_FILE] = documents_file(data, embeddings)
    student = build_student(config, data, facts=facts)
    shake(student)
    if hasattr(student.backbone, "tokens"):
        files[TOKENIZER_FILE] = student.backbone.tokens.tokenizer.backend_tokenizer.to_str().encode()
    files[STUDENT_FILE] = describe(config, data, student, files.get(TOKENIZER_FILE, b""), {})
    for name, content in {WEIGHTS_FILE: weights(student), **files}.items():
        Storage(folder).write(content, name)
    return str(folder)


@torch.no_grad()
def shake(module: torch.nn.Module) -> None:
    """Give all weights and running statistics other values than their first ones."""
    generator = torch.Generator().manual_seed(1)
    for name, each in module.state_dict().items():
        if each.is_floating_point():
            by = 0.1 * torch.randn(each.shape, generator=generator)
            each.add_(by.abs() if name.endswith("running_var") else by)


#: What each program begins and ends with: it has a function `answer(folder, inputs)`.
BEFORE = """
import json, sys
import numpy as np
place = sys.argv[1]
jobs = json.load(open(f"{place}/jobs.json"))
"""
AFTER = """
for number, (folder, inputs) in enumerate(jobs):
    given = np.load(f"{place}/{number}.npy") if inputs is None else [tuple(x) if type(x) is list else x for x in inputs]
    np.save(f"{place}/out-{number}.npy", np.asarray(answer(folder, given)))
assert "tgt_ray" not in sys.modules
"""
#: What libraries say of weights that they don't find.
MISSING = ("newly initialized", "MISSING", "UNEXPECTED", "not used when initializing")


def answers(program: str, jobs: list[tuple[Path, np.ndarray | list]], place: Path) -> list[np.ndarray]:
    """What a program answers in a process of its own that imports nothing of this package.

    jobs: folders of exports, each with inputs
    """
    place.mkdir()
    for number, (_, inputs) in enumerate(jobs):
        if isinstance(inputs, np.ndarray):
            np.save(place / f"{number}.npy", inputs)
    said = [(str(folder), None if isinstance(inputs, np.ndarray) else inputs) for folder, inputs in jobs]
    (place / "jobs.json").write_text(json.dumps(said))
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", BEFORE + program + AFTER, str(place)],
        cwd=place, env=env, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not any(word in done.stdout + done.stderr for word in MISSING), done.stdout + done.stderr
    return [np.load(place / f"out-{number}.npy") for number in range(len(jobs))]


def export(folder: str, name: str, out: Path) -> tuple[LoadedStudent | LoadedRetriever, dict]:
    """Export a student, and return it with the record."""
    student = tgt_ray.load_student(folder)
    record = export_student(student, name, out, Storage(out.parent))
    assert record["compared"]["largest_difference"] < 1e-3 and record["compared"]["rows"] == 16
    return student, record


def names_no_place(export: Path, *places: object) -> None:
    """Check that no file of an export, and none inside of one that is an archive, has one of these texts."""
    for file in sorted(each for each in export.rglob("*") if each.is_file()):
        parts = {str(file): file.read_bytes()}
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                parts |= {f"{file}/{name}": archive.read(name) for name in archive.namelist()}
        found = [(name, str(place)) for name, content in parts.items() for place in places if _in(place, content)]
        assert not found, found


def _in(text: object, content: bytes) -> bool:
    return any(str(text).encode(kind) in content for kind in ("utf-8", "utf-16-le"))


def refuse(folder: str, name: str, said: str, place: Path) -> None:
    """Check that an export is refused with these words, and that nothing is left of it."""
    student, before = tgt_ray.load_student(folder), sorted(place.iterdir())
    with pytest.raises(ConfigError, match=said) as refused:
        export_student(student, name, place / "out", Storage(place))
    assert "\n" not in str(refused.value) and sorted(place.iterdir()) == before
