"""Damaged checkpoints are refused when they are loaded, in one line that names the file or the key."""

import json
import shutil

import pytest
import torch

from dycoke.families.chat import Placement, load_chat
from tests.cli.files import write_hf_checkpoint
from tests.llava import tiny
from tests.llava.checkpoints.test_checkpoints import Surprise, split_in_shards

HUGE = 10**30
ON_CPU = Placement("cpu", torch.float32)


@pytest.fixture(scope="module")
def hf_path(tmp_path_factory):
    return write_hf_checkpoint(tmp_path_factory.mktemp("models") / "hf")


@pytest.fixture
def hf_copy(hf_path, tmp_path):
    return shutil.copytree(hf_path, tmp_path / "hf")


def refusal(load, path) -> str:
    with pytest.raises((ValueError, OSError)) as raised:
        load(path)
    return str(raised.value)


def edit(path, keys: str, value) -> None:
    """Set a key of config.json, "section.key" in a section."""
    file = path / "config.json"
    content = place = json.loads(file.read_text())
    *sections, key = keys.split(".")
    for section in sections:
        place = place[section]
    place[key] = value
    file.write_text(json.dumps(content))


SIZES = [-1, 0, HUGE, "64", 1.5, True, [8]]
LLAVA = {
    "num_hidden_layers": [*SIZES, 4095],
    "hidden_size": SIZES,
    "num_attention_heads": [*SIZES, 3],
    "num_key_value_heads": [*SIZES, 3],
    "vocab_size": SIZES,
    "max_position_embeddings": SIZES,
    "tokenizer_model_max_length": SIZES,
    "mm_hidden_size": SIZES,
    "vision_config.hidden_size": SIZES,
    "vision_config.num_hidden_layers": [*SIZES, 4096],
    "vision_config.patch_size": [*SIZES, 113],
    "pad_token_id": [HUGE, -HUGE, "0", 384, 1.0],
    "eos_token_id": [HUGE, "x", [HUGE]],
    "mm_newline_position": ["rows", 3],
    "mm_spatial_pool_mode": ["median", 3, ["max"]],
    "mm_patch_merge_type": ["other", 3],
    "mm_projector_type": [3, "pooler"],
    "tokenizer_padding_side": ["middle", 1],
    "hidden_act": ["silo", 3],
    "rms_norm_eps": ["x", -1],
    "vision_config": [5, [1]],
}
HF = {
    "text_config.hidden_size": SIZES,
    "text_config.num_hidden_layers": [*SIZES, 4095],
    "text_config.pad_token_id": [HUGE, "0"],
    "text_config.max_position_embeddings": SIZES,
    "vision_config.hidden_size": SIZES,
    "vision_config.image_size": SIZES,
    "vision_config.num_attention_heads": [*SIZES, 5],
    "video_token_id": ["x", HUGE, 7],
}


@pytest.mark.parametrize("key", LLAVA)
def test_values_no_model_can_have(onevision_copy, load, key):
    for value in LLAVA[key]:
        edit(onevision_copy, key, value)
        said = refusal(load, onevision_copy)
        assert key.rpartition(".")[2] in said and len(said) < 400, (value, said)


@pytest.mark.parametrize("key", HF)
def test_values_no_model_of_transformers_can_have(hf_copy, key):
    for value in HF[key]:
        edit(hf_copy, key, value)
        said = refusal(lambda path: load_chat(str(path), ON_CPU), hf_copy)
        assert (key.rpartition(".")[2] in said or "<video>" in said) and len(said) < 400, (value, said)


@pytest.mark.parametrize("index", [{"weight_map": {}}, {"metadata": 3, "weight_map": {}}, {"metadata": {}}, [1]])
def test_an_index_that_is_none(onevision_copy, load, index):
    split_in_shards(onevision_copy, "safetensors")
    (onevision_copy / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model.safetensors.index.json is not a shard index" in refusal(load, onevision_copy)


def test_nobody_is_told_to_read_a_pickle_all_the_same(onevision_copy, load):
    split_in_shards(onevision_copy, "bin")
    torch.save({"model.norm.weight": Surprise()}, onevision_copy / "pytorch_model-2-of-2.bin")
    said = refusal(load, onevision_copy)
    assert said.endswith(
        "pytorch_model-2-of-2.bin is truncated or holds more than tensors (print), which are never read"
    )


def test_a_stride_that_has_no_effect(onevision_copy, load):
    with pytest.raises(ValueError, match="mm_spatial_pool_stride=4 has no effect"):
        load(onevision_copy, overwrite_config={"mm_spatial_pool_stride": 4})
    tiny.edit_config(onevision_copy, mm_spatial_pool_stride=3)
    with pytest.warns(UserWarning, match="mm_spatial_pool_stride=3 in the checkpoint's config has no effect"):
        load(onevision_copy)
    load(onevision_copy, overwrite_config={"mm_spatial_pool_stride": 2})


@pytest.mark.parametrize("setting", [{"do_sample_frames": True, "num_frames": 2}, {"do_sample_frames": True, "fps": 1}])
def test_frames_are_not_sampled_again(hf_copy, setting):
    import numpy as np

    frames = np.random.default_rng(0).integers(0, 256, (8, 24, 24, 3)).astype(np.uint8)
    want = load_chat(str(hf_copy), ON_CPU).request(frames, "?")["pixel_values_videos"]
    name = next(n for n in ("video_preprocessor_config.json", "processor_config.json") if (hf_copy / n).is_file())
    content = json.loads((hf_copy / name).read_text())
    (content.get("video_processor") or content).update(setting)
    (hf_copy / name).write_text(json.dumps(content))
    with pytest.warns(UserWarning, match=r"sampling of frames \(do_sample_frames=True, .*\) has no effect"):
        chat = load_chat(str(hf_copy), ON_CPU)
    assert torch.equal(chat.request(frames, "?")["pixel_values_videos"], want)
