"""The generator that writes queries with a trained model."""

import json
import shutil

import pytest
import torch

from tests.helpers.retrieval import corpus, doc2query, experiment
from tgt_ray.core.batch import InputSpec
from tgt_ray.core.config import validate
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.texts import to_bytes, to_texts
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.teacher.generators import Doc2QueryGenerator


def test_what_is_written_follows_from_the_generator_alone(beir, writer):
    shape = InputSpec((64,), "")
    model = validate(Doc2QueryGenerator, doc2query(writer, temperature=8.0)).build(shape).eval()
    rows = torch.from_numpy(to_bytes([each["text"] for each in corpus()][:6], 96))

    def written(seed):
        rng = torch.Generator().manual_seed(seed)
        latents, context = model.encode(rows, rng)
        return to_texts(model.decode(latents, rng, context).numpy())

    assert written(0) == written(0) != written(1)
    assert all(0 < len(text) <= 64 for text in written(0))


def test_how_is_drawn_is_not_said_by_the_model_s_folder(beir, writer, tmp_path):
    shutil.copytree(writer, tmp_path / "other")
    settings = json.loads((writer / "generation_config.json").read_text())
    strange = {"num_return_sequences": 3, "top_p": 0.01, "repetition_penalty": 5.0, "do_sample": True}
    (tmp_path / "other/generation_config.json").write_text(json.dumps(settings | strange))
    rows = torch.from_numpy(to_bytes([each["text"] for each in corpus()][:6], 96))
    written, facts = [], []
    for folder in (writer, tmp_path / "other"):
        model = validate(Doc2QueryGenerator, doc2query(folder)).build(InputSpec((64,), "")).eval()
        latents, context = model.encode(rows, torch.Generator())
        written.append(model.decode(latents, torch.Generator().manual_seed(0), context))
        facts.append(model.facts())
    assert torch.equal(*written)
    assert facts[0] == facts[1]


def test_a_query_writer_needs_documents_and_its_model_s_limits(beir, encoder, writer):
    shape = InputSpec((64,), "")
    with pytest.raises(ConfigError, match=r"max_tokens: 300, but the model has positions for 48 tokens"):
        validate(Doc2QueryGenerator, doc2query(writer, max_tokens=300)).build(shape)
    with pytest.raises(ConfigError, match=r"max_new_tokens: 60, but the model has positions for 48 tokens"):
        validate(Doc2QueryGenerator, doc2query(writer, max_new_tokens=60)).build(shape)
    with pytest.raises(ConfigError, match="unknown key 'layers'"):
        validate(Doc2QueryGenerator, doc2query(writer, layers=1))
    with pytest.raises(ConfigError, match=r"teacher\.generator\.type: 'doc2query'"):
        config = experiment(beir, encoder).model_dump(mode="json")
        task = {"type": "text_classification", "data": {"type": "parquet", "path": str(beir)}}
        labeler = {"type": "text_transformer"}
        teacher = {"labeler": labeler, "generator": doc2query(writer)}
        validate(Experiment, config | {"task": task, "teacher": teacher, "objective": {"type": "distillation"}})
    with pytest.raises(ConfigError, match=r"explorer\.type"):
        experiment(beir, encoder, teacher={"generator": doc2query(writer)}, explorer={"type": "random-matched"})
