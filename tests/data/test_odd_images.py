"""Images in odd folders, lists and files: used, counted with a reason, or refused in one line."""

import os
import struct
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.test_encoded_images import encoded, lists
from tests.data.test_image_sources import WHOLE, account, counts
from tests.data.test_image_tables import tables
from tests.helpers.pictures import picture
from tgt_ray.core.config import validate
from tgt_ray.core.errors import ConfigError
from tgt_ray.data import EncodedParquet, ImageFolder, ParquetImages
from tgt_ray.data.images.encoded import LOWER_BITS, NOT_TURNED, decode
from tgt_ray.data.labels import label_names

ELSEWHERE = "links to folders above, of a split or of another class"


def test_pipes_are_not_opened(folder, store):
    os.mkfifo(folder / "train" / "blue" / "pipe.png")
    source = ImageFolder(path=folder)
    scan = source.scan()
    assert counts(scan) == WHOLE
    assert account(scan) == {"pipes, sockets and devices": (1, "train/blue/pipe.png")}
    listed = lists(folder)
    with (folder / "train.txt").open("a") as file:
        file.write("train/blue/pipe.png 0\n")
    with pytest.raises(ConfigError, match=r"pipe\.png: not a readable image \(no such file, or it cannot be read\)"):
        listed.scan()
    skipping = listed.model_copy(update={"on_bad_rows": "skip"})
    assert len(skipping.load(store).train) == 24


@pytest.mark.parametrize("target", ["..", "../..", "../../..", "../red", "../../test", "../../test/red", "../red/more"])
def test_a_link_gives_a_class_no_images_of_another_or_of_a_split(folder, target):
    (folder / "train" / "red" / "more").mkdir()
    (folder / "train" / "blue" / "link").symlink_to(target)
    scan = ImageFolder(path=folder).scan()
    assert counts(scan) == WHOLE
    assert account(scan) == {ELSEWHERE: (1, "train/blue/link")}


def test_links_to_other_folders_are_entered(folder, tmp_path):
    farm = tmp_path / "farm"
    (folder / "train" / "blue").rename(farm)
    (farm / "more").mkdir()
    picture(0, 40).save(farm / "more" / "40.png")
    (folder / "train" / "blue").symlink_to(farm)
    (folder / "further").mkdir()
    picture(1, 41).save(folder / "further" / "41.png")
    (folder / "train" / "green" / "more").symlink_to("../../further")
    assert counts(ImageFolder(path=folder).scan())["train"] == [9, 9, 8]
    seen = tmp_path / "seen"
    seen.symlink_to(folder)
    assert counts(ImageFolder(path=seen).scan())["train"] == [9, 9, 8]


def test_a_link_to_nothing_is_named(folder):
    gone = folder / "train" / "zebra"
    gone.symlink_to("/not/mounted")
    with pytest.raises(ConfigError, match=r"zebra: is a link to /not/mounted, which can't be reached, .* of a class"):
        ImageFolder(path=folder).scan()
    gone.rename(folder / "train" / "red" / "zebra")
    (folder / "notes").symlink_to("nowhere")
    assert account(ImageFolder(path=folder).scan()) == {"links to what can't be reached": (2, "notes")}
    (folder / "validation").rename(folder.parent / "moved")
    (folder / "validation").symlink_to("/not/mounted")
    with pytest.raises(ConfigError, match=r"validation: is a link to /not/mounted, .* the folder of a split"):
        ImageFolder(path=folder).scan()


def test_a_link_to_itself_is_an_unreadable_image(folder, store):
    (folder / "train" / "blue" / "x.png").symlink_to("x.png")
    source = ImageFolder(path=folder, on_bad_rows="skip")
    assert len(source.load(store).train) == 24
    with pytest.raises(ConfigError, match=r"x\.png: not a readable image \(no such file"):
        ImageFolder(path=folder).load(store)


def test_a_class_without_images_names_the_files_that_it_has(folder):
    for number, file in enumerate((folder / "train" / "red").iterdir()):
        file.rename(file.with_suffix(".heic") if number else file.with_suffix(""))
    with pytest.raises(ConfigError) as err:
        ImageFolder(path=folder).scan()
    assert str(err.value).endswith(
        "no image of the class 'red' is in train (1 files without a suffix, 7 files with the suffix .heic, which are"
        " not read); add some, or remove the class from all splits"
    )


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_numbers_with_a_point_are_no_names_of_classes(folder, kind):
    source = tables(folder, kind, names=False)
    for split in ("train", "test", "validation"):
        file = folder / f"{split}.{kind}"
        text = file.read_text(encoding="utf-8-sig") + "\n"
        for label in range(3):
            text = text.replace(f",{label}\n", f",{label}.0\n")
            text = text.replace(f'"label": {label}}}', f'"label": "{label}.0"}}')
        file.write_text(text)
    with pytest.raises(ConfigError, match=r"not integers \('0\.0', '1\.0', '2\.0'\).*pandas makes such floats"):
        source.scan()
    named = source.model_copy(update={"label_names": ("2.0", "0.0", "1.0")}).scan()
    assert named.labels["train"].tolist() == np.repeat([1, 2, 0], 8).tolist()


def raw(folder, **shards):
    """Raw images, a Parquet file for each name: the label of each, and its bytes."""
    for name, rows in shards.items():
        label, image = ([row[place] for row in rows] for place in (0, 1))
        table = pa.table({"image": pa.array(image, pa.binary()), "label": pa.array(label, pa.int64())})
        pq.write_table(table, folder / f"{name.replace('_', '-')}.parquet")


@pytest.mark.parametrize(
    ("shape", "why"),
    [([8, 8, 3], "channels come first, .* transpose"), ([2, 8, 8], "1 or 3 channels"), ([-1, -8, 8], "greater than")],
)
def test_a_shape_of_images_has_its_channels_first(tmp_path, shape, why):
    with pytest.raises(ConfigError, match=f"image_shape.*{why}"):
        validate(ParquetImages, {"type": "parquet", "path": str(tmp_path), "image_shape": shape})


@pytest.mark.parametrize("settings", [{}, {"image_shape": (1, 8, 8)}])
@pytest.mark.parametrize("most", [2**31, 0])
def test_raw_images_without_bytes_are_refused(tmp_path, monkeypatch, settings, most):
    monkeypatch.setattr("tgt_ray.data.images.parquet.MOST_IN_MEMORY", most)
    raw(tmp_path, train=[(0, b""), (1, b"")] * 8, test=[(0, b""), (1, b"")])
    with pytest.raises(ConfigError, match=r"needs 64 bytes, .* has 0|first image has no bytes"):
        ParquetImages(path=tmp_path, **settings).scan()


@pytest.mark.parametrize("inside", [False, True])
def test_paths_of_lists_may_be_absolute_or_go_up_and_down(folder, tmp_path, monkeypatch, inside):
    (tmp_path / "seen").symlink_to(folder)
    source = lists(folder)
    wanted = source.scan()
    for start in (folder, tmp_path / "seen", f"../{folder.name}", "test/.."):
        lines = [
            f"{start}/{name} {label}\n"
            for name, label in zip(wanted.places["train"], wanted.labels["train"], strict=True)
        ]
        (folder / "train.txt").write_text("".join(lines))
        monkeypatch.chdir(tmp_path)
        own = source.model_copy(update={"path": type(folder)("seen") if inside else folder})
        assert own.scan().places == wanted.places
    for outside in ("../other/a.png", "/etc/a.png", "C:/a.png"):
        (folder / "train.txt").write_text(f"{outside} 0\n")
        with pytest.raises(ConfigError, match=r"train\.txt: line 1: the path .* leaves"):
            source.scan()


def test_paths_of_a_table_may_go_up_from_its_folder(folder):
    source = tables(folder, "csv")
    wanted = source.scan()
    (folder / "lists").mkdir()
    text = (folder / "train.csv").read_text(encoding="utf-8-sig").replace('"train/', '"../train/')
    (folder / "lists" / "train.csv").write_text(text)
    found = source.model_copy(update={"train": type(folder)("lists/train.csv")}).scan()
    assert found.places == wanted.places


@pytest.mark.parametrize("text", [r'"he said \"x, y\" then"', '"he said ""x, y"" then"', '"two\nlines"'])
def test_other_columns_of_a_table_may_have_quotes(folder, text):
    source = tables(folder, "csv")
    wanted = source.scan()
    file = folder / "train.csv"
    lines = file.read_text(encoding="utf-8-sig").splitlines()
    file.write_text("\n".join([lines[0], *(line.replace(line.split(",")[0], text, 1) for line in lines[1:])]))
    assert source.scan().places == wanted.places


def test_a_quote_that_ends_too_early_is_named(folder):
    source = tables(folder, "csv")
    file = folder / "train.csv"
    file.write_text(file.read_text(encoding="utf-8-sig").replace("3,", '"he said "x, y" then",', 1))
    with pytest.raises(ConfigError, match=r"train\.csv: .*line 5: a value goes on after its closing double quote"):
        source.scan()


def test_only_ends_of_lines_part_lines(folder):
    name = "further/a\x85b\u2028c.png"
    (folder / "further").mkdir()
    picture(0, 50).save(folder / name)
    (folder / "further.txt").write_bytes(f"{name}\r\n".encode())
    source = lists(folder).model_copy(update={"unlabelled": type(folder)("further.txt")})
    assert source.scan().places["unlabelled"] == [name]
    (folder / "classes.txt").write_bytes("a\x85b\r\nc\n".encode())
    assert label_names(folder / "classes.txt") == ["a\x85b", "c"]


def test_damaged_exif_data_leaves_an_image_as_it_is():
    content = encoded(picture(0, 0))
    chunk = b"eXIf" + b"no such data"
    begin = content.index(b"IDAT") - 4
    junk = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    notes: list[str] = []
    found = decode(content[:begin] + junk + content[begin:], None, 3, notes.append)
    np.testing.assert_array_equal(found, decode(content, None, 3))
    assert notes == [NOT_TURNED]


@pytest.mark.parametrize(
    ("kind", "maximum", "noted"), [("P6", 65535, True), ("P6", 1023, True), ("P6", 255, False), ("P3", 65535, True)]
)
def test_deep_ppm_images_are_noted(kind, maximum, noted):
    values = np.array([0, maximum, maximum // 2] * 16)
    pixels = (
        values.astype(">u2" if maximum > 255 else "u1").tobytes()
        if kind == "P6"
        else " ".join(map(str, values)).encode()
    )
    notes: list[str] = []
    found = decode(f"{kind} 4 4 {maximum}\n".encode() + pixels, None, 3, notes.append)
    assert found[:2, 0, 0].tolist() == [0, 255] and notes == [LOWER_BITS] * noted


@pytest.mark.parametrize("kind", [ParquetImages, EncodedParquet])
@pytest.mark.parametrize("most", [2**31, 0])
def test_shards_without_rows_are_counted(tmp_path, store, monkeypatch, kind, most):
    monkeypatch.setattr("tgt_ray.data.images.parquet.MOST_IN_MEMORY", most)
    rows = [(label % 2, picture(label % 2, label)) for label in range(24)]
    own = [(label, encoded(image) if kind is EncodedParquet else image.tobytes()) for label, image in rows]
    shards = {"train_00000_of_00003": [], "train_00001_of_00003": own, "train_00002_of_00003": []}
    raw(tmp_path, **shards, test=own)
    splits = kind(path=tmp_path).load(store)
    assert len(splits.train) + len(splits.validation) == 24
    found = {each.what: (each.count, each.first) for each in splits.left_out}
    assert found == {"shards that hold no rows": (2, "train-00000-of-00003.parquet")}
    raw(tmp_path, train_00001_of_00003=[])
    with pytest.raises(ConfigError, match=r"train-00000-of-00003\.parquet: holds no rows"):
        kind(path=tmp_path).scan()


@pytest.mark.parametrize("kind", [ParquetImages, EncodedParquet])
def test_labels_below_0_are_named(tmp_path, kind):
    rows = [(label, encoded(picture(0, 0)) if kind is EncodedParquet else bytes(64)) for label in (1, -1, 1, -1)]
    raw(tmp_path, train=rows, test=rows)
    with pytest.raises(ConfigError, match=r"label -1 in row 1 is outside the class range 0\.\.1 \(2 such rows\)"):
        kind(path=tmp_path).scan()


def test_one_label_of_a_list_is_not_written_in_two_ways(folder):
    source = lists(folder)
    wanted = source.scan()
    for split in ("train", "test", "validation"):
        file = folder / f"{split}.txt"
        file.write_text("".join(f"{line[:-1]}0{line[-1]}\n" for line in file.read_text().splitlines()))
    np.testing.assert_array_equal(source.scan().labels["train"], wanted.labels["train"])
    file = folder / "train.txt"
    file.write_text(file.read_text().replace("01.png 00", "01.png 0"))
    with pytest.raises(ConfigError, match=r"train\.txt: line 2: the label '0' is one number with '00'"):
        source.scan()
    file.write_text(file.read_text().replace("01.png 0\n", "01.png 00\n"))
    (folder / "test.txt").write_text((folder / "test.txt").read_text().replace(" 00", " 0"))
    with pytest.raises(ConfigError, match=r"test\.txt: line 1: the label '0' is one number with '00'.*label_names"):
        source.scan()


def test_labels_that_are_one_number_may_be_names_of_two_classes(folder):
    source = lists(folder)
    for split in ("train", "test", "validation"):
        file = folder / f"{split}.txt"
        lines = [line.rpartition(" ") for line in file.read_text().splitlines()]
        file.write_text("".join(f"{name} {['0', '00', '1'][int(label)]}\n" for name, _, label in lines))
    with pytest.raises(ConfigError, match=r"the label '00' is one number with '0'"):
        source.scan()
    found = source.model_copy(update={"label_names": ("0", "00", "1")}).scan()
    assert found.class_names == ["0", "00", "1"] and set(found.labels["test"]) == {0, 1, 2}


@pytest.mark.parametrize("mark", ["sep=;", '"sep=;"'])
def test_excel_s_line_before_a_list_is_named(folder, mark):
    (folder / "train.csv").write_text(f"{mark}\nfile_name;label\na.png;0\n")
    with pytest.raises(ConfigError) as refused:
        lists(folder).model_copy(update={"train": type(folder)("train.csv")}).scan()
    assert f"train.csv: begins with the line {mark!r}, which is for Excel alone; remove it" in str(refused.value)
