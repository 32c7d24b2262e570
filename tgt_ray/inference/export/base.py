"""What each format of an export has, and the one linear layer that most of them need."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from tgt_ray.core.errors import ConfigError
from tgt_ray.inference.export.rows import Data
from tgt_ray.inference.students import LoadedRetriever, LoadedStudent
from tgt_ray.objectives.criteria.building import as_linear

Student = LoadedStudent | LoadedRetriever


@dataclass(frozen=True)
class Options:
    """Holds what a user has asked for beside the format.

    - int8: also with weights and activations of 8 bits
    - with_document_tower: with what embeds new documents as the teacher does
    """

    int8: bool = False
    with_document_tower: bool = False


class Format(ABC):
    """A format that a student can be handed on in."""

    name: ClassVar[str]
    #: Options that have an effect.
    takes: ClassVar[tuple[str, ...]] = ()
    #: How a user opens it, for the card: lines of Python, with FOLDER for the export's folder.
    usage: ClassVar[str]

    def usage_for(self, student: Student) -> str:
        """Return `usage` for a student, with INPUTS for what it takes."""
        return self.usage

    @abstractmethod
    def check(self, student: Student) -> None:
        """Raise ConfigError where the format can't express the student. Nothing is written before."""

    @abstractmethod
    def write(self, student: Student, folder: Path, data: Data, options: Options) -> dict[str, Any]:
        """Write the files of a student.

        - folder: exists and is empty
        - data: rows of the student's data, for formats that compare or calibrate
        - returns: what is to be recorded, as plain data
        - raises ConfigError: where what is written doesn't give the same answers
        """


def linear_head(student: Student, format_name: str) -> nn.Linear:
    """Return the one linear layer (K, D) that turns a student's embeddings into its scores.

    - raises ConfigError: where the scores are something else, such as those of subclasses or cosines
    """
    own = None if isinstance(student, LoadedRetriever) else as_linear(student.module.criterion)
    if own is None:
        raise ConfigError(_no_linear_head(student, format_name))
    return own


def _no_linear_head(student: Student, format_name: str) -> str:
    return (
        f"--format {format_name}: has one linear layer behind the embedding, and the scores of this student"
        f" (objective '{student.experiment.objective.type}') are something else; take safetensors, onnx or pt2"
    )
