"""SigLIP's and CLIP's vision encoders of transformers, with what surrounds their matrix products fused.

All frames are one batch. The stock encoder's patches come out of a convolution as [F, C, P], and its residual stream
keeps that order of memory through all layers, so that every norm and every residual add walks across it; here they are
put in order once. A norm takes the residual add before it along, and tanh-GELU is the epilogue of its matrix product.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend
from torch.nn.functional import linear
from transformers.activations import ACT2FN
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.clip import modeling_clip as clip
from transformers.models.siglip import modeling_siglip as siglip

from dycoke.engine.hooks import hooked, scattered, unlike
from dycoke.engine.prefill.rows import BACKENDS, attend, by_tokens, preferring
from dycoke.ops.layer.fused import add_layer_norm, layer_norm

MODELS = (siglip.SiglipVisionModel, clip.CLIPVisionModel)
_TANH_GELU = type(ACT2FN["gelu_pytorch_tanh"])
_KINDS = {
    siglip.SiglipEncoderLayer: (siglip.SiglipAttention, siglip.SiglipMLP),
    clip.CLIPEncoderLayer: (clip.CLIPAttention, clip.CLIPMLP),
}
# What is read, and what LLaVA-OneVision hands down although its tower does not read it.
_SAID = frozenset({"pixel_values", "interpolate_pos_encoding", "output_hidden_states", "vision_aspect_ratio"})


class EncoderLayers:
    """The first layers of an encoder; holds what it checked once. depth: how many, all of them if None."""

    def __init__(self, model: nn.Module, depth: int | None = None, backends: Sequence[SDPBackend] = BACKENDS) -> None:
        self._layers, self._backends = list(model.encoder.layers[:depth]), backends
        self._modules = [list(layer.modules()) for layer in self._layers]
        self._unserved = _unserved(model, self._layers)

    def unserved(self) -> str:
        """Reason why all layers run as they are now, "" if those that carry no hooks are sped up."""
        return self._unserved or ("every layer carries hooks" if all(map(hooked, self._modules)) else "")

    def serves(self, hidden: Tensor) -> bool:
        """Whether `run` computes what the layers do, for an input of this dtype and device."""
        weight = None if self._unserved else self._layers[0].layer_norm1.weight
        return (
            weight is not None
            and not torch.is_grad_enabled()
            and not torch.is_autocast_enabled(hidden.device.type)
            and hidden.dtype == weight.dtype
            and hidden.device == weight.device
            and not self.unserved()
        )

    @torch.no_grad()
    def run(self, hidden: Tensor) -> Iterator[Tensor]:
        """The hidden states [F, S, C] of frames: the input, in order, and what every layer makes of the one before.

        A layer that carries hooks, or has a module that does, is called as it is. A state is the caller's to keep.
        """
        residual, delta = hidden.contiguous(), None  # what a layer adds is added where the next norm reads it
        for layer, modules in zip(self._layers, self._modules, strict=True):
            if hooked(modules):
                residual, delta = _settled(residual, delta), None
                yield residual
                residual = layer(residual, None)
                continue
            norm = layer.layer_norm1
            normed, residual = _norm(norm, residual, delta)
            yield residual
            with preferring(self._backends):
                mixed = _attention(layer.self_attn, normed)
            normed, residual = _norm(layer.layer_norm2, residual, mixed)
            delta = by_tokens(lambda part, mlp=layer.mlp: _mlp(mlp, part), normed)
        yield _settled(residual, delta)


class VisionForward:
    """The forward of a whole SiglipVisionModel or CLIPVisionModel."""

    def __init__(self, model: nn.Module, backends: Sequence[SDPBackend] = BACKENDS) -> None:
        self._model, self._layers = model, EncoderLayers(model, backends=backends)

    def unserved(self) -> str:
        """Reason why the model runs its stock forward now, "" if it is sped up."""
        return self._layers.unserved()

    def serves(self, kwargs: dict[str, Any]) -> bool:
        """Whether `run` computes what the stock forward does for these arguments, by name."""
        plain = all(key in _SAID or value is None for key, value in kwargs.items() if key != "return_dict")
        told = kwargs.get("return_dict") in (None, True) and isinstance(kwargs.get("pixel_values"), Tensor)
        config = self._model.config
        asks = config.output_attentions or config.output_hidden_states or not getattr(config, "return_dict", True)
        if not plain or not told or asks:
            return False
        weight = self._model.embeddings.patch_embedding.weight
        return weight.device == kwargs["pixel_values"].device and self._layers.serves(weight)

    @torch.no_grad()
    def run(self, kwargs: dict[str, Any]) -> BaseModelOutputWithPooling:
        """Output of the stock forward for arguments that `serves` accepts, the hidden states that were asked for.

        output_hidden_states: True for all [F, S, C], or the number or numbers of those that are used, from either end.
        """
        model, wanted = self._model, kwargs.get("output_hidden_states")
        hidden = model.embeddings(
            kwargs["pixel_values"], interpolate_pos_encoding=kwargs.get("interpolate_pos_encoding") or False
        )
        is_clip = isinstance(model, clip.CLIPVisionModel)
        if is_clip:
            hidden = model.pre_layrnorm(hidden)
        count = len(model.encoder.layers) + 1
        kept, states = _numbers(wanted, count), []
        for number, state in enumerate(self._layers.run(hidden)):
            states.append(state if number in kept else None)
        if is_clip:
            last, pooled = state, model.post_layernorm(state[:, 0])
        else:
            last = model.post_layernorm(state)
            pooled = model.head(last) if model.use_head else None
        asked = wanted is not None and wanted is not False
        return BaseModelOutputWithPooling(
            last_hidden_state=last, pooler_output=pooled, hidden_states=tuple(states) if asked else None
        )


def _numbers(wanted: bool | int | Sequence[int] | None, count: int) -> Collection[int]:
    """Numbers of the `count` hidden states that are asked for; those out of range name none."""
    if wanted is None or isinstance(wanted, bool):
        return range(count if wanted else 0)
    numbers = [wanted] if isinstance(wanted, int) else wanted
    return {number % count for number in numbers if -count <= number < count}


def _settled(residual: Tensor, delta: Tensor | None) -> Tensor:
    return residual if delta is None else residual + delta


def _norm(norm: nn.LayerNorm, residual: Tensor, delta: Tensor | None) -> tuple[Tensor, Tensor]:
    """The norm of residual + delta [F, S, C], and that sum."""
    if delta is None:
        return layer_norm(residual, norm.weight, norm.bias, norm.eps), residual
    return add_layer_norm(delta, residual, norm.weight, norm.bias, norm.eps)


def _attention(attention: nn.Module, normed: Tensor) -> Tensor:
    """Output of a layer's attention, [F, S, C]: every patch attends to all patches of its frame."""
    shape = (*normed.shape[:2], -1, attention.head_dim)
    query, key, value = (
        linear(normed, each.weight, each.bias).view(shape)
        for each in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    mixed = attend(query, key, value, attention.scale, causal=False).flatten(2)
    return linear(mixed, attention.out_proj.weight, attention.out_proj.bias)


def _mlp(mlp: nn.Module, normed: Tensor) -> Tensor:
    """Output of a layer's MLP, [F, S, C]."""
    first, second = mlp.fc1, mlp.fc2
    if normed.is_cuda and type(mlp.activation_fn) is _TANH_GELU:
        # On CUDA this is tanh-GELU, before anything is rounded; on a CPU it would be another GELU.
        flat = torch._addmm_activation(first.bias, normed.flatten(0, 1), first.weight.t(), use_gelu=True)
        active = flat.view(*normed.shape[:2], -1)
    else:
        active = mlp.activation_fn(linear(normed, first.weight, first.bias))
    return linear(active, second.weight, second.bias)


def _unserved(model: nn.Module, layers: Sequence[nn.Module]) -> str:
    """Reason why a model can never be served, "" if it can."""
    if model.training:
        return "it is in training mode"
    if not layers:
        return "no layer of it is used"
    return (
        unlike((layer, tuple(_KINDS)) for layer in layers)
        or unlike(part for layer in layers for part in _parts(layer))
        or scattered(layers)
    )


def _parts(layer: nn.Module) -> list[tuple[nn.Module, tuple[type, ...]]]:
    """The modules a layer is run from, each with what it has to be; activations are called, whatever they are."""
    attention, mlp = _KINDS[type(layer)]
    if type(layer.self_attn) is not attention or type(layer.mlp) is not mlp:
        return [(layer.self_attn, (attention,)), (layer.mlp, (mlp,))]
    own, wide = layer.self_attn, layer.mlp
    products = (own.q_proj, own.k_proj, own.v_proj, own.out_proj, wide.fc1, wide.fc2)
    return [*((each, (nn.Linear,)) for each in products), *((n, (nn.LayerNorm,)) for n in _norms(layer))]


def _norms(layer: nn.Module) -> tuple[nn.Module, nn.Module]:
    return layer.layer_norm1, layer.layer_norm2
