"""What users have becomes a student's inputs."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tgt_ray.core.errors import ConfigError
from tgt_ray.inference.preprocess import Images, Texts

GREY, COLOUR = Images((1, 8, 8)), Images((3, 8, 8))


def picture(size: tuple[int, int] = (8, 8), mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(1)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).convert(mode)


def png(image: Image.Image) -> bytes:
    sink = io.BytesIO()
    image.save(sink, "PNG")
    return sink.getvalue()


def test_a_picture_is_the_same_as_path_bytes_array_and_object(tmp_path):
    image = picture()
    (tmp_path / "a.png").write_bytes(png(image))
    pixels = np.asarray(image)
    forms = [tmp_path / "a.png", str(tmp_path / "a.png"), png(image), image, pixels, pixels.transpose(2, 0, 1)]
    rows = COLOUR([*forms, torch.from_numpy(pixels / 255.0)])
    assert rows.shape == (7, 3, 8, 8) and rows.dtype == torch.float32
    for row in rows:
        torch.testing.assert_close(row, torch.tensor(pixels.transpose(2, 0, 1)).float() / 255)


def test_other_sizes_are_brought_to_it_as_training_does(tmp_path):
    from tgt_ray.data.images.encoded import decode

    content = png(picture((20, 14)))
    expected = decode(content, 8, 1)
    for form in (content, picture((20, 14)), np.asarray(picture((20, 14)))):
        np.testing.assert_array_equal((GREY([form])[0] * 255).round().numpy().astype(np.uint8), expected)


def test_a_student_whose_images_are_no_squares():
    rows = Images((3, 6, 10))([png(picture((30, 18))), picture((10, 6))])
    assert rows.shape == (2, 3, 6, 10)


def test_many_images_of_the_right_shape_are_one_array():
    array = np.random.default_rng(0).integers(0, 256, (5, 8, 8), dtype=np.uint8)
    torch.testing.assert_close(GREY(array), torch.from_numpy(array)[:, None].float() / 255)
    assert GREY([]).shape == (0, 1, 8, 8)


@pytest.mark.parametrize(
    "item, said",
    [
        (b"no image", "row 1: not a readable image"),
        (Path("/nowhere/a.png"), "/nowhere/a.png: cannot be read"),
        (None, "row 1: NoneType; expected a path"),
        (np.zeros((8, 8, 2), np.uint8), r"row 1: shape \(8, 8, 2\)"),
        (np.full((8, 8), np.nan), "row 1: float64 from nan to nan"),
        (np.zeros((0, 8), np.uint8), r"row 1: shape \(0, 8\)"),
        (np.array([["a"]]), "row 1: <U1; expected uint8"),
        (Image.new("I;16", (8, 8)), "row 1: not a readable image .more than 8 bits"),
    ],
)
def test_an_image_that_is_none_is_named(item, said):
    with pytest.raises(ConfigError, match=said):
        GREY([picture(), item])
    bad = []
    (rows,) = GREY.batches([picture(), item, picture()], 8, lambda place, why: bad.append((place, why)))
    assert rows.places == [0, 2] and [place for place, _ in bad] == [1]


def test_one_image_is_no_list():
    for one in ("a.png", Path("a.png"), b"abc", 3):
        with pytest.raises(ConfigError, match="expected a list of images"):
            GREY(one)


def test_texts_and_pairs_are_told_apart():
    single, pairs = Texts(32, False, None), Texts(32, True, None)
    assert single(["  one ", "two"]).shape == (2, 32)
    assert pairs([("one", "two"), ["a", ""]]).shape == (2, 32)
    assert Texts(32, False, None, may_be_empty=True)([""]).shape == (1, 32)
    for texts, item, said in (
        (single, ("a", "b"), "expected one text"),
        (pairs, "a", "expected a pair of texts"),
        (pairs, ("a",), "expected a pair of texts"),
        (single, None, "no text; expected a text"),
        (single, float("nan"), "no text; expected a text"),
        (single, 3, "int; expected a text"),
        (pairs, ("a", None), "no text; expected a text"),
        (single, "  ", "an empty text"),
        (pairs, ("", " "), "a pair of empty texts"),
    ):
        with pytest.raises(ConfigError, match=f"row 0: {said}"):
            texts([item])


def test_texts_that_are_cut_are_counted():
    (rows,) = Texts(8, False, None).batches(["short", "much longer than that", "ééééé"], 8)
    assert rows.cut == 2
