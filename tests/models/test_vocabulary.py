"""Vocabularies that a storage keeps."""

import pytest

from tgt_ray.core.storage import Storage
from tgt_ray.models.text import vocabulary
from tgt_ray.models.text.vocabulary import corpus_vocabulary

TEXTS = ["a red car", "a blue lamp", "the red lamp"] * 5


@pytest.fixture
def kept(tmp_path):
    storage = Storage(tmp_path)
    made = corpus_vocabulary(TEXTS, 300, ["texts"], storage)
    (file,) = (tmp_path / "vocabularies").iterdir()
    return storage, made, file


def test_one_is_learnt_once(kept, monkeypatch):
    storage, made, _ = kept
    monkeypatch.setattr(vocabulary, "train_tokenizer", None)
    assert corpus_vocabulary(TEXTS, 300, ["texts"], storage) == made


@pytest.mark.parametrize("how", ["empty", "cut", "flip"])
def test_a_damaged_one_is_learnt_again_with_a_line(kept, how, caplog):
    storage, made, file = kept
    content = file.read_bytes()
    place = content.index(b"red")
    flipped = content[:place] + b"rad" + content[place + 3 :]
    file.write_bytes({"empty": b"", "cut": content[:place], "flip": flipped}[how])
    assert corpus_vocabulary(TEXTS, 300, ["texts"], storage) == made
    assert len(caplog.messages) == 1 and caplog.messages[0].startswith(f"{file}: is damaged (")
    assert corpus_vocabulary(TEXTS, 300, ["texts"], storage) == made and len(caplog.messages) == 1


def test_one_of_an_older_version_is_read(kept, monkeypatch):
    storage, made, file = kept
    file.write_text(made)
    monkeypatch.setattr(vocabulary, "train_tokenizer", None)
    assert corpus_vocabulary(TEXTS, 300, ["texts"], storage) == made
