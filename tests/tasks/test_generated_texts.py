"""What is measured of generated texts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgt_ray.tasks.metrics.generated_texts import distinct_n, empty_rate, exact_copy_rate


def test_copies_are_found_whatever_their_case_and_white_space():
    assert exact_copy_rate(["A b", "a b", "a b", "Straße"], ["a  B\n", "a c", "b a", "STRASSE"]) == 50
    assert exact_copy_rate([], []) == 0
    with pytest.raises(ValueError):
        exact_copy_rate(["a"], [])


@pytest.mark.parametrize(
    ("anchor", "explored"),
    [
        ("What is it ?", "what is it?"),  # as BERT's tokenizer gives it back
        ("Où est la «gare» ?", "ou est la « gare »?"),
        ("½ ℍ…", "1⁄2 h..."),
        ("don ' t\u200b", "don't"),
        ("one .\x1ftwo", "one.\x1ftwo"),
    ],
)
def test_copies_are_found_whatever_a_tokenizer_leaves_of_them(anchor, explored):
    assert exact_copy_rate([anchor], [explored]) == 100


def test_a_text_that_fills_its_tokens_is_a_copy_where_it_begins_its_anchor():
    text = "a b c d e f g h i j"
    for explored, longest, share in (
        ("a b c d", None, 0),
        ("a b c d", 8, 100),
        ("a b c d", 64, 0),  # not cut, but ended
        ("a b c e", 8, 0),
        ("", 8, 0),
        (f"{text} k", 8, 0),
    ):
        assert exact_copy_rate([text], [explored], longest) == share
    pair = f"{text}\x1f{text}"
    for explored, share in ((f"{text[:9]}\x1f{text[:7]}", 100), (f"{text[:9]}\x1fb c", 0), (text[:17], 0)):
        assert exact_copy_rate([pair], [explored], 12) == share


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
