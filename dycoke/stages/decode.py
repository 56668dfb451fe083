"""The stage while decoding, the same for every family: it turns a request's cache into one that is read by index."""

from __future__ import annotations

import copy
import warnings
import weakref
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, StaticLayer

from dycoke.fitting import decode_faults, refuse
from dycoke.kv_cache.host_store import host_cache_works
from dycoke.kv_cache.layer import PrunedLayer
from dycoke.kv_cache.request import TAIL, DecodeRequest
from dycoke.kv_cache.sink import MakeSink, Sink
from dycoke.stages.arguments import ANOTHER_REQUEST
from dycoke.stages.attention import BASES, REQUEST, pruned_name
from dycoke.stages.masks import full_attention, makes_cache, padding_of
from dycoke.types import DecodePolicy, LayerPruner

_stages: weakref.WeakSet[DecodeStage] = weakref.WeakSet()  # those that are installed


class DecodeStage:
    """Serves a decode policy on a language model of transformers (the module whose layers fill a cache).

    policy None reads everything, through the same cache and attention. pruners: what drops columns in prefill. A stage
    whose prefills all fill sinks of somebody else need not be installed. Raises
    ValueError if the model's attention cannot be observed, or the policy's first layer is not one of its later layers.
    """

    def __init__(
        self,
        language_model: nn.Module,
        policy: DecodePolicy | None,
        pruners: Sequence[LayerPruner] = (),
        trace: bool = False,
    ) -> None:
        self.config, self._model = language_model.config, weakref.ref(language_model)
        self._policy, self._trace = policy, trace
        self._base = _check_attention(language_model)
        self._layers = self.config.num_hidden_layers
        refuse(decode_faults(policy, pruners, self._layers))
        self._host = policy is not None and policy.dp_cache == "host"
        if self._host and not host_cache_works(language_model):
            warnings.warn("dp_cache='host' needs CUDA: the cache stays on the device", stacklevel=4)
            self._host = False
        self._warned = False
        self._live: weakref.WeakSet[Sink] = weakref.WeakSet()
        self._hiding: weakref.WeakSet[Sink] = weakref.WeakSet()  # whose own mask hides columns altogether

    def install(self, undo: ExitStack) -> None:
        """Let the layers attend under our attention's name. The config, which others read and save, keeps its own."""
        undo.callback(self._leave)
        _stages.add(self)
        config = copy.copy(self.config)
        config._attn_implementation = pruned_name(self._base)
        for layer in self._model().layers:
            undo.callback(_give_back, weakref.ref(layer.self_attn), layer.self_attn.config)
            layer.self_attn.config = config

    def _leave(self) -> None:
        for request in self._live:
            request.abandon()  # a step that failed would leave it open to steps nobody prepares
        _stages.discard(self)

    @property
    def flat_masks(self) -> bool:
        """Whether the model's attention takes 2-D masks."""
        return self._base == "flash_attention_2"

    def has_cache(self, kwargs: dict[str, Any]) -> bool:
        """Whether a prefill with these arguments fills a cache. Warns, once, where there is none to prune.

        Raises ValueError for a cache that is not fresh or of another kind.
        """
        cache = kwargs.get("past_key_values")
        if cache is not None:
            _check_cache(cache)
            return True
        if makes_cache(self._model(), kwargs):
            return True
        if self._policy is not None and not self._warned:
            warnings.warn("use_cache=False: there is no cache to prune while decoding", stacklevel=2)
        self._warned = True
        return False

    def prefill(
        self,
        kwargs: dict[str, Any],
        shape: tuple[int, int],
        device: torch.device,
        real: Tensor | None,
        visual: Tensor | None,
        own: Tensor | None = None,
        make: MakeSink | None = None,
    ) -> tuple[dict[str, Any], Sink]:
        """Arguments of a prefill [B, S] with the cache taken over, and what it fills: what `make` gives, or a cache.

        real [B, S] bool: no padding. visual [B, S] bool. own [., ., S, S]: the caller's mask, where it says more than
        padding; steps then read every column that a token of the prompt has seen. Raises ValueError for what `check`
        refuses.
        """
        self.check(kwargs)
        cache = kwargs.get("past_key_values")
        cache = DynamicCache(config=self.config) if cache is None else cache
        request = (make or self._growing(cache))(kwargs, shape, device, real, visual)
        self._live.add(request)
        width = max([0, *_static_lengths(cache)])
        layers = [PrunedLayer(request, layer, width) for layer in range(self._layers)]
        cache.layers, cache.layer_class_to_replicate = layers, None
        kwargs = {**kwargs, "past_key_values": cache}
        mask = kwargs.get("attention_mask")
        if own is not None:
            kwargs["attention_mask"] = own
            if not bool(real.all()):
                self._hiding.add(request)
        elif isinstance(mask, dict) or (mask is not None and mask.ndim == 4):
            # Made for a static cache, as wide as that would have become.
            kwargs["attention_mask"] = None if real is None else real.long()
        return kwargs, request

    def _growing(self, cache: Cache) -> MakeSink:
        """Makes the request of a cache that grows while decoding, with as much room as a static one has."""

        def make(
            kwargs: dict[str, Any],
            shape: tuple[int, int],
            device: torch.device,
            real: Tensor | None,
            visual: Tensor | None,
        ) -> DecodeRequest:
            tail = max([TAIL, *(length - shape[1] for length in _static_lengths(cache))])
            return DecodeRequest(
                self._policy, self._layers, shape, device, real, visual, host=self._host, tail=tail, trace=self._trace
            )

        return make

    @staticmethod
    def is_fresh(cache: Cache) -> bool:
        """Whether the cache holds no prompt (any more): it was reset."""
        return not cache.layers[0].is_initialized

    def step(self, kwargs: dict[str, Any], shape: tuple[int, int]) -> dict[str, Any]:
        """Arguments of a decode step [B, 1]. Raises ValueError for more than one token, and for what `check` refuses.

        A mask of the caller's is read, on the device: it must show what the cache takes for real, and no less.
        """
        self.check(kwargs)
        if shape[1] != 1:
            raise ValueError(
                f"a step of {shape[1]} tokens: pruning while decoding takes one at a time; leave out "
                "prompt_lookup_num_tokens, assistant_model and prefill_chunk_size, and pass a new prompt with a fresh "
                "cache"
            )
        request = kwargs["past_key_values"].layers[0].request
        if not request.stepping:  # one that failed is refused for that
            if request in self._hiding and kwargs.get("attention_mask") is None:
                raise ValueError(
                    "attention_mask=None in a decode step behind a mask that hides columns of the prompt from all of "
                    "it: pass one that says whether the step sees them; accepted: ones where the prompt's shows any"
                )
            _check_step(kwargs.get("attention_mask"), request, shape)
        request.advance()
        # The cache knows which columns are padding; a mask would be one more thing to build and to read.
        return {**kwargs, "attention_mask": None, REQUEST: request}

    def end_step(self, kwargs: dict[str, Any]) -> None:
        """The language model has finished a step."""
        kwargs[REQUEST].end_step()

    def check(self, kwargs: dict[str, Any]) -> None:
        """Raises ValueError for output_attentions, and where somebody has changed the model's attention meanwhile."""
        if self in _stages and self.config._attn_implementation != self._base:
            raise ValueError(
                f"attn_implementation={self.config._attn_implementation!r} was set while a method is attached; remove "
                "the method first"
            )
        if kwargs.get("output_attentions") or self.config.output_attentions:
            raise ValueError("output_attentions=True: not available with a method that prunes the KV cache")


def _give_back(attention: weakref.ref, config: PretrainedConfig) -> None:
    if attention() is not None:
        attention().config = config


def _check_attention(language_model: nn.Module) -> str:
    """The model's attention implementation, of those that can be observed."""
    name, config = type(language_model).__name__, language_model.config
    base = config._attn_implementation
    if any(stage._model() is language_model for stage in _stages):
        raise ValueError(f"{name} carries a method already; remove it first")
    if not getattr(language_model, "_supports_attention_backend", False):
        raise ValueError(
            f"{name}: its attention cannot be observed, because it does not go through transformers' attention "
            "interface; supported: Qwen2 and Llama language models"
        )
    if base not in BASES:
        raise ValueError(f"attn_implementation={base!r}: {name}'s attention cannot be observed; accepted: {BASES}")
    others = sorted(set(getattr(config, "layer_types", None) or ()) - {"full_attention"})
    if others:
        raise ValueError(f"{name}: layers of type {', '.join(others)} cannot be pruned; accepted: full_attention")
    return base


def _static_lengths(cache: Cache) -> list[int]:
    """Columns of each static layer of a cache."""
    return [layer.max_cache_len for layer in cache.layers if isinstance(layer, StaticLayer)]


def _check_cache(cache: Cache) -> None:
    """Raise ValueError unless the cache is a plain, fresh one."""
    layers = getattr(cache, "layers", None)
    if (
        layers is None
        or getattr(cache, "offloading", False)
        or any(type(layer) not in (DynamicLayer, StaticLayer, PrunedLayer) for layer in layers)
    ):
        raise ValueError(
            f"past_key_values={type(cache).__name__}: a method that prunes the KV cache keeps its own entries; "
            "accepted: a dynamic or static cache, without offloading or quantization"
        )
    if any(layer.is_initialized and int(layer.get_seq_length()) for layer in layers):
        raise ValueError(ANOTHER_REQUEST)


def _check_step(mask: Any, request: DecodeRequest, shape: tuple[int, int]) -> None:
    """Raise ValueError for a mask that hides or shows other columns than the request's steps read."""
    mask = full_attention(mask)
    if mask is None:
        return
    before = request.prompt + request.steps
    seen = mask.bool() if mask.ndim == 2 else padding_of(mask, shape, before)
    real = request.sections[0].real.to(mask.device)
    wanted = torch.nn.functional.pad(real, (0, request.steps + 1), value=True)
    if seen is None or seen.shape != wanted.shape or not torch.equal(seen, wanted):
        raise ValueError(
            f"attention_mask of shape {tuple(mask.shape)} in a decode step hides or shows other columns than the mask "
            f"of the prompt; accepted: None, or that mask with ones for the answer, [{shape[0]}, {before + 1}] (leave "
            "out prompt_lookup_num_tokens and assistant_model where their steps are handed other masks)"
        )
