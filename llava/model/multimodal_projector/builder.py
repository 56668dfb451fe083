"""Build the projector a config asks for."""

import re

from torch import nn
from transformers import PretrainedConfig


def build_vision_projector(config: PretrainedConfig) -> nn.Module:
    """Return the module that maps tower features [.., mm_hidden_size] to [.., hidden_size].

    config.mm_projector_type is "linear", "identity" or "mlp<N>x_gelu". Raises ValueError on any other.
    """
    kind = getattr(config, "mm_projector_type", "linear")
    if kind == "linear":
        return nn.Linear(config.mm_hidden_size, config.hidden_size)
    if kind == "identity":
        return nn.Identity()
    match = re.fullmatch(r"mlp([1-9]\d*)x_gelu", kind)
    if match is None:
        raise ValueError(f"mm_projector_type {kind!r}: expected 'linear', 'identity' or 'mlp<N>x_gelu'")
    layers: list[nn.Module] = [nn.Linear(config.mm_hidden_size, config.hidden_size)]
    for _ in range(int(match[1]) - 1):
        layers += [nn.GELU(), nn.Linear(config.hidden_size, config.hidden_size)]
    return nn.Sequential(*layers)
