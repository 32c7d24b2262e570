"""Writes a student's tokenizer so that the library `tokenizers` alone gives the student's ids."""

from __future__ import annotations

import json

import torch

from tgt_ray.core.errors import ConfigError
from tgt_ray.core.texts import SEPARATOR, clean, to_bytes
from tgt_ray.models.text.tokens import Tokens

#: White space around a text, as Python's `strip` knows it.
AROUND = r"\A[\s\x1c-\x1f\x85]+|[\s\x1c-\x1f\x85]+\z"
#: Texts that differ in what goes before the tokenizer, beside those that have a special token's name in them.
ODD = ("", " a word\n", "a\0b", "A Naïve – 日本語 🙂 text, 12.5%!", "<extra_id_0> a", "\x1c\ttabs\t and  spaces \x85")


def tokenizer_json(tokens: Tokens) -> str:
    """Return JSON of the library `tokenizers` that gives a student's ids: it cleans texts, cuts and pads them.

    A batch is padded to its longest text. Only the cut to the student's bytes isn't in it, which it can't express.

    - raises ConfigError: where the library gives other ids
    """
    from tokenizers import Regex, Tokenizer, normalizers

    whole = json.loads(tokens.tokenizer.backend_tokenizer.to_str())
    # The name of a special token in a text is text to the student. Where such tokens are put around texts, their ids
    # are part of what puts them there.
    whole["added_tokens"] = [each for each in whole["added_tokens"] if not each["special"]]
    own = Tokenizer.from_str(json.dumps(whole))
    steps = [
        normalizers.Replace("\0", " "),
        normalizers.Replace(SEPARATOR, " "),
        normalizers.Replace(Regex(AROUND), ""),
        *([normalizers.Replace("<extra_id_", "< extra_id_")] if tokens.sentinels else []),
        *([own.normalizer] if own.normalizer is not None else []),
    ]
    own.normalizer = normalizers.Sequence(steps)
    own.enable_truncation(tokens.max_tokens)
    own.enable_padding(pad_id=tokens.pad, pad_token=tokens.tokenizer.pad_token)
    names = " ".join(map(str, tokens.tokenizer.all_special_tokens))
    for text in (*ODD, f"a {names} b", names, "long " * tokens.max_tokens):
        if own.encode(text).ids != _ids(tokens, text):
            raise ConfigError(
                f"export: the library tokenizers gives other ids than the student for the text {text[:60]!r}; take"
                " safetensors"
            )
    return str(own.to_str())


def _ids(tokens: Tokens, text: str) -> list[int]:
    """Return the student's ids of one text, without padding."""
    content = clean(text)
    ids = tokens(torch.from_numpy(to_bytes([content], len(content.encode()) + 1)))
    return [int(each) for each in ids[tokens.present(ids)]]
