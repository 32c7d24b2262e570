"""An experiment as a whole."""

from tests.helpers.configs import again, refusal
from tests.helpers.places import ROOT
from tests.helpers.pretrained import NAME, config
from tgt_ray.core.config import as_stored, validate
from tgt_ray.core.loading import load_yaml
from tgt_ray.experiment.experiment import Experiment


def test_shipped_experiments_are_valid(tmp_path):
    config = validate(Experiment, load_yaml(ROOT / "benchmarks" / "fashion_mnist_lt.yaml"))
    assert again(config, tmp_path) == config


def test_parts_that_do_not_fit_together_are_refused():
    assert "window 1 is below actors 3" in refusal(Experiment, {"pool": {"actors": 3, "window": 1}})
    assert "batch_size 64 is not a multiple of workers 3" in refusal(Experiment, {"train": {"workers": 3}})


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


def test_settings_of_labelers_that_nothing_reads_are_refused():
    timm, text = {"type": "timm", "name": NAME}, {"type": "text_encoder", "path": "someone/encoder"}
    steps, iterations = {"pretrain": {"steps": 9}}, {"probe": {"iterations": 9}}
    for labeler, setting in (
        ({**timm, "pretrained": True, **steps}, "pretrain"),
        ({**timm, **iterations}, "probe"),
        ({**timm, "pretrained": True, "classes": [0, 1], **iterations}, "probe"),
        ({**text, "finetune": {}, **iterations}, "probe"),
        ({"type": "transformers", "path": "a", **steps}, "pretrain"),
        ({"type": "dual_encoder", "path": "a", **steps}, "pretrain"),
    ):
        said = refusal(Experiment, {"teacher": {"labeler": labeler}})
        assert f"{setting}: has no effect, since " in said, said


def test_settings_of_labelers_that_count_are_taken():
    timm = {"type": "timm", "name": NAME}
    for labeler in (
        {**timm, "pretrain": {"steps": 9}},
        {**timm, "pretrained": True, "probe": {"iterations": 9}},
        {**timm, "pretrained": True, "head": "own"},
        {"type": "conv", "pretrain": {"steps": 9}},
        # The file may come from such a training, which `weights: null` repeats.
        {"type": "conv", "weights": "w.safetensors", "pretrain": {"steps": 9}},
        {"type": "transformers", "path": "a", "probe": {"l2": 0.1}, "pretrain": {"steps": 500}},
    ):
        config(teacher__labeler=labeler)


def test_what_an_earlier_version_has_taken_and_stored_is_read():
    """Nobody can take a setting out of a student's file."""
    timm = {"type": "timm", "name": NAME, "pretrained": True, "pretrain": {"steps": 9}}
    with as_stored():
        assert validate(Experiment, {"teacher": {"labeler": timm}}).teacher.labeler.pretrain.steps == 9
    assert "has no effect" in refusal(Experiment, {"teacher": {"labeler": timm}})
