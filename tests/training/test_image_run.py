"""A run on pictures in files."""

from tests.helpers.pictures import write_pictures
from tgt_ray.core.config import validate
from tgt_ray.core.loading import with_overrides
from tgt_ray.entrypoints.api import run
from tgt_ray.experiment.experiment import Experiment


def test_a_run_on_pictures(tmp_path):
    """End to end in one process: the built-in teacher is pretrained on them, rows are generated, the student learns."""
    folder = write_pictures(tmp_path / "pictures")
    values = {
        "task": {"data": {"type": "folder", "path": str(folder)}, "type": "image_classification"},
        "teacher.labeler.pretrain.steps": 20,
        "teacher.generator": {"type": "conv_autoencoder", "widths": [8, 8], "latent_dim": 4},
        "teacher.generator.pretrain.steps": 20,
        "train.steps": 20,
        "train.eval_every": 10,
        "train.batch_size": 8,
        "pool.rows_per_request": 16,
    }
    config = validate(Experiment, with_overrides(Experiment().model_dump(mode="json"), list(values.items())))
    result = run(config, storage=str(tmp_path / "storage"), name="pictures", local=True)
    assert result.metrics.iloc[-1]["test_accuracy"] > 80, "colours are easy"
