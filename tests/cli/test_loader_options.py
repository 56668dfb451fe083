"""The keywords of load_pretrained_model that choose a method, as scripts and lmms-eval write them."""

from __future__ import annotations

import logging

import pytest
import torch

import dycoke
from dycoke import Plan
from dycoke.keywords import choose_method
from dycoke.methods import DynamicPruning, TemporalMerge
from tests.cases import folded
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


def chosen(**options) -> Plan:
    """Both stages of what keywords choose."""
    return choose_method(options).method.plan()


@pytest.mark.parametrize("true", [True, "True", "true"])
def test_dycoke_alone_is_the_paper(true):
    assert chosen(dycoke=true) == Plan(
        before=TemporalMerge(k=0.7, variant="paper"), decode=DynamicPruning(3, 0.7, "paper", "dynamic", 0.9)
    )


def test_the_first_stage_ends_up_on_the_model(model):
    assert applied(model, dycoke=True, dycoke_l=1, dycoke_k=0.5) == TemporalMerge(k=0.5)


def test_both_stages_run_on_the_model(model):
    """Layer 0 reads everything, layer 1 the text and half of the visual tokens."""
    run = choose_method({"dycoke": True, "dycoke_k": 0, "dycoke_l": "1", "dycoke_p": "0.5"}).put_on(model)
    ids = torch.tensor([[11, 12, -200, 13, 14]])
    frames = tiny.frames(2)
    model.generate(
        ids, images=[frames], modalities=["video"], do_sample=False, max_new_tokens=4, min_new_tokens=4, pad_token_id=0
    )
    visual = run.report.stages["compress"].tokens
    cache = run.report.cache
    assert (cache.first_layer, cache.steps) == (1, 3)
    assert cache.read_below - cache.read_from == visual - visual // 2 > 0
    run.remove()


@pytest.mark.parametrize(
    ("keyword", "value", "option"),
    [
        ("dycoke_k", 0.5, "k"),
        ("dycoke_l", 5, "l"),
        ("dycoke_p", 0.25, "p"),
        ("dycoke_variant", "official", "variant"),
        ("dycoke_decode", "one_shot", "decode"),
        ("dycoke_decode", "off", "decode"),
        ("dycoke_refresh", 0.5, "refresh"),
        ("dycoke_dp_cache", "host", "dp_cache"),
    ],
)
@folded("form", [lambda value: value, str])
def test_options_are_passed_on_as_values_and_as_texts(keyword, value, option, form):
    plan = chosen(dycoke=True, **{keyword: form(value)})
    assert plan == dycoke.build("dycoke", **{option: value}).plan()
    assert plan != dycoke.build("dycoke").plan()


@pytest.mark.parametrize("seed", [7, "7"])
def test_seed_is_passed_on(seed):
    plan = chosen(dycoke=True, dycoke_decode="random", dycoke_seed=seed)
    assert plan.decode == DynamicPruning(decode="random", seed=7)


def test_official_sets_both_stages():
    plan = chosen(dycoke=True, dycoke_variant="official")
    assert (plan.before.variant, plan.decode.variant) == ("official", "official")


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


def test_a_plan_in_yaml(model, tmp_path):
    spec = {"before": "random_drop,keep=0.25", "decode": {"name": "dycoke", "l": 2}}
    expected = Plan(before=dycoke.build("random_drop", keep=0.25), decode=DynamicPruning(2))
    assert choose_method({"plan": spec}).method == expected
    for name in ("plan.yaml", "plan.yml"):
        (tmp_path / name).write_text("plan: {before: 'random_drop,keep=0.25', decode: {name: dycoke, l: 2}}")
        for path in (tmp_path / name, str(tmp_path / name)):
            assert choose_method({"plan": path}).method == expected
    assert applied(model, plan=str(tmp_path / "plan.yml")) == expected.before


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"plan": {}}, "plan: an empty mapping"),
        ({"plan": {"before": "fulll"}}, "before: unknown method 'fulll'"),
        ({"plan": "absent.yaml"}, "absent.yaml: No such file"),
        ({"plan": "plan.json"}, "plan='plan.json': expected a dycoke.Plan or a method; .* the path of a .yaml file"),
        ({"plan": {"before": "full"}, "method": "full"}, "method and plan given"),
        ({"dycoke": True, "dycoke_l": 0}, "l=0: expected 1 to the model's last layer"),
        ({"dycoke": "True", "dycoke_p": "1"}, r"p=1: expected a number in \[0, 1\)"),
        ({"dycoke": True, "dycoke_refresh": 2}, r"refresh=2: expected a number in \[0, 1\]"),
        ({"dycoke": True, "dycoke_seed": -1}, "seed=-1: expected an integer from 0"),
        ({"dycoke": True, "dycoke_decode": "of"}, "decode='of': expected one of dynamic, one_shot, random"),
        ({"dycoke": True, "dycoke_dp_cache": "disk"}, "dp_cache='disk': expected one of device, host"),
        (
            {"dycoke": True, "dycoke_variant": "official", "dycoke_decode": "off"},
            "decode='off' with variant='official'",
        ),
        ({"dycoke": True, "dycoke_variant": "official", "dycoke_dp_cache": "host"}, "dp_cache='host' with variant="),
        ({"dycoke_l": 3, "dycoke_p": 0.7}, "dycoke_l, dycoke_p given without dycoke=True"),
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
    with pytest.raises(ValueError, match="unknown option 'kk'; accepts: decode, dp_cache, k, l, p, positions, refresh"):
        choose_method({"method": "dycoke,kk=0.5"})


@pytest.mark.parametrize("l", [3.0, "3.5", "three", True])
def test_l_is_an_integer(l):  # noqa: E741
    with pytest.raises(ValueError, match=r"l=\S+: expected an integer"):
        choose_method({"dycoke": True, "dycoke_l": l})


def test_l_beyond_the_models_layers_is_refused(model):
    layers = model.config.num_hidden_layers
    with pytest.raises(ValueError, match=f"l={layers}: expected 1 to {layers - 1}"):
        choose_method({"dycoke": True, "dycoke_l": layers}).put_on(model)
    assert model.video_seam is None


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
        dycoke_l="1",
        dycoke_num_tokens_per_frame=16,
    )
    assert model.video_seam.compressor == dycoke.build("dycoke", k=0.5).plan().before
    dycoke.remove(model)
