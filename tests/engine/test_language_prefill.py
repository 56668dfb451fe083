"""Prefill by fused kernels against transformers' own forward, in fp32 on tiny models."""

import pytest
import torch
from torch import nn
from transformers import DynamicCache, StaticCache

from dycoke.engine.prefill.language import LanguagePrefill
from dycoke.engine.prefill.rows import BUCKET, PaddedRows, WholeRows, rows_of
from dycoke.stages.arguments import CACHE_NAMES
from tests.cases import folded
from tests.engine.models import CACHE, LANGUAGE, cache_of, embeds, language, stored

CLOSE = {"atol": 2e-5, "rtol": 1e-4}


def mask(*rows):
    return torch.tensor([[int(c) for c in row] for row in rows])


@torch.no_grad()
def both(model, **kwargs):
    """Output of the stock forward and of the fast one, each with a cache of its own."""
    fast = LanguagePrefill(model.model)
    assert fast.serves(kwargs), fast.unserved()
    return model.model(**kwargs), fast.run(kwargs)


def assert_same(want, got, real):
    """Hidden states and cache of the real tokens [B, S]; zeros elsewhere."""
    assert want.last_hidden_state.shape == got.last_hidden_state.shape
    torch.testing.assert_close(got.last_hidden_state[real], want.last_hidden_state[real], **CLOSE)
    assert not got.last_hidden_state[~real].any()
    assert (cache_of(want) is None) == (cache_of(got) is None)
    if cache_of(want) is not None:
        want, got = (stored(cache_of(each)).permute(2, 4, 0, 1, 3, 5) for each in (want, got))  # [B, S, ...]
        assert want.shape == got.shape
        torch.testing.assert_close(got[real], want[real], **CLOSE)
        assert not got[~real].any()


@pytest.mark.parametrize("family", LANGUAGE)
@pytest.mark.parametrize("batch,length", [(1, 1), (1, 20), (3, 7), (2, BUCKET), (1, BUCKET + 3)])
def test_a_batch_without_padding(family, batch, length):
    real = torch.ones(batch, length, dtype=torch.bool)
    for attention_mask in (None, real.long()):
        inputs = {"inputs_embeds": embeds(batch, length), "attention_mask": attention_mask, "use_cache": True}
        assert_same(*both(language(family), **inputs), real)


@pytest.mark.parametrize("family", LANGUAGE)
@folded(
    "rows", [("0011111", "1111111"), ("1111100", "1111111", "1000000"), ("0111010", "1111110"), ("0000000", "1111111")]
)
@pytest.mark.parametrize("given", [False, True])
def test_padding(family, rows, given):
    padded = mask(*rows)
    inputs = {"inputs_embeds": embeds(len(rows), 7), "attention_mask": padded, "use_cache": True}
    if given:
        inputs["position_ids"] = (padded.cumsum(1) - 1).clamp(min=0) * 3
    assert_same(*both(language(family), **inputs), padded.bool())


def test_padding_is_never_attended_to_whatever_it_holds():
    padded, hidden = mask("0011111", "1111000"), embeds(2, 7)
    hidden[~padded.bool()] = float("nan")
    got = LanguagePrefill(language().model).run({"inputs_embeds": hidden, "attention_mask": padded})
    assert got.last_hidden_state.isfinite().all() and got.last_hidden_state[padded.bool()].all()


def test_long_rows_each_in_buckets_of_their_own():
    real = torch.ones(2, 2 * BUCKET + 5, dtype=torch.bool)
    real[0, : BUCKET - 3] = False
    inputs = {"inputs_embeds": embeds(*real.shape), "attention_mask": real.long(), "use_cache": True}
    assert_same(*both(language(), **inputs), real)


@pytest.mark.parametrize("name", CACHE_NAMES)
@pytest.mark.parametrize("family", LANGUAGE)
def test_ids_and_a_cache_by_either_name(family, name):
    model, ids = language(family), torch.arange(2, 12)[None]
    caches = [DynamicCache(config=model.config) for _ in range(2)]
    with torch.no_grad():
        want = model.model(input_ids=ids, **{CACHE: caches[0]})
        got = LanguagePrefill(model.model).run({"input_ids": ids, name: caches[1]})
    assert cache_of(got) is caches[1]
    assert_same(want, got, torch.ones(1, 10, dtype=torch.bool))
    step = {"input_ids": ids[:, :1], CACHE: caches[1]}
    with torch.no_grad():
        assert not LanguagePrefill(model.model).serves(step)  # not a prefill any more
        again = model.model(input_ids=ids[:, :1], **{CACHE: caches[0]}).last_hidden_state
        torch.testing.assert_close(model.model(**step).last_hidden_state, again, **CLOSE)


@pytest.mark.parametrize("family", LANGUAGE)
@pytest.mark.parametrize("given", [False, True])
def test_no_cache_is_wanted(family, given):
    model = language(family)
    caches = [DynamicCache(config=model.config) if given else None for _ in range(2)]
    with torch.no_grad():
        want = model.model(inputs_embeds=embeds(1, 9), use_cache=False, **{CACHE: caches[0]})
        got = LanguagePrefill(model.model).run(
            {"inputs_embeds": embeds(1, 9), "past_key_values": caches[1], "use_cache": False}
        )
    torch.testing.assert_close(got.last_hidden_state, want.last_hidden_state, **CLOSE)
    assert (cache_of(got) is None) == (cache_of(want) is None)
    assert not given or caches[1].get_seq_length() == 9


def test_a_static_cache():
    model = language()
    caches = [StaticCache(config=model.config, max_cache_len=16) for _ in range(2)]
    with torch.no_grad():
        want = model.model(inputs_embeds=embeds(2, 9), **{CACHE: caches[0]})
        fast, inputs = LanguagePrefill(model.model), {"inputs_embeds": embeds(2, 9), "past_key_values": caches[1]}
        assert fast.serves(inputs)
        got = fast.run(inputs)
        assert not fast.serves(inputs)  # it is full now
    torch.testing.assert_close(got.last_hidden_state, want.last_hidden_state, **CLOSE)
    torch.testing.assert_close(stored(caches[1]), stored(caches[0]), **CLOSE)


def test_what_the_caller_passed_is_not_written_to():
    hidden, positions = embeds(1, BUCKET), torch.arange(BUCKET)[None]
    kept = hidden.clone(), positions.clone()
    inputs = {"inputs_embeds": hidden, "position_ids": positions, "attention_mask": torch.ones(1, BUCKET).long()}
    LanguagePrefill(language().model).run(inputs)
    assert torch.equal(hidden, kept[0]) and torch.equal(positions, kept[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_close(dtype):
    model = language().to(dtype)
    want, got = both(model, inputs_embeds=embeds(1, 33).to(dtype))
    assert got.last_hidden_state.dtype == dtype
    error = (got.last_hidden_state - want.last_hidden_state).float().norm() / want.last_hidden_state.float().norm()
    assert error < 4 * torch.finfo(dtype).eps


PREFILL = {"inputs_embeds": embeds(1, 5)}
FOUR = torch.zeros(1, 1, 5, 5)


@folded(
    "more",
    [
        {"output_attentions": True},
        {"output_hidden_states": True},
        {"attention_mask": FOUR},
        {"attention_mask": {"full_attention": FOUR}},
        {"attention_mask": torch.ones(1, 9)},
        {"position_ids": torch.arange(5)[None]},  # no mask and no cache: borders of packed samples would be looked for
        {"input_ids": torch.ones(1, 5, dtype=torch.long)},
        {"inputs_embeds": None},
        {"inputs_embeds": embeds(1, 5).double()},
        {"inputs_embeds": embeds(1, 0)},
        {"return_dict": False},
        {"anything": 1},
    ],
)
def test_calls_that_are_left_to_the_stock_forward(more):
    fast = LanguagePrefill(language().model)
    with torch.no_grad():
        assert fast.serves(PREFILL)
        assert not fast.serves(PREFILL | more)


def test_gradients_and_autocast_are_left_to_the_stock_forward():
    fast = LanguagePrefill(language().model)
    assert not fast.serves(PREFILL)
    with torch.inference_mode():
        assert fast.serves(PREFILL)
        with torch.autocast("cpu", torch.bfloat16):
            assert not fast.serves(PREFILL)


def double_weights(model):
    model.model.layers[1].mlp.up_proj.double()


def other_linear(model):
    class Adapted(nn.Linear):
        pass

    model.model.layers[1].self_attn.k_proj = Adapted(48, 24)


def other_activation(model):
    model.model.layers[0].mlp.act_fn = nn.GELU()


def other_norm(model):
    model.model.norm = nn.RMSNorm(48)


def own_forward(model):
    part = model.model.layers[2].self_attn.o_proj
    part.forward = part.forward


@pytest.mark.parametrize(
    "change,reason",
    [
        (lambda model: model.train(), "training"),
        (double_weights, "float32, torch.float64"),
        (other_linear, "Adapted where Linear"),
        (other_activation, "GELU where"),
        (other_norm, "RMSNorm where"),
        (own_forward, "Linear has a forward of its own"),
        (lambda model: setattr(model.model.config, "output_hidden_states", True), "its config asks"),
        (lambda model: setattr(model.model.config, "layer_types", ["sliding_attention"] * 3), "sliding window"),
        (lambda model: setattr(model.model, "layers", nn.ModuleList()), "no layers"),
    ],
)
def test_models_that_are_left_to_the_stock_forward(change, reason):
    model = language()
    assert LanguagePrefill(model.model).unserved() == ""
    change(model)
    fast = LanguagePrefill(model.model)
    assert reason in fast.unserved()
    with torch.no_grad():
        assert not fast.serves(PREFILL)


@pytest.mark.parametrize("where", ["layers.1", "layers.1.self_attn", "layers.2.mlp.down_proj", "norm"])
@pytest.mark.parametrize("kind", ["register_forward_hook", "register_forward_pre_hook"])
def test_hooks_inside_leave_the_model_to_the_stock_forward_while_they_are_there(where, kind):
    model = language().model
    fast = LanguagePrefill(model)
    handle = getattr(model.get_submodule(where), kind)(lambda *_: None)
    assert "carries hooks" in fast.unserved()
    handle.remove()
    assert fast.unserved() == ""


def test_hooks_of_transformers_that_only_listen_are_none():
    model = language().model
    with torch.no_grad():
        model(**PREFILL, output_hidden_states=True)
    assert model.layers[0]._forward_hooks and LanguagePrefill(model).unserved() == ""


def test_layouts():
    assert isinstance(rows_of(None, 4, torch.device("cpu")), WholeRows)
    assert isinstance(rows_of(mask("111", "111"), 3, torch.device("cpu")), WholeRows)
    rows = rows_of(mask("011", "110"), 3, torch.device("cpu"))
    assert isinstance(rows, PaddedRows)
    values = torch.arange(1, 7).view(2, 3)
    packed = rows.pack(values)
    assert packed.shape == (1, 2 * BUCKET)
    assert packed[0, [0, 1, 2, BUCKET, BUCKET + 1, BUCKET + 2]].tolist() == [2, 3, 0, 4, 5, 0]
    assert rows.unpack(packed).tolist() == [[0, 2, 3], [4, 5, 0]]
    assert WholeRows(3).pack(values).shape == (2, BUCKET) and WholeRows(3).unpack(WholeRows(3).pack(values)).equal(
        values
    )
