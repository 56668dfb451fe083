"""The models this package gives to lmms-eval, through the entry point `lmms_eval.models`."""

from __future__ import annotations

from lmms_eval.models.registry_v2 import ModelManifest

from dycoke.families import lmms_eval_models


def manifests() -> list[ModelManifest]:
    """One for each model; those of the built-in ids take their places, because prompts depend on the id."""
    return [ModelManifest(model_id=name, simple_class_path=path) for name, path in lmms_eval_models().items()]
