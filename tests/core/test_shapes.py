"""Sizes of a language model, read from records and configurations."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from transformers import LlavaOnevisionConfig, Qwen2Config

from dycoke.model_shape import LLAVA_ONEVISION, Shape

SMALL = Shape(24, 896, 4864, 14, 2, 151936, tied=True)
KEYS = {"layers": 2, "hidden": 12, "intermediate": 5, "heads": 3, "kv_heads": 1, "vocabulary": 7}


def config(**changed):
    sizes = {"num_hidden_layers": 24, "hidden_size": 896, "intermediate_size": 4864, "vocab_size": 151936}
    heads = {"num_attention_heads": 14, "num_key_value_heads": 2, "tie_word_embeddings": True}
    return Qwen2Config(**sizes | heads | changed)


def test_shape_of_a_configuration():
    assert Shape.of(config()) == SMALL == LLAVA_ONEVISION["0.5b"]


def test_shape_of_a_video_model_is_that_of_its_language_model():
    assert Shape.of(LlavaOnevisionConfig(text_config=config().to_dict())) == SMALL


def test_shape_of_a_record():
    assert Shape.of(KEYS) == Shape(2, 12, 5, 3, 1, 7)
    assert Shape.of(asdict(SMALL)) == SMALL


@pytest.mark.parametrize(
    "changed,message",
    [
        ({"width": 3}, r"shape: 'width' missing or unknown; expected layers, hidden, "),
        ({"hidden": "12"}, r"shape: hidden='12': expected an integer"),
        ({"layers": 0}, r"shape: layers=0: expected an integer of at least 1"),
        ({"heads": True}, r"shape: heads=True: expected an integer"),
        ({"hidden": 13}, r"shape: hidden=13: expected a multiple of heads=3"),
    ],
)
def test_a_record_that_is_no_shape(changed, message):
    with pytest.raises(ValueError, match=message):
        Shape.of(KEYS | changed)


def test_a_record_that_lacks_a_size():
    with pytest.raises(ValueError, match="'kv_heads' missing"):
        Shape.of({key: value for key, value in KEYS.items() if key != "kv_heads"})


def test_heads_of_another_size_than_their_share_are_refused():
    with pytest.raises(ValueError, match=r"shape: heads of 128: expected .* 64$"):
        Shape.of(config(head_dim=128))


def test_bytes_of_a_column():
    """Keys and values of 4 heads of 128 numbers each: 2 KiB a layer in half precision."""
    shape = LLAVA_ONEVISION["7b"]
    assert (shape.head_dim, shape.column_values, shape.column_bytes(torch.float16)) == (128, 1024, 2048)


def test_shape_of_the_released_checkpoint():
    released = json.loads((Path(__file__).parents[1] / "goldens" / "config_ov7b.json").read_text())
    assert Shape.of(Qwen2Config.from_dict(released)) == LLAVA_ONEVISION["7b"]
