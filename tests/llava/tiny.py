"""Tiny random checkpoints in LLaVA-NeXT's format, made offline in a fraction of a second.

Every maker writes a folder that `load_pretrained_model` reads, and returns its path. Keyword overrides end up in
config.json, so that a test says only what matters to it.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import LlavaOnevisionConfig, Qwen2Config, SiglipVisionConfig

from llava.model import LlavaConfig, LlavaLlamaForCausalLM, LlavaQwenConfig, LlavaQwenForCausalLM

SIGLIP_NAME = "google/siglip-so400m-patch14-384"
CLIP_NAME = "openai/clip-vit-large-patch14-336"
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
IMAGE_SIZE = 112  # 8 x 8 patches a frame, 16 tokens after pooling

LANGUAGE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 8192,
    "tokenizer_model_max_length": 8192,
    "tokenizer_padding_side": "right",
}
MULTIMODAL = {
    "mm_hidden_size": 32,
    "mm_projector_type": "mlp2x_gelu",
    "mm_use_im_patch_token": False,
    "mm_use_im_start_end": False,
    "mm_vision_select_feature": "patch",
    "mm_vision_select_layer": -2,
}


def vision_config(family: str, **overrides: Any) -> dict[str, Any]:
    """Return the shape of a tiny tower; SigLIP's last layer counts although the model drops it."""
    return {
        "model_type": f"{family}_vision_model",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": IMAGE_SIZE,
        "patch_size": 14,
        **overrides,
    }


def onevision_config(**overrides: Any) -> LlavaQwenConfig:
    """Return the config of a tiny LLaVA-OneVision model (one newline at the end of a video)."""
    values = {
        **LANGUAGE,
        **MULTIMODAL,
        "vocab_size": 384,
        "bos_token_id": 256,
        "eos_token_id": 258,
        "rope_theta": 1e6,
        "image_aspect_ratio": "anyres_max_9",
        "image_grid_pinpoints": [[IMAGE_SIZE * i, IMAGE_SIZE * j] for i in range(1, 7) for j in range(1, 7)],
        "mm_newline_position": "one_token",
        "mm_patch_merge_type": "spatial_unpad",
        "mm_spatial_pool_mode": "bilinear",
        "mm_tunable_parts": "mm_vision_tower,mm_mlp_adapter,mm_language_model",
        "mm_vision_tower": SIGLIP_NAME,
        "vision_config": vision_config("siglip"),
        **overrides,
    }
    return LlavaQwenConfig(**values)


def llama_config(**overrides: Any) -> LlavaConfig:
    """Return the config of a tiny LLaVA-1.5 model (CLIP tower, no newlines)."""
    values = {
        **LANGUAGE,
        **MULTIMODAL,
        "num_key_value_heads": 4,
        "vocab_size": 384,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "image_aspect_ratio": "pad",
        "mm_vision_tower": CLIP_NAME,
        "vision_config": vision_config("clip"),
        **overrides,
    }
    return LlavaConfig(**values)


def hf_config(image_token_id: int, video_token_id: int, **text: Any) -> LlavaOnevisionConfig:
    """Return the config of a tiny LLaVA-OneVision model of transformers, 3 x 3 tokens a frame; text: its Qwen2 keys."""
    side = 24
    vision = SiglipVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=side,
        patch_size=4,
        vision_use_head=False,
    )
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
    }
    language = Qwen2Config(**sizes | text)
    return LlavaOnevisionConfig(
        vision_config=vision.to_dict(),
        text_config=language.to_dict(),
        image_token_id=image_token_id,
        video_token_id=video_token_id,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_grid_pinpoints=[[side, side]],
    )


def make_model(config: LlavaQwenConfig | LlavaConfig, seed: int = 0) -> torch.nn.Module:
    """Return a random model in evaluation mode whose greedy answers depend on what it sees."""
    model_class = LlavaQwenForCausalLM if isinstance(config, LlavaQwenConfig) else LlavaLlamaForCausalLM
    model = model_class(config)
    fill_randomly(model, seed)
    return model.eval()


def fill_randomly(model: torch.nn.Module, seed: int = 0) -> None:
    """Fill a model's parameters from a seed alone, whatever transformers initialises them with."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            noise = torch.randn(weight.shape, generator=generator)
            if "norm" in name:
                continue
            if weight.ndim == 1:
                weight.copy_(noise if name.endswith("image_newline") else noise * 0.1)
            elif "embed" in name:
                weight.copy_(noise)
            else:
                weight.copy_(noise * 1.5 * weight[0].numel() ** -0.5)


def make_onevision_checkpoint(path: str | Path, seed: int = 0, **overrides: Any) -> Path:
    """Write a tiny LLaVA-OneVision checkpoint, tower inside."""
    return write_checkpoint(make_model(onevision_config(**overrides), seed), path)


def make_video_checkpoint(path: str | Path, seed: int = 0, **overrides: Any) -> Path:
    """Write a tiny LLaVA-Video checkpoint: as LLaVA-OneVision, with a newline after each row of a frame."""
    options = {"mm_newline_position": "grid", "add_faster_video": False, "mm_spatial_pool_stride": 2, **overrides}
    return make_onevision_checkpoint(path, seed, **options)


def write_checkpoint(model: torch.nn.Module, path: str | Path) -> Path:
    """Write a Qwen model with its tokenizer, under the model_type the published files have."""
    path = Path(path)
    model.save_pretrained(path)
    edit_config(path, model_type="llava")
    write_tokenizer(path)
    return path


def edit_config(path: Path, **values: Any) -> None:
    """Set keys of a checkpoint's config.json; None removes a key."""
    file = path / "config.json"
    config = json.loads(file.read_text()) | values
    file.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def edit_tensors(path: Path, change: dict[str, torch.Tensor | None]) -> None:
    """Set tensors of a single-file checkpoint; None removes one."""
    file = path / "model.safetensors"
    tensors = load_file(file) | change
    save_file({key: value for key, value in tensors.items() if value is not None}, file, metadata={"format": "pt"})


def write_tokenizer(path: Path) -> None:
    """Write a byte-level vocabulary of 256 bytes and Qwen's three specials (ids 256 to 258)."""
    vocabulary = {symbol: number for number, symbol in enumerate([*byte_symbols(), *SPECIALS])}
    (path / "vocab.json").write_text(json.dumps(vocabulary))
    (path / "merges.txt").write_text("#version: 0.2\n")
    added = {
        str(vocabulary[name]): {
            "content": name,
            "special": True,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "single_word": False,
        }
        for name in SPECIALS
    }
    settings = {
        "tokenizer_class": "Qwen2Tokenizer",
        "added_tokens_decoder": added,
        "additional_special_tokens": list(SPECIALS[1:]),
        "eos_token": SPECIALS[2],
        "pad_token": SPECIALS[0],
        "bos_token": None,
        "unk_token": None,
        "model_max_length": 8192,
        "padding_side": "right",
    }
    (path / "tokenizer_config.json").write_text(json.dumps(settings))


def byte_symbols() -> list[str]:
    """Return the printable character byte-level BPE uses for each byte value."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    spare = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(spare)) for byte in range(256)]


def frames(count: int, seed: int = 0, size: int = IMAGE_SIZE) -> torch.Tensor:
    """Return random pixels [count, 3, size, size]."""
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))
