"""Images with many frames, many bits, palettes and inks: right values, and what isn't used is counted."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.helpers.pictures import picture
from tgt_ray.core import progress
from tgt_ray.data import ImageFolder
from tgt_ray.data.images.encoded import FRAMES, LOWER_BITS, UnreadableImage, decode
from tgt_ray.tasks import ImageClassification

#: Values of 16 bits, and their upper 8.
DEEP = np.array([[[0, 255, 256], [32768, 65535, 33000]], [[1, 511, 512], [65280, 65279, 7]]], np.uint16)


def saved(image: Image.Image, kind: str, **more) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **more)
    return buffer.getvalue()


def deep_png(pixels: np.ndarray) -> bytes:
    """A PNG of 16 bits a channel, which Pillow doesn't write."""
    height, width, channels = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    out = b"\x89PNG\r\n\x1a\n"
    for name, content in ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        out += struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    return out


def deep_tiff(pixels: np.ndarray) -> bytes:
    """A TIFF of RGB with 16 bits a channel, or of 32."""
    height, width, channels = pixels.shape
    bits, kind = 8 * pixels.itemsize, 3 if pixels.dtype.kind == "f" else 1
    tags = [(256, width), (257, height), (258, None), (259, 1), (262, 2), (273, None), (277, 3), (278, height)]
    tags += [(279, pixels.nbytes), (339, None)]
    behind = 8 + 2 + 12 * len(tags) + 4
    places = {258: behind, 339: behind + 6, 273: behind + 12}
    out = b"II*\0" + struct.pack("<IH", 8, len(tags))
    for tag, value in tags:
        many = tag in (258, 339)
        out += struct.pack("<HHII", tag, 3 if many else 4, channels if many else 1, places.get(tag, value))
    return out + struct.pack("<I6H", 0, *[bits] * 3, *[kind] * 3) + pixels.tobytes()


def noted(content: bytes, channels: int = 3) -> tuple[list, list[str]]:
    notes: list[str] = []
    return decode(content, None, channels, notes.append).transpose(1, 2, 0).tolist(), notes


@pytest.mark.parametrize("write", [deep_png, deep_tiff])
def test_of_16_bits_a_channel_the_upper_8_are_read_and_that_is_noted(write):
    assert noted(write(DEEP)) == ((DEEP >> 8).tolist(), [LOWER_BITS])


def test_of_16_bits_with_an_alpha_channel_as_well():
    alpha = np.full((*DEEP.shape[:2], 1), 65535, np.uint16)
    assert noted(deep_png(np.concatenate([DEEP, alpha], axis=2))) == ((DEEP >> 8).tolist(), [LOWER_BITS])
    grey = np.concatenate([DEEP[..., :1], alpha], axis=2)
    assert noted(deep_png(grey), channels=1) == ((DEEP[..., :1] >> 8).tolist(), [LOWER_BITS])


@pytest.mark.parametrize("kind", [np.uint32, np.float32])
@pytest.mark.parametrize("mode", ["I", "F", "RGB"])
def test_32_bits_are_no_image_here(kind, mode):
    content = deep_tiff(DEEP.astype(kind)) if mode == "RGB" else saved(Image.new(mode, (2, 2)), "TIFF")
    with pytest.raises(UnreadableImage, match=r"more than 8 bits a channel, mode|no image that Pillow can read"):
        decode(content, None, 3)


def test_inks_and_palettes_give_the_colours_that_they_stand_for():
    inks = np.array([[[0, 255, 255, 0], [255, 0, 0, 0]], [[0, 0, 0, 255], [0, 0, 0, 0]]], np.uint8)
    colours = [[[255, 0, 0], [0, 255, 255]], [[0, 0, 0], [255, 255, 255]]]
    assert noted(saved(Image.fromarray(inks, "CMYK"), "TIFF")) == (colours, [])
    red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    np.testing.assert_allclose(noted(saved(red, "JPEG"))[0], np.full((8, 8, 3), [255, 0, 0]), atol=3)
    palette = Image.fromarray(np.array([[0, 1], [2, 3]], np.uint8), "P")
    palette.putpalette([255, 0, 0, 0, 0, 0, 0, 255, 0, 10, 20, 30])
    half = saved(palette, "PNG", transparency=bytes([0, 128, 255, 255]))
    assert noted(half) == ([[[255, 255, 255], [127, 127, 127]], [[0, 255, 0], [10, 20, 30]]], [])


def frames(kind: str, count: int) -> bytes:
    first, *others = [picture(1, number) for number in range(count)]
    more = {"lossless": True} if kind == "WEBP" else {}
    return saved(first, kind, save_all=True, append_images=others, **more)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "PNG"])
def test_of_many_frames_the_first_is_read_and_that_is_noted(kind):
    pixels, notes = noted(frames(kind, 3))
    np.testing.assert_allclose(pixels, np.asarray(picture(1, 0)), atol=24 if kind == "GIF" else 0)
    assert notes == [FRAMES] and noted(frames(kind, 1))[1] == []


def test_a_second_frame_may_be_cut_off():
    content = frames("GIF", 2)
    assert noted(content[: content.rindex(b"\x21\xf9") + 9])[1] == [FRAMES]


def test_they_are_in_the_account(folder, store):
    for number in (0, 3):
        (folder / "train" / "red" / f"{number:02}.gif").write_bytes(frames("GIF", 2))
    (folder / "test" / "blue" / "00.tif").write_bytes(frames("TIFF", 2))
    deep = np.zeros((12, 12, 3), np.uint16)
    (folder / "test" / "blue" / "01.png").write_bytes(deep_png(deep))
    task = ImageClassification(data=ImageFolder(path=folder))
    for _ in range(2):  # the second time from the storage
        data = task.load(store)
        found = {each.what: (each.count, each.first) for each in data.left_out}
        assert found == {
            FRAMES: (3, str(folder / "train/red/00.gif")),
            LOWER_BITS: (1, str(folder / "test/blue/01.png")),
        }
    assert "3 images' further frames: of each the first is read (" in task.said(data)


def test_decoding_shows_how_far_it_is(folder, store, monkeypatch):
    shown = []

    class Display:
        def update(self, phase):
            shown.append((phase.what, phase.done, phase.total))

        def end(self, phase):
            shown.append("end")

    monkeypatch.setattr(progress, "FIRST_S", 0)
    with progress.shown_by(Display()):
        ImageFolder(path=folder).load(store)
    assert shown[-1] == "end" and shown[:-1] == [("decoding images", done + 1, 39) for done in range(39)]
