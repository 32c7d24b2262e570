"""Files of models that an experiment names are looked at before its data."""

import json
import re
import shutil

import pytest
import safetensors.torch
import torch

from tests.helpers.experiments import changed
from tgt_ray.core.config import folders_of, validate
from tgt_ray.core.errors import ConfigError
from tgt_ray.entrypoints import api
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.teacher.generators import AutoencoderKLGenerator
from tgt_ray.teacher.labelers.dual_encoder import DualEncoderLabeler
from tgt_ray.teacher.labelers.text import TextEncoderLabeler

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    safetensors.torch.save_file({"a": torch.ones(9)}, path / "model.safetensors")
    return path


def experiment(path, key="teacher.labeler", kind="text_encoder", **more):
    blocks = {
        "task": {"type": "text_classification", "data": {"type": "csv", "path": str(path / "no-data")}},
        "teacher": {"labeler": {"type": "text_transformer"}, "generator": {"type": "masked_lm"}},
        "student": {"type": "text_transformer"},
        "explorer": {"type": "random"},
    }
    return changed(validate(Experiment, blocks), {key: {"type": kind, "path": str(path), **more}})


KEYS = [("teacher.labeler", "text_encoder"), ("teacher.generator", "seq2seq"), ("student", "text_encoder")]


@pytest.mark.parametrize("key, kind", KEYS)
def test_a_folder_that_is_whole_is_taken_and_a_missing_one_refused_before_the_data(key, kind, folder, tmp_path):
    experiment(folder, key, kind).check_files()
    with pytest.raises(ConfigError, match=rf"^{re.escape(key)}: .*nothing: cannot be loaded \(there is no folder"):
        api.run(experiment(tmp_path / "nothing", key, kind), storage=str(tmp_path / "s"), local=True)
    assert not (tmp_path / "s").exists()


def test_a_name_on_the_hub_is_not_looked_at():
    for name in ("bert-base-uncased", "owner/model"):
        changed(Experiment(), {"teacher.labeler": {"type": "transformers", "path": name}}).check_files()
    with pytest.raises(ConfigError, match="there is no folder"):
        changed(Experiment(), {"teacher.labeler": {"type": "transformers", "path": "../nothing"}}).check_files()


OF_CODE = '{"auto_map": {"AutoModel": "own.A"}}'


@pytest.mark.parametrize(
    "spoil, says",
    [
        (lambda path: (path / "model.safetensors").write_bytes(LFS), "model.safetensors is a pointer of Git LFS"),
        (lambda path: (path / "model.safetensors").unlink(), "cannot be loaded (the folder has no weights"),
        (
            lambda path: (path / "config.json").write_text(OF_CODE),
            "names code of its own",
        ),
    ],
)
def test_a_folder_that_is_not_whole_is_refused_before_the_data(spoil, says, folder):
    spoil(folder)
    with pytest.raises(ConfigError, match=re.escape(says)):
        experiment(folder).check_files()


def test_weights_that_are_cut_are_refused_before_the_data(folder, tmp_path):
    for file, config in (
        (folder / "model.safetensors", experiment(folder)),
        (
            shutil.copy(folder / "model.safetensors", tmp_path / "w.safetensors"),
            changed(
                Experiment(),
                {"student": {"type": "timm", "name": "resnet18", "weights": str(tmp_path / "w.safetensors")}},
            ),
        ),
    ):
        config.check_files()
        file.write_bytes(file.read_bytes()[:-5])
        with pytest.raises(ConfigError, match=rf"{file.name}: not a whole safetensors file"):
            config.check_files()


def test_pickles_and_other_libraries_files_are_no_matter(folder):
    safetensors_file = folder / "model.safetensors"
    (folder / "tf_model.h5").write_bytes(LFS)
    experiment(folder).check_files()
    safetensors_file.unlink()
    torch.save({"a": torch.ones(2)}, folder / "pytorch_model.bin")
    experiment(folder).check_files()


def test_the_settings_that_name_models():
    assert folders_of(TextEncoderLabeler(path="a")) == {"path": "a"}
    assert folders_of(DualEncoderLabeler(path="a", document_path="b")) == {"path": "a", "document_path": "b"}
    assert folders_of(AutoencoderKLGenerator(path="a", subfolder="vae")) == {"path": "a"}
    assert folders_of(Experiment().student) == {}
