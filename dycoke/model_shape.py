"""Sizes of a language model, of which its cost follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Shape:
    """Sizes of a Qwen2 language model, or one built alike. tied: the head's weights are the embedding's."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool = False

    @classmethod
    def of(cls, source: Any) -> Shape:
        """The shape in a mapping with the names of the fields, or of a configuration of transformers.

        A configuration of several models is asked for that of its text. Raises ValueError for a mapping with other
        keys, for sizes that are no integers from 1 on, and for heads that do not share the hidden size evenly.
        """
        if not isinstance(source, Mapping):
            return _of_config(cls, source)
        known = [field.name for field in fields(cls)]
        wrong = [key for key in known[:-1] if key not in source] + [key for key in source if key not in known]
        if wrong:
            raise ValueError(f"shape: {', '.join(map(repr, wrong))} missing or unknown; expected {', '.join(known)}")
        for name in known[:-1]:
            value = source[name]
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"shape: {name}={value!r}: expected an integer of at least 1")
        if source["hidden"] % source["heads"]:
            raise ValueError(f"shape: hidden={source['hidden']}: expected a multiple of heads={source['heads']}")
        return cls(**source)

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    @property
    def column_values(self) -> int:
        """Numbers in the keys and values of one token in one layer."""
        return 2 * self.kv_heads * self.head_dim

    def column_bytes(self, dtype: torch.dtype) -> int:
        """Keys and values of one token in one layer."""
        return self.column_values * dtype.itemsize


# The language models of LLaVA-OneVision.
LLAVA_ONEVISION = {
    "0.5b": Shape(24, 896, 4864, 14, 2, 151936, tied=True),
    "7b": Shape(28, 3584, 18944, 28, 4, 152064),
    "72b": Shape(80, 8192, 29568, 64, 8, 152064),
}


def _of_config(cls: type[Shape], config: Any) -> Shape:
    text = config.get_text_config()
    shape = cls.of(
        {
            "layers": text.num_hidden_layers,
            "hidden": text.hidden_size,
            "intermediate": text.intermediate_size,
            "heads": text.num_attention_heads,
            "kv_heads": text.num_key_value_heads,
            "vocabulary": text.vocab_size,
            "tied": bool(text.tie_word_embeddings),
        }
    )
    head_dim = getattr(text, "head_dim", None) or shape.head_dim
    if head_dim != shape.head_dim:
        raise ValueError(f"shape: heads of {head_dim}: expected hidden_size / num_attention_heads, {shape.head_dim}")
    return shape
