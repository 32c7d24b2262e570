"""Folders of images: each file is an image that is read, or is counted among what is left out."""

import io
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.fuzz.runs import fuzzed
from tests.fuzz.test_settings import one_line
from tgt_ray.core.config import validate
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.storage import Storage
from tgt_ray.tasks import ImageClassification

#: File name and format of images that are read.
KINDS = [("png", "PNG"), ("jpg", "JPEG"), ("JPEG", "JPEG"), ("bmp", "BMP"), ("webp", "WEBP"), ("tif", "TIFF")]
JUNK = [".DS_Store", "._0.png", "notes.txt", "labels.csv", ".ipynb_checkpoints/0.png", "Thumbs.db", "no suffix", "a.py"]
NAMES = st.text(st.characters(categories=("Ll", "Lu", "Nd", "Lo")), min_size=1, max_size=6)


def image(number: int, kind: str, mode: str) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 255, (8, 8, 3), np.uint8)
    sink = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(sink, kind)
    return sink.getvalue()


@fuzzed(few=40)
@given(st.data())
def test_every_file_is_read_or_counted(data):
    classes = data.draw(st.lists(NAMES, min_size=2, max_size=4, unique_by=str.casefold))
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "data"
        good = junk = 0
        for split in ("train", "validation", "test"):
            for label in classes:
                folder = root / split / label
                folder.mkdir(parents=True)
                for number in range(data.draw(st.integers(1, 3))):
                    suffix, kind = data.draw(st.sampled_from(KINDS))
                    inner = folder / data.draw(st.sampled_from(["", "more", "more/inner"]))
                    inner.mkdir(parents=True, exist_ok=True)
                    mode = data.draw(st.sampled_from(["RGB", "L"]))
                    (inner / f"{number}.{suffix}").write_bytes(image(good, kind, mode))
                    good += 1
                for each in data.draw(st.lists(st.sampled_from(JUNK), max_size=2, unique=True)):
                    (folder / each).parent.mkdir(exist_ok=True)
                    (folder / each).write_bytes(b"nothing")
                    junk += 1
        task = validate(ImageClassification, {"data": {"type": "folder", "path": root}})
        found = task.load(Storage(Path(name) / "storage"))
        assert sum(found.tables[split].num_rows for split in ("train", "validation", "test")) == good
        assert sum(each.count for each in found.left_out) == junk, found.left_out


@fuzzed(few=40)
@given(st.data())
def test_a_damaged_image_is_named_or_skipped_and_counted(data):
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "data"
        for split in ("train", "validation", "test"):
            for label in ("a", "b"):
                (root / split / label).mkdir(parents=True)
                for number in range(2):
                    (root / split / label / f"{number}.png").write_bytes(image(number, "PNG", "RGB"))
        file = root / data.draw(st.sampled_from(["train", "test"])) / "a/0.png"
        content = file.read_bytes()
        cut = data.draw(st.integers(0, len(content) - 1))
        file.write_bytes(content[:cut] + data.draw(st.binary(max_size=3)))
        source = {"type": "folder", "path": root, "on_bad_rows": data.draw(st.sampled_from(["fail", "skip"]))}
        task = validate(ImageClassification, {"data": source})
        try:
            found = task.load(Storage(Path(name) / "storage"))
        except ConfigError as err:
            one_line(err)
            assert "0.png" in str(err) or "size" in str(err)
        else:
            rows = sum(found.tables[split].num_rows for split in ("train", "validation", "test"))
            assert rows + sum(each.count for each in found.left_out) == 12
