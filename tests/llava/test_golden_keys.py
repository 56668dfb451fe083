"""The tensors of the original's checkpoints: each one is read, and the same ones are written."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from llava.model.model_config import MODELS, build_config
from tests.llava import tiny
from tests.llava.golden_inputs import published_config

TOWER_APART = "llava-v1.5-tiny"
QWEN = ["llava-onevision-qwen2-tiny-ov", "LLaVA-Video-tiny-Qwen2"]
LLAMA = [TOWER_APART, "llava-v1.6-vicuna-tiny"]


def key_shapes(goldens_dir, name) -> dict[str, list[int]]:
    return json.loads((goldens_dir / f"keys_{name}.json").read_text())


def saved_shapes(path) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in load_file(path / "model.safetensors").items()}


def qwen_config(goldens_dir, name):
    """The published config with the vocabulary and tying of a golden checkpoint."""
    shapes = key_shapes(goldens_dir, name)
    return published_config(
        goldens_dir,
        vocab_size=shapes["model.embed_tokens.weight"][0],
        tie_word_embeddings="lm_head.weight" not in shapes,
    )


@pytest.mark.parametrize("name", QWEN)
def test_a_file_with_exactly_these_keys_is_read_in_full(goldens_dir, load, tmp_path, name):
    """The file is made from the key list alone, so nothing of our own writing can hide a wrong name."""
    config = qwen_config(goldens_dir, name)
    config.save_pretrained(tmp_path)
    kind = {"model_type": "llava", "architectures": ["LlavaQwenForCausalLM"]}
    tiny.edit_config(tmp_path, **kind, bos_token_id=None, eos_token_id=None)  # of a tokenizer that is larger than ours
    tiny.write_tokenizer(tmp_path)
    generator = torch.Generator().manual_seed(0)
    tensors = {
        key: torch.randn(shape, generator=generator) for key, shape in sorted(key_shapes(goldens_dir, name).items())
    }
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    _, model, _, _ = load(tmp_path)
    if config.tie_word_embeddings:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    loaded = {
        key.replace("vision_tower.vision_tower.", "vision_tower.vision_tower.vision_model."): value
        for key, value in model.state_dict().items()
    }
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[key], tensors[key]) for key in tensors)


@pytest.mark.parametrize("name", QWEN)
def test_a_saved_qwen_model_has_exactly_these_keys(goldens_dir, tmp_path, name):
    tiny.make_model(qwen_config(goldens_dir, name)).save_pretrained(tmp_path)
    assert saved_shapes(tmp_path) == key_shapes(goldens_dir, name)


def test_the_published_7b_model_has_765_tensors(goldens_dir):
    content = json.loads((goldens_dir / "config_ov7b.json").read_text())
    with torch.device("meta"):
        model = MODELS["LlavaQwenForCausalLM"](build_config(MODELS["LlavaQwenForCausalLM"], content, None))
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    assert len(shapes) == 339 + 1 + 4 + 421
    tower = "model.vision_tower.vision_tower."
    assert shapes[f"{tower}embeddings.position_embedding.weight"] == [729, 1152]
    assert shapes[f"{tower}encoder.layers.25.mlp.fc1.weight"] == [4304, 1152]
    assert shapes["model.mm_projector.0.weight"] == [3584, 1152]


@pytest.mark.parametrize("name", LLAMA)
def test_the_llama_checkpoints_hold_and_keep_their_keys(goldens_dir, load, tmp_path, name):
    checkpoint = goldens_dir / "ckpt" / name
    expected = key_shapes(goldens_dir, name)
    assert saved_shapes(checkpoint) == expected
    apart = {"mm_vision_tower": str(goldens_dir / "ckpt" / "clip-tiny")} if name == TOWER_APART else {}
    _, model, _, _ = load(checkpoint, overwrite_config=apart)
    assert type(model) is MODELS["LlavaLlamaForCausalLM"]
    model.save_pretrained(tmp_path)
    saved = saved_shapes(tmp_path)
    outside_tower = {key: shape for key, shape in saved.items() if not key.startswith("model.vision_tower.")}
    assert (outside_tower if name == TOWER_APART else saved) == expected
    stored, again = load_file(checkpoint / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(stored[key], again[key]) for key in stored)


def test_the_tower_apart_is_that_of_its_folder(goldens_dir, load):
    folder = goldens_dir / "ckpt" / "clip-tiny"
    apart = {"mm_vision_tower": str(folder)}
    _, model, _, _ = load(goldens_dir / "ckpt" / TOWER_APART, overwrite_config=apart, torch_dtype="bfloat16")
    stored = load_file(folder / "model.safetensors")
    tower = model.get_vision_tower()
    assert tower.dtype == torch.bfloat16
    for key, value in tower.vision_tower.state_dict().items():
        assert torch.equal(value, stored[f"vision_model.{key}"].to(torch.bfloat16)), key


def test_a_siglip_tower_apart_loses_its_last_layer(goldens_dir):
    config = tiny.onevision_config(mm_vision_tower=str(goldens_dir / "ckpt" / "siglip-tiny"), vision_config=None)
    config.delay_load = True
    model = MODELS["LlavaQwenForCausalLM"](config)
    tower = model.get_vision_tower()
    assert not tower.is_loaded
    tower.load_model()
    assert tower.is_loaded
    assert len(tower.vision_tower.encoder.layers) == 3
    stored = load_file(goldens_dir / "ckpt" / "siglip-tiny" / "model.safetensors")
    name = "encoder.layers.2.mlp.fc1.weight"
    assert torch.equal(tower.vision_tower.state_dict()[name], stored[f"vision_model.{name}"])


def test_a_tower_apart_that_is_not_here_is_named(goldens_dir, load):
    with pytest.raises(FileNotFoundError, match=r"openai/clip-vit-large-patch14-336.*point mm_vision_tower"):
        load(goldens_dir / "ckpt" / TOWER_APART)
