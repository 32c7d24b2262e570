"""Embeds the documents of a retrieval task with an actor pool of Ray Data."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import ray

from tgt_ray.core.batch import InputSpec
from tgt_ray.core.progress import progress
from tgt_ray.core.storage import Storage
from tgt_ray.distributed.cluster import largest_node_cpus, nodes
from tgt_ray.distributed.resources import device_of, needs_places, pool_resources
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.tasks import TaskData, inputs_of

log = logging.getLogger(__name__)

#: Documents that an actor embeds in one call.
DOCUMENTS_PER_BLOCK = 1024


class DocumentEmbedder:
    """The pool's actor: it gets the first row of a block of documents and returns the block's embeddings."""

    def __init__(self, experiment: Experiment, spec: InputSpec, threads: int, tables: tuple[Any, ...]):
        import torch

        torch.set_num_threads(threads)
        self.task, self.shape, self.table = experiment.task, spec.shape, ray.get(tables[0])
        labeler = experiment.teacher.labeler
        model = labeler.build(spec, 1)  # the head isn't used, so any number of classes will do
        labeler.load_weights(model)
        self.embed = labeler.document_embedder(model.to(device_of(experiment)).eval())

    def __call__(self, places: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        (first,) = places["first"]
        inputs = inputs_of(self.task, self.table.slice(first, DOCUMENTS_PER_BLOCK), self.shape)
        embedding, cut = (each.numpy(force=True) for each in self.embed(inputs))
        return {"row": np.arange(first, first + len(cut)), "embedding": embedding, "cut": cut}


def embed_documents(experiment: Experiment, data: TaskData, file: str, storage: Storage) -> None:
    """Embed all documents with a Ray Data actor pool, and keep the embeddings in a file of the storage.

    Where generators need GPUs or custom resources, there are as many actors as a pool has generators, with the same
    resources; otherwise one actor for each four CPUs of a node.
    """
    import ray.data

    from tgt_ray.teacher.documents import keep

    table = data.tables["documents"]
    places = [{"first": first} for first in range(0, len(table), DOCUMENTS_PER_BLOCK)]
    special = needs_places(experiment)
    # Four threads an actor and not one, since every actor holds the encoder's weights.
    threads = 1 if special else max(1, min(4, int(largest_node_cpus())))
    room = experiment.pool.actors if special else sum(int(node.get("CPU", 0) // threads) for node in nodes())
    actors = max(1, min(room, len(places)))
    log.info("teacher: %d documents are embedded by %d actor%s, once", len(table), actors, "s" if actors > 1 else "")
    embedded = ray.data.from_items(places, override_num_blocks=len(places)).map_batches(
        DocumentEmbedder,
        batch_size=1,
        fn_constructor_args=(experiment, data.spec, threads, (ray.put(table),)),
        compute=ray.data.ActorPoolStrategy(size=actors),
        **pool_resources(experiment) if special else {"num_cpus": min(threads, largest_node_cpus())},
    )
    embedded.context.enable_progress_bars = False
    parts = []
    with progress("embedding documents", len(table), "documents") as phase:
        for part in embedded.iter_batches(batch_size=None):
            parts.append(part)
            phase.advance(len(part["row"]))
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    order = np.argsort(columns.pop("row"))
    keep(storage, file, columns["embedding"][order], columns["cut"][order])
