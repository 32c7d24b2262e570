"""Folders that hold something near to a model: refused in words that name what is wrong."""

import json

import pytest
from transformers import AutoModel, BertConfig, BertModel

from tgt_ray.core.errors import ConfigError
from tgt_ray.models.hub import check_folder, model_from_hub, tokenizer_from_hub


@pytest.fixture
def folder(tmp_path):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=20, max_position_embeddings=16, **sizes)).save_pretrained(tmp_path)
    return tmp_path


def test_weights_of_another_shape_are_named(folder):
    assert model_from_hub(AutoModel, str(folder), None, "student")[1]["missing_keys"] in (set(), [])
    said = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(said | {"intermediate_size": 24}))
    with pytest.raises(
        ConfigError, match=r"its weights '.*intermediate.dense.bias' are \[16\], and its config.json asks for \[24\]"
    ):
        model_from_hub(AutoModel, str(folder), None, "student")


@pytest.mark.parametrize("content", ["{}", "[]", '{"version": "1.0", "added_tokens": []}', "{"])
def test_a_file_of_a_tokenizer_without_one_is_named(content, folder):
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(ConfigError, match=r"its tokenizer.json has no tokenizer \(no key 'model'\)"):
        tokenizer_from_hub(str(folder), None)


def test_an_adapter_is_named(folder):
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    check_folder(str(folder))  # a whole model with an adapter beside it
    (folder / "config.json").unlink()
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    for check in (check_folder, lambda path: model_from_hub(AutoModel, path, None, "student")):
        with pytest.raises(ConfigError, match=r"is an adapter \(adapter_config.json\), not a whole model"):
            check(str(folder))
