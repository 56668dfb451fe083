"""The KV cache as transformers sees it: a CacheLayer that hands everything on to its request."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from dycoke.kv_cache.sink import Sink


class PrunedLayer(CacheLayerMixin):
    """One layer of a request's cache, as transformers sees it."""

    is_sliding = False

    def __init__(self, request: Sink, layer: int, width: int = 0) -> None:
        """request: what the prefill fills, and, where it goes on to decode steps, a `DecodeRequest`, which serves them.

        width: columns that the layer of a static cache has, whose place this one takes."""
        self.request, self.layer, self._width = request, layer, width
        super().__init__()

    @property
    def keys(self) -> Tensor | None:
        """Keys [B, H, C, D] of the prompt's columns that the layer holds and the answer's: a copy, to look at.

        With zeros behind them up to the width of a static cache. None before the prompt. Raises ValueError where they
        are in host memory, or in the engine.
        """
        return self.request.columns_of(self.layer, self._width)[0] if self.is_initialized else None

    @keys.setter
    def keys(self, keys: Tensor | None) -> None:
        _refuse_setting(keys)

    @property
    def values(self) -> Tensor | None:
        """Values [B, H, C, D], as `keys`."""
        return self.request.columns_of(self.layer, self._width)[1] if self.is_initialized else None

    @values.setter
    def values(self, values: Tensor | None) -> None:
        _refuse_setting(values)

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
        """Number of columns before the step under way, whose own column was counted when it began."""
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

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Raises ValueError: the policy has chosen for the rows there are."""
        raise ValueError(_ROWS)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Raises ValueError: the policy has chosen for the rows there are."""
        raise ValueError(_ROWS)


_ROWS = (
    "rows of this cache cannot be repeated or selected while a method prunes it; pass the whole prompts, as many rows "
    "as there shall be, and a fresh cache"
)


def _refuse_setting(entries: Tensor | None) -> None:
    """transformers' own initializer sets None; what anybody else sets would never be read."""
    if entries is not None:
        raise ValueError("keys and values of a cache that a method prunes cannot be set, only read")
