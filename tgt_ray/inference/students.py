"""Trained students that predict classes, or find documents, without experiment, data, teacher or Ray."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from tgt_ray.core.batch import rows_at_once
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.storage import Storage
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.inference.index import Index, make_index
from tgt_ray.inference.preprocess import Bad, Preprocess, Rows
from tgt_ray.inference.tower import DocumentTower
from tgt_ray.objectives.criteria.base import Criterion
from tgt_ray.training.student import Student

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

#: Is told how many of how many texts are longer than the student reads.
Cut = Callable[[int, int], None]


def say_cut(cut: int, total: int) -> None:
    """Say in the log how many of how many texts are longer than the student reads."""
    log.warning("%d of %d texts are longer than the student reads, and are cut", cut, total)


def counted(batches: Iterator[Rows], said: Cut | None) -> Iterator[Rows]:
    """Yield batches, and say at their end how many texts in them are cut, where there are any."""
    cut = total = 0
    for rows in batches:
        cut, total = cut + rows.cut, total + len(rows.places)
        yield rows
    if cut:
        (said or say_cut)(cut, total)


class Network(nn.Module):
    """A student's network as inference needs it: inputs (B, ...) -> scores (B, K).

    - backbone: inputs -> embeddings (B, D)
    - criterion: embeddings -> scores; it has the head
    """

    def __init__(self, student: Student):
        super().__init__()
        self.backbone: nn.Module = student.backbone
        self.criterion: Criterion = student.criterion

    def forward(self, inputs: Tensor) -> Tensor:
        return self.criterion.scores(self.backbone(inputs))


@dataclass(frozen=True)
class Trained:
    """What all trained students have.

    - module: the network; `module(inputs)` gives (B, K) scores of model inputs (B, ...)
    - preprocess: what goes before it; `preprocess(inputs)` gives model inputs (B, ...)
    - input_shape: (C, H, W) of images; (bytes,) of texts
    - modality: of its inputs, "image" or "text"
    - experiment: that it was trained by
    - about: all that is kept beside its weights, as plain data
    - folder: where it lies, without secrets
    - storage: the same, to read from
    """

    module: Network
    preprocess: Preprocess
    input_shape: tuple[int, ...]
    modality: str
    experiment: Experiment = field(repr=False)
    about: dict[str, Any] = field(repr=False)
    folder: str
    storage: Storage = field(repr=False)

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    @property
    def parameters(self) -> int:
        """How many weights it has."""
        return sum(each.numel() for each in self.module.parameters())

    def to(self, device: str) -> Trained:
        """Move it to a device, such as "cuda"."""
        self.module.to(device)
        return self

    def embed(self, inputs: Any, batch_size: int | None = None) -> np.ndarray:
        """Embed inputs.

        - inputs, batch_size: as for `predict`
        - returns: (N, D), what its head sees
        """
        parts = [embedding.numpy() for _, embedding, _ in self.outputs(inputs, batch_size, scores=False)]
        return np.concatenate(parts) if parts else np.zeros((0, self.dim), np.float32)

    @property
    def dim(self) -> int:
        """Numbers of an embedding."""
        return int(self.module.backbone.dim)  # type: ignore[arg-type]

    @torch.no_grad()
    def outputs(
        self,
        inputs: Any,
        batch_size: int | None = None,
        bad: Bad | None = None,
        scores: bool = True,
        cut: Cut | None = None,
    ) -> Iterator[tuple[list[int], Tensor, Tensor]]:
        """Yield the places of a batch's rows among the inputs, their embeddings (B, D) and their scores (B, K).

        - inputs: a list, or anything that can be iterated over once
        - batch_size: rows at once; None: as many as a moderate amount of memory holds
        - bad: is told which inputs can't be used; None: the first such one is an error
        - scores: whether scores are wanted; otherwise they are empty
        - cut: is told at the end how many texts were too long; None: a line in the log says it
        """
        size = batch_size or rows_at_once(self.input_shape, self.module, most=256)
        for rows in counted(self.preprocess.batches(inputs, size, bad), cut):
            embedding = self.module.backbone(rows.inputs.to(self.device))
            scored = self.module.criterion.scores(embedding) if scores else embedding[:, :0]
            yield rows.places, embedding.float().cpu(), scored.float().cpu()


@dataclass(frozen=True, kw_only=True)
class LoadedStudent(Trained):
    """A trained student that sorts images or texts into classes.

    - classes: K names, in the order of the scores
    - class_counts: rows of each class that it was trained on, (K,)
    - temperature: scores are divided by it for calibrated probabilities; 1.0 where it wasn't measured
    """

    classes: tuple[str, ...]
    class_counts: np.ndarray = field(repr=False)
    temperature: float = 1.0

    def predict(
        self,
        inputs: Any,
        *,
        top: int = 1,
        probabilities: bool = False,
        embedding: bool = False,
        batch_size: int | None = None,
    ) -> pd.DataFrame:
        """Predict the class of each input.

        - inputs: texts, pairs of texts, or images, as `preprocess` takes them
        - top: how many classes to name, the most likely first
        - probabilities: also give the probability of each class, in a column `probability of NAME`
        - embedding: also give what the head sees, in a column `embedding` of arrays (D,)
        - batch_size: rows at once; None: as many as a moderate amount of memory holds
        - returns: a row for each input, with the columns `label` and `probability`, and `label_2`, `probability_2` and
          so on for further classes
        - raises ConfigError: for inputs that the student can't take
        """
        found = self.found(inputs, batch_size)
        return self.table(found[1], found[0] if embedding else None, top, probabilities)

    @torch.no_grad()
    def answers(self, rows: Tensor) -> np.ndarray:
        """Score all classes of model inputs (B, ...): (B, K)."""
        scores: np.ndarray = self.module(rows.to(self.device)).float().cpu().numpy()
        return scores

    def found(self, inputs: Any, batch_size: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return embeddings (N, D) and scores (N, K) of all inputs."""
        parts = [(embedding.numpy(), scores.numpy()) for _, embedding, scores in self.outputs(inputs, batch_size)]
        if not parts:
            return np.zeros((0, self.dim), np.float32), np.zeros((0, len(self.classes)), np.float32)
        embeddings, scores = zip(*parts, strict=True)
        return np.concatenate(embeddings), np.concatenate(scores)

    def scores(self, inputs: Any, batch_size: int | None = None) -> np.ndarray:
        """Score all classes: (N, K), before the softmax."""
        return self.found(inputs, batch_size)[1]

    def probabilities(self, inputs: Any, batch_size: int | None = None) -> np.ndarray:
        """Give the probability of each class, (N, K), calibrated where the student's temperature was measured."""
        return self.calibrated(self.scores(inputs, batch_size))

    def calibrated(self, scores_NK: np.ndarray) -> np.ndarray:
        """Turn scores into probabilities (N, K)."""
        return torch.from_numpy(scores_NK / np.float32(self.temperature)).softmax(dim=1).numpy()

    def table(
        self, scores_NK: np.ndarray, embeddings_ND: np.ndarray | None = None, top: int = 1, probabilities: bool = False
    ) -> pd.DataFrame:
        """Return what `predict` returns, from scores.

        - embeddings_ND: for the column `embedding`; None: it is left out
        """
        import pandas as pd

        if not 1 <= top <= len(self.classes):
            raise ConfigError(f"top: {top}; expected a number from 1 to {len(self.classes)}, the number of classes")
        likely = self.calibrated(scores_NK)
        best = np.argsort(-likely, axis=1, kind="stable")[:, :top]
        names, rows = np.array(self.classes, object), np.arange(len(likely))
        columns: dict[str, Any] = {}
        for place in range(top):
            ending = f"_{place + 1}" if place else ""
            columns[f"label{ending}"] = names[best[:, place]]
            columns[f"probability{ending}"] = likely[rows, best[:, place]]
        if probabilities:
            columns |= {f"probability of {name}": likely[:, k] for k, name in enumerate(self.classes)}
        if embeddings_ND is not None:
            columns["embedding"] = list(embeddings_ND)
        return pd.DataFrame(columns)


@dataclass(frozen=True, kw_only=True)
class LoadedRetriever(Trained):
    """A trained student that embeds queries, so that documents are found that answer them.

    - documents: a row for each, in the order of `document_embeddings`, with the columns `id` and `text`
    - document_embeddings: (K, E)
    - embeds_documents: whether the student embeds documents itself; otherwise they are embedded as the teacher did
    - document_preprocess: what turns documents into rows
    - tower: embeds documents as the teacher did, where an export has it
    """

    documents: pd.DataFrame = field(repr=False)
    document_embeddings: np.ndarray = field(repr=False)
    embeds_documents: bool
    document_preprocess: Preprocess = field(repr=False)
    tower: DocumentTower | None = field(repr=False, default=None)

    def to(self, device: str) -> Trained:
        if self.tower is not None:
            self.tower.backbone.to(device)
        return super().to(device)

    @cached_property
    def index(self) -> Index:
        """The documents that the student was trained with, ready to be searched."""
        return make_index(self.document_embeddings)

    @torch.no_grad()
    def answers(self, rows: Tensor) -> np.ndarray:
        """Embed queries that are model inputs (B, ...): (B, E)."""
        states = self.module.backbone(rows.to(self.device))
        embeddings: np.ndarray = self.module.criterion.embed(states).float().cpu().numpy()
        return embeddings

    def encode_queries(self, queries: Any, batch_size: int | None = None) -> np.ndarray:
        """Embed queries in the space of documents, (N, E)."""
        return self._joined(self.encoded(queries, batch_size))

    def encode_documents(self, documents: Any, batch_size: int | None = None) -> np.ndarray:
        """Embed documents, (N, E).

        - documents: texts, each with its title first, if it has one
        - raises ConfigError: where the student embeds queries alone, and has no tower beside it
        """
        if self.embeds_documents:
            return self._joined(self.encoded(documents, batch_size, preprocess=self.document_preprocess))
        if self.tower is None:
            raise ConfigError(
                f"{self.folder}: its student embeds queries alone, and was trained to match the teacher's documents;"
                " encode new documents with an export that has their tower (export --with-document-tower)"
            )
        rows = counted(self.document_preprocess.batches(documents, batch_size or 64), None)
        return self._joined((each.places, self.tower(each.inputs).cpu().numpy()) for each in rows)

    def predict(self, queries: Any, *, top: int = 1) -> pd.DataFrame:
        """Find the documents that answer each query best, as `search` does."""
        return self.search(queries, top)

    def search(self, queries: Any, k: int = 10, index: Index | None = None) -> pd.DataFrame:
        """Find the k documents that answer each query best.

        - index: of other documents, from `make_index(embeddings)`; None: those that it was trained with
        - returns: k rows for each query, with the columns `query` (its place), `rank` (from 1), `id`, `text` and
          `score`; for another index, `document` (the place of its embedding) in place of `id` and `text`
        """
        return self.nearest(self.encode_queries(queries), k, index)

    def nearest(self, embeddings_NE: np.ndarray, k: int, index: Index | None = None) -> pd.DataFrame:
        """Do what `search` does with queries that are embedded already."""
        import pandas as pd

        there = index or self.index
        if not 1 <= k <= len(there):
            raise ConfigError(f"k: {k}; expected a number from 1 to {len(there)}, the number of documents")
        found, scores = there.search(embeddings_NE, k)
        table = pd.DataFrame(
            {"query": np.repeat(np.arange(len(found)), k), "rank": np.tile(np.arange(1, k + 1), len(found))}
        )
        if index is not None:
            return table.assign(document=found.ravel(), score=scores.ravel())
        named = self.documents.iloc[found.ravel()].reset_index(drop=True)
        return table.assign(id=named["id"], text=named["text"], score=scores.ravel())

    @torch.no_grad()
    def encoded(
        self,
        texts: Any,
        batch_size: int | None = None,
        bad: Bad | None = None,
        preprocess: Preprocess | None = None,
        cut: Cut | None = None,
    ) -> Iterator[tuple[list[int], np.ndarray]]:
        """Yield the places of a batch's texts among all, and their embeddings (B, E).

        - texts, batch_size, bad, cut: as the inputs of `outputs`
        - preprocess: what goes before the network; None: that of queries
        """
        for rows in counted((preprocess or self.preprocess).batches(texts, batch_size or 64, bad), cut):
            yield rows.places, self.answers(rows.inputs)

    def _joined(self, parts: Iterator[tuple[list[int], np.ndarray]]) -> np.ndarray:
        embedded = [each for _, each in parts]
        return np.concatenate(embedded) if embedded else np.zeros((0, self.document_embeddings.shape[1]), np.float32)
