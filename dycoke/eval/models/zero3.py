"""One model sharded over several processes by DeepSpeed's ZeRO stage 3, for inference.

    config = read_config("scripts/deepspeed/zero3_inference.json", torch.bfloat16)
    with partitioned(config):
        tokenizer, model, processor, _ = load_pretrained_model(..., device_map=None, torch_dtype=torch.bfloat16)
    shard(model, config)
    model.generate(..., synced_gpus=True)

Every process holds 1 / N of the weights, gathers those of a layer as it runs, and has to be asked the same as the
others at the same time. A method is attached as to any other model, after `shard`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import distributed, nn

from dycoke.lab.ranks import Ranks

_PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}
_TRAINING = ("optimizer", "scheduler")
_NEWLINE = "image_newline"


def read_config(path: str | Path, dtype: torch.dtype) -> dict[str, Any]:
    """DeepSpeed's configuration in a JSON file, for weights of `dtype`; "auto" under bf16 and fp16 follows dtype.

    Raises OSError if the file cannot be read, ValueError if it is no JSON, of another stage than 3, of another
    precision than dtype, or for training.
    """
    path = Path(path)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: no JSON: {error}") from error
    try:
        return _checked(config, dtype)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _checked(config: Any, dtype: torch.dtype) -> dict[str, Any]:
    if not isinstance(config, dict):
        raise ValueError("expected an object")
    stage = _section(config, "zero_optimization").get("stage")
    if stage != 3:
        raise ValueError(f"zero_optimization.stage={stage!r}: expected 3, which shards the weights themselves")
    unused = [key for key in _TRAINING if key in config]
    if unused:
        raise ValueError(f"{', '.join(unused)}: for training; leave it out")
    for name, precision in _PRECISIONS.items():
        enabled = _section(config, name).get("enabled", "auto")
        if enabled != "auto" and enabled is not (dtype == precision):
            raise ValueError(f"{name}.enabled={enabled!r} for weights of {dtype}: expected 'auto', or another dtype")
        config[name] = {**_section(config, name), "enabled": dtype == precision}
    autos = sorted(_autos(config))
    if autos:
        raise ValueError(f"{', '.join(autos)}: 'auto' is for bf16 and fp16 alone; leave it out for DeepSpeed's default")
    return {"train_micro_batch_size_per_gpu": 1, **config}  # DeepSpeed insists, though nothing is trained


def _section(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    section = config.get(key, {})
    if not isinstance(section, dict):
        raise ValueError(f"{key}={section!r}: expected an object")
    return section


def _autos(config: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in config.items():
        if value == "auto":
            yield prefix + key
        elif isinstance(value, dict):
            yield from _autos(value, f"{prefix}{key}.")


@contextmanager
def partitioned(config: Mapping[str, Any]) -> Iterator[None]:
    """Within it, `from_pretrained` leaves each process its share of every weight as soon as that is read.

    The files are mapped, not copied, so that no machine needs memory for all of them. No device_map goes with it.
    Raises ValueError if DeepSpeed is not installed or the process is alone.
    """
    _deepspeed()
    if Ranks.current().world == 1:
        raise ValueError("ZeRO-3 shards a model over several processes, and this one is alone; start more")
    from transformers.integrations.deepspeed import HfDeepSpeedConfig, unset_hf_deepspeed_config

    alive = HfDeepSpeedConfig(dict(config))  # transformers holds it weakly
    try:
        yield
    finally:
        unset_hf_deepspeed_config()
        del alive


def shard(model: nn.Module, config: Mapping[str, Any]) -> nn.Module:
    """Let the modules of a model that was loaded in `partitioned` gather their weights as they run; returns the model.

    A weight that is still whole, as those of a vision tower that lies apart from its checkpoint, is partitioned now.
    """
    training = model.training
    _keep_newline(model)
    _restore_frequencies(model)
    # The engine it returns lives on in the hooks that it has put on the model.
    _deepspeed().initialize(model=model.requires_grad_(False), config=dict(config))
    return model.train(training)


def _keep_newline(model: nn.Module) -> None:
    """Make the newline vector a buffer, which every process has whole.

    A module's weights are gathered when it is called, and this one is read where its module is not.
    """
    for module in model.modules():
        weight = module._parameters.pop(_NEWLINE, None)
        if weight is not None:
            with _deepspeed().zero.GatheredParameters([weight]):
                vector = weight.detach().clone()
            distributed.broadcast(vector, 0)  # only the first process has read it where it was never partitioned
            module.register_buffer(_NEWLINE, vector)


def _restore_frequencies(model: nn.Module) -> None:
    """Give rotary embeddings their frequencies in float32.

    DeepSpeed makes every float tensor of a model under construction in the dtype of the weights, which older releases
    of transformers do not keep from the frequencies.
    """
    for module in model.modules():
        for name in ("inv_freq", "original_inv_freq"):
            rounded = module._buffers.get(name)
            if rounded is not None and rounded.dtype != torch.float32:
                module._buffers[name] = type(module)(module.config)._buffers[name].to(rounded.device)


def _deepspeed() -> ModuleType:
    try:
        import deepspeed
    except ModuleNotFoundError as error:
        raise ValueError(f"no module {error.name}: ZeRO-3 needs DeepSpeed; pip install 'dycoke[deepspeed]'") from error
    return deepspeed
