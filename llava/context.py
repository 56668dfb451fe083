"""How long a prompt a model reads."""

from typing import Any


def readable(config: Any) -> int | None:
    """Tokens of the longest prompt that a language model of this config reads; None if the config does not say.

    That is what its position embeddings were made for, stretched where rope_parameters say so, and at most
    tokenizer_model_max_length, where there is one. An answer may go on behind it.
    """
    positions, cut = (getattr(config, key, None) for key in ("max_position_embeddings", "tokenizer_model_max_length"))
    rope = getattr(config, "rope_parameters", None) or {}
    factor = rope.get("factor")
    if positions is not None and isinstance(factor, int | float):
        positions = max(positions, int((rope.get("original_max_position_embeddings") or positions) * factor))
    return min((each for each in (positions, cut) if each is not None), default=None)


def check_fits(tokens: int, context: int | None) -> None:
    """Raise ValueError, with both lengths, for a prompt of more tokens than a model reads."""
    if context is not None and tokens > context:
        raise too_long(tokens, context)


def too_long(tokens: int, context: int) -> ValueError:
    """The error for a prompt that leaves no token of the context, or lacks some."""
    return ValueError(
        f"the prompt fills the {context} tokens the model reads: it has {tokens}, those of videos and pictures "
        "included; take fewer frames, a method that keeps fewer tokens, or a shorter question"
    )
