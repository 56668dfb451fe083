"""load_pretrained_model hands the options of a compression method on, and loads nothing of it otherwise."""

import sys
import types

import pytest


@pytest.fixture
def applied(monkeypatch):
    """Stands in for dycoke's loader; records the options it gets and the models their choice is put on."""
    calls = []

    def choose_method(options):
        calls.append(options)
        return None if options.get("dycoke") is False else types.SimpleNamespace(put_on=calls.append)

    module = types.ModuleType("dycoke.adapters.loader")
    module.choose_method = choose_method
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
    assert applied == [options, model]


def test_a_choice_of_nothing_is_put_on_nothing(onevision_path, load, applied):
    load(onevision_path, dycoke=False, dycoke_k=0.7)
    assert applied == [{"dycoke": False, "dycoke_k": 0.7}]


def test_without_options_nothing_of_dycoke_is_asked(onevision_path, load, applied):
    load(onevision_path)
    assert applied == []


def test_options_without_a_method(onevision_path, load):
    with pytest.raises(ValueError, match="dycoke_k given without dycoke=True"):
        load(onevision_path, dycoke_k=0.7)


def test_a_type_error_of_a_method_does_not_escape(onevision_path, load):
    """lmms-eval would take it for an unknown keyword, and load again without the method."""
    with pytest.raises(ValueError, match="unknown option 'kep'"):
        load(onevision_path, method="dycoke,kep=1")
