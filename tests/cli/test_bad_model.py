"""Models the command cannot take, or prompts they cannot: one line on stderr and exit code 2."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from dycoke.nano import MODEL_PATH
from tests.llava import tiny


@pytest.fixture
def copy(checkpoint, tmp_path):
    return shutil.copytree(checkpoint, tmp_path / "model")


@pytest.fixture
def hf_copy(hf_checkpoint, tmp_path):
    return shutil.copytree(hf_checkpoint, tmp_path / "hf")


def test_model_folder_without_a_model(refused, tmp_path):
    assert "it has no config.json" in refused(model=tmp_path)


def test_model_that_is_a_file(refused, video):
    assert "expected a model folder" in refused(model=video)


def test_hub_repository_offline(refused):
    assert "is not a local folder, and the hub" in refused(model="nobody/no-such-model")


def test_config_is_no_json(refused, tmp_path):
    (tmp_path / "config.json").write_text("{")
    assert "is not JSON" in refused(model=tmp_path)


@pytest.mark.parametrize("architectures", [["MistralForCausalLM"], None, []])
def test_other_family(refused, tmp_path, architectures):
    (tmp_path / "config.json").write_text(json.dumps({"architectures": architectures}))
    line = refused(model=tmp_path)
    for name in ("LlavaQwenForCausalLM", "LlavaLlamaForCausalLM", "LlavaOnevisionForConditionalGeneration"):
        assert name in line


def test_missing_tensors(refused, copy):
    tiny.edit_tensors(copy, {"model.layers.1.mlp.up_proj.weight": None})
    line = refused(model=copy)
    assert "1 missing (model.layers.1.mlp.up_proj.weight)" in line


def test_truncated_weights(refused, copy):
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    assert "truncated" in refused(model=copy)


def test_no_weights(refused, copy):
    (copy / "model.safetensors").unlink()
    assert "no weights in" in refused(model=copy)


@pytest.mark.parametrize(
    ("change", "complaint"), [(None, "1 missing tensors"), (torch.zeros(3, 5), "1 misshapen tensors")]
)
def test_tensors_of_the_transformers_format(refused, hf_copy, change, complaint):
    name = next(key for key in load_file(hf_copy / "model.safetensors") if key.endswith("mlp.up_proj.weight"))
    tiny.edit_tensors(hf_copy, {name: change})
    line = refused(model=hf_copy)
    assert complaint in line and "mlp.up_proj.weight" in line


def test_weights_of_the_transformers_format(refused, hf_copy):
    weights = hf_copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    assert "truncated" in refused(model=hf_copy)


def test_processor_without_a_template(refused, hf_copy):
    (hf_copy / "chat_template.jinja").unlink()
    assert "no chat template" in refused(model=hf_copy)


@pytest.mark.parametrize("key", ["tokenizer_model_max_length", "max_position_embeddings"])
def test_prompt_longer_than_the_model_reads(refused, copy, key):
    tiny.edit_config(copy, **{key: 150})  # 8 frames of 16 tokens, a newline and the text
    assert "the prompt fills the 150 tokens" in refused("--method", "full", model=copy)


@pytest.mark.parametrize("kind", ["llava", "hf"])
def test_frames_beyond_the_context_are_refused_before_one_is_read(refused, copy, hf_copy, kind):
    """By config.json alone, whose weights are not even there; a method that keeps fewer may have more."""
    model, per_frame = {"llava": (copy, 16), "hf": (hf_copy, 9)}[kind]
    (model / "model.safetensors").unlink()
    for method, kept in (("full", 1_000_000 * per_frame), ("holitom", 1_000_000)):
        said = refused("--method", method, "--frames", 1_000_000, model=model)
        assert "tokens the model reads: it has" in said and str(kept) in said
    said = refused("--compare", "random_drop,full", "--option", "keep=0.1", "--frames", 1000, model=model)
    assert f"it has {1000 * per_frame}," in said


def test_prompt_that_a_method_makes_fit(dycoke, video, copy):
    tiny.edit_config(copy, tokenizer_model_max_length=150)
    done = dycoke("ask", video, "?", "--model", copy, "--frames", 8, "--k", 1, "--max-new-tokens", 2)
    assert done.code == 0, done.err


def test_prompt_longer_than_the_transformers_model_reads(refused, hf_copy):
    config = json.loads((hf_copy / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = 80
    (hf_copy / "config.json").write_text(json.dumps(config))
    assert "the prompt fills the 80 tokens" in refused("--method", "full", model=hf_copy)


def test_a_long_prompt_is_refused_before_it_is_read(refused, copy, monkeypatch):
    """The refusal must not cost what it refuses."""
    tiny.edit_config(copy, max_position_embeddings=150)
    monkeypatch.setattr("dycoke.ask.session.answer", lambda *a, **kw: pytest.fail("the model was run"))
    assert "or a shorter question" in refused("--method", "full", model=copy)
    assert "or a shorter question" in refused(question="long " * 200, model=copy)


DAMAGE = {
    "architectures": [("architectures", 5), ("architectures", [["x"]]), ("architectures", [])],
    "quantisation": [("quantization_config", {"quant_method": "bitsandbytes", "load_in_8bit": True})],
    "values": [("vision_config", 5), ("num_hidden_layers", "many"), ("num_attention_heads", 0)],
}


@pytest.mark.parametrize(("key", "value"), [pair for pairs in DAMAGE.values() for pair in pairs])
def test_damaged_config(refused, copy, key, value):
    tiny.edit_config(copy, **{key: value})
    assert str(copy) in refused(model=copy) or key in refused(model=copy)


@pytest.mark.parametrize(
    ("key", "value"), [*DAMAGE["architectures"], *DAMAGE["quantisation"], ("vision_config", 5), ("text_config", 5)]
)
def test_damaged_config_of_the_transformers_format(refused, hf_copy, key, value):
    tiny.edit_config(hf_copy, **{key: value})
    assert str(hf_copy) in refused(model=hf_copy)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("vocab.json", '{"a": 0, "b"'),
        ("merges.txt", '{"a": 0}'),
        ("merges.txt", "a"),
        ("tokenizer.json", "{}"),
        ("tokenizer_config.json", '{"added_tokens_decoder": 3}'),
    ],
)
def test_damaged_tokenizer(refused, copy, name, content):
    (copy / name).write_text(content)
    assert name in refused(model=copy)


def test_merges_without_their_end(refused, tmp_path):
    copied = tmp_path / "nano"
    shutil.copytree(MODEL_PATH, copied)
    merges = (copied / "merges.txt").read_text().splitlines()
    (copied / "merges.txt").write_text("\n".join(merges[:50]))
    assert "49 merges cannot make the 693 entries" in refused(model=copied)


@pytest.mark.parametrize("content", ["{}", '{"a'])
def test_damaged_tokenizer_of_the_transformers_format(refused, hf_copy, content):
    (hf_copy / "tokenizer.json").write_text(content)
    assert str(hf_copy) in refused(model=hf_copy)


@pytest.mark.parametrize("index", ['{"weight_map": {"a": 5}}', '{"weight_map": {"a": "absent.safetensors"}}', "{"])
def test_damaged_shard_index(refused, copy, hf_copy, index):
    for folder in (copy, hf_copy):
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors.index.json").write_text(index)
        assert "model.safetensors.index.json" in refused(model=folder)
