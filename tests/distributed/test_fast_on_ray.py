"""A fast teacher on Ray: the teacher's task finds its forms, and the teacher pass and the pool run in them."""

import json
import shutil

import numpy as np
import pytest

from tests.helpers.experiments import short
from tgt_ray.core.storage import Storage
from tgt_ray.entrypoints import api
from tgt_ray.teacher.bank.bank import Bank
from tgt_ray.teacher.forms.choice import Compared, Tried

pytestmark = pytest.mark.ray


@pytest.mark.slow
def test_a_run_on_ray_makes_the_rows_of_a_local_one(ray_cluster, prepared, storage, tmp_path, monkeypatch):
    monkeypatch.setattr(
        Compared,
        "tried",
        lambda self: [Tried("bfloat16", speed=9, agreement=100, kl=0, turned=0, start_s=0, work_s=9, worth=9)],
    )
    config = short(prepared.experiment, teacher__run_as="fast", explorer__type="random", fit_check__on_low="skip")
    runs, banks = {}, {}
    for name in ("local", "ray"):
        own = tmp_path / name
        shutil.copytree(storage.path("teachers"), own / "teachers")
        if name == "ray":  # its task finds the choice
            shutil.copytree(tmp_path / "local" / "forms", own / "forms")
        runs[name] = api.run(config, storage=str(own), name="run", local=name == "local")
        (folder,) = (own / "bank").iterdir()
        about = json.loads((folder / "bank.json").read_text())
        assert "bfloat16" in json.dumps(about["made_from"]["forms"])
        banks[name] = Bank(Storage(own), folder.name)
        banks[name].look()
    record = runs["ray"].record
    assert {role: each["form"] for role, each in record["teacher"]["forms"].items()} == {
        "labeler": "bfloat16",
        "generator": "bfloat16",
    }
    assert banks["local"].key == banks["ray"].key
    mine, theirs = (banks[name].read(0) for name in ("local", "ray"))
    assert np.array_equal(mine.inputs, theirs.inputs)
    assert np.array_equal(mine.columns["logits"], theirs.columns["logits"])
    ours, locals_ = (runs[name].metrics["train_loss"].to_list() for name in ("ray", "local"))
    assert ours == pytest.approx(locals_, rel=1e-3)
