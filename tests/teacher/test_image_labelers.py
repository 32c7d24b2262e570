"""Labelers from timm and transformers: small ones, saved here and loaded through the code that hub names take."""

import json
import shutil
from dataclasses import replace

import pytest
import safetensors.torch
import timm
import torch
import transformers

from tests.helpers.pretrained import NAME, labeler, timm_file
from tgt_ray.core.batch import InputSpec
from tgt_ray.core.errors import ConfigError
from tgt_ray.models.image.preprocess import Preprocess
from tgt_ray.teacher.labelers.image import TimmLabeler, TransformersLabeler
from tgt_ray.teacher.store import load_teacher
from tgt_ray.training.local import prepare_local


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
    assert again["reused"] and again["identity"] == record["identity"]


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


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package with the models in its folder."""
    folder = tmp_path / "site" / "package_of_models"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(folder.parent)
    return folder


def test_a_classifier_in_a_package_is_as_one_in_a_folder(vit, package):
    folder, model = vit(5)
    folder.rename(package / "vit")
    how = TransformersLabeler(path="package:package_of_models/vit")
    ours = how.build(InputSpec((3, 16, 16)), 5).eval()
    assert how.load_weights(ours) == {"weights": "package:package_of_models/vit", "head": "own"}
    assert torch.equal(ours.head.weight, model.classifier.weight)


def test_classes_of_the_own_head_and_a_new_head_exclude_each_other():
    with pytest.raises(ValueError, match="classes: are of the model's own head, and head: fit trains a new one"):
        TimmLabeler(name=NAME, head="fit", classes=[1, 2])
    assert TimmLabeler(name=NAME, head="own", classes=[1, 2]).classes == (1, 2)


@pytest.mark.parametrize("prefix", ["module.", "model."])
def test_a_timm_file_of_a_wrapped_model_keeps_its_head(prefix, tmp_path):
    file, model = timm_file(tmp_path, 5)
    safetensors.torch.save_file({f"{prefix}{name}": value for name, value in model.state_dict().items()}, file)
    how = TimmLabeler(name=NAME, weights=file)
    ours = how.build(InputSpec((3, 16, 16)), 5)
    assert how.load_weights(ours)["head"] == "own"
    assert torch.equal(ours.head.weight, model.get_classifier().weight)


def test_a_head_that_is_not_finite_is_refused(tmp_path):
    file, model = timm_file(tmp_path, 5)
    torch.nn.init.constant_(model.get_classifier().bias, float("nan"))
    safetensors.torch.save_file(model.state_dict(), file)
    how = TimmLabeler(name=NAME, weights=file)
    with pytest.raises(ConfigError, match=r"teacher\.labeler\.weights: .*5 of the 5 values of '.*bias' are not finite"):
        how.load_weights(how.build(InputSpec((3, 16, 16)), 5))


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
    with pytest.raises(ConfigError, match=r"teacher\.labeler\.img_size: 3x3, but .*msn doesn't take such images"):
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
