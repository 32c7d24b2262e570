"""Rows that the same settings give are the same ones for as long as their numbers are: others would be found as them.

`pytest tests/teacher/bank/test_golden_rows.py --golden` makes what rows are held against. It refuses to do so where
rows have changed, and neither `ROWS_VERSION` nor the explorer's `revision` has.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers.diffusion import save_kl
from tests.helpers.golden import CASES, EXPLORERS, GENERATORS, folders, made
from tgt_ray.core.batch import Block
from tgt_ray.core.texts import to_texts
from tgt_ray.teacher.bank.key import ROWS_VERSION
from tgt_ray.teacher.explorers import Explorer, Random

FILE = Path(__file__).parents[2] / "fixtures" / "golden_rows.json"
#: What another processor may change: a pixel by 1 of 255 here and there, a logit by so much, the text of one row.
PIXELS, LOGITS, TEXTS = 0.05, 0.1, 1
REMEDY = (
    "rows in banks that exist would no longer be those that this code makes: raise ROWS_VERSION in"
    " tgt_ray/teacher/bank/key.py (or, where one explorer alone has changed, its `revision`), then run"
    " `pytest tests/teacher/bank/test_golden_rows.py --golden` and commit tests/fixtures/golden_rows.json"
)


@pytest.fixture(scope="module")
def at(text_models, t5, tmp_path_factory):
    place = tmp_path_factory.mktemp("golden")
    return folders(text_models, t5, save_kl(place)[0], place)


def plain(block: Block, explorer: Explorer) -> dict[str, Any]:
    """Return a request as it is kept: images as 8-bit numbers, texts, and rounded logits."""
    inputs = block.inputs
    return {
        "rows_version": ROWS_VERSION,
        "revision": explorer.revision,
        "torch": torch.__version__.partition("+")[0],
        "anchor": block.anchor.tolist(),
        "inputs": to_texts(inputs)
        if inputs.dtype == np.uint8
        else [bytes(row).hex() for row in np.rint(inputs * 255).astype(np.uint8).reshape(len(inputs), -1)],
        "logits": np.round(np.asarray(block.columns["logits"], np.float64), 3).tolist(),
    }


def difference(there: dict[str, Any], now: dict[str, Any], texts: bool) -> str:
    """Say how rows differ; empty where they are the same, as far as processors agree."""
    if there["anchor"] != now["anchor"]:
        return f"anchors are {now['anchor']}, not {there['anchor']}"
    same = np.array([a == b for a, b in zip(there["inputs"], now["inputs"], strict=True)])
    if texts:
        if (~same).sum() > TEXTS:
            row = int(same.argmin())
            return f"{(~same).sum()} of {len(same)} texts: {now['inputs'][row]!r}, not {there['inputs'][row]!r}"
    else:
        pixels = [np.array([list(bytes.fromhex(row)) for row in each["inputs"]], int) for each in (there, now)]
        if pixels[0].shape != pixels[1].shape:
            return f"images have {pixels[1].shape[1]} pixels, not {pixels[0].shape[1]}"
        apart = np.abs(pixels[1] - pixels[0])
        if apart.max() > 1 or (apart > 0).mean() > PIXELS:
            return f"{(apart > 0).mean():.1%} of pixels, by up to {apart.max()} of 255"
        same[:] = True
    logits = np.abs(np.array(now["logits"]) - np.array(there["logits"]))[same].max()
    return f"logits, by up to {logits:.3g}" if logits > LOGITS else ""


def judged(name: str, there: dict[str, Any] | None, now: dict[str, Any], texts: bool) -> str:
    """Say what is wrong with a request of today; empty where nothing is."""
    if there is None:
        return f"{name}: has no golden rows yet; run `pytest {Path(__file__).name} --golden`, and commit {FILE.name}"
    before, after = ((each["rows_version"], each["revision"]) for each in (there, now))
    if before != after:
        return (
            f"{name}: its golden rows are of ROWS_VERSION {before[0]} and revision {before[1]}, and these are"
            f" {after[0]} and {after[1]} now; make them anew with --golden, and commit {FILE.name}"
        )
    how = difference(there, now, texts)
    return f"{name}: makes other rows than before under the same numbers ({how}); {REMEDY}" if how else ""


def stored() -> dict[str, Any]:
    there: dict[str, Any] = json.loads(FILE.read_text()) if FILE.exists() else {}
    return there


@pytest.mark.parametrize("name", CASES)
def test_rows_change_with_their_numbers_alone(name, at, text_spec, request):
    case, there = CASES[name], stored().get(name)
    now = plain(*made(case, at, text_spec))
    texts = GENERATORS[case.generator["type"]].modality == "text"
    wrong = judged(name, there, now, texts)
    if wrong and there is not None and there["torch"] != now["torch"] and REMEDY in wrong:
        pytest.skip(f"torch {now['torch']} makes other rows than {there['torch']}; banks are named by it as well")
    if request.config.getoption("--golden") and REMEDY not in wrong:
        if wrong:
            kept = {each: rows for each, rows in {**stored(), name: now}.items() if each in CASES}
            lines = [f"{json.dumps(each)}: {json.dumps(kept[each])}" for each in sorted(kept)]
            FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
        return
    assert not wrong, wrong


def test_another_computation_under_the_same_numbers_is_noticed(at, text_spec, monkeypatch):
    """As if someone had changed what an explorer does by a hundredth."""
    before = Random.explore
    monkeypatch.setattr(Random, "explore", lambda self, latents, near: 1.01 * before(self, latents, near))
    now = plain(*made(CASES["random"], at, text_spec))
    assert REMEDY in judged("random", stored()["random"], now, texts=False)


def test_each_explorer_and_each_generator_has_a_golden_request():
    """A new one needs a case in tests/helpers/golden.py."""
    explorers = {name for name, cls in EXPLORERS.items() if cls.synthesizes and not cls.ready}
    assert {case.explorer["type"] for case in CASES.values()} == explorers
    decoded = {case.generator["type"] for case in CASES.values() if EXPLORERS[case.explorer["type"]].decodes}
    assert decoded == set(GENERATORS)
    assert set(stored()) == set(CASES)


IMAGES = {
    "rows_version": 1, "revision": 1, "torch": "2.0", "anchor": [3, 4], "inputs": ["00" * 64, "7f" * 64],
    "logits": [[1.0, 2.0], [3.0, 4.0]],
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ""),
        ({"inputs": ["01" + "00" * 63, "7f" * 64], "logits": [[1.02, 2.0], [3.0, 4.0]]}, ""),
        ({"inputs": ["02" + "00" * 63, "7f" * 64]}, "by up to 2 of 255"),
        ({"inputs": ["01" * 16 + "00" * 48, "7f" * 64]}, "12.5% of pixels, by up to 1"),
        ({"anchor": [3, 5]}, "anchors are"),
        ({"logits": [[1.5, 2.0], [3.0, 4.0]]}, "logits, by up to 0.5"),
        ({"rows_version": 2, "anchor": [3, 5]}, "make them anew with --golden"),
        ({"revision": 2}, "revision 1, and these are 1 and 2 now"),
    ],
)
def test_what_counts_as_another_row(changes, said):
    wrong = judged("a case", IMAGES, {**IMAGES, **changes}, texts=False)
    assert said in wrong and bool(wrong) == bool(said)
    assert (REMEDY in wrong) == (bool(said) and not {"rows_version", "revision"} & set(changes))


def test_other_texts_are_noticed_and_one_that_tips_over_is_not():
    texts = {**IMAGES, "inputs": ["a", "b"]}
    assert judged("a case", texts, {**texts, "inputs": ["a", "c"], "logits": [[1.0, 2.0], [9.0, 9.0]]}, True) == ""
    assert "2 of 2 texts: 'c', not 'a'" in judged("a case", texts, {**texts, "inputs": ["c", "d"]}, True)
