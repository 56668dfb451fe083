"""The keywords of load_pretrained_model that choose a method, as scripts and lmms-eval write them."""

from __future__ import annotations

import logging

import pytest

import dycoke
from dycoke.adapters.loader import choose_method
from tests.llava import tiny


@pytest.fixture
def model():
    return tiny.make_model(tiny.onevision_config())


def applied(model, **options):
    """The compressor that ends up on the model."""
    run = choose_method(options).put_on(model)
    assert model.video_seam is not None
    compressor = model.video_seam.compressor
    run.remove()
    assert model.video_seam is None
    return compressor


@pytest.mark.parametrize("true", [True, "True", "true"])
def test_dycoke_alone_is_the_paper(model, true):
    assert applied(model, dycoke=true) == dycoke.build("dycoke", k=0.7, variant="paper").plan().before


@pytest.mark.parametrize("k", [0.5, "0.5"])
def test_k_and_variant_are_passed_on(model, k):
    compressor = applied(model, dycoke=True, dycoke_k=k, dycoke_variant="official")
    assert compressor == dycoke.build("dycoke", k=0.5, variant="official").plan().before


@pytest.mark.parametrize("mode", ["bilinear", "average"])
@pytest.mark.parametrize("size", [112, 98])  # 8 x 8 and 7 x 7 patches: the modes round an odd side differently
def test_tokens_per_frame_follow_tower_and_pooling(mode, size):
    model = tiny.make_model(
        tiny.onevision_config(mm_spatial_pool_mode=mode, vision_config=tiny.vision_config("siglip", image_size=size))
    )
    side = size // 14
    expected = (-(-side // 2) if mode == "bilinear" else side // 2) ** 2
    applied(model, dycoke=True, dycoke_num_tokens_per_frame=str(expected))
    with pytest.raises(ValueError, match=f"=196: this model makes {expected} tokens of a frame .*{mode}"):
        choose_method({"dycoke": True, "dycoke_num_tokens_per_frame": 196}).put_on(model)


def test_token_start_index_is_ignored_with_a_message(model, caplog):
    with caplog.at_level(logging.WARNING, "dycoke"):
        applied(model, dycoke=True, image_token_start_index=14)
    assert "image_token_start_index is ignored" in caplog.text


@pytest.mark.parametrize(
    "off",
    [
        {},
        {"dycoke": False},
        {"dycoke": "False"},
        {"dycoke": False, "dycoke_k": 0.7, "dycoke_l": 3},  # one line of arguments for the method and its baseline
        {"image_token_start_index": 14},
        {"method": None, "plan": None},
    ],
)
def test_no_method(off):
    assert choose_method(off) is None


def test_method_by_text_by_dict_and_by_plan(model):
    expected = dycoke.build("random_drop", keep=0.25, seed=3)
    assert applied(model, method="random_drop,keep=0.25,seed=3") == expected
    assert applied(model, method="random_drop", method_options={"keep": 0.25, "seed": 3}) == expected
    assert applied(model, method="random_drop,seed=3", method_options={"keep": 0.25}) == expected
    assert applied(model, plan=expected) == expected
    assert applied(model, plan=expected.plan()) == expected


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"dycoke": True, "dycoke_l": 3}, "dycoke_l: dynamic pruning while decoding .* is not in this version"),
        ({"dycoke": "True", "dycoke_l": "3", "dycoke_p": "0.7"}, "dycoke_l, dycoke_p: dynamic pruning"),
        (
            {"dycoke": True, "dycoke_kk": 1},
            "unknown option dycoke_kk; accepts: .*dycoke_k.*dycoke_num_tokens_per_frame",
        ),
        ({"dycoke": True, "dycoke_num_image_per_frame": 196}, "unknown option dycoke_num_image_per_frame"),
        ({"dycoke_k": 0.5}, "dycoke_k given without dycoke=True"),
        ({"dycoke": False, "dycoke_kk": 0.5}, "unknown option dycoke_kk"),
        ({"plan": "full"}, "plan='full': expected a dycoke.Plan or a method; names go to method="),
        ({"plan": dycoke.methods.Full}, "expected a dycoke.Plan or a method"),
        ({"method": "dycoke", "dycoke_k": 0.5}, "dycoke_k given without dycoke=True"),
        ({"dycoke": "yes please"}, "dycoke='yes please': expected True or False"),
        ({"dycoke": 1}, "dycoke=1: expected True or False"),
        ({"dycoke": True, "dycoke_k": 1.5}, r"k=1.5: expected a number in \[0, 1\]"),
        ({"dycoke": True, "dycoke_variant": "officiall"}, "variant='officiall': expected one of paper, official"),
        ({"dycoke": True, "method": "full"}, "dycoke and method given"),
        ({"method": "fulll"}, "unknown method 'fulll'; available: .*full"),
        ({"method": "dycoke,k"}, "option 'k': expected name=value"),
        ({"method": "dycoke,k=0.5", "method_options": {"k": 0.6}}, "k given in method="),
        ({"method": "dycoke", "method_options": "k=0.6"}, "expected a dict of options"),
        ({"method": dycoke.Plan}, "expected a name"),
        ({"method_options": {"k": 0.6}}, "method_options given without method"),
    ],
)
def test_refused(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        choose_method(options)


def test_unknown_option_of_a_method():
    with pytest.raises(TypeError, match="unknown option 'kk'; accepts: k, positions, variant"):
        choose_method({"method": "dycoke,kk=0.5"})


def test_a_bad_choice_is_refused_before_anything_is_read():
    from llava.model.builder import load_pretrained_model

    for options in ({"method": "nope"}, {"dycoke": True, "dycoke_k": 7}, {"method": "dycoke,kk=1"}):
        with pytest.raises(ValueError, match=r"unknown method|k=7|unknown option 'kk'"):
            load_pretrained_model("no/such/folder", None, "llava_qwen", **options)


def test_through_load_pretrained_model(checkpoint):
    from llava.model.builder import load_pretrained_model

    _, model, _, _ = load_pretrained_model(
        str(checkpoint),
        None,
        "llava_qwen",
        torch_dtype="float32",
        attn_implementation="sdpa",
        dycoke="True",
        dycoke_k="0.5",
        dycoke_num_tokens_per_frame=16,
    )
    assert model.video_seam.compressor == dycoke.build("dycoke", k=0.5).plan().before
    dycoke.remove(model)
