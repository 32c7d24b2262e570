"""Writes text students as encoders that sentence-transformers opens."""

from __future__ import annotations

import copy
import inspect
import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from tgt_ray.core.errors import ConfigError
from tgt_ray.core.storage import Storage
from tgt_ray.inference.export.base import Format, Options, Student, linear_head
from tgt_ray.inference.export.comparing import compare, own_answers, random_texts, without_bars
from tgt_ray.inference.export.rows import Data
from tgt_ray.inference.export.tokenizer import name_class, save_tokenizer
from tgt_ray.inference.students import LoadedRetriever, LoadedStudent
from tgt_ray.models.text.encoder import TextBackbone
from tgt_ray.models.text.static import StaticBackbone
from tgt_ray.objectives.criteria.embed_distill import EmbedDistillCriterion
from tgt_ray.training.files import DOCUMENTS_FILE

#: A folder in the export with the head of a student of classes, which is no part of the encoder.
HEAD = "head"
#: Where the library reads arguments of a transformer.
ARGUMENTS_FILE = "sentence_bert_config.json"


class SentenceTransformers(Format):
    """A folder for `SentenceTransformer`: a transformer, its pooling, and what turns a query into an embedding."""

    name: ClassVar[str] = "sentence-transformers"
    usage: ClassVar[str] = (
        "from sentence_transformers import SentenceTransformer\n"
        'model = SentenceTransformer("FOLDER")\n'
        "print(model.encode(INPUTS))"
    )

    def check(self, student: Student) -> None:
        """Only students of texts that pool tokens by their mean or take the first one."""
        _modules()
        backbone = student.module.backbone
        if not isinstance(backbone, TextBackbone):
            raise ConfigError(
                f"--format {self.name}: is for students of texts, and this one is of type"
                f" '{student.experiment.student.type}'; take safetensors, onnx or pt2"
            )
        if backbone.pooling == "model":
            raise ConfigError(
                f"--format {self.name}: pools tokens by their mean or takes the first one, and this student's model"
                " gives its embedding itself (pooling: model); take transformers, onnx or safetensors"
            )
        if isinstance(backbone, StaticBackbone):
            raise ConfigError(
                f"--format {self.name}: leaves the special tokens around a text out of the mean of words' vectors, and"
                " this student has them in; take onnx, pt2 or safetensors"
            )
        _projection(student, self.name)

    def write(self, student: Student, folder: Path, data: Data, options: Options) -> dict[str, Any]:
        with without_bars():
            self._write_encoder(student, folder)
            texts = random_texts(student)
            found = _encoded(folder, texts)
            embeddings, scores = own_answers(student, texts)
            if isinstance(student, LoadedStudent):
                compare(self.name, embeddings, found, "embeddings")
                compared = compare(self.name, scores, self._scores(student, folder, found))
                about = {"head": HEAD, "classes": list(student.classes), "temperature": student.temperature}
                return {"compared": compared, **about}
        compared = compare(self.name, student.encode_queries(texts), found, "embeddings")
        Storage(folder).write(student.storage.read(DOCUMENTS_FILE), DOCUMENTS_FILE)
        return {"compared": compared, "documents": DOCUMENTS_FILE}

    def _write_encoder(self, student: Student, folder: Path) -> None:
        from sentence_transformers import SentenceTransformer

        backbone = student.module.backbone
        assert isinstance(backbone, TextBackbone)
        retrieves = isinstance(student, LoadedRetriever)
        body = copy.deepcopy(backbone.body).cpu()
        body.save_pretrained(folder)
        save_tokenizer(backbone, folder, not retrieves and student.experiment.task.pair_column is not None)
        arguments = _arguments(body)
        layers = self._parts(student, backbone, folder, arguments)
        # Documents are ranked by inner products.
        whole = SentenceTransformer(modules=layers, device="cpu", similarity_fn_name="dot" if retrieves else "cosine")
        whole.save(str(folder), create_model_card=False)
        name_class(folder)  # the library has saved the tokenizer once more
        _say_arguments(folder, arguments)

    def _parts(self, student: Student, backbone: TextBackbone, folder: Path, arguments: dict[str, Any]) -> list[Any]:
        """Make the layers of the library, from what lies in the folder already."""
        library = _modules()
        parts = [
            library.Transformer(str(folder), model_kwargs=dict(arguments)),
            library.Pooling(backbone.dim, pooling_mode=backbone.pooling),
        ]
        if isinstance(student, LoadedRetriever):
            parts.append(_dense(_projection(student, self.name)))
            parts += [library.Normalize()] if student.module.criterion.unit else []
        return parts

    def _scores(self, student: LoadedStudent, folder: Path, embeddings_ND: np.ndarray) -> np.ndarray:
        """Write the head of a student of classes, open it again, and score embeddings by it."""
        place = folder / HEAD
        place.mkdir()
        _dense(_projection(student, self.name)).save(str(place))
        opened = _modules().Dense.load(str(place))
        with torch.no_grad():
            scored = opened({"sentence_embedding": torch.from_numpy(embeddings_ND)})["sentence_embedding"]
        scores: np.ndarray = scored.numpy()
        return scores


def _encoded(folder: Path, texts: Any) -> np.ndarray:
    from sentence_transformers import SentenceTransformer

    opened = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    found: np.ndarray = opened.encode(texts, convert_to_numpy=True, show_progress_bar=False)
    return found


def _modules() -> Any:
    try:
        from sentence_transformers.sentence_transformer import modules
    except ImportError as err:
        raise ConfigError(
            "--format sentence-transformers: needs the package sentence-transformers, 5.4 or newer; pip install"
            ' "tgt-ray[sentence-transformers]"'
        ) from err
    return modules


def _projection(student: Student, format_name: str) -> nn.Linear:
    """Return the linear layer behind a student's embedding.

    - raises ConfigError: where there is another one
    """
    if isinstance(student, LoadedStudent):
        return linear_head(student, format_name)
    criterion = student.module.criterion
    if not isinstance(criterion, EmbedDistillCriterion) or type(criterion.head) is not nn.Linear:
        raise ConfigError(
            f"--format {format_name}: has one linear layer behind the embedding of a query, and the objective"
            f" '{student.experiment.objective.type}' has something else; take safetensors"
        )
    return criterion.head


def _dense(linear: nn.Linear) -> Any:
    dense = _modules().Dense(linear.in_features, linear.out_features, activation_function=nn.Identity())
    dense.linear.load_state_dict({key: value.detach().cpu() for key, value in linear.state_dict().items()})
    return dense


def _arguments(body: Any) -> dict[str, Any]:
    """Return with what a model is made, so that it has no pooler of its own, whose weights would be missing."""
    takes = inspect.signature(type(body).__init__).parameters
    return {"add_pooling_layer": False} if "add_pooling_layer" in takes else {}


def _say_arguments(folder: Path, arguments: dict[str, Any]) -> None:
    file = folder / ARGUMENTS_FILE
    said = json.loads(file.read_text(encoding="utf-8"))
    if arguments:
        file.write_text(json.dumps({**said, "model_args": arguments}, indent=2) + "\n", encoding="utf-8")
