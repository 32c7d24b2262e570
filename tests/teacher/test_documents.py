"""Embeddings of documents that the storage keeps."""

from types import SimpleNamespace

import torch
from torch import nn

from tgt_ray.core.formats import FORMATS
from tgt_ray.core.storage import Storage
from tgt_ray.teacher import documents


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
