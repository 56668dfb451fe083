"""load_pretrained_model hands the options of a compression method on, and loads nothing of it otherwise."""

import sys
import types

import pytest
import torch

import dycoke
from tests.llava import tiny


@pytest.fixture
def applied(monkeypatch):
    """Stands in for dycoke's loader; records the options it gets and the models their choice is put on."""
    calls = []

    def choose_method(options):
        calls.append(options)
        return None if options.get("dycoke") is False else types.SimpleNamespace(put_on=calls.append)

    module = types.ModuleType("dycoke.keywords")
    module.choose_method = choose_method
    monkeypatch.setitem(sys.modules, "dycoke.keywords", module)
    return calls


@pytest.mark.parametrize(
    "options",
    [
        {"dycoke": True, "dycoke_k": 0.7, "dycoke_num_tokens_per_frame": 16, "image_token_start_index": 14},
        {"dycoke": "True", "dycoke_l": "3", "dycoke_p": "0.7", "dycoke_dp_cache": "host"},
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


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"method": "dycoke,kep=1"}, "unknown option 'kep'"),
        ({"dycoke": True, "dycoke_l": 3.5}, "l=3.5: expected an integer"),
        ({"dycoke": True, "dycoke_p": "most"}, "p='most': expected a number"),
    ],
)
def test_a_type_error_of_a_method_does_not_escape(onevision_path, load, options, complaint):
    """lmms-eval would take it for an unknown keyword, and load again without the method."""
    with pytest.raises(ValueError, match=complaint):
        load(onevision_path, **options)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_loaded_model_prunes_while_decoding(onevision_path, load, attention):
    """The logits of its steps, not of its prefill, are those of the method attached by hand, and not the full ones."""
    texts = {"dycoke": "True", "dycoke_k": "0", "dycoke_l": "1", "dycoke_p": "0.5"}
    loaded = load(onevision_path, attn_implementation=attention, **texts)[1]
    plain = load(onevision_path, attn_implementation=attention)[1]
    full = logits(plain)
    with dycoke.attach(plain, dycoke.build("dycoke", k=0, l=1, p=0.5)):
        expected = logits(plain)
    pruned = logits(loaded)
    assert torch.equal(pruned, expected)
    assert torch.allclose(pruned[0], full[0], atol=1e-5)
    assert not torch.allclose(pruned[1], full[1], atol=1e-3)
    dycoke.remove(loaded)
    assert torch.equal(logits(loaded), full)


def logits(model):
    """[steps, vocabulary] of a greedy answer about two frames."""
    request = {"images": [tiny.frames(2)], "modalities": ["video"], "pad_token_id": 0}
    answer = model.generate(
        torch.tensor([[11, -200, 12]]),
        **request,
        do_sample=False,
        max_new_tokens=4,
        min_new_tokens=4,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return torch.cat(answer.logits)
