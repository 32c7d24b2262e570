"""Files of weights that are not what they should be, and names that wrappers have changed."""

import io
import json
import logging
import pickle

import pytest
import safetensors.torch
import torch
from torch import nn

from tgt_ray.core.errors import ConfigError
from tgt_ray.models.weights import kind_of_file, load_strictly, read_safetensors


def torch_file(**how):
    buffer = io.BytesIO()
    torch.save({"weight": torch.ones(2)}, buffer, **how)
    return buffer.getvalue()


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("the pickle was opened",))


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


@pytest.mark.parametrize(
    "content, says",
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "pointer of Git LFS.*`git lfs pull`"),
        (torch_file(), "is a pickle.*save the weights as safetensors"),
        (torch_file()[:300], "is a pickle"),
        (torch_file(_use_new_zipfile_serialization=False), "is a pickle"),
        (pickle.dumps(Bomb()), "is a pickle"),
        (b"\xef\xbb\xbf\n<!DOCTYPE html><html></html>", "is a web page"),
        (b"<html>404</html>", "is a web page"),
        (b'{"error": "no access"}', r"is text \(JSON\)"),
        (b"", "is empty"),
        (b"GGUF\3\0\0\0", "is a GGUF file"),
        (safetensors.torch.save({"weight": torch.ones(9)})[:-4], "not a whole safetensors file"),
    ],
)
def test_a_file_that_is_no_safetensors_is_named_for_what_it_is(content, says):
    with pytest.raises(ConfigError, match=rf"^key: file: .*{says}") as err:
        read_safetensors(content, "key: file")
    assert "\n" not in str(err.value)


def test_safetensors_whose_header_s_length_looks_like_a_pickle_are_not_taken_for_one():
    content = (0x120380).to_bytes(8, "little") + json.dumps({"a": 1}).encode()
    assert content[:2] == b"\x80\x03" and kind_of_file(content) is None


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "student.", "_orig_mod.module."])
def test_prefixes_of_wrappers_are_left_off_and_said(prefix, caplog):
    state = small().state_dict()
    other = small()
    nn.init.zeros_(other[0].weight)
    with caplog.at_level(logging.INFO, "tgt_ray"):
        load_strictly(other, {f"{prefix}{name}": value for name, value in state.items()}, "key: file")
    assert torch.equal(other[0].weight, state["0.weight"])
    assert caplog.messages == [f"key: file: the names of all weights begin with '{prefix}', which is left off"]


def test_a_prefix_of_the_model_s_own_stays(caplog):
    own = nn.ModuleDict({"model": small()})
    with caplog.at_level(logging.INFO, "tgt_ray"):
        load_strictly(own, own.state_dict(), "key: file")
    assert not caplog.messages


def test_another_prefix_is_named():
    state = {f"net.{name}": value for name, value in small().state_dict().items()}
    with pytest.raises(
        ConfigError, match=r"first difference at '0\.weight': absent.*all weights there begin with 'net"
    ):
        load_strictly(small(), state, "key: file")


@pytest.mark.parametrize("name, value", [("1.weight", float("nan")), ("1.running_var", float("inf"))])
def test_the_first_weight_that_is_not_finite_is_named(name, value):
    state = small().state_dict()
    state[name] = state[name].clone()
    state[name][1] = value
    with pytest.raises(ConfigError, match=rf"^key: file: 1 of the 3 values of '{name}' are not finite"):
        load_strictly(small(), state, "key: file")


def test_infinities_of_a_model_s_own_mask_are_right():
    model = small()
    model.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    load_strictly(model, model.state_dict(), "key: file")


def test_quantised_numbers_are_not_taken_for_weights():
    state = small().state_dict()
    state["0.weight"] = state["0.weight"].to(torch.int8)
    with pytest.raises(ConfigError, match=r"'0\.weight' has numbers of the type int8, expected float32"):
        load_strictly(small(), state, "key: file")
    state["0.weight"] = state["0.weight"].half()
    load_strictly(small(), state, "key: file")
