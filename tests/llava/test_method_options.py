"""load_pretrained_model hands the options of a compression method on, and loads nothing of it otherwise."""

import sys
import types

import pytest


@pytest.fixture
def applied(monkeypatch):
    """Stands in for dycoke's loader and records what it is asked to apply."""
    calls = []
    module = types.ModuleType("dycoke.adapters.loader")
    module.apply_loader_options = lambda model, options: calls.append((model, options))
    monkeypatch.setitem(sys.modules, "dycoke.adapters.loader", module)
    return calls


@pytest.mark.parametrize(
    "options",
    [
        {"dycoke": True, "dycoke_k": 0.7, "dycoke_num_tokens_per_frame": 16, "image_token_start_index": 14},
        {"method": "fastv", "method_options": {"k": 2}},
        {"plan": object()},
    ],
)
def test_method_options_are_handed_on(onevision_path, load, applied, options):
    _, model, _, _ = load(onevision_path, multimodal=True, **options)
    assert applied == [(model, options)]


@pytest.mark.parametrize("options", [{}, {"dycoke": False, "dycoke_k": 0.7}])
def test_nothing_is_applied_unasked(onevision_path, load, applied, options):
    load(onevision_path, **options)
    assert applied == []


def test_options_without_a_method(onevision_path, load):
    with pytest.raises(ValueError, match="dycoke_k given, but no method: add dycoke=True"):
        load(onevision_path, dycoke_k=0.7)


def test_a_type_error_of_a_method_does_not_escape(onevision_path, load, applied, monkeypatch):
    def refuse(model, options):
        raise TypeError("unknown option 'kep'")

    monkeypatch.setattr(sys.modules["dycoke.adapters.loader"], "apply_loader_options", refuse)
    with pytest.raises(ValueError, match="unknown option 'kep'"):
        load(onevision_path, method="visionzip")
