"""Rows that do not fit their model are refused by config.json alone, all of them, before the first one runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dycoke import cli
from dycoke.eval.launch import sweep
from dycoke.eval.runs.experiment import load_experiment, parse_experiment
from dycoke.eval.runs.fit import check_rows, row_faults
from dycoke.eval.runs.specs import EMBEDDED, ModelSpec
from dycoke.families.chat import Placement, load_chat
from dycoke.families.configs import config_of
from dycoke.families.llava.sizes import NEWLINE, POOLING
from dycoke.families.sizes import Sizes, sizes_in, sizes_of
from dycoke.model_shape import LLAVA_ONEVISION
from dycoke.nano import MODEL_PATH
from tests.cli.files import write_hf_checkpoint
from tests.llava import tiny

CONFIGS = sorted((Path(__file__).parents[3] / "eval_configs").glob("*.yaml"))


def runs(methods: list, frames: int = 8, model: str = "llava_onevision", pretrained: str = "nano", **args) -> tuple:
    content = {
        "model": {"id": model, "pretrained": pretrained, "args": args},
        "video": {"frames": frames},
        "tasks": ["a_task", "another"],
        "methods": methods,
    }
    return parse_experiment("small", content).runs


def refusal(*given, **args) -> str:
    with pytest.raises(ValueError, match="methods that do not fit their model: ") as caught:
        check_rows(runs(*given, **args))
    return str(caught.value).removeprefix("methods that do not fit their model: ")


LAYERS = [
    ({"name": "dycoke", "l": 8}, "l=8: expected 1 to 7, because this model has 8 layers and layer l - 1 is the"),
    ({"name": "dycoke", "l": 7}, None),
    ({"name": "fastv", "k": 8}, "k=8: expected 1 to 7, because this model has 8 layers"),
    ({"name": "fastv", "k": 7}, None),
    ({"name": "pdrop", "layers": [2, 8]}, "layers=8: expected 0 to 7, because this model has 8 layers"),
    ({"name": "pdrop", "layers": [0, 7]}, None),
    ({"name": "sparsevlm"}, "layers=15: expected 0 to 6, because this model has 8 layers"),
    ({"name": "holitom"}, "layer=18: expected 1 to 7, because this model has 8 layers"),
    ({"name": "holitom", "r": 0}, None),
    ({"name": "prunevid", "layer": 7}, "layer=7: expected 0 to 6, because this model has 8 layers"),
    ({"name": "flashvid"}, "layer=20: expected 1 to 7, because this model has 8 layers"),
    ({"name": "framefusion"}, None),
    ({"plan": {"before": "vidcom2", "decode": "dycoke,l=9"}, "label": "both"}, "l=9: expected 1 to 7"),
]


@pytest.mark.parametrize(("method", "why"), LAYERS, ids=lambda value: str(value)[:45])
def test_layers_the_model_does_not_have(method, why):
    if why is None:
        check_rows(runs([method]))
    else:
        (run, _) = runs([method])
        assert refusal(["full", method]).startswith(f"{run.method.label!r} (nano, 8 frames): {why}")


def test_every_row_is_named_once_with_all_that_is_wrong():
    said = refusal([{"name": "dycoke", "l": [9, 5]}, {"name": "fastv", "k": 9}, "full"], frames=[8, 16, 400])
    assert said.split("; ") == [
        "'dycoke l=9' (nano, 8, 16, 400 frames): l=9: expected 1 to 7, because this model has 8 layers and layer l - 1 "
        "is the observer",
        "'fastv k=9' (nano, 8, 16, 400 frames): k=9: expected 1 to 7, because this model has 8 layers",
        "'fastv k=9' (nano, 400 frames): 400 frames are 6400 tokens, and with a question more than the 4096 this model "
        "reads",
        "'full' (nano, 400 frames): 400 frames are 6400 tokens, and with a question more than the 4096 this model "
        "reads",
    ]


def test_the_context_is_filled_by_what_a_method_keeps_where_that_is_known():
    assert "256 frames are 4096 tokens" in refusal(["full"], frames=256)
    check_rows(runs(["full"], frames=255))
    check_rows(runs([{"name": "random_drop", "keep": 0.1}], frames=2000))
    assert "10000 frames are 16000 tokens" in refusal([{"name": "random_drop", "keep": 0.1}], frames=10000)
    check_rows(runs([{"name": "holitom", "layer": 5}], frames=10000))  # that depends on what is to be seen


def test_a_model_that_reads_short_videos_at_fewer_frames_is_not_judged_by_the_most():
    check_rows(runs(["full"], 400, "llava_vid"))
    assert "400 frames are" in refusal(["full"], 400, "llava_vid", force_sample=True)


def test_frames_and_newlines_a_method_does_not_take():
    published = {"name": "dycoke", "variant": "official", "l": 5}
    assert "needs at least" in refusal([published], frames=3)
    grid = refusal([published], 8, "llava_vid")
    assert "mm_newline_position='grid' puts newlines between them" in grid
    check_rows(runs([published], 8, "llava_vid", mm_newline_position="one_token"))
    check_rows(runs([published], 8, "llava_vid", overwrite=False))  # then the config's own holds
    check_rows(runs([published], 8))


def test_a_sweep_refuses_them_before_anything_is_written_or_started(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sweep, "command", lambda *_: pytest.fail("a process was started"))
    text = "model: {id: llava_onevision, pretrained: nano}\nvideo: {frames: 8}\ntasks: [a_task]\nscore: false\n"
    (tmp_path / "bad.yaml").write_text(f"{text}methods: [full, {{name: dycoke, l: 12, label: deep}}]\n")
    assert cli.main(["sweep", str(tmp_path / "bad.yaml"), "--results", str(tmp_path / "results")]) == 2
    said = capsys.readouterr().err
    assert said.startswith(
        "dycoke: methods that do not fit their model: 'deep' (nano, 8 frames): l=12: expected 1 to 7"
    )
    assert said.count("\n") == 1 and not (tmp_path / "results").exists()


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_the_experiments_that_come_along_fit_the_models_they_name(file):
    for run in load_experiment(file).runs:
        sizes = sizes_in(config_of(str(MODEL_PATH)), run.model)
        if run.model.pretrained != EMBEDDED:
            size = next(size for size in LLAVA_ONEVISION if size in run.model.pretrained.lower().split("-"))
            sizes = Sizes(LLAVA_ONEVISION[size].layers, 32768, 196, "one_token")
        assert not list(row_faults(run, sizes)), run.id


@pytest.mark.parametrize("kind", ["nano", "llava", "llava_flat", "hf"])
def test_config_json_tells_what_the_loaded_model_does(kind, tmp_path):
    path, model = tmp_path / "llava-onevision-qwen2-tiny", "llava_onevision"
    if kind == "nano":
        path = MODEL_PATH
    elif kind == "hf":
        path, model = write_hf_checkpoint(path), "dycoke_hf"
    else:
        merging = {"mm_patch_merge_type": "flat"} if kind == "llava_flat" else {}
        tiny.make_onevision_checkpoint(path, mm_spatial_pool_mode="bilinear", **merging)
    loaded = sizes_of(load_chat(str(path), Placement("cpu", torch.float32)).model)
    told = sizes_in(config_of(str(path)), ModelSpec(model, str(path)))
    assert None not in (told.layers, told.context, told.per_frame)
    assert told == (replace(loaded, newline=None) if told.newline is None else loaded)


def test_a_tower_of_a_published_name_has_its_published_shape():
    config = {"num_hidden_layers": 28, "max_position_embeddings": 32768, "tokenizer_model_max_length": 32768}
    config |= {"mm_vision_tower": "google/siglip-so400m-patch14-384", "mm_patch_merge_type": "spatial_unpad"}
    assert sizes_in(config, ModelSpec("llava_onevision", "7b")) == Sizes(28, 32768, 196, "one_token")
    assert sizes_in(config, ModelSpec("llava_vid", "7b")) == Sizes(28, 32768, 169, "grid")
    stretched = config | {"rope_scaling": {"factor": 2.0, "type": "linear"}}
    assert sizes_in(stretched, ModelSpec("llava_onevision", "7b")).context is None


@pytest.mark.parametrize("config", [None, {}, {"num_hidden_layers": "28", "vision_config": [], "text_config": 3}])
def test_what_a_config_does_not_tell_is_not_judged(config):
    for model in ("llava_onevision", "llava_vid", "dycoke_hf"):
        sizes = sizes_in(config, ModelSpec(model, "some"))
        assert (sizes.layers, sizes.context, sizes.per_frame) == (None, None, None)
    (run, _) = runs([{"name": "dycoke", "l": 99}], frames=9999)
    assert not list(row_faults(run, Sizes()))


def test_a_checkpoint_of_the_hub_is_judged_by_what_is_cached_and_not_at_all_without(tmp_path, monkeypatch):
    def offline(*_):
        raise FileNotFoundError("no network")

    deep = runs([{"name": "dycoke", "l": 12}], pretrained="somebody/some-model")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", offline)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    check_rows(deep)
    (tmp_path / "config.json").write_text(json.dumps({"num_hidden_layers": 8}))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: str(tmp_path / "config.json"))
    with pytest.raises(ValueError, match="l=12"):
        check_rows(deep)


@pytest.mark.slow
def test_what_models_of_lmms_eval_set_by_themselves_is_known():
    pytest.importorskip("lmms_eval")
    from lmms_eval.models.simple.llava_onevision import Llava_OneVision
    from lmms_eval.models.simple.llava_vid import LlavaVid

    from dycoke.eval.models.arguments import builtin_defaults

    onevision, vid = builtin_defaults(Llava_OneVision), builtin_defaults(LlavaVid)
    assert {
        "llava_onevision": onevision["mm_spatial_pool_mode"],
        "llava_vid": vid["mm_spatial_pool_mode"],
    } == POOLING
    assert {"llava_vid": vid["mm_newline_position"]} == NEWLINE
    assert vid["overwrite"] is True and vid["force_sample"] is False and onevision["token_strategy"] == "single"
