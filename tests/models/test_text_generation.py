"""Heads that are asked at some places alone."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

from tgt_ray.models.text.generation import logits_at


@pytest.mark.parametrize(
    "family", ["bert", "distilbert", "electra", "mobilebert", "modernbert", "mpnet", "roberta", "bart", "t5"]
)
def test_the_head_gives_at_some_places_what_it_gives_at_all(family):
    sizes = {
        "vocab_size": 50,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "cls_token_id": 1,
        "sep_token_id": 2,
    }
    small = {
        "distilbert": {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32},
        "mobilebert": {"hidden_size": 16, "embedding_size": 8, "true_hidden_size": 16, "intra_bottleneck_size": 16}
        | {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32},
        "t5": {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2},
        "bart": {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
        | {"decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32},
    }.get(family, {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32})
    config = AutoConfig.for_model(family, **sizes, **small)
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForMaskedLM
    body = auto.from_config(config).eval()
    ids = torch.randint(3, 50, (4, 6))
    places = torch.rand(4, 6) < 0.5
    given = {"input_ids": ids} | ({"decoder_input_ids": ids} if config.is_encoder_decoder else {})
    with torch.no_grad():
        everywhere = body(**given).logits
        some = logits_at(body, places, **given)
        assert torch.allclose(some, everywhere[places], atol=1e-6)
        assert torch.equal(body(**given).logits, everywhere)
