"""Options of load_pretrained_model: what they do, and what is refused."""

import json

import pytest
import torch
from safetensors.torch import load_file

from llava.errors import Unsupported
from llava.model import LlavaLlamaForCausalLM, LlavaQwenForCausalLM
from llava.model.builder import load_pretrained_model
from llava.model.model_config import build_config, model_class_for
from tests.llava import tiny


def test_what_is_returned(onevision_path, load):
    tokenizer, model, processor, context = load(onevision_path)
    assert tokenizer("a<|im_end|>").input_ids == [97, 258]
    assert type(model) is LlavaQwenForCausalLM
    assert not model.training
    assert model.config.model_type == "llava_qwen"
    assert processor.crop_size["height"] == tiny.IMAGE_SIZE
    assert model.get_vision_tower().num_patches == 64
    assert context == 8192
    assert model.config.mm_use_im_start_end is False
    assert "image_aspect_ratio" in model.config.__dict__


@pytest.mark.parametrize(
    ("given", "dtype"),
    [("float16", torch.float16), ("bfloat16", torch.bfloat16), (torch.float32, torch.float32)],
)
def test_tower_and_model_have_the_dtype_asked_for(onevision_path, load, given, dtype):
    _, model, _, _ = load(onevision_path, torch_dtype=given)
    assert {weight.dtype for weight in model.parameters()} == {dtype}
    ids = torch.tensor([[11, -200, 12]])
    with torch.no_grad():
        assert model(input_ids=ids, images=[tiny.frames(1).half()], modalities=["video"]).logits.dtype == dtype


@pytest.mark.parametrize("given", ["int8", torch.int64, None, 16])
def test_other_dtypes(onevision_path, load, given):
    with pytest.raises(ValueError, match="expected one of float16, bfloat16, float32"):
        load(onevision_path, torch_dtype=given)


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
def test_placement_without_a_gpu(onevision_path, load):
    assert load(onevision_path, device_map="auto")[1].device.type == "cpu"
    assert load(onevision_path, device_map="cpu")[1].device.type == "cpu"
    with pytest.raises(ValueError, match="'cuda:0': this machine has no GPU"):
        load(onevision_path, device_map="cuda:0")


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without flash-attn")
def test_default_attention_falls_back_with_one_warning(onevision_path):
    with pytest.warns(UserWarning, match="flash-attn is not usable") as caught:
        _, model, _, _ = load_pretrained_model(str(onevision_path), None, "llava_qwen")
    assert len([warning for warning in caught if "flash-attn" in str(warning.message)]) == 1
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(("given", "used"), [("eager", "eager"), (None, "sdpa"), ("None", "sdpa")])
def test_attention(onevision_path, load, given, used):
    assert load(onevision_path, attn_implementation=given)[1].config._attn_implementation == used


def test_unknown_attention(onevision_path, load):
    with pytest.raises(ValueError, match="nonsense"):
        load(onevision_path, attn_implementation="nonsense")


def test_overwritten_config(onevision_path, load):
    values = {"mm_spatial_pool_mode": "average", "mm_newline_position": "grid", "tokenizer_model_max_length": 99}
    _, model, _, context = load(onevision_path, overwrite_config=values)
    assert {key: getattr(model.config, key) for key in values} == values
    assert context == 8192
    assert load(onevision_path, overwrite_config={"max_sequence_length": 4000})[3] == 4000


def test_overwritten_with_a_wrong_type(onevision_path, load):
    with pytest.raises(ValueError, match="hidden_size"):
        load(onevision_path, overwrite_config={"hidden_size": "64"})


def test_linear_rope(onevision_path, load):
    """Scaling by 2 makes a token at position 2p look like one at p."""
    scaling = {"factor": 2.0, "type": "linear"}
    _, plain, _, _ = load(onevision_path)
    _, scaled, _, _ = load(onevision_path, overwrite_config={"rope_scaling": scaling})
    assert scaled.config.rope_parameters == {"rope_theta": 1e6, "rope_type": "linear", "factor": 2.0}
    ids = torch.tensor([[11, 12, 13]])
    with torch.no_grad():
        expected = plain(input_ids=ids, position_ids=torch.tensor([[0, 1, 2]])).logits
        actual = scaled(input_ids=ids, position_ids=torch.tensor([[0, 2, 4]])).logits
    assert torch.allclose(expected, actual, atol=1e-5)


def test_other_rope_settings(onevision_path, load):
    settings = {"rope_scaling": None, "rope_theta": 5e5}
    _, model, _, _ = load(onevision_path, overwrite_config=settings)
    assert model.config.rope_parameters == {"rope_theta": 5e5, "rope_type": "default"}
    with pytest.raises(ValueError, match="rope_scaling"):
        load(onevision_path, overwrite_config={"rope_scaling": {"factor": 2.0}})


def test_rope_of_published_files(goldens_dir):
    content = json.loads((goldens_dir / "config_ov7b.json").read_text())
    assert build_config(LlavaQwenForCausalLM, content, None).rope_parameters["rope_theta"] == 1e6
    content["rope_scaling"] = {"type": "linear", "factor": 4.0}
    rope = build_config(LlavaQwenForCausalLM, content, None).rope_parameters
    assert (rope["rope_type"], rope["factor"], rope["rope_theta"]) == ("linear", 4.0, 1e6)


@pytest.mark.parametrize("kind", ["file", "dict", "config"])
def test_customized_config(onevision_path, load, tmp_path, kind):
    content = json.loads((onevision_path / "config.json").read_text()) | {"mm_newline_position": "frame"}
    file = tmp_path / "other.json"
    file.write_text(json.dumps(content))
    given = {"file": str(file), "dict": content, "config": build_config(LlavaQwenForCausalLM, content, None)}[kind]
    assert load(onevision_path, customized_config=given)[1].config.mm_newline_position == "frame"


def test_missing_customized_config(onevision_path, load, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no absent\.json"):
        load(onevision_path, customized_config=str(tmp_path / "absent.json"))


def test_image_tokens_grow_the_vocabulary(onevision_copy, load):
    tiny.edit_config(onevision_copy, mm_use_im_patch_token=None, mm_use_im_start_end=True, vocab_size=259)
    old = load_file(onevision_copy / "model.safetensors")
    names = "model.embed_tokens.weight", "lm_head.weight"
    tiny.edit_tensors(onevision_copy, {name: old[name][:259].clone() for name in names})
    tokenizer, model, _, _ = load(onevision_copy)
    assert tokenizer("<im_patch><im_start><im_end>").input_ids == [259, 260, 261]
    assert model.get_input_embeddings().num_embeddings == 262
    assert torch.equal(model.lm_head.weight[:259], old["lm_head.weight"][:259])


def test_a_padded_vocabulary_is_not_cut(onevision_path, load):
    tokenizer, model, _, _ = load(onevision_path)
    assert len(tokenizer) == 259
    assert model.get_input_embeddings().num_embeddings == 384


def test_generation_config_is_read(onevision_copy, load):
    (onevision_copy / "generation_config.json").write_text('{"repetition_penalty": 1.05, "eos_token_id": [258, 256]}')
    assert load(onevision_copy)[1].generation_config.repetition_penalty == 1.05


def test_processor_of_the_checkpoint(onevision_copy, load):
    file = onevision_copy / "preprocessor_config.json"
    content = {
        "image_processor_type": "SiglipImageProcessor",
        "image_mean": [0.1] * 3,
        "size": {"height": 112, "width": 112},
    }
    file.write_text(json.dumps(content))
    assert list(load(onevision_copy)[2].image_mean) == [0.1] * 3
    file.write_text(json.dumps(content | {"image_processor_type": "LlavaOnevisionImageProcessor"}))
    with pytest.warns(UserWarning, match="is for LlavaOnevisionImageProcessor, not for a siglip tower"):
        assert list(load(onevision_copy)[2].image_mean) == [0.5] * 3


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [({"load_8bit": True}, "8-bit"), ({"load_4bit": True}, "4-bit"), ({"model_base": "base"}, "LoRA")],
)
def test_refused_ways_of_loading(onevision_path, kwargs, message):
    options = {"model_base": None, "model_name": "llava_qwen", **kwargs}
    with pytest.raises(Unsupported, match=message):
        load_pretrained_model(str(onevision_path), **options)


@pytest.mark.parametrize("name", ["adapter_config.json", "mm_projector.bin"])
def test_partial_checkpoints(onevision_copy, load, name):
    (onevision_copy / name).write_text("{}")
    with pytest.raises(Unsupported, match="LoRA and projector-only"):
        load(onevision_copy)


def test_faster_video(onevision_path, load):
    with pytest.raises(Unsupported, match="add_faster_video"):
        load(onevision_path, overwrite_config={"add_faster_video": True})


def test_an_unknown_option_is_no_type_error(onevision_path, load):
    with pytest.raises(ValueError, match="unknown option nonsense"):
        load(onevision_path, multimodal=True, nonsense=1)


@pytest.mark.parametrize(
    ("config", "name", "expected"),
    [
        ({"architectures": ["LlavaQwenForCausalLM"]}, "llava-v1.5", LlavaQwenForCausalLM),
        ({"architectures": ["LlavaLlamaForCausalLM"]}, "llava_qwen", LlavaLlamaForCausalLM),
        ({}, "llava-onevision-qwen2-7b-ov", LlavaQwenForCausalLM),
        ({}, "LLaVA-Video-7B-Qwen2", LlavaQwenForCausalLM),
        ({}, "llava-v1.6-vicuna-7b", LlavaLlamaForCausalLM),
        ({}, "llava-v1.6-34b", LlavaLlamaForCausalLM),
        ({}, "llava-v1.5-with-qwen-in-its-name", LlavaLlamaForCausalLM),
        ({}, "LLaVA-NeXT-Video-7B-DPO", LlavaLlamaForCausalLM),
    ],
)
def test_which_class(config, name, expected):
    assert model_class_for({"mm_vision_tower": "x", **config}, name, "path") is expected


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"architectures": ["LlavaMixtralForCausalLM"]}, "llava"),
        ({"architectures": ["LlavaQwenMoeForCausalLM"]}, "llava_qwen"),
        ({"architectures": ["LlavaMistralForCausalLM"]}, "llava"),
        ({}, "llava-v1.6-mistral-7b"),
        ({}, "llava-gemma-2b"),
        ({}, "llava-qwen-moe"),
        ({}, "llava-mixtral"),
    ],
)
def test_other_families_are_refused_by_name(config, name):
    with pytest.raises(Unsupported, match="supported are LlavaQwenForCausalLM, LlavaLlamaForCausalLM"):
        model_class_for({"mm_vision_tower": "x", **config}, name, "path")


def test_a_plain_language_model_is_no_llava():
    with pytest.raises(ValueError, match="no mm_vision_tower"):
        model_class_for({"architectures": ["Qwen2ForCausalLM"]}, "llava", "path")


def test_the_name_decides_only_without_an_architecture(onevision_copy, load):
    load_pretrained_model(str(onevision_copy), None, None, torch_dtype="float32", attn_implementation="sdpa")
    tiny.edit_config(onevision_copy, architectures=None)
    assert type(load(onevision_copy)[1]) is LlavaQwenForCausalLM
