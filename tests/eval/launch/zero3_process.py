"""One of the processes of test_zero3: answers prompts with sharded models, and says what it holds of them.

    accelerate launch ... -m tests.eval.launch.zero3_process FOLDER

FOLDER has a checkpoint for each subject; the process writes FOLDER/rankN.pt.
"""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import LlavaOnevisionForConditionalGeneration

import dycoke
from dycoke.eval.models.zero3 import partitioned, read_config, shard
from dycoke.lab.ranks import Ranks
from llava.model.builder import load_pretrained_model
from tests.support.subjects import PROMPTS, SUBJECTS, greedy_with_logits

CONFIG = "zero3.json"
# Before the language model, in its layers by the attention of the layer before and of their own, and while decoding.
METHODS = {
    "full": {},
    "dycoke": {"k": 0.5, "l": 2, "p": 0.5},
    "fastv": {"k": 2, "r": 0.5},
    "pdrop": {"layers": (1, 3)},
    "visionzip": {},
}
ASKED = ("one_video", "batch")


def load(name: str, checkpoint: Path, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The model of a checkpoint, on the CPU."""
    if name == "hf":
        return LlavaOnevisionForConditionalGeneration.from_pretrained(checkpoint, dtype=dtype).eval()
    return load_pretrained_model(
        str(checkpoint), None, None, device_map=None, torch_dtype=dtype, attn_implementation="sdpa"
    )[1]


def answers(name: str, model: nn.Module, **options: Any) -> dict[str, tuple[torch.Tensor, tuple[torch.Tensor, ...]]]:
    """New ids and logits for each method and prompt."""
    subject = SUBJECTS[name]()
    subject.model = model
    found = {}
    for method, chosen in METHODS.items():
        with dycoke.attach(model, dycoke.build(method, **chosen)):
            for prompt in ASKED:
                found[f"{method} {prompt}"] = greedy_with_logits(subject, PROMPTS[prompt], **options)
    return found


def held(model: nn.Module) -> dict[str, int]:
    """Elements of the weights: all, those a process keeps, and those it has gathered."""
    weights = list(model.parameters())
    return {
        "all": sum(weight.ds_numel for weight in weights),
        "kept": sum(weight.ds_tensor.numel() for weight in weights),
        "gathered": sum(weight.numel() for weight in weights),
    }


def whole(model: nn.Module) -> dict[str, torch.Tensor]:
    """The weights, gathered one by one, and the newline, which is a buffer of a sharded model."""
    import deepspeed

    found = {key: buffer for key, buffer in model.named_buffers() if key.endswith("image_newline")}
    for key, weight in model.named_parameters():
        with deepspeed.zero.GatheredParameters([weight]):
            found[key] = weight.detach().clone()
    return found


def load_sharded(name: str, checkpoint: Path, dtype: torch.dtype) -> tuple[nn.Module, dict[str, int]]:
    """The model of a checkpoint, sharded, and the elements each of its weights had when it was just loaded."""
    config = read_config(checkpoint.parent / CONFIG, dtype)
    with partitioned(config):
        model = load(name, checkpoint, dtype)
    loaded = {key: weight.numel() for key, weight in model.named_parameters()}
    shard(model, config)
    gc.collect()  # what only a cycle holds would take its hooks along
    return model, loaded


def main() -> None:
    folder, ranks, report = Path(sys.argv[1]), Ranks.current(cpu=True), {}
    for name in sorted(path.name for path in folder.iterdir() if path.is_dir()):
        model, loaded = load_sharded(name, folder / name, torch.float32)
        report[name] = {
            "loaded": loaded,
            "answers": answers(name, model, synced_gpus=True),
            "held": held(model),
            "weights": whole(model),
            "buffers": dict(load_sharded(name, folder / name, torch.bfloat16)[0].named_buffers()),
        }
    torch.save(report, folder / f"rank{ranks.rank}.pt")


if __name__ == "__main__":
    main()
