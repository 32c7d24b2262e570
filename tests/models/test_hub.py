"""Where models come from: folders, packages, the hub, and the weights in their files."""

import re

import pandas as pd
import pytest
import torch

from tests.helpers.text_models import SCRATCH, TEXTS
from tgt_ray.core.config import validate
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.loading import override
from tgt_ray.entrypoints import api
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.models.hub import own_file, place
from tgt_ray.models.weights import whole
from tgt_ray.teacher.generators import Seq2SeqGenerator
from tgt_ray.teacher.labelers.text import TextEncoderLabeler


def test_tied_weights_go_into_a_file_and_back(text_spec):
    import safetensors.torch

    config = Seq2SeqGenerator(**SCRATCH)
    model, other = config.build(text_spec), config.build(text_spec)
    other.load_state_dict(safetensors.torch.load(safetensors.torch.save(whole(model.state_dict()))))
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])


@pytest.mark.parametrize("key", ["teacher.labeler", "teacher.generator", "student"])
def test_a_run_says_whose_model_cannot_be_loaded(tmp_path, key):
    (tmp_path / "data").mkdir()
    for split in ("train", "test"):
        frame = pd.DataFrame({"text": TEXTS, "label": [number % 2 for number in range(len(TEXTS))]})
        frame.to_parquet(tmp_path / "data" / f"{split}.parquet")
    nothing = {"teacher.labeler": "text_encoder", "teacher.generator": "seq2seq", "student": "text_encoder"}[key]
    config = {
        "task": {"type": "text_classification", "data": {"type": "parquet", "path": str(tmp_path / "data")}},
        "teacher": {"labeler": {"type": "text_transformer"}, "generator": {"type": "masked_lm"}},
        "student": {"type": "text_transformer"},
        "explorer": {"type": "random"},
    }
    config = override(config, key, {"type": nothing, "path": str(tmp_path / "nothing")})
    with pytest.raises(ConfigError, match=rf"^{re.escape(key)}: .*nothing: cannot be loaded"):
        api.run(validate(Experiment, config), storage=str(tmp_path / "s"), local=True)


def test_a_folder_that_is_no_model_is_refused(tmp_path, text_spec):
    with pytest.raises(ConfigError, match="cannot be loaded"):
        TextEncoderLabeler(path=str(tmp_path)).build(text_spec, 2)


def test_a_file_that_cannot_be_asked_for_is_not_taken_for_one_that_is_not_there(text_models, monkeypatch, tmp_path):
    assert own_file(str(text_models / "encoder"), None, "modules.json") is None
    (tmp_path / "modules.json").write_text("[1")
    with pytest.raises(
        ConfigError, match=r"whether it has a file modules\.json, and what that says, can't be found out"
    ):
        own_file(str(tmp_path), None, "modules.json")

    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    def asked(error):
        def download(*args, **more):
            raise error

        monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
        return own_file("some/model", None, "modules.json")

    assert asked(EntryNotFoundError("404")) is None
    for error in (LocalEntryNotFoundError("offline"), OSError("no connection")):
        with pytest.raises(ConfigError, match=r"some/model: whether it has a file modules\.json"):
            asked(error)


def test_models_in_packages_are_found():
    assert place("some/hub-name") == "some/hub-name"
    assert place("package:tgt_ray/models").endswith("tgt_ray/models")
    with pytest.raises(ConfigError, match="'no_such_package_here' is not installed"):
        place("package:no_such_package_here/model")
    with pytest.raises(ConfigError, match=r"has no folder '\.\./x'"):
        place("package:tgt_ray/../x")
