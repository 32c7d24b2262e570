"""Images as real folders, lists and tables have them: what is read, what is counted, and what is refused."""

import os
import shutil
import unicodedata

import numpy as np
import pytest
from PIL import Image

from tests.data.test_encoded_images import encoded, lists
from tests.helpers.pictures import CLASSES, COUNTS, picture
from tgt_ray.core.errors import ConfigError
from tgt_ray.data import ImageFolder, ImageLists
from tgt_ray.data.images.encoded import UnreadableImage, decode
from tgt_ray.data.images.folders import suffixes
from tgt_ray.data.images.stamps import SAMPLE, places, stamps
from tgt_ray.tasks import ImageClassification


def counts(scan) -> dict[str, list[int]]:
    return {split: np.bincount(labels).tolist() for split, labels in scan.labels.items()}


def account(scan) -> dict[str, tuple[int, str]]:
    return {each.what: (each.count, each.first) for each in scan.left_out}


WHOLE = {split: [count] * 3 for split, count in COUNTS.items()}


def test_hidden_files_and_folders_are_left_out_and_counted(folder):
    blue = folder / "train" / "blue"
    for name in ("._00.png", ".DS_Store", "Thumbs.db", "desktop.ini"):
        (blue / name).write_bytes(b"\0")
    for hidden in (blue / ".ipynb_checkpoints", blue / "__MACOSX", folder / "train" / ".cache", folder / "__MACOSX"):
        hidden.mkdir()
        picture(0, 0).save(hidden / "00-copy.png")
    scan = ImageFolder(path=folder).scan()
    assert counts(scan) == WHOLE and scan.class_names == CLASSES
    assert account(scan) == {"hidden files and folders": (8, "__MACOSX")}


def test_what_pillow_reads_is_read_and_other_files_are_counted_by_suffix(folder, store):
    blue = folder / "train" / "blue"
    Image.open(blue / "00.png").save(blue / "01.JFIF", "JPEG")
    picture(0, 30).save(blue / "30.tga")
    for name in ("a.heic", "b.heic", "notes"):
        (blue / name).write_bytes(b"no image")
    (folder / "README.md").write_text("about")
    picture(0, 31).save(folder / "train" / "loose.png")
    scan = ImageFolder(path=folder).scan()
    assert counts(scan)["train"] == [10, 8, 8]
    assert account(scan) == {
        "images in no folder of a class": (1, "train/loose.png"),
        "files without a suffix": (1, "train/blue/notes"),
        "files with the suffix .heic": (2, "train/blue/a.heic"),
        "files with the suffix .md": (1, "README.md"),
    }
    assert (
        ImageFolder(path=folder)
        .read(scan, store, lambda f, parts, advance: [f(part, advance) for part in parts])
        .left_out
    )
    assert not suffixes() & {".h5", ".mpg", ".wmf", ".eps", ".pdf"}, "Pillow reads no picture of them"
    assert suffixes() >= {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".mpo"}


def test_linked_folders_are_entered_each_once(folder):
    shutil.move(folder / "train" / "green", folder.parent / "green")
    (folder / "train" / "green").symlink_to(folder.parent / "green")
    (folder.parent / "farm").mkdir()
    picture(0, 40).save(folder.parent / "farm" / "40.png")
    for name in ("farm", "again"):
        (folder / "train" / "blue" / name).symlink_to(folder.parent / "farm")
    (folder / "train" / "blue" / "loop").symlink_to(folder / "train" / "blue")
    shutil.rmtree(folder / "validation")
    (folder / "validation").symlink_to(folder / "test")
    scan = ImageFolder(path=folder).scan()
    assert counts(scan) == {"train": [9, 8, 8], "test": [3, 3, 3], "validation": [3, 3, 3]}
    assert account(scan) == {"folders that were entered before": (2, "train/blue/farm")}


@pytest.mark.parametrize("name", ["valid", "val", "dev", "Validation"])
def test_names_of_splits(folder, name):
    (folder / "validation").rename(folder / name)
    (folder / "train").rename(folder / "training")
    (folder / "test").rename(folder / "Testing")
    (folder / "unlabelled").mkdir()
    scan = ImageFolder(path=folder).scan()
    assert counts(scan) == WHOLE and list(scan.labels) == ["train", "test", "validation"]
    assert account(scan) == {"folder that is no split": (1, "unlabelled")}


def test_two_folders_for_a_split_are_refused(folder):
    (folder / "val").mkdir()
    with pytest.raises(ConfigError, match="has 'val' and 'validation', two folders for the split 'validation'"):
        ImageFolder(path=folder).scan()


def test_names_of_classes_are_compared_in_one_unicode_form(folder):
    composed, apart = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    for split, name in {"train": composed, "test": apart, "validation": apart}.items():
        (folder / split / "red").rename(folder / split / name)
    scan = ImageFolder(path=folder).scan()
    assert counts(scan)["test"] == [3, 3, 3] and scan.class_names == ["blue", composed, "green"]
    (folder / "train" / apart).mkdir()
    with pytest.raises(ConfigError, match=r"train: the class 'café' has two folders, .* Unicode form alone"):
        ImageFolder(path=folder).scan()


def test_a_class_without_images_or_with_one_is_refused_by_its_name(folder):
    for file in list((folder / "train" / "green").iterdir())[1:]:
        file.unlink()
    assert counts(ImageFolder(path=folder).scan())["train"] == [8, 1, 8]
    shutil.rmtree(folder / "validation")
    with pytest.raises(ConfigError, match="train/green: 1 image, too few to hold a part"):
        ImageFolder(path=folder).scan()
    for file in (folder / "train" / "green").iterdir():
        file.rename(file.with_suffix(".heic"))
    with pytest.raises(ConfigError, match="train/green: no image of the class 'green' is in train"):
        ImageFolder(path=folder).scan()


def test_transparent_images_are_put_on_white():
    drawing = np.zeros((4, 4, 4), np.uint8)
    drawing[1, :, 3], drawing[2, :, 3] = 255, 51
    wanted = np.full((4, 4), 255)
    wanted[1], wanted[2] = 0, 204
    palette = Image.new("P", (4, 4))
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.putpixel((0, 0), 1)
    for image in (Image.fromarray(drawing), Image.fromarray(drawing).convert("LA")):
        for channels in (1, 3):
            assert (decode(encoded(image), None, channels) == wanted).all()
    buffer = encoded(palette, "GIF"), encoded_with(palette, transparency=0)
    assert decode(buffer[0], None, 3)[:, 3, 3].tolist() == [0, 0, 0]
    assert decode(buffer[1], None, 3)[:, 3, 3].tolist() == [255, 255, 255]
    assert decode(buffer[1], None, 3)[:, 0, 0].tolist() == [10, 20, 30]
    opaque = picture(1, 1)
    assert (decode(encoded(opaque.convert("RGBA")), None, 3) == decode(encoded(opaque), None, 3)).all()


def encoded_with(image: Image.Image, **more) -> bytes:
    import io

    buffer = io.BytesIO()
    image.save(buffer, "PNG", **more)
    return buffer.getvalue()


def test_why_bytes_are_no_image():
    with pytest.raises(UnreadableImage, match=r"^no image that Pillow can read$"):
        decode(b"<html>", None, 3)
    with pytest.raises(UnreadableImage, match="a pointer of Git LFS"):
        decode(b"version https://git-lfs.github.com/spec/v1\noid sha256:0", None, 3)


def rewrite(folder, change) -> ImageLists:
    source = lists(folder)
    for split in COUNTS:
        file = folder / f"{split}.txt"
        file.write_bytes(change(file.read_text()))
    return source


@pytest.mark.parametrize(
    "change",
    [
        lambda text: b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode(),
        lambda text: text.encode("utf-16"),
        lambda text: text.replace(" ", "\t").encode(),
        lambda text: text.replace(" ", ", ").encode(),
        lambda text: text.replace(" ", ",").encode(),
        lambda text: text.replace(" ", "   ").encode(),
        lambda text: text.replace("/", "\\").encode(),
        lambda text: text.replace(" ", '",').replace("\n", '\n"').join(['"', ""]).rstrip('"').encode(),
        lambda text: b"\n\n" + text.replace("\n", "\n \n").encode(),
    ],
    ids=["mark", "utf-16", "tab", "comma, space", "comma", "spaces", "backslash", "quotes", "blank lines"],
)
def test_lists_as_other_programs_write_them(folder, change):
    source = rewrite(folder, change)
    scan = source.scan()
    assert counts(scan) == WHOLE
    assert scan.places == lists(folder).scan().places


def test_paths_of_lists_may_have_spaces(folder):
    source = lists(folder)
    file = folder / "train" / "blue" / "00.png"
    for name, sign in (("a b, 1.png", " "), ("a b, 1.png", ","), ("a b, 1.png", "\t")):
        shutil.copy(file, folder / "train" / name)
        (folder / "train.txt").write_text("".join(f"train/{name}{sign}{label}\n" for label in range(3)))
        assert source.scan().places["train"] == [f"train/{name}"] * 3


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text.replace("red/03", "red/0\0", 1).encode(), "line 20 has a zero byte"),
        (lambda text: text.encode("utf-16-le"), "looks like UTF-16 without a byte order mark"),
        (
            lambda text: text.replace("red", "réd").encode("latin-1"),
            r"task\.data\.train: .*train\.txt: line 17 is not UTF-8 at byte 0xe9",
        ),
        (lambda text: b"path,label\n" + text.encode(), "line 1 is 'path,label', expected `path label`"),
        (lambda text: text.replace("train/blue", "C:\\data").encode(), r"line 1: the path '.*' leaves"),
    ],
)
def test_damaged_lists_are_refused_with_their_line(folder, change, says):
    source = lists(folder)
    file = folder / "train.txt"
    file.write_bytes(change(file.read_text()))
    with pytest.raises(ConfigError, match=says):
        source.scan()


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ((1, 2, 3), r"train\.txt: labels are 1\.\.3, class numbers begin at 0; subtract 1 from"),
        ((0, 1, 3), r"train\.txt: class 2 has no row; each class needs one in train"),
        ((0, 1, 10**30), "class 2 has no row"),
    ],
)
def test_labels_of_lists_are_checked_before_decoding(folder, labels, says):
    source = lists(folder)
    lines = [f"train/{name}/00.png {label}" for name, label in zip(CLASSES, labels, strict=True)]
    (folder / "train.txt").write_text("\n".join(lines))
    with pytest.raises(ConfigError, match=says):
        source.scan()


def test_the_line_of_a_label_counts_blank_lines(folder):
    source = lists(folder)
    (folder / "test.txt").write_text("\n\ntest/blue/00.png 0\n\ntest/red/00.png 7\n")
    with pytest.raises(ConfigError, match=r"label 7 in line 5 is outside .* \(1 such lines\)"):
        source.scan()


def test_files_of_a_list_that_are_missing_stop_before_others_are_decoded(folder):
    source = lists(folder)
    (folder / "train" / "green" / "03.png").unlink()
    with pytest.raises(ConfigError, match=r"green/03\.png: not a readable image \(no such file, .*1 such image"):
        source.scan()
    skipping = ImageLists.model_validate({**source.model_dump(), "on_bad_rows": "skip"})
    assert counts(skipping.scan()) == WHOLE


def test_a_replaced_file_of_the_same_size_and_date_is_noticed(folder, store):
    for file in folder.rglob("*.png"):
        Image.open(file).save(file.with_suffix(".bmp"))
        file.unlink()
    changed = folder / "train" / "blue" / "00.bmp"
    os.utime(changed, (1, 1))
    before = ImageClassification(data=ImageFolder(path=folder)).load(store)
    content = changed.read_bytes()
    with changed.open("r+b") as file:  # the same inode
        file.seek(len(content) - 1)
        file.write(b"\x07")
    os.utime(changed, (1, 1))
    after = ImageClassification(data=ImageFolder(path=folder)).load(store)
    assert after.fingerprints["train"] != before.fingerprints["train"]


def test_samples_of_a_large_file_are_its_begin_middle_and_end(tmp_path):
    size, file = 100 * SAMPLE, tmp_path / "large"
    assert places(size, 3) == [0, (size - SAMPLE) // 2, size - SAMPLE]
    assert places(2 * SAMPLE + 1, 3) == [0, SAMPLE, 2 * SAMPLE] and places(0, 3) == []
    seen = set()
    for place in (None, 0, size // 2, size - 1):
        content = bytearray(size)
        if place is not None:
            content[place] = 1
        file.write_bytes(content)
        os.utime(file, (1, 1))
        seen.add(str(stamps([file])))
    assert len(seen) == 4
    assert stamps([tmp_path / "none"]) == [[str(tmp_path / "none")]]
