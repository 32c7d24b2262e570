"""Texts as rows of bytes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgt_ray.core.texts import SEPARATOR, clean, sentences, to_bytes, to_texts


@given(st.lists(st.text(), min_size=1))
def test_texts_come_back(texts):
    texts = [clean(text) for text in texts]
    width = max(1, *(len(text.encode()) for text in texts))
    rows = to_bytes(texts, width)
    assert rows.shape == (len(texts), width) and rows.dtype == np.uint8
    assert to_texts(rows) == texts


@pytest.mark.parametrize(("text", "width", "cut"), [("naïve", 3, "na"), ("naïve", 4, "naï"), ("abc", 3, "abc")])
def test_a_long_text_is_cut_between_characters(text, width, cut):
    assert to_texts(to_bytes([text], width)) == [cut]


@pytest.mark.parametrize(
    ("first", "second", "cut"),
    [
        ("aaaaaaaa", "bb", "aaaa|bb"),
        ("aa", "bbbbbbbb", "aa|bbbb"),
        ("aaaaaaaa", "bbbbbbbb", "aaa|bbb"),
        ("ääää", "b", "ää|b"),
    ],
)
def test_a_long_pair_stays_a_pair(first, second, cut):
    assert to_texts(to_bytes([f"{first}{SEPARATOR}{second}"], 7)) == [cut.replace("|", SEPARATOR)]


def test_pairs():
    assert sentences(f"a cat{SEPARATOR}an animal") == ("a cat", "an animal")
    assert sentences("alone") == ("alone",)
    assert clean(f" a{SEPARATOR}b\0c ") == "a b c"
