"""The vision encoders by fused kernels against transformers' own forward, in fp32 on tiny models."""

import pytest
import torch
from torch import nn

from dycoke.engine.prefill.vision import EncoderLayers, VisionForward
from tests.engine.models import VISION, encoder

CLOSE = {"atol": 2e-5, "rtol": 1e-4}


def pixels(frames=3, side=12):
    return torch.randn(frames, 3, side, side, generator=torch.Generator().manual_seed(0))


def assert_same(got, want):
    assert got.keys() == want.keys()
    for key in want:
        if key != "hidden_states":
            torch.testing.assert_close(got[key], want[key], **CLOSE)
    assert (got.hidden_states is None) == (want.hidden_states is None)
    for a, b in zip(got.hidden_states or (), want.hidden_states or (), strict=True):
        assert (a is None) == (b is None)
        if b is not None:
            torch.testing.assert_close(a, b, **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("family", VISION)
@pytest.mark.parametrize("wanted", [None, False, True])
def test_a_whole_model(family, wanted):
    model, asked = encoder(family), {} if wanted is None else {"output_hidden_states": wanted}
    for frames in (1, 3):
        inputs = {"pixel_values": pixels(frames), "return_dict": True, **asked}
        fast = VisionForward(model)
        assert fast.serves(inputs), fast.unserved()
        assert_same(fast.run(inputs), model(**inputs))


@torch.no_grad()
@pytest.mark.parametrize("wanted,kept", [(-1, {4}), (0, {0}), (2, {2}), ([-2, 1], {1, 3}), ([7], set())])
def test_some_hidden_states(wanted, kept):
    model = encoder()
    every = model(pixel_values=pixels(), output_hidden_states=True)
    got = VisionForward(model).run({"pixel_values": pixels(), "output_hidden_states": wanted})
    torch.testing.assert_close(got.last_hidden_state, every.last_hidden_state, **CLOSE)
    assert len(got.hidden_states) == 5
    for number, (a, b) in enumerate(zip(got.hidden_states, every.hidden_states, strict=True)):
        assert (a is not None) == (number in kept)
        if a is not None:
            torch.testing.assert_close(a, b, **CLOSE)


@torch.no_grad()
def test_frames_of_another_size():
    model, inputs = encoder(), {"pixel_values": pixels(2, 16), "interpolate_pos_encoding": True}
    assert_same(VisionForward(model).run(inputs), model(**inputs))


@torch.no_grad()
@pytest.mark.parametrize("depth", [1, 3, 4])
def test_the_first_layers_and_every_state_between(depth):
    model = encoder()
    want = model(pixel_values=pixels(), output_hidden_states=True).hidden_states[: depth + 1]
    layers = EncoderLayers(model, depth)
    given = want[0].transpose(1, 2).contiguous().transpose(1, 2)  # in the order the patches have in memory
    kept = given.clone()
    got = list(layers.run(given))
    assert len(got) == depth + 1 and torch.equal(given, kept)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("where", ["layers.0", "layers.1.self_attn", "layers.2.mlp.fc1", "layers.3"])
def test_a_layer_with_hooks_is_called_and_the_others_are_not(where):
    model, seen = encoder(), []
    want = model(pixel_values=pixels(), output_hidden_states=True)
    fast = VisionForward(model)
    model.encoder.get_submodule(where).register_forward_hook(lambda *_: seen.append(where))
    untouched = [layer for layer in model.encoder.layers if layer is not model.encoder.get_submodule(where[:8])]
    for layer in untouched:
        layer.__class__ = type("Untouchable", (type(layer),), {"forward": None})
    assert fast.unserved() == ""
    assert_same(fast.run({"pixel_values": pixels(), "output_hidden_states": True}), want)
    assert seen == [where]


@torch.no_grad()
def test_every_layer_carries_hooks():
    model = encoder()
    fast = VisionForward(model)
    handles = [layer.register_forward_hook(lambda *_: None) for layer in model.encoder.layers]
    assert fast.unserved() == "every layer carries hooks" and not fast.serves({"pixel_values": pixels()})
    handles[0].remove()
    assert fast.serves({"pixel_values": pixels()})


def test_half_precision_stays_close():
    model = encoder().bfloat16()
    with torch.no_grad():
        want, got = (
            f.float()
            for f in (
                model(pixel_values=pixels()).last_hidden_state,
                VisionForward(model).run({"pixel_values": pixels()}).last_hidden_state,
            )
        )
    assert (got - want).norm() < 2 * torch.finfo(torch.bfloat16).eps * want.norm()


@torch.no_grad()
@pytest.mark.parametrize(
    "more",
    [{"output_attentions": True}, {"return_dict": False}, {"anything": 1}, {"pixel_values": None}],
    ids=str,
)
def test_calls_that_are_left_to_the_stock_forward(more):
    fast = VisionForward(encoder())
    assert fast.serves({"pixel_values": pixels(), "output_attentions": None})
    assert not fast.serves({"pixel_values": pixels()} | more)
    with torch.autocast("cpu", torch.bfloat16):
        assert not fast.serves({"pixel_values": pixels()})
    with torch.enable_grad():
        assert not fast.serves({"pixel_values": pixels()})


def other_linear(model):
    model.encoder.layers[1].mlp.fc2 = nn.Sequential(nn.Linear(60, 36))


def other_attention(model):
    model.encoder.layers[1].self_attn = nn.Identity()


@pytest.mark.parametrize(
    "change,reason",
    [
        (lambda model: model.train(), "training"),
        (lambda model: model.encoder.layers[2].double(), "float32, torch.float64"),
        (other_linear, "Sequential where Linear"),
        (other_attention, "Identity where SiglipAttention"),
        (lambda model: setattr(model.encoder, "layers", nn.ModuleList()), "no layer"),
    ],
)
def test_models_that_are_left_to_the_stock_forward(change, reason):
    model = encoder()
    assert VisionForward(model).unserved() == ""
    change(model)
    fast = VisionForward(model)
    assert reason in fast.unserved()
    with torch.no_grad():
        assert not fast.serves({"pixel_values": pixels()})


def test_a_config_that_asks_for_more():
    model = encoder()
    model.config.output_hidden_states = True
    with torch.no_grad():
        assert not VisionForward(model).serves({"pixel_values": pixels()})
