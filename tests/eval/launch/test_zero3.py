"""A model sharded by ZeRO-3 answers as one that is whole, whatever method it carries."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from dycoke.eval.models.zero3 import partitioned, read_config
from tests.eval.launch.launch import launch
from tests.eval.launch.zero3_process import ASKED, CONFIG, METHODS, answers, load
from tests.llava import tiny
from tests.support.subjects import SUBJECTS

SHIPPED = Path(__file__).resolve().parents[3] / "scripts" / "deepspeed" / "zero3_inference.json"
NAMES = ("hf", "llava")


def written(tmp_path: Path, **change) -> Path:
    """The shipped file with some keys changed; None takes one out."""
    config = json.loads(SHIPPED.read_text()) | change
    file = tmp_path / CONFIG
    file.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return file


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_shipped_file_takes_the_precision_of_the_weights(dtype):
    config = read_config(SHIPPED, dtype)
    assert config["zero_optimization"]["stage"] == 3
    assert config["bf16"]["enabled"] is (dtype == torch.bfloat16)
    assert config["fp16"]["enabled"] is (dtype == torch.float16)


def test_what_deepspeed_insists_on_may_be_left_out(tmp_path):
    file = written(tmp_path, train_micro_batch_size_per_gpu=None, bf16=None, fp16=None)
    assert read_config(file, torch.bfloat16) == read_config(SHIPPED, torch.bfloat16)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"zero_optimization": {"stage": 2}}, r"zero_optimization.stage=2: expected 3"),
        ({"zero_optimization": None}, r"zero_optimization.stage=None: expected 3"),
        ({"zero_optimization": 3}, r"zero_optimization=3: expected an object"),
        ({"optimizer": {"type": "AdamW"}}, r"optimizer: for training"),
        ({"fp16": {"enabled": True}}, r"fp16.enabled=True for weights of torch.bfloat16"),
        ({"bf16": {"enabled": False}}, r"bf16.enabled=False for weights of torch.bfloat16"),
        (
            {"zero_optimization": {"stage": 3, "reduce_bucket_size": "auto"}},
            "zero_optimization.reduce_bucket_size: 'a",
        ),
    ],
)
def test_a_file_that_does_not_do_is_named(tmp_path, change, said):
    with pytest.raises(ValueError, match=rf"{CONFIG}: {said}"):
        read_config(written(tmp_path, **change), torch.bfloat16)


def test_a_file_that_is_no_json_or_not_there(tmp_path):
    (tmp_path / CONFIG).write_text("{")
    with pytest.raises(ValueError, match=f"{CONFIG}: no JSON"):
        read_config(tmp_path / CONFIG, torch.bfloat16)
    (tmp_path / CONFIG).write_text("[]")
    with pytest.raises(ValueError, match=f"{CONFIG}: expected an object"):
        read_config(tmp_path / CONFIG, torch.bfloat16)
    with pytest.raises(FileNotFoundError):
        read_config(tmp_path / "absent.json", torch.bfloat16)


def test_without_deepspeed_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    with pytest.raises(ValueError, match=r"dycoke\[deepspeed\]"), partitioned(read_config(SHIPPED, torch.float32)):
        pass


def test_a_process_by_itself_has_nothing_to_shard_with(monkeypatch):
    monkeypatch.setitem(sys.modules, "deepspeed", ModuleType("deepspeed"))
    with pytest.raises(ValueError, match="this one is alone"), partitioned(read_config(SHIPPED, torch.float32)):
        pass


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="needs DeepSpeed")
def test_two_processes_answer_as_one_that_is_not_sharded(tmp_path):
    # As small as these models are, they would never be partitioned again once they have run.
    nothing_stays = {"stage3_param_persistence_threshold": 0, "stage3_max_reuse_distance": 0}
    written(tmp_path, zero_optimization=json.loads(SHIPPED.read_text())["zero_optimization"] | nothing_stays)
    for name in NAMES:
        model = SUBJECTS[name]().model
        tiny.write_checkpoint(model, tmp_path / name) if name != "hf" else model.save_pretrained(tmp_path / name)
    done = launch(2, "tests.eval.launch.zero3_process", str(tmp_path))
    assert done.returncode == 0, done.stderr
    reports = [torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1)]
    for name in NAMES:
        model = load(name, tmp_path / name)
        weights, alone = dict(model.named_parameters()), answers(name, model)
        buffers = dict(load(name, tmp_path / name, torch.bfloat16).named_buffers())
        sharded = sum(weight.numel() for key, weight in weights.items() if not key.endswith("image_newline"))
        for report in (each[name] for each in reports):
            assert report["loaded"]["lm_head.weight"] == 0  # partitioned as it was read
            assert report["held"]["all"] == sharded
            # DeepSpeed keeps a projection that ran twice in a step, as pdrop's own look at the keys makes it.
            assert report["held"]["gathered"] < sharded / 20
            assert sharded / 2 <= report["held"]["kept"] <= sharded / 2 + len(weights)  # an odd one is rounded up
            assert report["weights"].keys() == weights.keys()
            assert [key for key, weight in weights.items() if not torch.equal(weight, report["weights"][key])] == []
            assert report["buffers"].keys() == buffers.keys() | {
                key for key in weights if key.endswith("image_newline")
            }
            torch.testing.assert_close({key: report["buffers"][key] for key in buffers}, buffers, atol=0, rtol=0)
            assert list(report["answers"]) == [f"{method} {prompt}" for method in METHODS for prompt in ASKED]
            for asked, (ids, logits) in report["answers"].items():
                torch.testing.assert_close(ids, alone[asked][0], atol=0, rtol=0)
                torch.testing.assert_close(logits, alone[asked][1], atol=1e-5, rtol=0)
        assert len({tuple(ids.flatten().tolist()) for ids, _ in alone.values()}) > len(ASKED)  # methods matter
