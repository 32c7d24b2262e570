"""Autoencoders of diffusers as generators."""

import json
import shutil

import numpy as np
import pytest
import torch

from tests.helpers.pretrained import config
from tgt_ray import run
from tgt_ray.core.batch import InputSpec
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.storage import Storage
from tgt_ray.teacher.generators import AutoencoderKLGenerator
from tgt_ray.training.local import prepare_local


@pytest.mark.parametrize("channels", [1, 3])
def test_an_autoencoder_kl_encodes_and_decodes_as_diffusers_does(kl_folder, channels):
    folder, model = kl_folder
    how = AutoencoderKLGenerator(path=str(folder), subfolder="vae")
    ours = how.build(InputSpec((channels, 8, 8))).eval()
    assert how.load_weights(ours) == {"weights": str(folder)}
    images = torch.rand(2, channels, 8, 8)
    with torch.no_grad():
        mean = model.encode(2 * images.expand(-1, 3, -1, -1) - 1).latent_dist.mode()
        latents = ours.encode(images)
        torch.testing.assert_close(latents, mean.flatten(1))
        wanted = (model.decode(mean).sample + 1) / 2
        wanted = (wanted.mean(1, keepdim=True) if channels == 1 else wanted).clamp(0, 1)
        torch.testing.assert_close(ours.decode(latents), wanted, atol=1e-5, rtol=1e-4)


def test_sampled_encodings_differ_from_the_mean_and_repeat(kl_folder):
    folder, _ = kl_folder
    mean, sampled = (AutoencoderKLGenerator(path=str(folder), subfolder="vae", sample=s) for s in (False, True))
    models = [how.build(InputSpec((3, 8, 8))).eval() for how in (mean, sampled)]
    for how, model in zip((mean, sampled), models, strict=True):
        how.load_weights(model)
    images = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        a, b, again = models[0].encode(images), models[1].encode(images), models[1].encode(images)
    assert torch.equal(b, again) and not torch.allclose(a, b)


def test_the_same_autoencoder_in_another_folder_is_the_same_teacher(kl_folder, tmp_path, digits):
    folder, _ = kl_folder
    shutil.copytree(folder / "vae", tmp_path / "alone")

    def prepared(**values):
        experiment = config(teacher__generator={"type": "autoencoder_kl", **values})
        return prepare_local(experiment, digits, Storage(tmp_path / "s")).fingerprints["generator"]

    first = prepared(path=str(folder), subfolder="vae")
    assert prepared(path=str(tmp_path / "alone")) == first
    assert prepared(path=str(tmp_path / "alone"), sample=True) != first
    file = tmp_path / "alone" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "act_fn": "relu"}))
    assert prepared(path=str(tmp_path / "alone")) != first, "what computes is not in the weights"


def test_gradients_flow_through_it(kl_folder):
    folder, _ = kl_folder
    model = AutoencoderKLGenerator(path=str(folder), subfolder="vae").build(InputSpec((3, 8, 8))).requires_grad_(False)
    latents = torch.randn(2, 32, requires_grad=True)
    (slope,) = torch.autograd.grad(model.decode(latents).sum(), latents)
    assert slope.abs().sum() > 0


def test_images_of_other_channels_than_the_autoencoder_s_are_refused(kl_folder):
    folder, _ = kl_folder
    with pytest.raises(ConfigError, match=r"for images of 3 channel\(s\) \(in_channels\), the task's have 2"):
        AutoencoderKLGenerator(path=str(folder), subfolder="vae").build(InputSpec((2, 8, 8)))


def test_images_that_it_cannot_halve_are_refused(kl_folder):
    folder, _ = kl_folder
    with pytest.raises(ConfigError, match="height and width must be multiples of 2; the task's images are 7x7"):
        AutoencoderKLGenerator(path=str(folder), subfolder="vae").build(InputSpec((3, 7, 7)))


def test_a_teacher_of_both_libraries_trains_a_student(vit, kl_folder, digits, tmp_path, storage):
    folder, _ = vit(10)
    experiment = config(
        teacher__labeler={"type": "transformers", "path": str(folder)},
        teacher__generator={"type": "autoencoder_kl", "path": str(kl_folder[0]), "subfolder": "vae"},
        explorer={"type": "gradient"},
        pool__rows_per_request=16,
    )
    result = run(experiment, storage=str(tmp_path / "runs"), name="both", local=True)
    assert result.record["teacher"]["generator"]["weights"] == str(kl_folder[0])
    assert np.isfinite(result.metrics.iloc[-1]["train_kl_synthetic"])


def test_an_autoencoder_in_a_package_is_as_one_in_a_folder(kl_folder, tmp_path, monkeypatch):
    folder, model = kl_folder
    package = tmp_path / "site" / "package_of_autoencoders"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    shutil.copytree(folder, package / "kl")
    monkeypatch.syspath_prepend(package.parent)
    how = AutoencoderKLGenerator(path="package:package_of_autoencoders/kl", subfolder="vae")
    ours = how.build(InputSpec((3, 8, 8)))
    how.load_weights(ours)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in ours.body.state_dict().items())


def test_an_autoencoder_that_wants_code_or_is_not_fetched_is_refused(kl_folder, tmp_path):
    folder, _ = kl_folder
    copy = shutil.copytree(folder, tmp_path / "copy")
    config = json.loads((copy / "vae" / "config.json").read_text())
    (copy / "vae" / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "own.Own"}}))
    how = AutoencoderKLGenerator(path=str(copy), subfolder="vae")
    with pytest.raises(ConfigError, match="names code of its own"):
        how.build(InputSpec((3, 8, 8)))
    (copy / "vae" / "config.json").write_text(json.dumps(config))
    [weights] = (copy / "vae").glob("*.safetensors")
    weights.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ConfigError, match="is a pointer of Git LFS"):
        how.build(InputSpec((3, 8, 8)))
