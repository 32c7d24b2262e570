"""Random changes of texts, as words."""

import pytest
import torch

from tgt_ray.core.texts import SEPARATOR
from tgt_ray.models.text.augment import with_spans, without_words

LONG = " ".join(f"w{number}" for number in range(40))


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_words_are_left_out_and_the_others_keep_their_order():
    texts = without_words([LONG] * 400, 0.5, rng())
    kept = torch.tensor([len(text.split()) for text in texts]).float() / 40
    assert abs(float(kept.mean()) - 0.75) < 0.02 and kept.max() == 1 and kept.min() < 0.55
    for text in texts:
        numbers = [int(word[1:]) for word in text.split(" ")]
        assert numbers == sorted(numbers) and len(set(numbers)) == len(numbers)


@pytest.mark.parametrize("text", ["", "  ", "one", "two\n words ", LONG])
def test_without_a_share_a_text_stays_as_it_is_to_the_last_space(text):
    assert without_words([text], 0.0, rng()) == with_spans([text], ["x y z"], 0.0, rng()) == [text]


def test_one_word_stays_always():
    assert all(text in ("a", "b") for text in without_words(["a b"] * 50, 0.999, rng()) if " " not in text)
    assert "" not in without_words(["a b"] * 200, 0.999, rng())


def test_a_span_of_the_other_text_takes_the_place_of_as_many_words():
    other = " ".join(f"x{number}" for number in range(30))
    texts = with_spans([LONG] * 400, [other] * 400, 0.5, rng())
    shares = []
    for text in texts:
        words = text.split(" ")
        assert len(words) == 40
        inside = [place for place, word in enumerate(words) if word[0] == "x"]
        shares.append(len(inside) / 40)
        if inside:
            assert inside == list(range(inside[0], inside[-1] + 1))
            numbers = [int(words[place][1:]) for place in inside]
            assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        assert all(word == f"w{place}" for place, word in enumerate(words) if word[0] == "w")
    assert abs(sum(shares) / 400 - 0.25) < 0.02 and max(shares) <= 0.5


def test_a_short_text_is_mixed_as_much_on_average():
    texts = with_spans(["a b c"] * 2000, ["x y z"] * 2000, 0.4, rng())
    mixed = sum(sum(word in "xyz" for word in text.split()) for text in texts)
    assert abs(mixed / 6000 - 0.2) < 0.02


def test_pairs_stay_pairs():
    pair, other = f"a b c d{SEPARATOR}e f g h", f"A B C D{SEPARATOR}E F G H"
    for text in [*without_words([pair] * 100, 0.8, rng()), *with_spans([pair] * 100, [other] * 100, 0.8, rng())]:
        first, second = text.split(SEPARATOR)
        assert set(first.lower().split()) <= set("abcd") and set(second.lower().split()) <= set("efgh")
        assert first and second


def test_scripts_without_white_space_are_changed_by_characters():
    text = "これは猫です"
    thinned = without_words([text] * 50, 0.8, rng())
    assert any(0 < len(each) < len(text) for each in thinned) and not any(" " in each for each in thinned)
    mixed = with_spans([text] * 50, ["犬が走る"] * 50, 0.8, rng())
    assert all(len(each) == len(text) and " " not in each for each in mixed) and any("犬" in each for each in mixed)


def test_the_same_random_numbers_give_the_same_texts():
    one, again, other = (without_words([LONG] * 5, 0.5, rng(seed)) for seed in (1, 1, 2))
    assert one == again != other
