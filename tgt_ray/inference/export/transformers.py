"""Writes students as folders that the classes `AutoModelFor...Classification` of transformers open."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tgt_ray.core.errors import ConfigError
from tgt_ray.inference.export.base import Format, Options, Student, linear_head
from tgt_ray.inference.export.comparing import compare, own_answers, random_images, random_texts, without_bars
from tgt_ray.inference.export.rows import Data
from tgt_ray.inference.export.timm import Whole, whole_model
from tgt_ray.inference.export.tokenizer import save_tokenizer
from tgt_ray.inference.students import LoadedRetriever, LoadedStudent
from tgt_ray.models import heads
from tgt_ray.models.hub import from_hub, made_from
from tgt_ray.models.text.encoder import TextBackbone
from tgt_ray.models.weights import load_strictly

#: Settings by which a class of transformers pools tokens as a student does and has no further layer before its head, by
#: type of model and pooling. Classes of other models have one: a dense layer with tanh, ReLU or GELU.
AS_IT_IS: dict[tuple[str, str], dict[str, Any]] = {
    ("mobilebert", "cls"): {"classifier_activation": False},
    ("ultrabert", "cls"): {"classifier_pooling": "cls"},
    ("ultrabert", "mean"): {"classifier_pooling": "mean"},
}


class Transformers(Format):
    """A folder for `AutoModelForSequenceClassification` or `AutoModelForImageClassification`."""

    name: ClassVar[str] = "transformers"
    usage: ClassVar[str] = (
        "from transformers import pipeline\n"
        'classify = pipeline("text-classification", "FOLDER", truncation=True)'
        '  # images: pipeline("image-classification", "FOLDER")\n'
        "print(classify(INPUTS))"
    )

    def check(self, student: Student) -> None:
        """Only students of timm, and of texts whose architecture has a class that computes exactly the same."""
        if isinstance(student, LoadedRetriever):
            raise ConfigError(
                f"--format {self.name}: is for students of classes, and this one embeds queries; take"
                " sentence-transformers, or safetensors"
            )
        if isinstance(student.module.backbone, TextBackbone):
            _text_classifier(student, self.name)
        else:
            whole_model(student, self.name)

    def write(self, student: Student, folder: Path, data: Data, options: Options) -> dict[str, Any]:
        assert isinstance(student, LoadedStudent)
        with without_bars():
            if isinstance(student.module.backbone, TextBackbone):
                about: dict[str, Any] = {"compared": self._write_texts(student, student.module.backbone, folder)}
            else:
                compared = self._write_images(whole_model(student, self.name), folder)
                about = {"compared": compared, "student_size": list(student.input_shape)}
        return {**about, "temperature": student.temperature}

    def _write_texts(self, student: LoadedStudent, backbone: TextBackbone, folder: Path) -> dict[str, Any]:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        _text_classifier(student, self.name).save_pretrained(folder)
        save_tokenizer(backbone, folder, student.experiment.task.pair_column is not None)
        model = from_hub(AutoModelForSequenceClassification.from_pretrained, str(folder), None).eval()
        tokenizer = from_hub(AutoTokenizer.from_pretrained, str(folder), None)
        texts = random_texts(student)
        given = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        return compare(self.name, own_answers(student, texts)[1], _logits(model, given))

    def _write_images(self, whole: Whole, folder: Path) -> dict[str, Any]:
        from transformers import (
            AutoImageProcessor,
            AutoModelForImageClassification,
            TimmWrapperConfig,
            TimmWrapperForImageClassification,
        )

        config = TimmWrapperConfig.from_dict(
            {
                "architecture": whole.architecture,
                "model_args": whole.arguments,
                "num_classes": len(whole.classes),
                "num_features": whole.model.num_features,
                "label_names": list(whole.classes),
                "pretrained_cfg": {**whole.model.pretrained_cfg, "label_names": list(whole.classes)},
            }
        )
        with torch.random.fork_rng(devices=[]):  # first weights are drawn, and then replaced
            wrapper = TimmWrapperForImageClassification(config)
        wrapper.timm_model.load_state_dict(whole.model.state_dict())
        wrapper.save_pretrained(folder)
        model = from_hub(AutoModelForImageClassification.from_pretrained, str(folder), None).eval()
        processor = from_hub(AutoImageProcessor.from_pretrained, str(folder), None)
        images = random_images(whole.student)
        coloured = images.expand(-1, whole.preprocess.channels, -1, -1)  # as users convert grey images to RGB
        return compare(self.name, own_answers(whole.student, images)[1], _logits(model, processor(coloured)))


@torch.no_grad()
def _logits(model: Any, given: Any) -> Any:
    logits: Tensor = model(**given).logits
    return logits.float().numpy()


def _text_classifier(student: LoadedStudent, format_name: str) -> Any:
    """Build the class of transformers that computes what a student of texts does, with its weights.

    - raises ConfigError: where its architecture has none
    """
    from transformers import AutoModelForSequenceClassification

    backbone = student.module.backbone
    assert isinstance(backbone, TextBackbone)
    kind, pooling = backbone.body.config.model_type, backbone.pooling
    settings = {} if pooling == "model" else AS_IT_IS.get((kind, pooling))
    if settings is None:
        raise ConfigError(
            f"--format {format_name}: has no class that puts a linear layer on the {_TAKEN[pooling]} of a model of type"
            f" '{kind}', as this student does; take sentence-transformers, onnx or safetensors"
        )
    own = linear_head(student, format_name)
    config = copy.deepcopy(backbone.body.config)
    config.update(settings)
    config.num_labels = len(student.classes)
    config.id2label = dict(enumerate(student.classes))
    config.label2id = {name: number for number, name in enumerate(student.classes)}
    config.problem_type = "single_label_classification"
    where = f"--format {format_name}"
    with made_from(student.folder), torch.random.fork_rng(devices=[]):  # first weights are drawn, and then replaced
        model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32).eval()
    name, head = heads.linear_head(model, where)
    below = "" if pooling == "model" else f"{model.base_model_prefix}."
    state = {f"{below}{key}": value.detach().cpu() for key, value in backbone.body.state_dict().items()}
    load_strictly(model, {**state, **_head_state(name, head, own, model, format_name)}, where)
    return model


#: What students pool, for messages.
_TAKEN = {"mean": "mean of the tokens", "cls": "first token"}


def _head_state(name: str, head: nn.Linear, own: nn.Linear, model: Any, format_name: str) -> dict[str, Tensor]:
    """Return a head's weights by their names in a classifier.

    - head: of the classifier
    - own: of the student
    """
    if head.bias is not None:
        return {f"{name}.weight": own.weight, f"{name}.bias": own.bias}
    if own.bias.any():
        raise ConfigError(
            f"--format {format_name}: the head of a {type(model).__name__} has no bias, and that of this student has"
            " one; take onnx, pt2 or safetensors"
        )
    return {f"{name}.weight": own.weight}
