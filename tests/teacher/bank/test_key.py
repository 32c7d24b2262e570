"""Whoever would make the same rows finds them, and nobody else does."""

from importlib import metadata
from typing import Any

import pytest

from tgt_ray.core.signals.of_labeler import EMBEDDING, LOGITS
from tgt_ray.teacher.bank import key as subject
from tgt_ray.teacher.bank.key import bank_key, machine
from tgt_ray.teacher.explorers import Augment, Compose, Random, RandomMatched
from tgt_ray.teacher.generators import MaskedLMGenerator
from tgt_ray.teacher.generators.autoencoders import MLPAutoencoderGenerator
from tgt_ray.teacher.synthesizer import Recipe

BASE: dict[str, Any] = {
    "recipe": Recipe(256),
    "explorer": Random(),
    "generator": MLPAutoencoderGenerator(),
    "made_from": {"train": "t", "labeler": "l", "generator": "g"},
    "seed": 0,
    "made_on": {"threads": 1, "device": "cpu", "kind": "AVX2", "torch": "2.15.0"},
}
#: What makes other rows.
CHANGES: dict[str, dict[str, Any]] = {
    "rows of a request": {"recipe": Recipe(128)},
    "signals": {"recipe": Recipe(256, (LOGITS, EMBEDDING))},
    "precision": {"recipe": Recipe(256, precision="bfloat16")},
    "8 bits": {"recipe": Recipe(256, pixels=True)},
    "explorer": {"explorer": RandomMatched()},
    "its settings": {"explorer": Random(sigma=0.4)},
    "how anchors are drawn": {"explorer": Random(anchors="balanced")},
    "generator": {"generator": MaskedLMGenerator(path="someone/model")},
    "its settings for making rows": {"generator": MaskedLMGenerator(path="someone/model", mask_rate=0.4)},
    "anchors": {"made_from": {**BASE["made_from"], "train": "u"}},
    "labeler": {"made_from": {**BASE["made_from"], "labeler": "m"}},
    "generator's weights": {"made_from": {**BASE["made_from"], "generator": "h"}},
    "seed": {"seed": 1},
    "threads": {"made_on": {**BASE["made_on"], "threads": 2}},
    "torch": {"made_on": {**BASE["made_on"], "torch": "2.16.0"}},
}


def test_each_thing_that_rows_follow_from_gives_another_bank():
    keys = [bank_key(**BASE)[0], *(bank_key(**{**BASE, **changes})[0] for changes in CHANGES.values())]
    assert len(set(keys)) == len(keys)
    assert bank_key(**BASE)[0] == keys[0]


def test_a_new_revision_of_explorer_or_code_begins_another_bank(monkeypatch):
    before = bank_key(**BASE)[0]
    with monkeypatch.context() as patch:
        patch.setattr(Random, "revision", 99)
        assert bank_key(**BASE)[0] != before
    monkeypatch.setattr(subject, "ROWS_VERSION", 99)
    assert bank_key(**BASE)[0] != before


def test_where_no_generator_makes_the_rows_it_is_no_part_of_the_name():
    one = bank_key(**{**BASE, "explorer": Augment()})[0]
    other = MLPAutoencoderGenerator(latent_dim=5)
    assert bank_key(**{**BASE, "explorer": Augment(), "generator": other})[0] == one


def test_how_a_generator_was_trained_is_said_by_its_weights_alone():
    longer = MLPAutoencoderGenerator.model_validate({"pretrain": {"steps": 7}})
    assert bank_key(**{**BASE, "generator": longer})[0] == bank_key(**BASE)[0]


@pytest.mark.parametrize("explorer", [Augment, Compose])
def test_rows_that_timm_and_pillow_make_are_told_by_their_versions(explorer):
    assert not {"timm", "pillow"} & set(machine(1, "cpu", explorer().libraries))
    here = machine(1, "cpu", explorer(randaugment="rand-m5").libraries)
    assert (here["timm"], here["pillow"]) == (metadata.version("timm"), metadata.version("pillow"))
    keys = {bank_key(**{**BASE, "made_on": {**here, **other}})[0] for other in ({}, {"timm": "9"}, {"pillow": "9"})}
    assert len(keys) == 3


@pytest.mark.parametrize("name", ["threads", "device", "kind", "torch"])
def test_a_machine_is_told_by_what_last_digits_depend_on(name):
    assert machine(1, "cpu")[name]
