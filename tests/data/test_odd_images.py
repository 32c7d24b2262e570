"""Images in odd folders, lists and files: used, counted with a reason, or refused in one line."""

import os

import numpy as np
import pytest

from tests.data.test_encoded_images import lists
from tests.data.test_image_sources import WHOLE, account, counts
from tests.data.test_image_tables import tables
from tests.helpers.pictures import picture
from tgt_ray.core.errors import ConfigError
from tgt_ray.data import ImageFolder

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
