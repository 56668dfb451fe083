"""The shape of the embedded model, in the configuration keys of a published LLaVA-OneVision checkpoint."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import Qwen2Tokenizer

    from llava.model.language_model.llava_qwen import LlavaQwenConfig, LlavaQwenForCausalLM

_VOCABULARY_STEP = 64


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes that may differ between the shipped model and a dry run."""

    width: int = 256
    layers: int = 8
    mlp_width: int = 896
    heads: int = 4
    kv_heads: int = 2
    tower_width: int = 192
    tower_layers: int = 4
    tower_heads: int = 3


SHAPES = {
    "nano": Shape(),
    "tiny": Shape(width=64, layers=2, mlp_width=96, heads=2, kv_heads=1, tower_width=48, tower_layers=1, tower_heads=2),
}


def build_config(tokenizer: Qwen2Tokenizer, shape: Shape) -> LlavaQwenConfig:
    """The configuration: SigLIP on 64 px frames in 8 px patches, pooled 8 x 8 -> 4 x 4, tied embeddings.

    `vision_config` counts the tower's last layer, which the model leaves out, as the hub's SigLIP has it.
    """
    from dycoke.nano.generator.render import FRAME, PATCHES
    from llava.model.language_model.llava_qwen import LlavaQwenConfig

    positions = tokenizer.model_max_length
    entries = -(-len(tokenizer) // _VOCABULARY_STEP) * _VOCABULARY_STEP
    return LlavaQwenConfig(
        architectures=["LlavaQwenForCausalLM"],
        vocab_size=entries,
        hidden_size=shape.width,
        intermediate_size=shape.mlp_width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=positions,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        image_aspect_ratio="pad",
        image_grid_pinpoints=None,
        mm_hidden_size=shape.tower_width,
        mm_newline_position="one_token",
        mm_patch_merge_type="spatial_unpad",
        mm_projector_type="mlp2x_gelu",
        mm_resampler_type=None,
        mm_spatial_pool_mode="bilinear",
        mm_tunable_parts="mm_vision_tower,mm_mlp_adapter,mm_language_model",
        mm_use_im_patch_token=False,
        mm_use_im_start_end=False,
        mm_vision_select_feature="patch",
        mm_vision_select_layer=-2,
        mm_vision_tower="siglip-nano-patch8-64",
        tokenizer_model_max_length=positions,
        tokenizer_padding_side="right",
        use_mm_proj=True,
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": shape.tower_width,
            "intermediate_size": 4 * shape.tower_width,
            "num_hidden_layers": shape.tower_layers + 1,
            "num_attention_heads": shape.tower_heads,
            "image_size": FRAME,
            "patch_size": FRAME // PATCHES,
        },
    )


def build_model(tokenizer: Qwen2Tokenizer, shape: Shape, seed: int) -> LlavaQwenForCausalLM:
    """A model with random weights drawn from `seed` (the caller's random state is left as it was)."""
    import torch
    from transformers import GenerationConfig

    from llava.model.language_model.llava_qwen import LlavaQwenForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaQwenForCausalLM(build_config(tokenizer, shape))
    model.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    return model


def export(model: LlavaQwenForCausalLM, tokenizer_folder: Path, folder: Path) -> None:
    """Write the model to `folder` as a bf16 LLaVA-NeXT checkpoint, with the files of the tokenizer beside it.

    transformers 5 renamed two keys of config.json; they are written under the names LLaVA-NeXT's releases use.
    """
    import torch

    from dycoke.nano.tokenizer import FILES

    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(str(folder))
    path = folder / "config.json"
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config |= {"rope_theta": rope["rope_theta"], "rope_scaling": None, "torch_dtype": config.pop("dtype")}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    for name in FILES:
        (folder / name).write_bytes((tokenizer_folder / name).read_bytes())
