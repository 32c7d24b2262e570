"""What tests of several tasks use."""

import pytest

from tgt_ray.tasks import retrieval, text_classification


@pytest.fixture
def learnt(monkeypatch):
    """The texts that vocabularies are learnt from."""
    seen = []
    for module in (retrieval, text_classification):
        monkeypatch.setattr(module, "corpus_vocabulary", lambda texts, *more: seen.extend(texts) or "{}")
    return seen
