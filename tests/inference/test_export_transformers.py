"""Students as folders that the classes for classification of transformers open."""

import json

import numpy as np
import pytest
import torch
from transformers import CONFIG_MAPPING, AutoConfig, AutoModel

from tests.helpers import retrieval
from tests.helpers.experiments import changed
from tests.helpers.pretrained import NAME
from tests.helpers.students import answers, export, refuse, write_student
from tests.helpers.text_runs import experiment
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.models.text.tokens import corpus_tokens

PROGRAM = """
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification, AutoModelForSequenceClassification
from transformers import AutoTokenizer, pipeline

@torch.no_grad()
def answer(folder, inputs):
    return of_images(folder, inputs) if isinstance(inputs, np.ndarray) else of_texts(folder, inputs)

def of_images(folder, images):
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    processor = AutoImageProcessor.from_pretrained(folder)
    assert model.config.id2label == {number: str(number) for number in range(10)}
    return model(**processor([Image.fromarray(each) for each in images])).logits

def of_texts(folder, texts):
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.config.id2label == {0: "0", 1: "1"} and model.config.label2id == {"0": 0, "1": 1}
    logits = model(**tokenizer(texts, padding=True, truncation=True, return_tensors="pt")).logits
    given = [{"text": a, "text_pair": b} for a, b in texts] if isinstance(texts[0], tuple) else texts
    said = pipeline("text-classification", folder, truncation=True)(given)
    assert [each["label"] for each in said] == [str(int(each)) for each in logits.argmax(dim=1)]
    return logits
"""
TEXTS = ["the film was joy today", "  her new song brings noise \n", "gloom", "this [SEP] book </s>", "?", "joy " * 40]
PAIRS = [(each, "it was [MASK] <mask> noise") for each in TEXTS]


def of_texts(sentences, path, folder, **changes):
    student = {"type": "text_encoder", "path": str(path), "max_tokens": 24, **changes.pop("student", {})}
    return write_student(experiment(sentences, student=student, **changes), folder)


def small(family, text_spec, folder, **settings):
    """A folder with a small encoder of a family."""
    tokenizer = corpus_tokens(text_spec.tokenizer, 32, "test").tokenizer
    sizes = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "max_position_embeddings": 40}
    config = AutoConfig.for_model(family, **sizes, num_hidden_layers=1, num_attention_heads=2, **settings)
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


MOBILE = {"hidden_size": 16, "embedding_size": 8, "intra_bottleneck_size": 8, "intermediate_size": 16}


@pytest.mark.slow
def test_students_are_opened_by_transformers_alone(sentences, text_models, text_spec, tmp_path):
    classifier, mobile = text_models / "classifier", small("mobilebert", text_spec, tmp_path / "model", **MOBILE)
    shifted = {"type": "distillation", "posthoc_adjustment": 1.0}
    timm = changed(Experiment(), {"student": {"type": "timm", "name": NAME}, "objective.posthoc_adjustment": 1.0})
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8), np.uint8)
    kinds = {
        "single": (of_texts(sentences, classifier, tmp_path / "1", objective=shifted), TEXTS),
        "pairs": (of_texts(sentences, classifier, tmp_path / "2", data={"pair_column": "hypothesis"}), PAIRS),
        "first token": (of_texts(sentences, mobile, tmp_path / "3", student={"pooling": "cls"}), TEXTS),
        "images": (write_student(timm, tmp_path / "4"), images),
    }
    if "ultrabert" in CONFIG_MAPPING:  # a newer one of transformers
        ultra = small("ultrabert", text_spec, tmp_path / "ultra", hidden_size=16, intermediate_size=32)
        kinds["mean"] = (of_texts(sentences, ultra, tmp_path / "5", student={"pooling": "mean"}), TEXTS)
    made = {name: export(folder, "transformers", tmp_path / f"{name} out") for name, (folder, _) in kinds.items()}
    jobs = [(tmp_path / f"{name} out", inputs) for name, (_, inputs) in kinds.items()]
    for (name, (_, inputs)), found in zip(kinds.items(), answers(PROGRAM, jobs, tmp_path / "alone"), strict=True):
        np.testing.assert_allclose(found, made[name][0].scores(inputs), atol=1e-4, err_msg=name)
    said = json.loads((tmp_path / "single out" / "tokenizer_config.json").read_text())
    assert said["model_max_length"] == 24 and said["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert made["images"][1]["student_size"] == [1, 8, 8]


@pytest.mark.parametrize("name", ["test_vit", "test_convnext"])
def test_images_that_the_model_enlarges(name, tmp_path):
    config = changed(Experiment(), student={"type": "timm", "name": name, "img_size": 64})
    export(write_student(config, tmp_path / "student"), "transformers", tmp_path / "out")


def test_students_that_pool_tokens_are_told_what_else_to_take(sentences, text_models, tmp_path):
    mean = write_student(experiment(sentences), tmp_path / "student")
    said = "has no class that puts a linear layer on the mean of the tokens of a model of type 'bert', .* take sentence"
    refuse(mean, "transformers", said, tmp_path)
    first = of_texts(sentences, text_models / "encoder", tmp_path / "first", student={"pooling": "cls"})
    refuse(first, "transformers", "on the first token of a model of type 'bert'", tmp_path)


def test_a_head_without_a_bias_is_refused(sentences, text_models, tmp_path):
    gpt = of_texts(sentences, text_models / "causal_lm", tmp_path / "student", student={"pooling": "model"})
    said = "the head of a GPT2ForSequenceClassification has no bias, and that of this student has one"
    refuse(gpt, "transformers", said, tmp_path)


def test_other_students_and_heads_are_refused(sentences, text_models, beir, encoder, tmp_path):
    conv = write_student(Experiment(), tmp_path / "conv")
    refuse(conv, "transformers", "and this one is of type 'conv'", tmp_path)
    queries = write_student(retrieval.experiment(beir, encoder), tmp_path / "queries", np.eye(48, 32, dtype=np.float32))
    refuse(queries, "transformers", "this one embeds queries; take sentence-transformers, or safetensors", tmp_path)
    lelp = of_texts(sentences, text_models / "classifier", tmp_path / "lelp", objective={"type": "lelp"})
    refuse(lelp, "transformers", r"\(objective 'lelp'\) are something else", tmp_path)
