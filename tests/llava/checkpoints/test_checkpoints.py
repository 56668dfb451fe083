"""Loading and saving LLaVA-NeXT checkpoints: every tensor used, none invented, and clear errors otherwise."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from llava.model.checkpoint import NAMED
from tests.llava import tiny

PATCH = "model.vision_tower.vision_tower.vision_model.embeddings.patch_embedding.weight"
PROMPT = torch.tensor([[72, 105, -200, 63]])


def answer(model) -> list:
    options = {"images": [tiny.frames(3)], "modalities": ["video"], "max_new_tokens": 6, "do_sample": False}
    return model.generate(PROMPT, **options).tolist()


def split_in_shards(path, suffix: str) -> None:
    """Rewrite model.safetensors as two shards of either format, with their index."""
    tensors = load_file(path / "model.safetensors")
    (path / "model.safetensors").unlink()
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    names = [f"{stem}-{number}-of-2.{suffix}" for number in (1, 2)]
    weight_map = {}
    for number, file in enumerate(names):
        part = {key: tensor for place, (key, tensor) in enumerate(sorted(tensors.items())) if place % 2 == number}
        weight_map |= dict.fromkeys(part, file)
        if suffix == "safetensors":
            save_file(part, path / file, metadata={"format": "pt"})
        else:
            torch.save(part, path / file)
    index = {"metadata": {}, "weight_map": weight_map}
    (path / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))


def test_saved_under_the_names_of_llava_next(onevision_path):
    names = load_file(onevision_path / "model.safetensors").keys()
    assert PATCH in names
    assert "model.vision_tower.vision_tower.vision_model.encoder.layers.2.mlp.fc2.bias" in names
    assert not [name for name in names if "vision_tower.encoder" in name]


def test_reload_gives_the_same_weights_and_resaves_the_same_names(onevision_path, load, tmp_path):
    _, model, _, _ = load(onevision_path)
    original = tiny.make_model(tiny.onevision_config())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), original.parameters(), strict=True))
    model.save_pretrained(tmp_path)
    first, second = (load_file(folder / "model.safetensors") for folder in (onevision_path, tmp_path))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_shards(onevision_copy, load, onevision, suffix):
    split_in_shards(onevision_copy, suffix)
    _, model, _, _ = load(onevision_copy)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), onevision.parameters(), strict=True))
    assert answer(model) == answer(onevision)


def test_tied_embeddings_without_lm_head(tmp_path, load):
    path = tiny.make_onevision_checkpoint(tmp_path, tie_word_embeddings=True)
    assert "lm_head.weight" not in load_file(path / "model.safetensors")
    _, model, _, _ = load(path)
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_missing_tensors_are_named_and_counted(onevision_copy, load):
    names = sorted(load_file(onevision_copy / "model.safetensors"))
    dropped = [name for name in names if name.startswith("model.layers.")][: NAMED + 3]
    tiny.edit_tensors(onevision_copy, dict.fromkeys(dropped))
    with pytest.raises(ValueError, match=rf"{NAMED + 3} missing \(.*model.layers.0.mlp.gate_proj.weight.*\.\.\.\)"):
        load(onevision_copy)


def test_a_tower_that_is_only_partly_there_is_an_error(onevision_copy, load):
    tiny.edit_tensors(onevision_copy, {PATCH: None})
    with pytest.raises(ValueError, match=r"1 missing \(model.vision_tower.*patch_embedding.weight\)"):
        load(onevision_copy)


def test_unexpected_and_misshapen_tensors_are_named(onevision_copy, load):
    tiny.edit_tensors(onevision_copy, {"model.extra": torch.ones(1), "model.image_newline": torch.ones(3)})
    with pytest.raises(ValueError, match=r"unexpected \(model.extra\); 1 misshapen \(model.image_newline \[3\] inst"):
        load(onevision_copy)


def test_stale_buffers_are_passed_over(onevision_copy, load):
    tiny.edit_tensors(onevision_copy, {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)})
    load(onevision_copy)


@pytest.mark.parametrize("keep", [4, 2000, -100])
def test_truncated_safetensors(onevision_copy, load, keep):
    file = onevision_copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"model\.safetensors is truncated"):
        load(onevision_copy)


def test_truncated_bin(onevision_copy, load):
    split_in_shards(onevision_copy, "bin")
    file = onevision_copy / "pytorch_model-2-of-2.bin"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"2-of-2\.bin is truncated"):
        load(onevision_copy)


class Surprise:
    """An object whose unpickling would run code."""

    def __reduce__(self):
        return (print, ("executed",))


def test_bin_with_code_is_refused(onevision_copy, load, capsys):
    split_in_shards(onevision_copy, "bin")
    torch.save({"model.norm.weight": Surprise()}, onevision_copy / "pytorch_model-2-of-2.bin")
    with pytest.raises(ValueError, match="holds more than tensors"):
        load(onevision_copy)
    assert "executed" not in capsys.readouterr().out


def test_absent_shard(onevision_copy, load):
    split_in_shards(onevision_copy, "safetensors")
    (onevision_copy / "model-2-of-2.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model-2-of-2\.safetensors"):
        load(onevision_copy)


@pytest.mark.parametrize(
    ("removed", "message"),
    [("config.json", "no config.json"), ("model.safetensors", "no weights in"), ("vocab.json", "no tokenizer in")],
)
def test_absent_file(onevision_copy, load, removed, message):
    (onevision_copy / removed).unlink()
    with pytest.raises(FileNotFoundError, match=message):
        load(onevision_copy)


def test_a_folder_that_does_not_exist(load, tmp_path):
    with pytest.raises(FileNotFoundError, match="not a local folder"):
        load(tmp_path / "absent")


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_config_that_is_no_object(onevision_copy, load, text):
    (onevision_copy / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json"):
        load(onevision_copy)
