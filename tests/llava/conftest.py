"""Fixtures shared by the llava tests: golden values and tiny models, made once a session."""

import json
import shutil
from pathlib import Path

import pytest

from llava.model.builder import load_pretrained_model
from tests.llava import tiny

GOLDENS = Path(__file__).parent.parent / "goldens"


@pytest.fixture(scope="session")
def goldens_dir() -> Path:
    return GOLDENS


@pytest.fixture(scope="session")
def golden() -> dict:
    return json.loads((GOLDENS / "golden.json").read_text())


@pytest.fixture(scope="session")
def onevision_path(tmp_path_factory) -> Path:
    """A tiny LLaVA-OneVision checkpoint; copy it before changing it."""
    return tiny.make_onevision_checkpoint(tmp_path_factory.mktemp("checkpoints") / "llava-onevision-qwen2-tiny-ov")


@pytest.fixture
def onevision_copy(onevision_path, tmp_path) -> Path:
    return Path(shutil.copytree(onevision_path, tmp_path / onevision_path.name))


@pytest.fixture
def onevision():
    """A tiny LLaVA-OneVision model that a test may change."""
    return tiny.make_model(tiny.onevision_config())


@pytest.fixture(scope="session")
def load():
    """Load a checkpoint on the CPU in float32, as (tokenizer, model, image_processor, context_len)."""

    def load(path, **kwargs):
        options = {"torch_dtype": "float32", "attn_implementation": "sdpa", "device_map": "cpu", **kwargs}
        return load_pretrained_model(str(path), None, Path(path).name, **options)

    return load
