"""What an experiment of retrieval can't be, and what is said of it before it starts."""

import logging
import shutil

import pytest

from tests.helpers.retrieval import doc2query, experiment
from tgt_ray.core.errors import ConfigError
from tgt_ray.experiment.advice import warn_of_cut_texts
from tgt_ray.experiment.controls import control


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"objective": {"type": "distillation"}},
            "objective.type: 'distillation' needs the signal 'logits', and the labeler scores documents, "
            "too many for logits of all of them; legal: embed_distill",
        ),
        (
            {"teacher": {"labeler": {"type": "text_transformer"}}},
            "teacher.labeler.type: 'text_transformer' is for tasks whose answers are classes",
        ),
        ({"train": {"sampling": "balanced"}}, "train.sampling: 'balanced' is for classes"),
        ({"train": {"second_phase": {"type": "crt"}}}, "train.second_phase: 'crt' is for classes"),
        ({"explorer": {"anchors": "balanced"}}, "explorer.anchors: 'balanced' is for classes"),
        (
            {"objective": {"type": "embed_distill", "alpha": 0, "embedding_weight": 0, "score_weight": 0}},
            "synthetic rows teach nothing",
        ),
        ({"explorer": {"type": "interpolation"}}, "explorer.type: 'interpolation' goes between"),
        (
            {"objective": {"type": "embed_distill", "embedding_weight": 0, "score_weight": 0}},
            "nothing is learnt from the teacher",
        ),
    ],
)
def test_what_is_not_for_retrieval_is_refused(beir, encoder, changes, says):
    with pytest.raises(ConfigError) as err:
        experiment(beir, encoder, **changes)
    assert says in str(err.value)


def test_a_dual_encoder_s_documents_are_unknown_to_generators(beir, encoder):
    with pytest.raises(ConfigError, match=r"objective\.document_encoder: student, but explorer\.type 'gradient' looks"):
        experiment(
            beir,
            encoder,
            objective={"type": "embed_distill", "document_encoder": "student"},
            explorer={"type": "gradient"},
        )


def test_gradients_need_one_vocabulary(beir, encoder):
    config = experiment(beir, encoder, explorer={"type": "gradient"})
    with pytest.raises(ConfigError, match="needs generator, labeler and student with one vocabulary"):
        config.check_files()
    labeler = {"type": "dual_encoder", "path": str(encoder), "query_prefix": "ask: "}
    config = experiment(beir, encoder, explorer={"type": "gradient"}, teacher={"labeler": labeler})
    with pytest.raises(ConfigError, match="before which the labeler's prompt 'ask: ' can't be put"):
        config.check_files()


def test_a_prompt_of_the_model_s_own_is_no_way_for_gradients(beir, encoder, tmp_path):
    shutil.copytree(encoder, tmp_path / "asks")
    (tmp_path / "asks/config_sentence_transformers.json").write_text('{"prompts": {"query": "q: "}}')
    labeler = {"type": "dual_encoder", "path": str(tmp_path / "asks")}
    config = experiment(beir, encoder, explorer={"type": "gradient"}, teacher={"labeler": labeler})
    with pytest.raises(ConfigError, match="before which the labeler's prompt 'q: ' can't be put"):
        config.check_files()


def test_documents_that_are_cut_are_counted(beir, encoder, writer, caplog):
    config = experiment(beir, encoder, teacher={"generator": doc2query(writer, max_tokens=8)})
    with caplog.at_level(logging.WARNING):
        warn_of_cut_texts(config, config.task.load())
    assert "teacher.generator: cuts 48 of 48 documents to its 8 tokens" in caplog.text


@pytest.mark.parametrize("name", ["one_hot", "distillation"])
def test_controls_are_of_retrieval(beir, encoder, name, tmp_path):
    plain = control(experiment(beir, encoder), name)
    assert plain.objective.type == "embed_distill"
    assert plain.objective.embedding_weight == 0
    assert plain.objective.alpha == (0 if name == "one_hot" else 1)
    assert not plain.streams
