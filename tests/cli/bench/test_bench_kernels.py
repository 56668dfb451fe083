"""`dycoke bench kernels`: its record on a CPU, its candidate tilings, and that its check can fail."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from dycoke.bench.kernels.layers import LINEARS, Calls, Layers, Linear
from dycoke.bench.kernels.setting import ON_GPU, Setting
from dycoke.bench.kernels.tilings import candidates, job
from dycoke.ops.layer.skinny_linear_triton import tiling_launch

SMALL = Setting("tiny", (2,), "float32", repeat=2)
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="measures the GPU where there is one")


@no_gpu
def test_on_a_cpu_the_references_are_timed_and_it_says_so(dycoke, tmp_path):
    record_file = tmp_path / "record.json"
    done = dycoke("bench", "kernels", "--batch", 1, "--batch", 3, "--repeat", 2, "--json", record_file)
    assert (done.code, done.err) == (0, "")
    assert "no GPU: the torch references, host clock" in done.out
    record = json.loads(record_file.read_text())
    assert record["complete"] and record["setting"]["shape"] == "tiny"
    assert [measured["batch"] for measured in record["batches"]] == [1, 3]
    for measured in record["batches"]:
        assert [told["linear"] for told in measured["linears"]] == list(LINEARS)
        for told in measured["linears"]:
            more = {"qkv": ["cublas joined"], "gate_up": ["cublas joined"], "head": []}.get(told["linear"], ["addmm_"])
            assert [row["version"] for row in told["results"]] == ["skinny_linear", "cublas", *more]
            assert told["chosen"] == "skinny_linear"
            for row in told["results"]:
                assert row["iqr_ms"][0] <= row["median_ms"] <= row["iqr_ms"][1] and row["runs"] == 2
                assert row["gb_per_s"] == pytest.approx(told["bytes"] / row["median_ms"] / 1e6)
        assert measured["linears"][2]["bytes"] == 4 * 2 * 64 * 128
        assert measured["rotary_write"]["median_ms"] > 0
        assert [row["version"] for row in measured["chain"]] == ["cublas", "chosen"]


@no_gpu
def test_the_table_says_what_is_chosen(dycoke, tmp_path):
    record_file = tmp_path / "record.json"
    done = dycoke("bench", "kernels", "--batch", 17, "--repeat", 1, "--json", record_file)
    chosen = {told["linear"]: told["chosen"] for told in json.loads(record_file.read_text())["batches"][0]["linears"]}
    assert chosen == dict(zip(LINEARS, ("skinny_linear", "addmm_", "skinny_linear", "addmm_", "cublas"), strict=True))
    lines = [line.split() for line in done.out.splitlines() if line.endswith("chosen")]
    assert [(line[0], line[1]) for line in lines] == list(chosen.items())


@pytest.mark.parametrize(
    ("option", "value", "complaint"),
    [
        ("--shape", "8b", "shape '8b': expected one of"),
        ("--dtype", "int8", "expected one of bfloat16"),
        ("--batch", 0, "batch=0: expected at least 1"),
        ("--repeat", 0, "repeat=0"),
        ("--json", "absent/record.json", "no folder absent"),
    ],
)
def test_refused(dycoke, option, value, complaint):
    assert complaint in dycoke("bench", "kernels", "--shape", "tiny", option, value).complaint


@no_gpu
def test_tuning_needs_a_gpu(dycoke):
    assert "--tune: this machine has no GPU" in dycoke("bench", "kernels", "--tune").complaint


@pytest.mark.parametrize("name", LINEARS)
def test_a_wrong_output_is_seen(name):
    with torch.no_grad():
        calls = Calls(Layers(SMALL, "cpu"), 2)
        exact = calls.exact(name)
        with pytest.raises(RuntimeError, match=f"{name}, 2 rows, unwritten"):
            calls.check(name, "unwritten", exact)
        calls.ours(name)()
        calls.check(name, "right", exact)
        calls.outputs[name][1, -1] += 0.1
        with pytest.raises(RuntimeError, match=f"{name}, 2 rows, wrong"):
            calls.check(name, "wrong", exact)


def test_the_bytes_are_those_of_a_7b_layer():
    setting = Setting(**ON_GPU)
    assert setting.layer_weights == 2 * 3584 * 3584 + 2 * 3584 * 512 + 3 * 3584 * 18944


@pytest.mark.parametrize("rows", [1, 16, 64])
@pytest.mark.parametrize(
    ("sizes", "width", "gate"),
    [((3584, 512, 512), 3584, False), ((18944, 18944), 3584, True), ((3584,), 18944, False), ((152064,), 3584, False)],
)
def test_candidates_are_many_distinct_and_possible(sizes, width, gate, rows):
    linear = Linear([tuple(torch.empty(size, width, device="meta") for size in sizes)], gate=gate)
    tilings = candidates(linear, rows, torch.bfloat16, 132)
    assert len(tilings) == len(set(tilings)) > 10
    assert len({tiling.block_n for tiling in tilings}) > 2 and {tiling.tensor for tiling in tilings} >= {True}
    for tiling in tilings:
        launch = tiling_launch(tiling, True, *job(tiling, linear, rows, torch.bfloat16)[1:])
        assert launch.grid[0] * launch.grid[1] >= 100
    fp32 = candidates(replace(linear, has_norm=True), rows, torch.float32, 132)
    assert len(fp32) < len(tilings)  # twice the bytes of shared memory
