"""Real rows with what the teacher says of them."""

import numpy as np
import pytest
import torch

from tests.helpers.experiments import tiny
from tests.helpers.text_files import COUNTS, rows_of, task, write
from tgt_ray.core.batch import InputSpec
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.signals.of_generator import LATENT
from tgt_ray.core.signals.of_labeler import EMBEDDING, LOGITS, TOP
from tgt_ray.core.storage import Storage
from tgt_ray.objectives import Distillation
from tgt_ray.tasks import with_calibration
from tgt_ray.teacher.generators import MLPAutoencoderGenerator
from tgt_ray.teacher.outputs import teacher_outputs
from tgt_ray.teacher.store import load_teacher, prepare_teacher
from tgt_ray.teacher.transfer_set import prepare
from tgt_ray.training.local import prepare_local


def test_anchors_without_labels_have_those_that_the_labeler_gives_them(tmp_path):
    splits = {split: rows_of(split, count) for split, count in COUNTS.items()}
    few = task(write(tmp_path / "data", "parquet", splits), labelled={"rows": 9})
    data, storage = with_calibration(few, few.load(), 1), Storage(tmp_path / "storage")
    teacher = {"labeler": {"identity": "a"}, "generator": {"identity": "b"}}
    passed = []

    def teacher_pass(asked):
        passed.extend(len(table) for table, _ in asked)
        said = []
        for table, _ in asked:
            ids = table["id"].to_numpy()
            latent, top = ids[:, None].astype(np.float32), (ids + 1) % 3
            logits = np.eye(3, dtype=np.float32)[top]
            said.append({"logits": logits, "latent": latent, "top_class": top, "top_share": np.ones(len(ids))})
        return said

    def ready(teacher_pass):
        # An objective that looks at calibration rows too, and a generator with latents that can be kept.
        objectives, generator = [Distillation(conformal={})], MLPAutoencoderGenerator()
        return prepare(data, teacher, generator, objectives, teacher_pass, storage)

    prepared = ready(teacher_pass)
    assert passed == [9, 2, 15]
    ids = np.concatenate([data.tables[split]["id"].to_numpy() for split in ("train", "unlabelled")])
    np.testing.assert_array_equal(prepared.anchors.ids, ids)
    np.testing.assert_array_equal(prepared.anchors.latents[:, 0], ids)
    np.testing.assert_array_equal(prepared.anchors.labels[:9], data.labels("train"))
    np.testing.assert_array_equal(prepared.anchors.labels[9:], (ids[9:] + 1) % 3)
    assert prepared.student.class_counts.tolist() == [3, 3, 3]
    assert prepared.student.tables["unlabelled"].equals(data.tables["unlabelled"])
    assert prepared.student.columns["logits"].shape == (9, 3)
    again = ready(lambda asked: pytest.fail("labelled again"))
    np.testing.assert_array_equal(again.anchors.labels, prepared.anchors.labels)
    del data.tables["unlabelled"]
    alone = ready(lambda asked: pytest.fail("labelled again"))
    assert len(alone.anchors.ids) == 9 and "unlabelled" not in alone.student.tables


def test_the_teacher_pass_equals_direct_computation(prepared, digits, storage):
    ready = prepared.prepared
    teacher = load_teacher(prepared.experiment.teacher, ready.teacher, InputSpec((1, 8, 8)), 10, storage)
    inputs = prepared.experiment.task.inputs(digits.tables["train"], (1, 8, 8))
    with torch.no_grad():
        logits = torch.cat([teacher.labeler(row[None]).logits for row in inputs])
        latents = torch.cat([teacher.generator.encode(row[None]) for row in inputs])
    np.testing.assert_allclose(ready.student.columns["logits"], logits, atol=1e-4)
    np.testing.assert_allclose(ready.anchors.latents, latents, atol=1e-4)
    np.testing.assert_array_equal(ready.anchors.ids, digits.tables["train"]["id"].to_numpy())
    np.testing.assert_array_equal(ready.anchors.labels, digits.labels("train"))


def test_outputs_do_not_depend_on_the_batch_size(prepared, digits, storage):
    teacher = load_teacher(prepared.experiment.teacher, prepared.prepared.teacher, InputSpec((1, 8, 8)), 10, storage)
    inputs = prepared.experiment.task.inputs(digits.tables["validation"], (1, 8, 8))
    labels, signals = digits.labels("validation"), (LOGITS, EMBEDDING, TOP, LATENT)
    small, large = (teacher_outputs(teacher, inputs, labels, (1, 8, 8), signals, most) for most in (7, 512))
    assert small.keys() == {"logits", "embedding", "top_class", "top_share", "latent"}
    for name in small:
        np.testing.assert_allclose(small[name], large[name], atol=1e-4)


def test_the_teacher_cache_is_reused(digits, own):
    config, calls = tiny(), []
    held = with_calibration(config.task, digits, 9)
    _, record = prepare_teacher(config.teacher, config.task, digits, own)

    def teacher_pass(asked):
        calls.append([(len(table), [signal.name for signal in signals]) for table, signals in asked])
        counted = [np.arange(len(table), dtype=np.float32)[:, None] for table, _ in asked]
        return [{"logits": rows.repeat(10, 1), "latent": rows.repeat(2, 1)} for rows in counted]

    def prepared(record, *objectives):
        return prepare(held, record, config.teacher.generator, objectives, teacher_pass, own)

    weighted = Distillation(conformal={})
    first, second = (prepared(record, weighted) for _ in range(2))
    train, calibration = (held.tables[split].num_rows for split in ("train", "calibration"))
    assert calls == [[(train, ["logits", "latent"]), (calibration, ["logits"])]]
    assert first.fingerprints == second.fingerprints
    np.testing.assert_array_equal(first.anchors.latents, second.anchors.latents)
    np.testing.assert_array_equal(second.anchors.latents[:, 0], np.arange(train))
    np.testing.assert_array_equal(second.student.columns["logits"][:, 3], np.arange(train))
    other = prepared({**record, "labeler": {"identity": "another"}}, Distillation())
    assert calls[1:] == [[(train, ["logits"])]], "the generator's latents are there, and calibration rows aren't needed"
    assert other.fingerprints["teacher_cache"] != first.fingerprints["teacher_cache"]


def test_rows_that_are_not_held_out_are_asked_for(digits, own):
    config = tiny()
    record = {"labeler": {"identity": "a"}, "generator": {"identity": "b"}}
    with pytest.raises(ConfigError, match=r"table 'calibration', and the data has train, .*tgt_ray.tasks.with_calibra"):
        prepare(digits, record, config.teacher.generator, [Distillation(conformal={})], lambda asked: [], own)


def test_preparing_twice_gives_the_same(digits, own):
    first, second = (prepare_local(tiny(), digits, own) for _ in range(2))
    assert first.fingerprints == second.fingerprints
    np.testing.assert_array_equal(first.anchors.latents, second.anchors.latents)
    assert first.student.tables["train"].equals(second.student.tables["train"])
    np.testing.assert_array_equal(first.student.columns["logits"], second.student.columns["logits"])
    assert {len(values) for values in first.student.columns.values()} == {first.student.tables["train"].num_rows}
