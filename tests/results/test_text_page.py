"""The page on which a gallery of texts is looked at."""

import numpy as np

from tests.helpers.pages import SAFE, Cells
from tgt_ray.core.batch import Block
from tgt_ray.core.texts import SEPARATOR, to_bytes
from tgt_ray.results import gallery
from tgt_ray.results.gallery import Gallery


def test_a_page_of_texts_says_what_is_in_the_rows():
    texts = ["<script>a</script>", "same\x04text", f"one{SEPARATOR}two"]
    inputs = to_bytes(texts, 24)
    shown = {"reconstructed": inputs, "top_class": np.array([1, 0, 1]), "top_share": np.full(3, 0.9)}
    explored = np.stack([inputs[0], inputs[1], to_bytes([""], 24)[0]])
    kept = Gallery()
    kept.look_at(Block(explored, np.arange(3), {}, shown, 0, 2, "random"), step=5)
    assert all(sample.explored.dtype == np.uint8 for sample in kept.samples)
    order = [sample.anchor for sample in kept.samples]
    table = gallery.rows_table(kept.samples, np.array([[9.0, 0], [9, 0], [0, 9]]), np.array([1, 0, -1])[order])
    assert dict(zip(order, table["anchor_class"].to_pylist(), strict=True)) == {0: 1, 1: 0, 2: None}
    files = gallery.files(kept.samples, table, inputs[order], ("<b>up</b>", "down"))
    assert files.keys() == {gallery.ROWS_FILE, gallery.PAGE_FILE}
    page = Cells(files[gallery.PAGE_FILE])
    assert page.tags <= SAFE and "teacher: <b>up</b>" in page.cells and "teacher: down" in page.cells
    assert "<script>a</script> [down]" in page.cells and "one / two [unlabelled]" in page.cells
    assert "same\ufffdtext" in page.cells
    assert "66.7 % are exact copies" in files[gallery.PAGE_FILE].decode()
    assert "33.3 % are empty" in files[gallery.PAGE_FILE].decode()
