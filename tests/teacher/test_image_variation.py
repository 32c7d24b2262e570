"""A generator that embeds images and draws new ones, against the pipeline of diffusers itself on a small one."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, StableUnCLIPImg2ImgPipeline, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from tests.helpers.pretrained import config
from tgt_ray import run
from tgt_ray.core.batch import InputSpec
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.storage import Storage
from tgt_ray.teacher.generators import ImageVariationGenerator
from tgt_ray.teacher.store import load_teacher
from tgt_ray.training.local import prepare_local

EMBEDDING = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("unclip")
    (place / "vocab.json").write_text(json.dumps({"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2}))
    (place / "merges.txt").write_text("#version: 0.2\n")
    small = {"hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    blocks = {"block_out_channels": [8, 8], "norm_num_groups": 4}
    pipeline = StableUnCLIPImg2ImgPipeline(
        feature_extractor=CLIPImageProcessor(crop_size=16, size=16),
        image_encoder=CLIPVisionModelWithProjection(
            CLIPVisionConfig(**small, image_size=16, patch_size=8, projection_dim=EMBEDDING)
        ).eval(),
        image_normalizer=StableUnCLIPImageNormalizer(EMBEDDING),
        image_noising_scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        tokenizer=CLIPTokenizer(str(place / "vocab.json"), str(place / "merges.txt"), model_max_length=8),
        text_encoder=CLIPTextModel(
            CLIPTextConfig(**small, vocab_size=3, max_position_embeddings=8, bos_token_id=0, eos_token_id=1)
        ).eval(),
        unet=UNet2DConditionModel(
            **blocks,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=1,
            attention_head_dim=2,
            cross_attention_dim=8,
            class_embed_type="projection",
            projection_class_embeddings_input_dim=2 * EMBEDDING,
            sample_size=8,
        ).eval(),
        scheduler=DDIMScheduler(),
        vae=AutoencoderKL(
            **blocks, down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2
        ).eval(),
    )
    pipeline.save_pretrained(place / "pipeline")
    return place / "pipeline"


def built(folder, shape=(3, 8, 8), **options):
    how = ImageVariationGenerator(**{"path": str(folder), "steps": 2, **options})
    return how.build(InputSpec(shape)).eval().requires_grad_(False)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def test_it_encodes_and_draws_as_the_pipeline_does(folder):
    images = torch.rand(2, 3, 16, 16)
    ours = built(folder, (3, 16, 16), guidance=3)
    theirs = StableUnCLIPImg2ImgPipeline.from_pretrained(folder)
    theirs.set_progress_bar_config(disable=True)
    processor = theirs.feature_extractor
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (processor.image_mean, processor.image_std))
    with torch.no_grad():
        embeddings = theirs.image_encoder((images - mean) / std).image_embeds
        torch.testing.assert_close(ours.encode(images), embeddings)
        wanted = theirs(
            prompt=["", ""],
            image_embeds=embeddings,
            num_inference_steps=2,
            guidance_scale=3,
            generator=rng(),
            output_type="pt",
        ).images
        torch.testing.assert_close(ours.decode(embeddings, rng()), wanted)


def test_what_it_draws_follows_from_the_embedding_and_the_generator(folder):
    model = built(folder)
    latents = torch.randn(3, EMBEDDING)
    first, again, other = (model.decode(latents, rng(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.allclose(first, other)
    assert not torch.allclose(first, model.decode(latents + 1, rng(0)))
    assert first.shape == (3, 3, 8, 8) and first.min() >= 0 and first.max() <= 1


def test_grey_images_of_any_size_and_few_at_a_time(folder):
    model = built(folder, (1, 28, 28), rows_at_once=2, size=24)
    latents = model.encode(torch.rand(5, 1, 28, 28))
    assert latents.shape == (5, EMBEDDING)
    sizes = []
    model.parts["vae"].decoder.register_forward_hook(lambda module, given, made: sizes.append(tuple(made.shape)))
    assert model.decode(latents, rng()).shape == (5, 1, 28, 28)
    assert sizes == [(2, 3, 24, 24), (2, 3, 24, 24), (1, 3, 24, 24)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 20}, "teacher.generator.size: 20; it must be a multiple of 8"),
        ({"steps": 1001}, "teacher.generator.steps: 1001; the pipeline has 1000 steps at the most"),
        ({"noise_level": 1000}, "teacher.generator.noise_level: 1000; the pipeline has 1000 levels"),
    ],
)
def test_settings_that_do_not_fit_are_refused(folder, options, message):
    with pytest.raises(ConfigError, match=message):
        built(folder, **options)


def test_a_folder_of_something_else_is_refused(folder):
    with pytest.raises(ConfigError, match=r"teacher.generator.path: .*vae cannot be loaded"):
        built(folder / "vae")


def test_gradient_exploration_is_refused(folder):
    with pytest.raises(ValueError, match="'gradient' needs gradients through the generator"):
        config(teacher__generator={"type": "image_variation", "path": str(folder)}, explorer={"type": "gradient"})


def experiment_of(folder, steps=2, **more):
    generator = {"type": "image_variation", "path": str(folder), "steps": steps}
    rows = {"pool__rows_per_request": 8, "fit_check__rows": 20}
    return config(teacher__generator=generator, explorer={"type": "random", "sigma": 0.5}, **rows, **more)


def test_it_feeds_a_student_without_a_copy_of_its_weights(folder, tmp_path, caplog):
    caplog.set_level("INFO")
    first, again = (
        run(experiment_of(folder), storage=str(tmp_path / "runs"), name=name, local=True) for name in ("a", "b")
    )
    generator = again.record["teacher"]["generator"]
    assert generator["weights"] == str(folder) and generator["reused"]
    assert first.metrics.drop(columns="time", errors="ignore").iloc[-1]["train_kl_synthetic"] == pytest.approx(
        again.metrics.iloc[-1]["train_kl_synthetic"]
    )
    assert np.isfinite(first.metrics.iloc[-1]["train_kl_synthetic"])
    kept = [path.name for path in (tmp_path / "runs" / "teachers").iterdir() if path.suffix == ".safetensors"]
    assert all(name.startswith("labeler-") for name in kept), kept
    # What an image costs is said before anything trains.
    assert "rows of a run take about" in caplog.text


def test_half_precision_and_no_guidance(folder, tmp_path):
    experiment = experiment_of(folder, pool__precision="bfloat16")
    result = run(experiment, storage=str(tmp_path / "runs"), name="half", local=True)
    assert np.isfinite(result.metrics.iloc[-1]["train_kl_synthetic"])
    plain, guided = (built(folder, guidance=g).decode(torch.ones(1, EMBEDDING), rng()) for g in (1, 5))
    assert not torch.allclose(plain, guided)


def test_weights_that_changed_since_the_run_began_are_refused(folder, tmp_path):
    storage, experiment = Storage(tmp_path / "runs"), experiment_of(folder)
    data = experiment.task.load()
    record = prepare_local(experiment, data, storage).teacher
    load_teacher(experiment.teacher, record, data.spec, data.num_classes, storage)
    record["generator"]["state"] = "others"
    with pytest.raises(ConfigError, match=r"teacher.generator: its weights here are not those that the run began with"):
        load_teacher(experiment.teacher, record, data.spec, data.num_classes, storage)


def test_the_same_pipeline_in_another_folder_is_the_same_teacher_until_its_settings_change(folder, tmp_path):
    moved, storage = tmp_path / "pipeline", Storage(tmp_path / "runs")
    shutil.copytree(folder, moved)

    def generator(place, **more):
        experiment = experiment_of(place, **more)
        return prepare_local(experiment, experiment.task.load(), storage).teacher["generator"]

    before = generator(folder)
    same = generator(moved)
    assert same["identity"] == before["identity"] and same["reused"] and same["weights"] == str(moved)
    assert generator(moved, steps=3)["identity"] != before["identity"]
    for file, change in (
        ("scheduler/scheduler_config.json", {"prediction_type": "v_prediction"}),
        ("feature_extractor/preprocessor_config.json", {"image_mean": [0.1, 0.5, 0.6]}),
    ):
        kept = (moved / file).read_text()
        (moved / file).write_text(json.dumps({**json.loads(kept), **change}))
        assert generator(moved)["identity"] != before["identity"], file
        (moved / file).write_text(kept)


def test_other_weights_in_the_folder_are_another_teacher(folder, tmp_path):
    moved = tmp_path / "pipeline"
    shutil.copytree(folder, moved)
    before = run(experiment_of(moved), storage=str(tmp_path / "runs"), name="a", local=True)
    weights = moved / "unet" / "diffusion_pytorch_model.safetensors"
    torch.manual_seed(1)
    unet = UNet2DConditionModel.from_pretrained(moved / "unet")
    with torch.no_grad():
        unet.conv_out.weight.add_(1.0)
    weights.unlink()
    unet.save_pretrained(moved / "unet")
    after = run(experiment_of(moved), storage=str(tmp_path / "runs"), name="b", local=True)
    fingerprints = [result.record["teacher"]["generator"]["identity"] for result in (before, after)]
    assert fingerprints[0] != fingerprints[1]
