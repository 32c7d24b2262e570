"""Students from timm, with weights and from scratch."""

import pytest
import torch

from tests.helpers.pretrained import NAME, config, timm_file
from tgt_ray.core.batch import InputSpec
from tgt_ray.core.errors import ConfigError
from tgt_ray.models.students import TimmStudent
from tgt_ray.teacher.labelers.image import TimmLabeler


@pytest.mark.parametrize("key", ["student", "teacher.labeler"])
def test_an_unknown_timm_name_gets_the_nearest_ones(key):
    with pytest.raises(
        ConfigError,
        match=rf"{key}\.name: .*timm has no model 'mobilnetv3_smal_050'; did you mean 'mobilenetv3_small_050' or '",
    ):
        config(**{key: {"type": "timm", "name": "mobilnetv3_smal_050"}})


def test_a_tag_of_timm_s_weights_is_part_of_the_name():
    """Normalisation follows the tag: MAE's weights have another one than the default's."""
    plain, tagged = (
        TimmLabeler(name=f"vit_base_patch16_224{tag}").backbone(InputSpec((3, 32, 32))).preprocess
        for tag in ("", ".mae")
    )
    assert plain.mean.flatten().tolist() == [0.5] * 3 and tagged.mean.flatten().tolist() == pytest.approx(
        [0.485, 0.456, 0.406]
    )
    with pytest.raises(ConfigError, match=r"timm has no weights 'vit_base_patch16_224\.mea'; did you mean '.*\.mae"):
        config(student={"type": "timm", "name": "vit_base_patch16_224.mea"})


def test_two_sources_of_weights_are_one_too_many(tmp_path):
    with pytest.raises(ConfigError, match="pretrained and weights exclude each other"):
        config(student={"type": "timm", "name": NAME, "weights": "w.safetensors", "pretrained": True})


def test_a_student_starts_from_weights_without_their_head(tmp_path):
    file, model = timm_file(tmp_path, 7)
    how = TimmStudent(name=NAME, weights=file)
    backbone = how.build(InputSpec((1, 8, 8)))
    how.load_weights(backbone)
    for name, value in backbone.body.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    assert backbone(torch.rand(2, 1, 8, 8)).shape == (2, backbone.dim)


def test_a_student_s_weights_that_are_not_there_are_refused_at_once():
    with pytest.raises(ConfigError, match=r"student\.weights: no file at .*nowhere\.safetensors"):
        config(student={"type": "timm", "name": NAME, "weights": "nowhere.safetensors"}).check_files()


@pytest.mark.parametrize(
    "name", ["mobilenetv3_small_050", "vit_tiny_patch16_224", "convnext_atto", "tf_efficientnet_lite0"]
)
def test_architectures_of_each_family_train_from_scratch(name):
    options = {"img_size": 32} if "vit" in name else {}
    backbone = TimmStudent(name=name, **options).build(InputSpec((1, 32, 32)))
    assert backbone(torch.rand(2, 1, 32, 32)).shape == (2, backbone.dim)


def test_from_scratch_images_stay_as_they_are():
    backbone = TimmStudent(name=NAME).build(InputSpec((2, 16, 32)))
    assert backbone.preprocess(torch.rand(1, 2, 16, 32)).shape == (1, 2, 16, 32)
    assert backbone(torch.rand(2, 2, 16, 32)).shape == (2, backbone.dim)


def test_options_that_timm_does_not_know_are_one_line():
    with pytest.raises(ConfigError, match=rf"'{NAME}' can't be made with \{{'no_such_option': 3\}}"):
        TimmStudent(name=NAME, options={"no_such_option": 3}).build(InputSpec((3, 16, 16)))
