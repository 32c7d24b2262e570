"""A sentence encoder for queries whose head has the embeddings of all documents."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tgt_ray.batch import InputRows, Outputs
from tgt_ray.models.text import TextBackbone

log = logging.getLogger(__name__)

#: Documents that are embedded before the log says how far it is.
SAID_EVERY = 4096


class DualEncoder(nn.Module):
    """Queries (B, width) uint8 -> Outputs: scores of all documents over a temperature (B, K), and the query's embedding (B, D)."""

    def __init__(self, backbone: TextBackbone, num_documents: int, normalize: bool, temperature: float):
        super().__init__()
        self.backbone, self.normalize, self.temperature = backbone, normalize, temperature
        self.head = nn.Linear(backbone.dim, num_documents, bias=False)
        #: Fewer rows at once where each has many scores.
        self.largest_shape = (num_documents,)

    def forward(self, inputs: Tensor) -> Outputs:
        embedding = self._unit(self.backbone(inputs))
        return Outputs(self.head(embedding) / self.temperature, embedding)

    def _unit(self, embedding: Tensor) -> Tensor:
        return F.normalize(embedding, dim=1) if self.normalize else embedding

    @torch.no_grad()
    def embed_documents(self, tower: TextBackbone, documents: InputRows) -> dict[str, Any]:
        """Write the documents' embeddings, in their order, into the head. Returns what is to be recorded of it."""
        device = self.head.weight.device
        tower.to(device).eval()
        done, cut = 0, 0
        for part in documents.split(512):
            ids = tower.prepare(part.to(device))
            cut += int((ids != tower.tokens.pad).all(dim=1).sum())
            self.head.weight[done : done + len(part)] = self._unit(tower(ids)).to(self.head.weight.dtype)
            done += len(part)
            if done % SAID_EVERY == 0:
                log.info("labeler: %d of %d documents are embedded", done, len(documents))
        if cut:
            log.warning(
                "teacher.labeler: %d of %d documents fill its %d tokens, and are cut where they are longer",
                *(cut, done, tower.tokens.max_tokens),
            )
        return {"count": done, "full": cut, "max_tokens": tower.tokens.max_tokens}
