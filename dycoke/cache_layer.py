"""The side of the KV cache that transformers sees: a CacheLayer that hands everything on to its request."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from dycoke.cache import DecodeRequest


class PrunedLayer(CacheLayerMixin):
    """One layer of a request's cache, as transformers sees it."""

    is_sliding = False

    def __init__(self, request: DecodeRequest, layer: int) -> None:
        super().__init__()
        self.request, self.layer = request, layer

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Take the prompt's keys and values [B, H, S, D] first, then a token's [B, H, 1, D] at each step.

        Returns them as they are: prefill attends to them alone, and a step reads the cache by its index.
        Raises ValueError for several tokens in a step, and for a step no attached method prepared.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.request.fill(self.layer, key_states, value_states)
        elif not self.request.stepping:
            raise ValueError("past_key_values= of a method that was removed: pass the whole prompt and a fresh cache")
        else:
            self.request.append(self.layer, key_states, value_states)
        return key_states, value_states

    def get_seq_length(self) -> int:
        """Columns before the step under way, whose own column was counted when it began."""
        request = self.request
        return request.prompt + request.steps - int(request.stepping) if self.is_initialized else 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        return -1

    def reset(self) -> None:
        """Forget the prompt; the cache can then serve a new request."""
        self.is_initialized = False

    def reorder_cache(self, beam_idx: Tensor) -> None:
        if self.layer == 0:
            self.request.reorder(beam_idx)
        self.request.reorder_layer(self.layer, beam_idx)

    def crop(self, tokens_to_remove: int) -> None:
        """Raises ValueError: what was read cannot be taken back."""
        if tokens_to_remove:
            raise ValueError(
                "this cache cannot take tokens back: with a method that prunes while decoding, leave out "
                "prompt_lookup_num_tokens and assistant_model"
            )
