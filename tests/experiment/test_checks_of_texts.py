"""What an experiment on texts can't be."""

import pytest

from tests.helpers.text_runs import experiment
from tgt_ray import run, run_sweep
from tgt_ray.core.errors import ConfigError


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"explorer": {"type": "interpolation"}},
            "explorer.type: 'interpolation' goes between the latents of two anchors, "
            "and teacher.generator.type 'masked_lm'",
        ),
        (
            {
                "data": {"pair_column": "hypothesis"},
                "teacher": {"generator": {"type": "seq2seq", "decoding": "sample"}},
            },
            "task.data.pair_column: 'hypothesis', but teacher.generator.type 'seq2seq' writes one text for a pair",
        ),
        (
            {"explorer": {"type": "gradient"}, "teacher": {"generator": {"type": "causal_lm", "path": "x/y"}}},
            "'gradient' needs gradients through the generator, and teacher.generator.type 'causal_lm' gives none",
        ),
        (
            {"explorer": {"type": "random-matched"}, "teacher": {"generator": {"type": "causal_lm", "path": "x/y"}}},
            "explorer.type: 'random-matched' moves latents, "
            "and teacher.generator.type 'causal_lm' has none; use random",
        ),
        (
            {
                "explorer": {"type": "random", "sigma": 0.7},
                "teacher": {"generator": {"type": "causal_lm", "path": "x/y"}},
            },
            "explorer.sigma: 0.7 has no effect, since teacher.generator.type 'causal_lm' has no latents to move",
        ),
    ],
)
def test_what_a_generator_can_not_serve_is_refused(sentences, changes, says):
    labeler = {"labeler": {"type": "text_transformer"}}
    if "teacher" in changes:
        changes = {**changes, "teacher": {**labeler, **changes["teacher"]}}
    with pytest.raises(ConfigError, match=says):
        experiment(sentences, **changes)


def test_gradients_need_one_vocabulary(sentences, tmp_path):
    student = {"type": "text_encoder", "path": "some/hub-name"}
    config = experiment(sentences, explorer={"type": "gradient"}, student=student)
    with pytest.raises(
        ConfigError, match=r"teacher\.generator and student differ \(the task's own and some/hub-name\)"
    ):
        run(config, storage=str(tmp_path), local=True)
    trials = {"experiment": config.model_dump(mode="json"), "search": {"trials": 1}}
    trials["experiment"]["explorer"] = {"type": "random"}
    trials["space"] = {"explorer.type": {"choice": ["random", "gradient"]}}
    with pytest.raises(
        ConfigError, match=r"space\.explorer\.type = 'gradient': .*teacher\.generator and student differ"
    ):
        run_sweep(trials, storage=str(tmp_path))
