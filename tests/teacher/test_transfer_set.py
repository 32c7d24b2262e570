"""Real rows with what the teacher says of them."""

import numpy as np
import pytest

from tests.helpers.text_files import COUNTS, rows_of, task, write
from tgt_ray.core.storage import Storage
from tgt_ray.objectives import Distillation
from tgt_ray.teacher.generators import MLPAutoencoderGenerator
from tgt_ray.teacher.transfer_set import prepare


def test_anchors_without_labels_have_those_that_the_labeler_gives_them(tmp_path):
    splits = {split: rows_of(split, count) for split, count in COUNTS.items()}
    few = task(write(tmp_path / "data", "parquet", splits), labelled={"rows": 9})
    data, storage = few.load(), Storage(tmp_path / "storage")
    teacher = {"labeler": {"fingerprint": "a"}, "generator": {"fingerprint": "b"}}
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
        # An objective that looks at validation rows too, and a generator with latents that can be kept.
        objectives, generator = [Distillation(conformal={})], MLPAutoencoderGenerator()
        return prepare(data, teacher, generator, objectives, teacher_pass, storage)

    prepared = ready(teacher_pass)
    assert passed == [9, 6, 15]
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
