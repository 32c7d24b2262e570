"""Opens data sets of the Hugging Face library `datasets`."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from tgt_ray.core.config import Config, FolderOrName
from tgt_ray.core.errors import ConfigError, nearest
from tgt_ray.data.account import LeftOut, left_out
from tgt_ray.data.encoding import foreign

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict


#: Suffixes of files that hold rows.
TABLES = (".arrow", ".parquet", ".csv", ".json", ".jsonl")


def _fault(folder: Path) -> str:
    """Say which file of a saved data set is none, where the library's own words would not; empty where none is."""
    if not folder.is_dir():
        return ""
    for file in sorted(each for each in folder.rglob("*") if each.suffix in TABLES):
        if what := foreign(file):
            return f"{file} is {what}"
    for file in (folder / "dataset_dict.json", *sorted(folder.glob("*/state.json"))):
        try:
            whole = json.loads(file.read_bytes())
        except (OSError, ValueError, RecursionError):  # absent, or no JSON, which the library says
            continue
        key = "splits" if file.parent == folder else "_data_files"
        if not isinstance(whole, dict) or not isinstance(whole.get(key), list):
            return f"{file} has no list '{key}'; save the data set again, with save_to_disk"
    return ""


class HuggingFaceSet(Config):
    """A data set of the Hugging Face library `datasets`; needs `pip install 'tgt-ray[huggingface]'`."""

    path: FolderOrName = Field(description="a folder that `save_to_disk` wrote, or the name of a data set on the hub")
    name: str | None = Field(None, description="name of the data set's configuration, where it has several")
    revision: str | None = Field(None, description="commit or tag of a data set on the hub")
    train: str = Field("train", description="the data set's name of the train split")
    test: str = Field("test", description="the data set's name of the test split")
    validation: str | None = Field(
        None, description="the data set's name of the validation split; absent: a part of train is held out"
    )

    def own_splits(self) -> dict[str, str]:
        """Return the data set's own name of each split that is taken from it."""
        wanted = {"train": self.train, "test": self.test, "validation": self.validation}
        return {split: own for split, own in wanted.items() if own is not None}

    def open(self, path: str) -> DatasetDict:
        try:
            import datasets
        except ImportError as err:
            raise ConfigError(
                "task.data.type: 'huggingface' needs the package datasets: pip install 'tgt-ray[huggingface]'"
            ) from err
        try:
            if (Path(path) / "dataset_dict.json").exists():
                return datasets.load_from_disk(path)
            if (Path(path) / "state.json").exists():
                wanted = ", ".join(repr(own) for own in self.own_splits().values())
                raise ConfigError(
                    f"task.data.path: {path} holds rows without splits, as Dataset.save_to_disk writes them; save a"
                    f" DatasetDict with the splits {wanted} instead: DatasetDict({{...}}).save_to_disk(...)"
                )
            if Path(path).is_absolute() and not Path(path).is_dir():
                raise ConfigError(f"task.data.path: no folder at {path} on {platform.node()}")
            return datasets.load_dataset(path, self.name, revision=self.revision)
        except ConfigError:
            raise
        except Exception as err:  # the library raises many kinds, for names, network and files alike
            why = _fault(Path(path)) or " ".join(str(err).split())[:200]
            raise ConfigError(f"task.data.path: cannot load the data set {self.path} ({why})") from err

    def place(self) -> str:
        """Return the folder, resolved so that any process finds it, or the name on the hub."""
        return str(Path(self.path).resolve()) if Path(self.path).is_dir() else self.path

    def others(self, found: DatasetDict) -> tuple[LeftOut, ...]:
        """Return the account of the splits that no setting names, each with its name."""
        unused = [str(name) for name in found if name not in self.own_splits().values()]
        return tuple(entry for name in unused for entry in left_out("split that no setting names", [name]))

    def find_split(self, found: DatasetDict, split: str, own: str) -> Dataset:
        if own not in found:
            raise ConfigError(f"task.data.{split}: {self.path} has no split '{own}'; {nearest(own, found)}")
        return found[own]
