"""The embedded default: a small trained video LLM, the synthetic videos it was trained on, and its training recipe."""

from __future__ import annotations

from pathlib import Path

MODEL_NAME = "llava-onevision-nano"
"""Name to give `llava.model.builder.load_pretrained_model`; prompts use the conversation template CONVERSATION."""

CONVERSATION = "qwen_1_5"

HOME = Path(__file__).resolve().parent
MODEL_PATH = HOME / "model"
EMBEDDED = "nano"
"""Stands for the embedded model wherever a checkpoint is named."""
SAMPLES_PATH = HOME / "samples"


def checkpoint_of(name: str) -> str:
    """Folder or repository that a checkpoint of this name is loaded from."""
    return str(MODEL_PATH) if name == EMBEDDED else name
