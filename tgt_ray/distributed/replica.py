"""A process of Ray Serve that answers for a student, many requests at once. Needs the extra `serve`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from ray import serve

from tgt_ray.distributed.service_settings import Settings

if TYPE_CHECKING:
    import numpy as np
    from fastapi import FastAPI
    from torch import Tensor


def rows_in(parts: list[Tensor]) -> int:
    """Count the rows of some requests."""
    return sum(len(part) for part in parts)


@serve.ingress()
class Replica:
    """Loads a student, and computes the rows of requests that come at the same time together."""

    def __init__(self, folder: str, settings: Settings):
        from tgt_ray.inference.loading import load_student
        from tgt_ray.inference.students import LoadedRetriever

        self.student = load_student(folder, settings.device)
        if isinstance(self.student, LoadedRetriever):
            len(self.student.index)  # made now, and not by the first request
        self.settings = settings
        self._together.set_max_batch_size(settings.max_batch)
        self._together.set_batch_wait_timeout_s(settings.batch_wait_ms / 1000)

    def __serve_build_asgi_app__(self) -> FastAPI:
        from tgt_ray.inference.service import Limits, make_app

        return make_app(self.student, self.compute, Limits(self.settings.max_request_mb, self.settings.max_inputs))

    async def compute(self, rows: Tensor) -> np.ndarray:
        """Compute what the student says of some rows: scores (B, K), or embeddings (B, E) of queries."""
        import numpy as np

        parts = rows.split(self.settings.max_batch)
        return np.concatenate(await asyncio.gather(*(self._together(part) for part in parts)))

    @serve.batch(batch_size_fn=rows_in)
    async def _together(self, parts: list[Tensor]) -> list[Any]:
        import numpy as np
        import torch

        # In a thread, so that requests are read meanwhile.
        found = await asyncio.to_thread(self.student.answers, torch.cat(parts))
        return np.split(found, np.cumsum([len(part) for part in parts])[:-1])
