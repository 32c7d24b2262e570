"""What a run keeps to be looked at."""

import io

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.helpers.pages import SAFE, Cells
from tgt_ray.core.batch import Block
from tgt_ray.results import fit_pages, gallery
from tgt_ray.results.gallery import Gallery
from tgt_ray.results.pictures import png

K = 4


def block(anchors, classes, version=3, shown=None, shape=(1, 4, 4)):
    images = np.stack([np.full(shape, anchor / 100, np.float32) for anchor in anchors])
    few = slice(len(anchors) if shown is None else shown)
    seen = {
        "reconstructed": images[few] / 2,
        "top_class": np.array(classes)[few],
        "top_share": np.full(len(anchors), 0.75, np.float32)[few],
    }
    return Block(images, np.array(anchors), {}, seen, 0, version, "random")


def test_the_newest_rows_of_each_class_are_kept():
    kept = Gallery()
    kept.look_at(block([1, 2, 3, 4], [0, 0, 0, 2]), step=5)
    kept.look_at(block([5, 2], [0, 0]), step=9)
    kept.look_at(block([90, 91], [3, 3], shown=0), step=11)
    assert [(s.anchor, s.step) for s in kept.samples] == [(2, 9), (5, 9), (3, 5), (4, 5)]
    np.testing.assert_allclose(kept.samples[0].reconstructed, 0.01)


def test_large_images_are_few(monkeypatch):
    monkeypatch.setattr(gallery, "MOST_BYTES", 3 * 2 * 64)  # three rows of 4x4 pixels, twice
    kept = Gallery()
    kept.look_at(block([1, 2, 3], [0, 0, 1]), step=1)
    kept.look_at(block([4, 5, 6], [2, 1, 0]), step=2)
    assert [(s.anchor, s.step) for s in kept.samples] == [(6, 2), (2, 1), (5, 2)]


def test_a_gallery_goes_on_from_its_state():
    kept = Gallery()
    kept.look_at(block([1, 2, 3, 4], [0, 0, 0, 2]), step=5)
    again = Gallery.of(kept.state())
    for one in (kept, again):
        one.look_at(block([5, 2], [0, 0]), step=9)
    assert [vars(s).keys() for s in again.samples] == [vars(s).keys() for s in kept.samples]
    for name in vars(kept.samples[0]):
        np.testing.assert_array_equal(*([getattr(s, name) for s in one.samples] for one in (again, kept)))
    assert Gallery.of(Gallery().state()).samples == []


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 5, 4)])
def test_files_say_what_was_seen_in_each_row(shape):
    kept = Gallery()
    kept.look_at(block([1, 2], [0, 2], shape=shape), step=5)
    kept.look_at(block([7], [1], version=-1, shape=shape), step=6)
    scores = np.array([[3.0, 0, 0, 0], [0, 3.0, 0, 0], [3.0, 0, 0, 0]])
    table = gallery.rows_table(kept.samples, scores, np.array([0, 1, 2]))
    files = gallery.files(kept.samples, table, np.zeros((3, *shape), np.float32))
    rows = pq.read_table(io.BytesIO(files[gallery.ROWS_FILE])).to_pylist()
    assert [row["anchor"] for row in rows] == [1, 7, 2]
    assert [row["teacher_class"] for row in rows] == [0, 1, 2] and [row["student_class"] for row in rows] == [0, 1, 0]
    assert [row["lag"] for row in rows] == [2, None, 2]
    assert rows[0]["teacher_p"] == 0.75
    image = np.frombuffer(rows[2]["explored"], np.float32).reshape(rows[2]["shape"])
    np.testing.assert_allclose(image, 0.02)
    assert Image.open(io.BytesIO(files[gallery.PICTURE_FILE])).format == "PNG"


def test_without_a_generator_anchors_are_not_shown_as_reconstructions():
    kept = Gallery()
    kept.look_at(block([10, 20], [0, 2]), step=5)
    table = gallery.rows_table(kept.samples, np.eye(K)[[3, 1]], np.array([0, 2]))
    again = np.stack([sample.reconstructed for sample in kept.samples])
    lines = [len(gallery.draw(kept.samples, table, anchors).axes) for anchors in (np.zeros_like(again), again)]
    assert lines[0] - lines[1] == 1, "one line of pictures less"
    assert len(gallery.draw(kept.samples, table, again + 0.001).axes) == lines[1], "8 bits are as many as are kept"


def test_inputs_that_are_no_images_have_no_picture():
    kept = Gallery()
    kept.look_at(block([1], [0], shape=(6,)), step=5)
    table = gallery.rows_table(kept.samples, np.zeros((1, K)), np.array([0]))
    assert set(gallery.files(kept.samples, table, np.zeros((1, 6), np.float32))) == {gallery.ROWS_FILE}


def test_pictures_name_classes_where_these_have_names():
    kept = Gallery()
    kept.look_at(block([1, 2], [0, 2]), step=5)
    names = ("cat", "dog", "a very long name of a class", "owl")
    table = gallery.rows_table(kept.samples, np.eye(K)[[3, 1]] * 9, np.array([1, 2]))
    titles = {
        named: [
            text.get_text()
            for line in gallery.draw(kept.samples, table, np.zeros((2, 1, 4, 4)), given).axes
            for text in line.texts[:2]  # after those of its two images the line's own name
        ]
        for named, given in ((True, names), (False, ()))
    }
    assert titles[True][0] == "dog" and titles[True][4].startswith("T cat: ") and "\nS owl: 100 %" in titles[True][4]
    assert titles[True][1] == "a very long n…"
    assert titles[False][0] == "1" and titles[False][4].startswith("T 0: ")


NAMES = (r"$\frac{$", "[/b]", "<b>", "caf\udce9", "two\nlines", "x" * 5000, "$", "\x00\x1b[31m")


def test_pictures_show_any_name_as_it_is():
    blocks = np.zeros((len(NAMES), 1, 4, 4))
    seen = {"real": [(number, 0.5) for number in range(len(NAMES))]}
    content = png(fit_pages.gallery({"real": blocks}, seen, NAMES))
    assert content.startswith(b"\x89PNG")
    assert gallery.class_label(0, NAMES) == r"$\frac{$"
    assert gallery.class_label(3, NAMES) == "caf\ufffd" and gallery.class_label(4, NAMES) == "two lines"
    assert len(gallery.class_label(5, NAMES)) == 14


def test_pages_show_any_name_as_it_is():
    texts = {kind: ["a text"] * len(NAMES) for kind in ("real", "reconstructed", "explored")}
    few = list(range(len(NAMES)))
    seen = {kind: [(number, 0.5) for number in few] for kind in texts}
    page = Cells(fit_pages.text_gallery(texts, few, few, seen, NAMES))
    assert page.tags <= SAFE
    for name in (r"$\frac{$", "[/b]", "<b>", "caf\ufffd", "two lines", "x" * 5000):
        assert name in page.cells
