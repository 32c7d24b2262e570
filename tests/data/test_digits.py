"""The digits that come with scikit-learn."""

import numpy as np

from tgt_ray.data import Digits, ImageRows


def parts(digit_splits) -> list[ImageRows]:
    return [digit_splits.train, digit_splits.validation, digit_splits.test]


def test_the_splits_of_digits_are_disjoint_and_complete(digit_splits):
    ids = np.concatenate([rows.ids for rows in parts(digit_splits)])
    assert sorted(ids) == list(range(1797))


def test_the_splits_of_digits_have_their_shares_of_every_class(digit_splits):
    per_class = np.array([np.bincount(rows.labels, minlength=10) for rows in parts(digit_splits)])
    shares = per_class / per_class.sum(axis=0)
    np.testing.assert_allclose(shares, np.array([[0.6], [0.15], [0.25]]).repeat(10, 1), atol=0.01)


def test_digits_are_always_the_same(digit_splits):
    again = Digits().load()
    assert [rows.fingerprint() for rows in parts(again)] == [rows.fingerprint() for rows in parts(digit_splits)]


def test_digits_use_the_range_of_bytes(digit_splits):
    assert digit_splits.train.images.dtype == np.uint8 and digit_splits.train.images.shape[1:] == (1, 8, 8)
    assert digit_splits.train.images.min() == 0 and digit_splits.train.images.max() == 255


def test_digits_keep_images_with_their_labels(digit_splits):
    from sklearn.datasets import load_digits

    original = load_digits()
    for rows in parts(digit_splits):
        np.testing.assert_array_equal(rows.labels, original.target[rows.ids])
        np.testing.assert_allclose(rows.images[:, 0] * (16 / 255), original.images[rows.ids], atol=0.04)
