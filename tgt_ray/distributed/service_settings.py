"""Says how a student is served."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """Says how a student is served.

    - host, port: that the service listens on
    - replicas: processes that answer, each with a student of its own
    - device: of torch
    - max_batch: inputs that are computed together at the most
    - batch_wait_ms: how long an input waits for others
    - max_request_mb: of a request's body
    - max_inputs: of a request
    """

    host: str = "127.0.0.1"
    port: int = 8000
    replicas: int = 1
    device: str = "cpu"
    max_batch: int = 64
    batch_wait_ms: float = 2.0
    max_request_mb: float = 16.0
    max_inputs: int = 256
