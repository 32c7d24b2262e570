"""Turns encoder-decoders into generators that write queries for documents."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tgt_ray.core.texts import SEPARATOR
from tgt_ray.models.text.generation import Writer, check_decoder, seeded
from tgt_ray.models.text.tokens import Tokens, check_positions


class QueryWriter(Writer):
    """Reads documents and writes queries for them.

    - width: bytes of a row, to which texts are cut
    - draws: settings of the library's sampling
    - where: the config's key, for messages
    """

    def __init__(self, body: Any, tokens: Tokens, width: int, draws: dict[str, Any], where: str):
        super().__init__(body, tokens, width)
        check_decoder(body, where)
        check_positions(body.config, tokens)
        check_positions(body.config, tokens, draws["max_new_tokens"], "max_new_tokens")
        self.draws = draws

    def encode(self, inputs: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        return torch.zeros(len(inputs), 0, device=inputs.device), self.tokens(inputs)

    def _written(self, context: Tensor, rng: torch.Generator) -> Tensor:
        ids = context[:, : max(1, int((context != self.tokens.pad).sum(dim=1).max()))]
        with seeded(rng):
            out = self.body.generate(
                input_ids=ids, attention_mask=(ids != self.tokens.pad).long(), do_sample=True, num_beams=1, **self.draws
            )
        # A query is a single sentence: of a pair the first is kept.
        return self.rows([text.partition(SEPARATOR)[0] for text in self.tokens.texts(out)], ids.device)
