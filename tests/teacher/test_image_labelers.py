"""Models from elsewhere: small ones of each kind, saved here and loaded through the code that hub names take."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import transformers
from diffusers import AutoencoderKL

from tgt_ray.core.batch import InputSpec, rows_at_once
from tgt_ray.core.config import validate
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.loading import with_overrides
from tgt_ray.core.storage import Storage
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.models.image.preprocess import Preprocess
from tgt_ray.models.students import TimmStudent
from tgt_ray.teacher.generators import AutoencoderKLGenerator
from tgt_ray.teacher.labelers.image import TimmLabeler, TransformersLabeler
from tgt_ray.teacher.store import load_teacher
from tgt_ray.training.local import prepare_local

NAME = "test_byobnet"  # timm's smallest, made for tests


def timm_file(folder, num_classes, name=NAME):
    torch.manual_seed(num_classes)
    model = timm.create_model(name, num_classes=num_classes).eval()
    file = folder / f"{name}-{num_classes}.safetensors"
    safetensors.torch.save_file(model.state_dict(), file)
    return file, model


def config(**values) -> Experiment:
    quick = {"teacher.generator.pretrain.steps": 5, "train.steps": 4, "train.eval_every": 2, "train.batch_size": 8}
    values = {key.replace("__", "."): value for key, value in values.items()}
    return validate(Experiment, with_overrides(Experiment().model_dump(mode="json"), list({**quick, **values}.items())))


def labeler(folder, digits, **values):
    experiment = config(teacher__labeler=values)
    storage = Storage(folder)
    prepared = prepare_local(experiment, digits, storage)
    return prepared, storage, experiment


# timm


def test_a_backbone_does_what_the_model_s_own_preprocessing_does(tmp_path):
    """timm's own transform on an image of the right size, against ours on pixels."""
    file, model = timm_file(tmp_path, 10)
    ours = TimmLabeler(name=NAME, weights=file).build(InputSpec((3, 160, 160)), 10).eval()
    assert TimmLabeler(name=NAME, weights=file).load_weights(ours)["head"] == "own"
    data = timm.data.resolve_model_data_config(model)
    images = torch.rand(2, 3, *data["input_size"][1:])
    mean, std = (torch.tensor(data[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    torch.testing.assert_close(ours(images).logits, model((images - mean) / std), atol=1e-4, rtol=1e-4)
    assert ours(torch.rand(2, 3, 32, 32)).logits.shape == (2, 10), "other sizes are resized"


def test_weights_with_the_task_s_classes_keep_their_head(tmp_path, digits):
    file, _ = timm_file(tmp_path, 10)
    prepared, storage, experiment = labeler(tmp_path / "s", digits, type="timm", name=NAME, weights=str(file))
    record = prepared.teacher["labeler"]
    assert record["head"] == "own" and record["weights"].endswith(file.name)
    assert set(record["quality"]) == {"validation", "test"}
    again = prepare_local(experiment, digits, storage).teacher["labeler"]
    assert again["reused"] and again["fingerprint"] == record["fingerprint"]


@pytest.mark.parametrize("head", ["own", "fit"])
def test_batches_go_by_the_size_that_images_are_brought_to(head, tmp_path, digits, monkeypatch):
    """What a model keeps of a row goes by its own pixels, not by the task's."""
    rows, size = [], 160

    def without_resizing(self, inputs):
        rows.append(len(inputs))
        return inputs.expand(-1, 3, -1, -1)

    monkeypatch.setattr(Preprocess, "forward", without_resizing)
    few = {name: table.slice(0, 200) for name, table in digits.tables.items()}
    file, _ = timm_file(tmp_path, 10)
    how = {"type": "timm", "name": NAME, "weights": str(file), "img_size": size, "head": head}
    labeler(tmp_path / "s", replace(digits, tables=few), **how)
    assert max(rows) == 2**22 // (3 * size**2) == 54


def test_rows_at_once_go_by_the_largest_of_the_models():
    large, small = (TimmLabeler(name=NAME, img_size=size).build(InputSpec((3, 32, 32)), 2) for size in (224, 16))
    assert rows_at_once((3, 32, 32)) == rows_at_once((3, 32, 32), small) == 512
    assert rows_at_once((3, 32, 32), small, large) == 27
    assert rows_at_once((3, 32, 32), large, most=5) == 5


def test_a_model_of_other_classes_gets_a_head_fitted(tmp_path, digits):
    file, _ = timm_file(tmp_path, 7)
    prepared, *_ = labeler(tmp_path / "s", digits, type="timm", name=NAME, weights=str(file))
    record = prepared.teacher["labeler"]
    assert record["head"] == "fit" and record["quality"]["probe"]["split"] == "train"
    # Random features of digits are worth something, and far more than chance.
    assert record["quality"]["test"]["accuracy"] > 30
    assert record["quality"]["probe"]["train_accuracy"] > record["quality"]["test"]["accuracy"]


def test_classes_of_a_larger_head_are_chosen(tmp_path):
    file, model = timm_file(tmp_path, 20)
    chosen = (3, 17, 0)
    how = TimmLabeler(name=NAME, weights=file, classes=chosen)
    ours = how.build(InputSpec((3, 160, 160)), 3).eval()
    assert how.load_weights(ours)["head"] == "own"
    plain = TimmLabeler(name=NAME, weights=file).build(InputSpec((3, 160, 160)), 20).eval()
    TimmLabeler(name=NAME, weights=file).load_weights(plain)
    images = torch.rand(2, 3, 160, 160)
    torch.testing.assert_close(ours(images).logits, plain(images).logits[:, list(chosen)])
    del model


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (
            {"classes": [1, 2]},
            r"teacher\.labeler\.classes: 2 numbers up to 2; the task has 10 classes, the model's head 7",
        ),
        (
            {"classes": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]},
            "10 numbers up to 9; the task has 10 classes, the model's head 7",
        ),
        ({"head": "own"}, r"teacher\.labeler\.head: own, but the model's head has 7 classes, the task 10"),
        ({"name": "test_resnet"}, r"weights of another architecture; first difference at 'conv1"),
    ],
)
def test_a_head_or_file_that_does_not_fit_is_refused(values, says, tmp_path, digits):
    file, _ = timm_file(tmp_path, 7)
    with pytest.raises(ConfigError, match=says):
        labeler(tmp_path / "s", digits, **{"type": "timm", "name": NAME, "weights": str(file), **values})


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


@pytest.mark.parametrize("name", ["deit_tiny_distilled_patch16_224", "levit_128s", "caformer_s18"])
def test_a_head_that_is_no_linear_layer_on_the_embedding_is_fitted_anew(tmp_path, name):
    file, model = timm_file(tmp_path, 10, name)
    how = TimmLabeler(name=name, weights=file)
    ours = how.build(InputSpec((3, 224, 224)), 10).eval()
    assert how.load_weights(ours)["head"] == "fit"
    loaded = ours.backbone.body.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in model.state_dict().items() if key in loaded)
    own = TimmLabeler(name=name, weights=file, head="own")
    with pytest.raises(ConfigError, match=r"teacher\.labeler\.head: own, but the model has no head that is one linear"):
        own.load_weights(own.build(InputSpec((3, 224, 224)), 10))


def test_weights_for_another_size_are_resampled_where_timm_can(tmp_path):
    name = "vit_tiny_patch16_224"
    file, model = timm_file(tmp_path, 10, name)
    how = TimmLabeler(name=name, weights=file, img_size=64)
    ours = how.build(InputSpec((3, 64, 64)), 10).eval()
    assert how.load_weights(ours)["head"] == "own"
    model.set_input_size(img_size=(64, 64))
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(images).logits, model(ours.backbone.preprocess(images)), atol=1e-5, rtol=1e-4)


def test_weights_for_one_size_alone_say_so(tmp_path):
    file, _ = timm_file(tmp_path, 10, "mixer_s32_224")
    how = TimmLabeler(name="mixer_s32_224", weights=file, img_size=64)
    says = r"teacher\.labeler\.img_size: weights of 'mixer_s32_224' are for images of 224x224 .*; leave it out"
    with pytest.raises(ConfigError, match=says):
        how.load_weights(how.build(InputSpec((3, 64, 64)), 10))


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "mixer_s32_224", "xcit_nano_12_p16_224"])
def test_weights_that_were_trained_at_the_size_stay_as_they_are(tmp_path, name):
    sized = {} if name.startswith("xcit") else {"img_size": 64}
    model = timm.create_model(name, num_classes=10, **sized)
    safetensors.torch.save_file(model.state_dict(), tmp_path / "w.safetensors")
    how = TimmLabeler(name=name, weights=tmp_path / "w.safetensors", img_size=64)
    ours = how.build(InputSpec((3, 64, 64)), 10)
    assert how.load_weights(ours)["head"] == "own"
    loaded = ours.backbone.body.state_dict()
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in loaded.items())


def test_windows_of_another_size_are_resampled(tmp_path):
    file, _ = timm_file(tmp_path, 10, "swin_tiny_patch4_window7_224")
    how = TimmLabeler(name="swin_tiny_patch4_window7_224", weights=file, img_size=64)
    ours = how.build(InputSpec((3, 64, 64)), 10)
    assert how.load_weights(ours)["head"] == "own"
    assert torch.isfinite(ours.eval()(torch.rand(1, 3, 64, 64)).logits).all()


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


# transformers


@pytest.fixture
def vit(tmp_path):
    """A tiny classifier with its image processor, as `save_pretrained` leaves them."""

    def save(num_labels):
        torch.manual_seed(0)
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        model = transformers.ViTForImageClassification(
            transformers.ViTConfig(**sizes, image_size=16, patch_size=4, num_labels=num_labels)
        ).eval()
        folder = tmp_path / f"vit-{num_labels}"
        model.save_pretrained(folder)
        transformers.ViTImageProcessor(
            size={"height": 16, "width": 16}, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.2, 0.3]
        ).save_pretrained(folder)
        return folder, model

    return save


def test_a_transformers_classifier_gives_its_own_logits(vit):
    folder, model = vit(5)
    how = TransformersLabeler(path=str(folder))
    ours = how.build(InputSpec((3, 16, 16)), 5).eval()
    assert how.load_weights(ours)["head"] == "own"
    images = torch.rand(2, 3, 16, 16)
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    pixels = processor(list(images), do_rescale=False, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        torch.testing.assert_close(ours(images).logits, model(pixel_values=pixels).logits, atol=1e-4, rtol=1e-4)


def test_a_transformers_classifier_of_other_classes_gets_a_head_fitted(vit, tmp_path, digits):
    folder, _ = vit(3)
    prepared, *_ = labeler(tmp_path / "s", digits, type="transformers", path=str(folder))
    assert prepared.teacher["labeler"]["head"] == "fit"


def test_a_transformers_classifier_takes_another_size_or_says_that_it_does_not(vit, tmp_path):
    folder, model = vit(5)
    how = TransformersLabeler(path=str(folder), img_size=32)
    ours = how.build(InputSpec((3, 32, 32)), 5).eval()
    how.load_weights(ours)
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        wanted = model(pixel_values=ours.backbone.preprocess(images), interpolate_pos_encoding=True).logits
        torch.testing.assert_close(ours(images).logits, wanted, atol=1e-5, rtol=1e-4)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    fixed = transformers.ViTMSNForImageClassification(transformers.ViTMSNConfig(**sizes, image_size=16, patch_size=5))
    fixed.save_pretrained(tmp_path / "msn")
    transformers.AutoImageProcessor.from_pretrained(folder).save_pretrained(tmp_path / "msn")
    with pytest.raises(ConfigError, match=r"teacher\.labeler\.img_size: 3, but .*msn doesn't take such images"):
        TransformersLabeler.model_construct(path=str(tmp_path / "msn"), img_size=3, revision=None).build(
            InputSpec((3, 8, 8)), 2
        )


def test_a_transformers_classifier_with_two_heads_is_refused(vit, tmp_path):
    folder, _ = vit(5)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.DeiTConfig(**sizes, image_size=16, patch_size=4, num_labels=5)
    transformers.DeiTForImageClassificationWithTeacher(config).save_pretrained(tmp_path / "deit")
    transformers.AutoImageProcessor.from_pretrained(folder).save_pretrained(tmp_path / "deit")
    how = TransformersLabeler(path=str(tmp_path / "deit"))
    with pytest.raises(ConfigError, match=r"has several heads \(cls_classifier, distillation_classifier\)"):
        how.build(InputSpec((3, 16, 16)), 5)


def test_the_same_classifier_in_another_folder_is_the_same_teacher(vit, tmp_path, digits):
    """And its cached outputs are found again; the record says where it is now."""
    folder, _ = vit(10)
    shutil.copytree(folder, tmp_path / "moved")
    before, after = (
        labeler(tmp_path / "s", digits, type="transformers", path=str(place))[0]
        for place in (folder, tmp_path / "moved")
    )
    assert after.fingerprints == before.fingerprints
    record = after.teacher["labeler"]
    assert record["reused"] and record["weights"] == record["config"]["path"] == str(tmp_path / "moved")


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("preprocessor_config.json", {"image_mean": [0.1, 0.5, 0.6]}),
        ("preprocessor_config.json", {"image_std": [0.1, 0.2, 0.3]}),
        ("preprocessor_config.json", {"resample": 3}),
        ("preprocessor_config.json", {"do_normalize": False}),
        ("config.json", {"num_attention_heads": 4}),
    ],
)
def test_what_a_folder_says_besides_its_weights_is_part_of_the_fingerprint(file, change, vit, tmp_path, digits):
    folder, _ = vit(10)
    before, storage, experiment = labeler(tmp_path / "s", digits, type="transformers", path=str(folder))
    said = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**said, **change}))
    with pytest.raises(ConfigError, match=r"teacher\.labeler: the settings in its folder here are not those"):
        load_teacher(experiment.teacher, before.teacher, digits.spec, digits.num_classes, storage)
    after = prepare_local(experiment, digits, storage)
    assert after.fingerprints["labeler"] != before.fingerprints["labeler"]
    assert after.teacher["labeler"]["state"] == before.teacher["labeler"]["state"], "the weights are the same"


def test_an_image_size_of_one_s_own_is_part_of_the_fingerprint(tmp_path, digits):
    file, _ = timm_file(tmp_path, 10)
    sizes = [
        labeler(tmp_path / "s", digits, type="timm", name=NAME, weights=str(file), img_size=size)[0]
        for size in (16, 24)
    ]
    assert sizes[0].fingerprints["labeler"] != sizes[1].fingerprints["labeler"]


def test_a_folder_without_a_model_is_refused(tmp_path, digits):
    with pytest.raises(ConfigError, match=r"teacher\.labeler: .*nothing: cannot be loaded"):
        labeler(tmp_path / "s", digits, type="transformers", path=str(tmp_path / "nothing"))


def test_relative_places_are_made_absolute(tmp_path, monkeypatch):
    # Workers start in folders of their own.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vit").mkdir()
    experiment = config(
        teacher__labeler={"type": "transformers", "path": "vit"},
        teacher__generator={"type": "autoencoder_kl", "path": "someone/on-the-hub"},
        student={"type": "timm", "name": NAME, "weights": "student.safetensors"},
    )
    assert experiment.teacher.labeler.path == str(tmp_path / "vit")
    assert experiment.teacher.generator.path == "someone/on-the-hub"
    assert experiment.student.weights == tmp_path / "student.safetensors"


# diffusers


@pytest.fixture
def kl_folder(tmp_path):
    torch.manual_seed(0)
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    model = AutoencoderKL(
        **blocks, block_out_channels=[8, 8], norm_num_groups=4, latent_channels=2, sample_size=8
    ).eval()
    model.save_pretrained(tmp_path / "pipeline" / "vae")
    return tmp_path / "pipeline", model


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
    from tgt_ray import run

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
