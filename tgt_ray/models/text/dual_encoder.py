"""Provides a sentence encoder for queries, whose head holds the embeddings of all documents."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tgt_ray.core.batch import InputRows, Outputs
from tgt_ray.core.progress import counted
from tgt_ray.core.texts import to_texts
from tgt_ray.models.numerics import at_least_float32
from tgt_ray.models.text.encoder import TextBackbone


class DualEncoder(nn.Module):
    """Maps queries (B, width) uint8 to Outputs: scores of all documents (B, K) and the queries' embeddings (B, D).

    - normalize: whether embeddings are brought to length 1
    - temperature: what scores are divided by
    """

    def __init__(self, backbone: TextBackbone, num_documents: int, normalize: bool, temperature: float):
        super().__init__()
        self.backbone, self.normalize, self.temperature = backbone, normalize, temperature
        self.head = nn.Linear(backbone.dim, num_documents, bias=False)
        #: So that fewer rows are embedded at once where each has many scores.
        self.largest_shape = (num_documents,)

    def forward(self, inputs: Tensor) -> Outputs:
        embedding = self.backbone(inputs)
        # Half precision can't tell the scores of many documents apart.
        with torch.autocast(embedding.device.type, enabled=False):
            embedding = self._unit(at_least_float32(embedding))
            return Outputs(self.head(embedding) / self.temperature, embedding)

    def _unit(self, embedding: Tensor) -> Tensor:
        return F.normalize(embedding, dim=1) if self.normalize else embedding

    @torch.no_grad()
    def embed_documents(self, tower: TextBackbone, documents: InputRows) -> tuple[Tensor, Tensor]:
        """Embed N documents.

        - tower: the backbone that embeds them
        - returns: embeddings (N, D), and which documents are longer than the tower's tokens, and so cut, (N,) bool
        """
        device = self.head.weight.device
        tower.to(device).eval()
        embeddings, cut = [], []
        for part in counted(documents.split(512), "embedding documents", len(documents), "documents"):
            ids = tower.prepare(part.to(device))
            # A document that fills all tokens may end exactly there.
            full = (ids != tower.tokens.pad).all(dim=1)
            cut.append(full.cpu().clone())
            for row in full.nonzero().flatten().tolist():
                cut[-1][row] = tower.tokens.is_cut(to_texts(part[row : row + 1].cpu().numpy())[0])
            embeddings.append(self._unit(tower(ids)))
        return torch.cat(embeddings), torch.cat(cut)
