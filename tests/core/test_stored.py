"""Checksums in files, and what is found by them."""

import copy
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
import torch
from safetensors import safe_open

from tgt_ray.core import stored
from tgt_ray.core.errors import ConfigError

TABLE = pa.table({"a": np.arange(300), "b": ["x"] * 300})
WEIGHTS = {"w": np.arange(64, dtype=np.float32), "v": np.zeros(3)}


def state() -> bytes:
    out = io.BytesIO()
    torch.save({"w": torch.arange(64), "step": 3}, out)
    return out.getvalue()


def parquet() -> bytes:
    out = io.BytesIO()
    pq.write_table(TABLE, out)
    return out.getvalue()


def arrow() -> bytes:
    out = pa.BufferOutputStream()
    with pa.ipc.new_file(out, TABLE.schema) as writer:
        writer.write_batch(TABLE.to_batches()[0])
    return out.getvalue().to_pybytes()


CONTENTS = {
    "record.json": (json.dumps({"a": 1, "b": {"c": [1.5, None]}}, indent=2) + "\n").encode(),
    "empty.json": b"{}\n",
    "experiment.yaml": b"train: {steps: 5}\n",
    "w.safetensors": safetensors.numpy.save(WEIGHTS, {"own": "1"}),
    "plain.safetensors": safetensors.numpy.save(WEIGHTS),
    "state.pt": state(),
    "t.parquet": parquet(),
    "t.arrow": arrow(),
}


def sealed(name: str) -> bytes:
    return b"".join(map(bytes, stored.sealed(name, CONTENTS[name])))


@pytest.mark.parametrize("name", CONTENTS)
def test_what_is_whole_is_read_as_it_was_written_with_and_without_a_checksum(name):
    assert stored.damage(name, sealed(name)) is None and stored.damage(name, CONTENTS[name]) is None
    again = stored.unsealed(name, sealed(name), "x")
    assert b"".join(map(bytes, stored.sealed(name, again))) == sealed(name), "a copy is like its original"
    if name.endswith((".yaml", "record.json")):
        assert again == CONTENTS[name]


def test_other_programs_read_the_files_as_before(tmp_path):
    assert json.loads(sealed("record.json")).items() > {"a": 1, "b": {"c": [1.5, None]}}.items()
    (tmp_path / "w.safetensors").write_bytes(sealed("w.safetensors"))
    with safe_open(tmp_path / "w.safetensors", "np") as opened:
        assert opened.metadata()["own"] == "1" and np.array_equal(opened.get_tensor("w"), WEIGHTS["w"])
    (tmp_path / "state.pt").write_bytes(sealed("state.pt"))
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 3
    assert pq.read_table(pa.BufferReader(sealed("t.parquet"))) == TABLE
    (tmp_path / "t.arrow").write_bytes(sealed("t.arrow"))
    assert pa.ipc.open_file(pa.memory_map(str(tmp_path / "t.arrow"))).read_all() == TABLE


@pytest.mark.parametrize("name", CONTENTS)
def test_a_file_that_is_empty_or_cut_off_is_found(name):
    whole = sealed(name)
    assert stored.damage(name, b"") == "it is empty"
    for kept in (5, len(whole) // 3, len(whole) // 2, len(whole) - 70):
        assert kept <= 0 or stored.damage(name, whole[:kept]), kept


@pytest.mark.parametrize("name", CONTENTS)
def test_a_flipped_bit_is_found_anywhere_but_in_the_checksum_itself(name):
    whole = sealed(name)
    mark = whole.index(b"crc32")
    for place in range(0, len(whole), max(1, len(whole) // 300)):
        content = bytearray(whole)
        content[place] ^= 0x40
        found = stored.damage(name, bytes(content))
        assert found or mark - 50 < place < mark + 28, place


@pytest.mark.parametrize("name", ["record.json", "w.safetensors", "state.pt", "t.parquet", "t.arrow"])
def test_a_file_of_an_older_version_that_is_cut_off_is_found(name):
    content = CONTENTS[name]
    assert stored.damage(name, content[: len(content) // 2]) and stored.damage(name, content[:-5])


def test_a_state_of_an_older_version_with_another_bit_is_found():
    content = bytearray(CONTENTS["state.pt"])
    place = content.index(torch.arange(64).numpy().tobytes())
    content[place + 8] ^= 1
    assert stored.damage("state.pt", bytes(content)) == stored.OTHER


def test_formats_without_room_for_a_checksum_stay_as_they_are():
    for name in ("trials.csv", "gallery.png", "tokenizer.json", "result.json", "metrics.jsonl"):
        assert stored.sealed(name, b"{}") == [b"{}"] and stored.damage(name, b"") is None


def test_settings_that_were_changed_by_hand_are_refused_until_their_first_line_is_gone():
    changed = sealed("experiment.yaml").replace(b"5", b"6")
    assert "if you have changed it, take out its first line" in stored.damage("experiment.yaml", changed)
    assert stored.damage("experiment.yaml", changed.split(b"\n", 1)[1]) is None


def test_a_damaged_file_is_one_line_that_travels_between_processes():
    err = stored.Damaged.of("results/a/record.json", "it is empty")
    assert isinstance(err, ConfigError) and err.fact == "results/a/record.json: is damaged (it is empty)"
    again = copy.deepcopy(err)
    assert type(again) is stored.Damaged and again.fact == err.fact and "restore it" in str(again)


@pytest.mark.parametrize("name", CONTENTS)
def test_what_is_not_of_the_format_that_its_name_says_stays_as_it_is(name):
    assert b"".join(map(bytes, stored.sealed(name, b"\xff\xfe"))).endswith(b"\xff\xfe")


def test_every_byte_at_the_end_of_a_state_counts():
    """A byte of the checksum itself may be the one that has changed: what is left of it isn't taken for none."""
    whole = sealed("state.pt")
    for place in range(1, 64 + 22 + 1):
        content = bytearray(whole)
        content[-place] ^= 1
        assert stored.damage("state.pt", bytes(content)) is not None, place
    for length in range(1, 64 + 22 + 1):
        assert stored.damage("state.pt", whole[:-length]) is not None, length
