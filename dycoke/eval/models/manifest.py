"""The models this package gives to lmms-eval, through the entry point `lmms_eval.models`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dycoke.families import lmms_eval_models

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest


def manifests() -> list[ModelManifest]:
    """One for each model; those of the built-in ids take their places, because prompts depend on the id."""
    # Here, because importing it asks every entry point for its models, this one too.
    from lmms_eval.models.registry_v2 import ModelManifest

    return [ModelManifest(model_id=name, simple_class_path=path) for name, path in lmms_eval_models().items()]
