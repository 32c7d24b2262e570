"""Splits of digits, and of texts, whole and with labels missing; a folder of pictures and a storage."""

import pytest

from tests.helpers.pictures import write_pictures
from tests.helpers.text_files import COUNTS, rows_of
from tgt_ray.core.storage import Storage
from tgt_ray.data import Digits


@pytest.fixture(scope="session")
def digit_splits():
    return Digits().load()


@pytest.fixture
def splits():
    return {split: rows_of(split, count) for split, count in COUNTS.items()}


@pytest.fixture
def incomplete(splits):
    """A label missing in every fourth row of train and in two rows of test, and the rows of train that have one."""
    for split, rows in (("train", range(0, 24, 4)), ("test", (4, 8))):
        for row in rows:
            splits[split]["label"][row] = None
    return splits, [row for row in range(24) if row % 4]


@pytest.fixture
def folder(tmp_path):
    """Small pictures, in a folder for each split and class."""
    return write_pictures(tmp_path / "pictures")


@pytest.fixture
def store(tmp_path) -> Storage:
    return Storage(tmp_path / "storage")
