"""Stores the document embeddings that the head of a retrieval labeler is made of, and fills the head with them."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from tgt_ray.core import formats
from tgt_ray.core.batch import InputRows
from tgt_ray.core.errors import concerning
from tgt_ray.core.fingerprint import digest
from tgt_ray.core.patience import patiently
from tgt_ray.core.storage import Storage
from tgt_ray.models.weights import read_safetensors
from tgt_ray.tasks import TaskData
from tgt_ray.teacher.labelers.base import Labeler

log = logging.getLogger(__name__)

#: The folder in the storage with the embeddings of documents (N, E), and which documents are cut (N,).
FOLDER = "documents"


def file_name(source: dict[str, Any], data: TaskData) -> str:
    """Return the name of the file of embeddings; queries, and how they are embedded, do not change it.

    - source: the result of the labeler's `load_weights`
    """
    number = formats.FORMATS["documents"]
    # The format number is in the name, so that no version reads a file of another; format 1 was there before that.
    own = () if number == 1 else (number,)
    return f"{digest('embedding, cut', source['fitted_by'], data.fingerprints['documents'], *own)}.safetensors"


def missing(config: Labeler, data: TaskData, storage: Storage) -> str | None:
    """Return the name of the file that must still be made; None where it is whole or none is needed."""
    if not config.embeds_documents:
        return None
    with torch.random.fork_rng(devices=[]), concerning("teacher.labeler"):
        name = file_name(config.load_weights(config.build(data.spec, data.num_classes)), data)
    return None if storage.holds(FOLDER, name) else name


def fill_head(
    config: Labeler, model: nn.Module, inputs: InputRows, source: dict[str, Any], data: TaskData, storage: Storage
) -> dict[str, Any]:
    """Set the weight of the labeler's head to the documents' embeddings, from the storage or computed now.

    - inputs: the documents' inputs
    - source: the result of the labeler's `load_weights`
    - returns: entries for the labeler's record
    """
    name = file_name(source, data)
    content = storage.find(FOLDER, name)
    if content is not None:
        log.info("labeler: the embeddings of %d documents are those in %s", len(inputs), storage.where(FOLDER, name))
        there = read_safetensors(content, storage.where(FOLDER, name))
        embedding, cut = there["embedding"], there["cut"]
    else:
        log.info("labeler: embedding %d documents, once", len(inputs))
        embedding, cut = config.document_embedder(model)(inputs)
        keep(storage, name, embedding, cut)
    with torch.no_grad():
        model.get_parameter("head.weight").copy_(embedding)
    count = int(cut.sum())
    if count:
        log.warning("teacher.labeler: %d of %d documents are cut at its limit of tokens", count, len(cut))
    return {"documents": {"count": len(cut), "cut": count}}


def keep(storage: Storage, name: str, embedding: Tensor | np.ndarray, cut: Tensor | np.ndarray) -> None:
    """Store the embeddings of documents.

    - embedding: (N, E)
    - cut: (N,) whether a document is longer than the encoder reads
    """
    made = {"embedding": torch.as_tensor(embedding).cpu().contiguous(), "cut": torch.as_tensor(cut).cpu()}
    content = safetensors.torch.save(made, formats.metadata("documents"))
    patiently(lambda: storage.write(content, FOLDER, name))
