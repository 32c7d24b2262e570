"""Texts on Ray: rows of bytes through the pool, and the same training as in one process."""

import numpy as np
import pandas as pd
import pytest

from tests.helpers.experiments import OWN_ROWS, changed
from tests.helpers.text_runs import experiment
from tgt_ray.entrypoints import api

pytestmark = pytest.mark.ray


@pytest.mark.slow
def test_texts_give_the_same_training_locally_and_on_ray(ray_cluster, sentences, tmp_path):
    config = changed(experiment(sentences, task={"labelled": {"rows": 60}}), OWN_ROWS)
    local = api.run(config, storage=str(tmp_path), name="local", local=True)
    on_ray = api.run(config, storage=str(tmp_path), name="ray")
    for column in ("train_loss", "train_kl_real", "train_kl_synthetic"):
        np.testing.assert_allclose(local.metrics[column], on_ray.metrics[column], rtol=0.01, err_msg=column)
    shown = [pd.read_parquet(f"{done.folder}/gallery.parquet") for done in (local, on_ray)]
    assert shown[0].explored.tolist() == shown[1].explored.tolist()


@pytest.mark.slow
def test_rows_bring_their_anchors_where_the_objective_looks_at_them(ray_cluster, sentences, tmp_path):
    config = changed(experiment(sentences, objective={"type": "consistency", "threshold": 0.5}), OWN_ROWS)
    local = api.run(config, storage=str(tmp_path), name="local", local=True)
    on_ray = api.run(config, storage=str(tmp_path), name="ray")
    for column in ("train_loss", "train_sure"):
        np.testing.assert_allclose(local.metrics[column], on_ray.metrics[column], rtol=0.01, err_msg=column)
