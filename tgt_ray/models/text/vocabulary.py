"""Learns a vocabulary from a task's own texts, for models that are trained from scratch; doesn't import torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tgt_ray.core import records
from tgt_ray.core.fingerprint import digest
from tgt_ray.core.texts import sentences
from tgt_ray.models.hub import tokenizer_from_hub

if TYPE_CHECKING:
    from tgt_ray.core.storage import Storage

#: Start, padding, end, unknown and mask, in the order and with the names of BART and RoBERTa.
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")


def train_tokenizer(texts: Sequence[str], size: int) -> str:
    """Train a byte-level BPE tokenizer; the same texts give the same one.

    It encodes any text without loss. A text becomes `<s> a </s>`, a pair `<s> a </s></s> b </s>`.

    - size: tokens at the most
    - returns: JSON of the library `tokenizers`
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=2,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator((part for text in texts for part in sentences(text)), trainer)
    start, end = SPECIAL[0], SPECIAL[2]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}",
        pair=f"{start} $A {end} {end} $B {end}",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in (start, end)],
    )
    return tokenizer.to_str()


def same_vocabulary(one: str | None, other: str | None) -> bool:
    """Tell whether two models number their tokens alike.

    - one, other: folder or name on the hub of each; None: the task's own vocabulary
    """
    if one is None or other is None or one == other:
        return one == other
    first, second = (tokenizer_from_hub(path, None).get_vocab() for path in (one, other))
    return bool(first == second)


def corpus_vocabulary(texts: list[str], size: int, made_from: list[str], storage: Storage | None) -> str:
    """Return the JSON of a vocabulary, which is learnt once for each storage.

    - size: tokens at the most
    - made_from: fingerprints of the texts
    """
    # Before, it was learnt from rows that the student doesn't have: what such a storage keeps has another name.
    name = f"{digest('bpe of the texts of a split', *made_from, size)}.json"
    kept = storage.within("vocabularies") if storage is not None else None
    content = kept.find(name) if kept is not None else None
    if content is not None:
        # A tokenizer has no room for a checksum, so it lies in a record; older versions have stored it alone.
        there: str = json.loads(content).get("tokenizer") or content.decode()
        return there
    made = train_tokenizer(texts, size)
    if kept is not None:
        records.write_json(kept, {"tokenizer": made}, name)
    return made
