"""Follows a student's network with torch.export, for the formats that hand it on as a graph."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from tgt_ray.core.errors import ConfigError
from tgt_ray.core.texts import sentences, to_texts
from tgt_ray.inference.export.base import Student
from tgt_ray.inference.export.ids import tokenizer_json
from tgt_ray.inference.students import LoadedRetriever
from tgt_ray.models.text.encoder import TextBackbone
from tgt_ray.objectives.criteria.embed_distill import EmbedDistillCriterion
from tgt_ray.tasks import Retrieval
from tgt_ray.training.files import DOCUMENTS_FILE, TOKENIZER_FILE

#: What a program must know beside the graph: names of classes, temperature, the shape of inputs.
LABELS_FILE = "labels.json"
#: Rows and tokens of the example that is followed; neither is 1, which torch.export takes for a constant, and both
#: are rare as sizes inside of networks.
ROWS, TOKENS = 3, 7


class Graph(nn.Module):
    """Maps inputs to all that a student says of them: `scores` (B, K) and `embedding` (B, D).

    A student of retrieval says `embedding` (B, E) alone, in the space of documents. Texts are ids of tokens (B, T).

    - bytes_in: whether images are uint8, from 0 to 255, instead of numbers from 0 to 1
    """

    def __init__(self, student: Student, bytes_in: bool):
        super().__init__()
        self.network, self.scale = student.module, bytes_in and student.modality == "image"

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        backbone, criterion = self.network.backbone, self.network.criterion
        images = inputs.float() / 255 if self.scale else inputs
        states = backbone.of_any_ids(images) if isinstance(backbone, TextBackbone) else backbone(images)
        if isinstance(criterion, EmbedDistillCriterion):
            return {"embedding": criterion.embed(states)}
        return {"scores": criterion.scores(states).float(), "embedding": states.float()}


def input_name(student: Student) -> str:
    return "images" if student.modality == "image" else "ids"


def check_graph(student: Student, format_name: str) -> None:
    """Raise ConfigError for a student of texts whose network isn't one of ids of tokens."""
    if student.modality == "text" and not isinstance(student.module.backbone, TextBackbone):
        raise ConfigError(
            f"--format {format_name}: takes ids of tokens, and this student ('{student.experiment.student.type}') reads"
            " bytes of texts; take safetensors"
        )


def traced(student: Student, format_name: str, bytes_in: bool = False) -> ExportedProgram:
    """Follow a student's network as a graph, for any number of rows, and of tokens up to the student's most.

    - bytes_in: as for `Graph`
    - raises ConfigError: where torch.export can't follow it
    """
    batch, backbone = Dim("batch"), student.module.backbone
    if isinstance(backbone, TextBackbone):
        tokens = backbone.tokens
        example = torch.full((ROWS, min(TOKENS, tokens.max_tokens - 1)), tokens.end)
        shapes = {0: batch, 1: Dim("tokens", max=tokens.max_tokens)}
    else:
        example = torch.zeros(ROWS, *student.input_shape, dtype=torch.uint8 if bytes_in else torch.float32)
        shapes = {0: batch}
    try:
        with torch.no_grad():
            program = torch.export.export(Graph(student, bytes_in).eval(), (example,), dynamic_shapes=(shapes,))
    except Exception as err:  # it fails in the network's own code, with errors of any kind
        raise ConfigError(
            f"--format {format_name}: torch.export can't follow the student's network ({_first_line(err)}); take"
            " safetensors"
        ) from err
    return _clean(program)


def _clean(program: ExportedProgram) -> ExportedProgram:
    """Take out of a program what its maker's machine puts in: paths of files, and how weights lie in memory."""
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)
    for name, value in program.state_dict.items():
        flat = value.detach().contiguous()
        program.state_dict[name] = nn.Parameter(flat, False) if isinstance(value, nn.Parameter) else flat
    return program


def _first_line(err: Exception) -> str:
    return " ".join(str(err).split())[:200] or type(err).__name__


def describe(student: Student, folder: Path) -> dict[str, Any]:
    """Write what a program needs beside the graph, and return what labels.json says.

    Texts need a tokenizer, and queries the documents that they are compared with.
    """
    known: dict[str, Any] = {}
    if isinstance(student, LoadedRetriever):
        (folder / DOCUMENTS_FILE).write_bytes(student.storage.read(DOCUMENTS_FILE))
    else:
        known = {"classes": list(student.classes), "temperature": student.temperature}
    task, backbone = student.experiment.task, student.module.backbone
    if isinstance(backbone, TextBackbone):
        known |= {"max_bytes": student.input_shape[0], "max_tokens": backbone.tokens.max_tokens}
        known |= {"document_bytes": task.document_bytes} if isinstance(task, Retrieval) else {}
        (folder / TOKENIZER_FILE).write_text(tokenizer_json(backbone.tokens), encoding="utf-8")
    else:
        known["input_shape"] = list(student.input_shape)
    (folder / LABELS_FILE).write_text(json.dumps(known, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return known


def as_given(student: Student, rows: Tensor) -> Any:
    """Return rows of a student's inputs as its users have them: uint8 images (N, C, H, W), or a list of texts."""
    if student.modality == "image":
        return (rows * 255).round().to(torch.uint8).numpy()
    texts = [sentences(text) for text in to_texts(rows.numpy())]
    pairs = student.experiment.task.pair_column is not None
    return texts if pairs else [text for (text,) in texts]


class Encoder:
    """Turns what users have into the inputs of a graph: uint8 images, or ids that the export's own tokenizer gives.

    - folder: of the export
    """

    def __init__(self, student: Student, folder: Path):
        self.images, self.tokenizer = student.modality == "image", None
        if not self.images:
            from tokenizers import Tokenizer

            self.tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))

    def __call__(self, given: Sequence[Any]) -> np.ndarray:
        if self.tokenizer is None:
            return np.asarray(given)
        return np.array([each.ids for each in self.tokenizer.encode_batch(given)], np.int64)
