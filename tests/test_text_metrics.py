"""What is measured of generated texts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgt_ray.text_metrics import distinct_n, empty_rate, exact_copy_rate


def test_copies_are_found_whatever_their_case_and_white_space():
    assert exact_copy_rate(["A b", "a b", "a b", "Straße"], ["a  B\n", "a c", "ab", "STRASSE"]) == 50
    assert exact_copy_rate([], []) == 0
    with pytest.raises(ValueError):
        exact_copy_rate(["a"], [])


@given(st.lists(st.text(), min_size=1))
def test_texts_are_copies_of_themselves(texts):
    assert exact_copy_rate(texts, texts) == 100


@pytest.mark.parametrize(
    ("texts", "n", "share"),
    [
        (["a b a"], 1, 2 / 3),
        (["a b a", "a b"], 2, 2 / 3),
        (["a b", "b c"], 2, 1),
        (["a b\x1fc", "c"], 1, 3 / 4),  # a pair's words
        (["a", "b"], 2, 0),
        (["A a"], 1, 1),
        ([], 1, 0),
    ],
)
def test_distinct_words_and_pairs_of_them(texts, n, share):
    assert distinct_n(texts, n) == pytest.approx(share)


def test_empty_texts_are_counted():
    assert empty_rate(["", " \n", "a", "b"]) == 50 and empty_rate([]) == 0
