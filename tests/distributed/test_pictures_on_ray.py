"""Image files decoded by tasks of Ray Data, and a run on them."""

import numpy as np
import pytest
from PIL import Image

from tests.helpers.experiments import OWN_ROWS
from tgt_ray.core.config import validate
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.loading import with_overrides
from tgt_ray.core.storage import Storage
from tgt_ray.data.images import encoded
from tgt_ray.distributed.teacher_tasks import run_on_ray
from tgt_ray.entrypoints import api
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.tasks import ImageClassification

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture
def folder(tmp_path):
    """Three classes: the colours."""
    for split, count in {"train": 20, "test": 6, "validation": 6}.items():
        for colour in range(3):
            place = tmp_path / "pictures" / split / f"colour{colour}"
            place.mkdir(parents=True)
            for number in range(count):
                # Noise in all channels: a constant one has gradients of rounding errors, which AdamW makes steps of.
                rng = np.random.default_rng([colour, number])
                pixels = rng.integers(0, 100, (12, 12, 3), np.uint8)
                pixels[..., colour] += 150
                Image.fromarray(pixels).save(place / f"{number:02d}.png")
    return tmp_path / "pictures"


def test_parts_decoded_by_ray_are_those_decoded_here(ray_cluster, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(encoded, "IMAGES_PER_PART", 7)
    task = ImageClassification(data={"type": "folder", "path": folder})
    here = task.load(Storage(tmp_path / "here"))
    there = task.load(Storage(tmp_path / "there"), run_on_ray)
    assert here.fingerprints == there.fingerprints
    for split, table in here.tables.items():
        assert table.to_arrow().equals(there.tables[split].to_arrow()), split
    assert len(here.tables["train"].files) == 9


def test_an_unreadable_image_is_one_line_from_ray_as_well(ray_cluster, folder, tmp_path):
    (folder / "train" / "colour1" / "03.png").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match=r"colour1/03\.png: not a readable image"):
        ImageClassification(data={"type": "folder", "path": folder}).load(Storage(tmp_path / "s"), run_on_ray)


def test_a_run_on_files_gives_the_same_locally_and_on_ray(ray_cluster, folder, tmp_path):
    values = {
        "task": {"type": "image_classification", "data": {"type": "folder", "path": str(folder)}},
        "teacher.labeler.pretrain.steps": 20,
        "teacher.generator": {"type": "conv_autoencoder", "widths": [8, 8], "latent_dim": 4, "pretrain": {"steps": 20}},
        "explorer.type": "random",
        "train.steps": 20,
        "train.eval_every": 10,
        "train.batch_size": 8,
        "train.second_phase": {"type": "crt", "share": 0.2},
        "pool.rows_per_request": 16,
        **OWN_ROWS,
    }
    config = validate(Experiment, with_overrides(Experiment().model_dump(mode="json"), list(values.items())))
    local = api.run(config, storage=str(tmp_path / "s"), name="local", local=True)
    on_ray = api.run(config, storage=str(tmp_path / "s"), name="ray")
    np.testing.assert_allclose(local.metrics["train_loss"], on_ray.metrics["train_loss"], rtol=0.01)
    assert local.record["fingerprints"] == on_ray.record["fingerprints"]
