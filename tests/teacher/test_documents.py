"""Embeddings of documents that the storage keeps."""

import shutil
from types import SimpleNamespace

import torch
from torch import nn

from tests.helpers import retrieval
from tgt_ray.core.formats import FORMATS
from tgt_ray.core.storage import Storage
from tgt_ray.teacher import documents, store


def test_damaged_ones_are_computed_again_with_a_line(tmp_path, caplog):
    storage, model = Storage(tmp_path), nn.ModuleDict({"head": nn.Linear(3, 2, bias=False)})
    embedding, cut, asked = torch.arange(6.0).reshape(2, 3), torch.tensor([False, False]), []

    def embed(inputs):
        asked.append(inputs)
        return embedding, cut

    config = SimpleNamespace(document_embedder=lambda model: embed)
    data = SimpleNamespace(fingerprints={"documents": "d"})

    def fill():
        documents.fill_head(config, model, "inputs", {"fitted_by": "f"}, data, storage)
        return model.get_parameter("head.weight").detach().clone()

    assert torch.equal(fill(), embedding) and torch.equal(fill(), embedding) and len(asked) == 1
    (file,) = (tmp_path / documents.FOLDER).iterdir()
    content = bytearray(file.read_bytes())
    content[-8] ^= 0x40
    file.write_bytes(content)
    assert torch.equal(fill(), embedding) and len(asked) == 2
    assert caplog.messages == [f"{file}: is damaged (its content doesn't fit its checksum); made again"]
    assert torch.equal(fill(), embedding) and len(asked) == 2


def test_those_of_another_format_are_not_read(monkeypatch):
    data, source = SimpleNamespace(fingerprints={"documents": "d"}), {"fitted_by": "f"}
    now = documents.file_name(source, data)
    monkeypatch.setitem(FORMATS, "documents", FORMATS["documents"] + 1)
    assert documents.file_name(source, data) != now


def test_the_log_says_that_documents_are_embedded_and_later_that_they_are_there(beir, encoder, tmp_path, caplog):
    caplog.set_level("INFO", "tgt_ray")
    config, storage = retrieval.experiment(beir, encoder), Storage(tmp_path)
    data = config.task.load()
    said = []
    for _ in range(2):
        caplog.clear()
        store.prepare_teacher(config.teacher, config.task, data, storage, with_generator=False)
        said.append([line for line in caplog.messages if line.startswith("labeler") and "reused" not in line])
        shutil.rmtree(tmp_path / "teachers")
    assert said[0][0] == "labeler: embedding 48 documents, once" and "fitting" not in str(said)
    (file,) = (tmp_path / documents.FOLDER).iterdir()
    assert said[1][0] == f"labeler: the embeddings of 48 documents are those in {file}"
