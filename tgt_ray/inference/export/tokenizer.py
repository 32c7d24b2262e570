"""Writes a text student's tokenizer as transformers reads it, so that it gives the ids that the student sees."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tgt_ray.core.texts import SEPARATOR
from tgt_ray.models.text.encoder import TextBackbone, kept_architecture
from tgt_ray.models.text.tokens import Tokens

CONFIG_FILE = "tokenizer_config.json"


def save_tokenizer(backbone: TextBackbone, folder: Path, pairs: bool) -> None:
    """Write `tokenizer.json` and its config.

    - pairs: whether the student takes pairs of texts
    """
    from transformers import PreTrainedTokenizerFast

    tokens = backbone.tokens
    types = ["token_type_ids"] if backbone.typed else []
    fast = PreTrainedTokenizerFast(
        tokenizer_object=_cleaning(tokens, backbone.typed and pairs),
        model_max_length=tokens.max_tokens,
        padding_side="right",
        truncation_side="right",
        split_special_tokens=True,  # the name of a special token in a text is text
        model_input_names=["input_ids", *types, "attention_mask"],
        **kept_architecture(backbone)["special_tokens"],
    )
    fast.save_pretrained(folder)
    name_class(folder)


def name_class(folder: Path) -> None:
    """Call a saved tokenizer by the name of its class that each version of transformers knows."""
    file = folder / CONFIG_FILE
    said = json.loads(file.read_text(encoding="utf-8"))
    said["tokenizer_class"] = "PreTrainedTokenizerFast"
    file.write_text(json.dumps(said, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _cleaning(tokens: Tokens, mark_pairs: bool) -> Any:
    """Return the tokenizer with what the student does to texts before it: see `tgt_ray.core.texts.clean`.

    - mark_pairs: whether the tokens of a pair's second text have a type of their own
    """
    from tokenizers import Tokenizer, normalizers

    whole = json.loads(tokens.tokenizer.backend_tokenizer.to_str())
    whole["padding"] = whole["truncation"] = None  # how the last batch was padded and cut
    if mark_pairs:
        _mark_second(whole["post_processor"], tokens.tokenizer.convert_ids_to_tokens(tokens.end))
    own = Tokenizer.from_str(json.dumps(whole))
    replaced = {"\0": " ", SEPARATOR: " ", **({"<extra_id_": "< extra_id_"} if tokens.sentinels else {})}
    steps: list[Any] = [normalizers.Replace(old, new) for old, new in replaced.items()]
    if all(each["special"] for each in whole["added_tokens"]):  # others split a text before it is normalised
        steps.append(normalizers.Strip())
    own.normalizer = normalizers.Sequence([*steps, *([own.normalizer] if own.normalizer is not None else [])])
    return own


def _mark_second(processor: Any, end: str) -> None:
    """Give type 1 to all behind a pair's first end token, as `Tokens.types` does, where a template says the types."""
    for each in (processor, *(processor or {}).get("processors", [])):
        kind = 0
        for item in each["pair"] if each and each["type"] == "TemplateProcessing" else ():
            ((name, said),) = item.items()
            said["type_id"] = kind
            kind = 1 if name == "SpecialToken" and said["id"] == end else kind
