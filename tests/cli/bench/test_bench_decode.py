"""`dycoke bench decode`: its record on a CPU, the arithmetic behind it, and that its checks can fail."""

from __future__ import annotations

import json

import pytest
import torch

from dycoke.bench.decode import run as decode
from dycoke.bench.decode.attention import CARRIED, DENSE, EVERY, SDPA, bytes_moved
from dycoke.bench.decode.model import STOCK, Loop, build_model, make_prompt, running
from dycoke.bench.decode.setting import ON_GPU, PARTS, SHAPES, Setting, Shape
from dycoke.bench.timing import Times, ratio, row

SMALL = Setting("tiny", 2, 4, 16, "float32", 0.0, rounds=2, repeat=2)
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="measures the GPU where there is one")


@pytest.fixture(scope="module")
def model():
    return build_model(SMALL, "cpu")


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


@no_gpu
def test_on_a_cpu_the_references_are_timed_and_it_says_so(dycoke, tmp_path):
    record_file = tmp_path / "record.json"
    done = dycoke("bench", "decode", "--rounds", 2, "--repeat", 1, "--json", record_file)
    assert (done.code, done.err) == (0, "")
    assert "no GPU: the torch references, no graphs, host clock" in done.out.replace("\n", " ")
    record = json.loads(record_file.read_text())
    assert record["complete"] and set(PARTS) <= set(record)
    assert record["versions"]["transformers"] and record["setting"]["shape"] == "tiny"

    step = record["step"]
    visual = 16 + 3 * int(0.3 * 16)
    assert step["tokens"] == {
        "prompt": visual + 30,
        "untouched": 4 * 16 + 30,
        "read_by_pruned_layers": 30 + int(0.3 * visual),
    }
    assert "graphs" not in step and 0 < step["first_logits_apart"] < 1e-4
    assert [each["version"] for each in step["eager"]["results"]] == ["stock", "full", "dp", "dp_every_step"]
    times = {each["version"]: each for each in step["eager"]["results"]}
    told = step["eager"]["ratios"][0]
    assert told["ratio"] == "dp / full"
    assert told["of_medians"] == pytest.approx(times["dp"]["median_ms"] / times["full"]["median_ms"])
    assert f"dp / full: {told['of_medians']:.4f}, rounds {min(told['rounds']):.4f} to" in done.out

    attention = record["attention"]
    assert [each["version"] for each in attention["results"]] == [DENSE, SDPA, EVERY, CARRIED]
    for each in attention["results"]:
        assert each["gb_per_s"] == pytest.approx(each["bytes"] / each["median_ms"] / 1e6)

    whole, merged, pruned = record["memory"]["results"]
    column = 6 * 2 * 2 * 16 * 4  # layers, keys and values, heads, their size, bytes
    assert whole["counted_bytes"] == (4 * 16 + 30) * column
    assert merged["counted_bytes"] == (visual + 30) * column
    assert pruned["counted_bytes"] == (visual + 30 + 64) * column  # and a tail
    assert merged["counted_share"] == pytest.approx((visual + 30) / (4 * 16 + 30))
    assert {each["measured_bytes"] for each in (whole, merged, pruned)} == {None}
    once, every = record["memory"]["decoding"]
    assert [told["results"][0]["selections"] for told in (once, every)] == [1, 15]
    assert len(once["answer"]) == 16 and once["answer"] != every["answer"]


@no_gpu
def test_parts_are_measured_alone(dycoke, tmp_path):
    record_file = tmp_path / "record.json"
    chosen = ("--part", "attention", "--rounds", 1, "--repeat", 1, "--batch", 3, "--l", 2, "--p", 0.5)
    assert dycoke("bench", "decode", *chosen, "--json", record_file).code == 0
    record = json.loads(record_file.read_text())
    assert record["complete"] and "step" not in record and "memory" not in record
    assert record["attention"]["batch"] == 3 and record["setting"]["l"] == 2


@pytest.mark.parametrize(
    ("option", "value", "complaint"),
    [
        ("--shape", "70b", "shape '70b': expected one of 7b, 0.5b, tiny"),
        ("--dtype", "int8", "expected one of bfloat16"),
        ("--batch", 0, "batch=0: expected at least 1"),
        ("--rounds", 0, "rounds=0"),
        ("--warm-up", -1, "expected at least 0 seconds"),
        ("--l", 6, "l=6: expected 1 to 5"),
        ("--p", 1.0, "p=1.0"),
        ("--part", "speed", "part 'speed': expected one of step"),
        ("--json", "absent/record.json", "no folder absent"),
    ],
)
def test_refused(dycoke, option, value, complaint):
    assert complaint in dycoke("bench", "decode", "--shape", "tiny", option, value).complaint


def test_the_papers_size_is_the_default_on_a_gpu():
    setting = Setting(**ON_GPU)
    assert (setting.visual, setting.prompt, setting.untouched) == (2960, 2990, 6302)
    assert setting.kept == 888 + 30
    moved = bytes_moved(setting)
    assert moved[SDPA] == 28 * 64 * 2990 * 2048
    assert moved[DENSE] / moved[EVERY] == pytest.approx(2.6, abs=0.03)


def test_a_failed_part_is_recorded_and_the_others_are_measured(monkeypatch, tmp_path, capsys):
    def fail(*given):
        raise RuntimeError("poisoned")

    monkeypatch.setattr(decode, "measure_step", fail)
    record_file = tmp_path / "record.json"
    with pytest.raises(RuntimeError, match="step: poisoned"):
        decode.run(SMALL, record_file, decode.Console())
    record = json.loads(record_file.read_text())
    assert record["step"]["failed"] == "poisoned" and not record["complete"]
    assert record["memory"]["results"] and record["attention"]["results"]


def test_a_ratio_comes_with_that_of_every_round():
    slow, fast = Times((2.0, 2.0, 6.0, 6.0, 9.0, 9.0)), Times((1.0, 1.0, 2.0, 2.0, 3.0, 3.0))
    told = ratio([row("slow", slow, 3), row("fast", fast, 3)], "slow", "fast")
    assert told["of_medians"] == 3.0
    assert told["rounds"] == [2.0, 3.0, 3.0] and told["range"] == [2.0, 3.0]


def test_the_model_is_random_everywhere_and_stays_finite(model):
    for name, weight in model.named_parameters():
        assert float(weight.std()) > 0, name
    loop = Loop(model, make_prompt(model, SMALL.visual), None, room=3)
    ids = [loop.ids.item()] + [(loop.step(), loop.ids.item())[1] for _ in range(3)]
    assert bool(loop.step().isfinite().all()) and len(set(ids)) > 1


def test_tied_weights_are_one(monkeypatch):
    monkeypatch.setitem(SHAPES, "tied", Shape(6, 32, 64, 2, 1, 64, tied=True))
    tied = build_model(Setting("tied", 1, 4, 16, "float32", 0.0), "cpu")
    assert tied.lm_head.weight is tied.model.embed_tokens.weight


@pytest.mark.parametrize("method", [STOCK, SMALL.pruning()], ids=["stock", "dp"])
def test_loops_decode_what_generate_does(model, method):
    prompt = make_prompt(model, SMALL.visual)
    with running(model, method, prompt):
        loop = Loop(model, prompt, None, room=5)
        ids = [loop.ids.item()]
        for _ in range(5):
            loop.step()
            ids.append(loop.ids.item())
        mask = torch.ones_like(prompt.visual, dtype=torch.int64)
        out = model.generate(inputs_embeds=prompt.embeds, attention_mask=mask, max_new_tokens=6, do_sample=False)
    assert out[0].tolist() == ids
    assert len(set(ids)) > 1
