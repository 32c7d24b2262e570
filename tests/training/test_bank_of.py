"""Which bank a run has: other anchors are other rows, to the last bit."""

from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy

from tests.helpers.experiments import changed, short
from tgt_ray.core.storage import Storage
from tgt_ray.teacher.cache import TeacherCache
from tgt_ray.training.banked import bank_of
from tgt_ray.training.local import prepare_local, train_local


@pytest.fixture
def root(storage, tmp_path):
    """A storage of its own, with the teacher of all tests."""
    (tmp_path / "teachers").symlink_to(storage.path("teachers"))
    return Storage(tmp_path)


def nudged(array: np.ndarray) -> np.ndarray:
    """The same numbers but for one last bit."""
    out = array.copy()
    out[-1, -1] = np.nextafter(out[-1, -1], np.float32(np.inf))
    return out


def test_anchors_that_differ_in_a_last_bit_have_another_bank(prepared, digits, root):
    experiment = changed(prepared.experiment, explorer={"type": "random"})
    whole = prepare_local(experiment, digits, root, unchanged=True)

    def keys(anchors) -> dict[str, str]:
        fingerprints = {**whole.fingerprints, "anchors": anchors.digests()}
        other, made_on = replace(whole, anchors=anchors, fingerprints=fingerprints), {}
        explorers = ("random", "augment", "identity")
        return {
            name: bank_of(changed(experiment, explorer={"type": name}), other, root, made_on).key for name in explorers
        }

    anchors = whole.anchors
    before = keys(anchors)
    assert before == keys(replace(anchors, latents=anchors.latents.copy()))
    named = {
        "latents": {"latents": nudged(anchors.latents)},
        "labels": {"labels": np.roll(anchors.labels, 1)},
        "answers": {"columns": {**anchors.columns, "logits": nudged(np.asarray(anchors.columns["logits"]))}},
    }
    differ = {
        what: [name for name, key in keys(replace(anchors, **values)).items() if key != before[name]]
        for what, values in named.items()
    }
    assert differ == {"latents": ["random"], "labels": ["random", "augment", "identity"], "answers": ["identity"]}


def test_rows_of_latents_that_were_made_anew_otherwise_are_not_taken(prepared, digits, root):
    """As where the teacher cache was lost, and another machine has filled it again."""
    experiment = short(prepared.experiment, explorer__type="random")
    made = train_local(experiment, prepare_local(experiment, digits, root), root).history[-1]
    assert made["rows_made"] > 0
    assert train_local(experiment, prepare_local(experiment, digits, root), root).history[-1]["rows_made"] == 0
    cache = TeacherCache(root, {}, {})
    for file in root.files("teacher_cache"):
        key = file.rpartition("/")[2].removesuffix(".safetensors")
        arrays = safetensors.numpy.load(root.read("teacher_cache", f"{key}.safetensors"))
        if "latent" in arrays:
            cache.write(key, {"latent": nudged(arrays["latent"])})
    other = train_local(experiment, prepare_local(experiment, digits, root), root).history[-1]
    assert other["rows_found"] == 0 and other["rows_made"] == made["rows_made"] and other["bank"] != made["bank"]
