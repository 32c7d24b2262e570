"""Each shipped sweep, made short: its best student predicts, goes through each export that fits, and comes back."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tgt_ray
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.loading import load_yaml, with_overrides
from tgt_ray.core.storage import Storage
from tgt_ray.core.texts import to_texts
from tgt_ray.inference.export import FORMATS, export_student
from tgt_ray.inference.export.rows import Data
from tgt_ray.inference.students import LoadedRetriever
from tgt_ray.sweeps.config import SweepConfig

ROOT = Path(__file__).resolve().parents[2]
SWEEPS = [ROOT / "tgt_ray" / "default_sweep.yaml", *sorted((ROOT / "sweeps").glob("*.yaml"))]
#: Formats that can't express a student, by its type.
UNFIT = {
    "conv": {"transformers", "timm", "sentence-transformers"},
    # transformers has no classifier over the mean of a BERT's tokens.
    "text_transformer": {"transformers", "timm"},
}
#: What makes a sweep short.
SHORT = {
    "search.trials": 1,
    "search.controls": [],
    "experiment.train.steps": 20,
    "experiment.train.eval_every": 20,
    "experiment.fit_check.on_low": "skip",
    "experiment.explorer": {"type": "none"},
}
#: Inputs that are predicted before and after.
ROWS = 20


def shortened(file: Path, request: pytest.FixtureRequest) -> SweepConfig:
    raw: dict[str, Any] = load_yaml(file)
    task = raw["experiment"].get("task", {})
    sets: dict[str, Any] = dict(SHORT)
    if "path" in task.get("data", {}):
        kind = {"image_classification": "image", "text_classification": "text", "retrieval": "retrieval"}[task["type"]]
        folder = request.getfixturevalue("data_folder") / kind / task["data"]["path"]
        sets["experiment.task.data.path"] = str(folder)
    labeler = raw["experiment"].get("teacher", {}).get("labeler") or {"pretrain": {}}
    if "weights" in labeler and "pretrain" in labeler:  # which the user has trained before, as the file says
        sets["experiment.teacher.labeler.weights"] = None
    # Enough for a labeler that names each class, which LELP needs.
    sets |= {f"experiment.teacher.labeler.{key}.steps": 100 for key in ("pretrain", "finetune") if key in labeler}
    raw["space"] = {key: value for key, value in raw["space"].items() if not key.startswith("explorer.")}
    return SweepConfig.model_validate(
        with_overrides(SweepConfig.model_validate(raw).model_dump(mode="json"), [*sets.items()])
    )


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1800)  # minutes each, and more on a busy machine
@pytest.mark.parametrize("file", SWEEPS, ids=lambda file: file.stem)
def test_the_best_student_of_a_shipped_sweep(file, request, tmp_path, ray_cluster):
    result = tgt_ray.run_sweep(shortened(file, request), storage=str(tmp_path / "storage"), name="sweep")
    assert result.best is not None
    student = tgt_ray.load_student(result.folder)
    data = Data(student, Storage(tmp_path / "storage"))
    rows = data.inputs("test", ROWS)
    inputs = to_texts(rows.numpy()) if student.modality == "text" else list(rows.numpy())
    assert len(student.predict(inputs)) == ROWS
    for name in FORMATS:
        out = tmp_path / name
        if name in UNFIT[student.experiment.student.type]:
            with pytest.raises(ConfigError, match=f"--format {name}"):
                export_student(student, name, out, data.storage)
            assert not out.exists()
        else:
            export_student(student, name, out, data.storage)
            said, expected = read_back(name, out, inputs), answers(student, inputs, name)
            np.testing.assert_allclose(said, expected, atol=2e-3, rtol=1e-3, err_msg=name)


def answers(student: Any, inputs: list[Any], name: str) -> np.ndarray:
    """Scores of classes, or embeddings: those of queries, and what encoders give."""
    if isinstance(student, LoadedRetriever):
        return student.encode_queries(inputs)
    return student.embed(inputs) if name == "sentence-transformers" else student.scores(inputs)


def read_back(name: str, folder: Path, inputs: list[Any]) -> np.ndarray:
    """The same, as the format's own library reads the export."""
    if name == "safetensors":
        return answers(tgt_ray.load_student(str(folder)), inputs, name)
    if name == "sentence-transformers":
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(str(folder), device="cpu").encode(inputs)
    given = np.stack(inputs) if not isinstance(inputs[0], str) else ids_of(folder, inputs)
    if name == "pt2":
        with torch.no_grad():
            out = torch.export.load(folder / "model.pt2").module()(torch.from_numpy(given))
        return out.get("scores", out["embedding"]).numpy()
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    wanted = "scores" if "scores" in [each.name for each in session.get_outputs()] else "embedding"
    given = given if isinstance(inputs[0], str) else np.rint(given * 255).astype(np.uint8)
    return session.run([wanted], {session.get_inputs()[0].name: given})[0]


def ids_of(folder: Path, texts: list[str]) -> np.ndarray:
    from tokenizers import Tokenizer

    assert json.loads((folder / "tokenizer.json").read_text())
    encoded = Tokenizer.from_file(str(folder / "tokenizer.json")).encode_batch(texts)
    return np.array([each.ids for each in encoded])
