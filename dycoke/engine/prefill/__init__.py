"""The engine's prefill: the forward passes of the tower and of the language model up to the first token."""
