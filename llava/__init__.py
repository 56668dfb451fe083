"""LLaVA models on current transformers, call-compatible with LLaVA-NeXT."""

from llava.model import LlavaLlamaForCausalLM, LlavaQwenForCausalLM

__all__ = ["LlavaLlamaForCausalLM", "LlavaQwenForCausalLM"]
