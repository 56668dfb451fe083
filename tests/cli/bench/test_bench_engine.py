"""`dycoke bench engine`: its record on a CPU, what it refuses, its model, and its plots."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from dycoke.bench.engine import run as engine
from dycoke.bench.engine.model import build_llava, make_request, placed, share_llava
from dycoke.bench.engine.setting import ON_CPU, ON_GPU, PARTS, VERSIONS, Setting

SMALL = Setting(**ON_CPU)
OURS = ["engine_full", "engine_dycoke"]
pytestmark = pytest.mark.xdist_group("bench engine")  # one process of the tests makes the record
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="measures the GPU where there is one")


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """The record of a run of every part, beside the file that holds it."""
    from rich.console import Console

    path = tmp_path_factory.mktemp("engine") / "record.json"
    engine.run(replace(SMALL, batches=(2,), clips=(4, 5)), path, Console(quiet=True))
    return json.loads(path.read_text()), path


@no_gpu
def test_every_part_is_measured(record):
    told, _ = record
    assert told["complete"] and set(PARTS) <= set(told)
    assert told["versions"]["transformers"] and "commit" in told and told["command"].startswith("dycoke")
    assert told["ceilings"]["gb_per_s"] > 0 and told["ceilings"]["tflop_per_s"] > 0


@no_gpu
def test_steady_decoding_is_told_with_floors_and_ratios(record):
    told, _ = record
    decode, rate = told["decode"], told["ceilings"]["gb_per_s"]
    assert [row["version"] for row in decode["results"]] == list(VERSIONS)
    assert [row["loop"] for row in decode["results"]] == [None, None, None, "engine", "engine"]
    for row in decode["results"]:
        assert len(row["round_medians_ms"]) == 2 and row["floor_ms"] == pytest.approx(row["bytes"] / rate / 1e6)
        assert row["of_floor"] == pytest.approx(row["median_ms"] / row["floor_ms"])
    full, dycoke = decode["results"][3:]
    assert dycoke["bytes"] < full["bytes"]
    assert decode["ratios"][0]["ratio"] == "stock_eager / engine_full"
    assert decode["ratios"][-1]["ratio"] == "engine_full / engine_dycoke"
    assert decode["ratios"][-1]["of_medians"] == pytest.approx(full["median_ms"] / dycoke["median_ms"])


@no_gpu
@pytest.mark.parametrize(("part", "tokens"), [("first_token", 1), ("answer", 6)])
def test_stages_and_the_rest_make_the_whole(record, part, tokens):
    told = record[0][part]
    assert told["answer"] == tokens
    assert [row["version"] for row in told["results"]] == ["stock_sdpa", *OURS]
    for row in told["results"]:
        expected = ["vision", "compress", "prefill", "decode", "rest"]
        expected.remove("compress") if row["version"] == "stock_sdpa" else None
        expected.remove("decode") if tokens == 1 else None
        assert list(row["shares"]) == expected and min(row["shares"].values()) >= 0
        assert row["rates"]["vision"]["tflop_per_s"] > 0 and row["rates"]["prefill"]["of_matmul"] > 0
    assert [row["visual_kept"] for row in told["results"]] == [0, 64, 28]


@no_gpu
def test_frames_to_pixels_are_told_beside_the_first_token(record):
    told = record[0]["first_token"]["preprocess"]
    assert told["source"] == [360, 640] and told["runs"] == 2 and told["median_ms"] > 0
    assert "preprocess" not in record[0]["answer"]


@no_gpu
def test_batches_are_told_by_the_tokens_of_all_rows(record):
    (batch,) = record[0]["batch"]["batches"]
    assert batch["rows"] == 2 and not batch["failed"]
    assert [row["version"] for row in batch["results"]] == ["stock_static_graph", *OURS]
    for row in batch["results"]:
        assert row["tokens_per_s"] == pytest.approx(2e3 / row["median_ms"])


@no_gpu
def test_memory_and_parity_are_told(record):
    told, _ = record
    rows = told["memory"]["results"]
    assert [(row["version"], row["frames"]) for row in rows[:3]] == [("stock_sdpa", 4), *((name, 4) for name in OURS)]
    assert [row["tokens"] for row in rows] == [4 * 16 + 31, 4 * 16 + 31, 28 + 31, 5 * 16 + 31, 5 * 16 + 31, 44 + 31]
    assert told["parity"]["logits"]["top1_agreement"] == 1 and len(told["parity"]["logits"]["max_by_step"]) == 16
    assert [each["version"] for each in told["parity"]["tokens"]] == OURS


@no_gpu
def test_the_command_prints_tables_and_draws_its_record(dycoke, tmp_path):
    path = tmp_path / "record.json"
    chosen = ("--part", "answer", "--rounds", 1, "--answer", 3, "--versions", "stock_sdpa", "--methods", "fastv")
    done = dycoke("bench", "engine", *chosen, "--json", path)
    assert done.code == 0, done.err
    assert "stock_sdpa / engine_fastv" in done.out and "frames on the device to answer of 3 tokens" in done.out
    assert "decode" not in json.loads(path.read_text())
    done = dycoke("bench", "plot", path, "--out", tmp_path / "plots")
    assert done.out.splitlines() == [str(tmp_path / "plots" / f"stages.{ending}") for ending in ("png", "pdf")]


@no_gpu
def test_plots_show_every_version_and_are_the_same_again(record, dycoke, tmp_path):
    from matplotlib.figure import Figure

    told, path = record
    drawn: list[Figure] = []
    save = Figure.savefig
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Figure, "savefig", lambda figure, *args, **kwargs: drawn.append(figure) or save(figure, *args, **kwargs)
        )
        assert dycoke("bench", "plot", path, "--out", tmp_path / "one").code == 0
    assert dycoke("bench", "plot", path, "--out", tmp_path / "two").code == 0
    files = sorted(file.name for file in (tmp_path / "one").iterdir())
    assert files == [f"{name}.{ending}" for name in ("batch", "memory", "stages") for ending in ("pdf", "png")]
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    stages, batch, memory = drawn[::2]
    assert [label.get_text() for label in stages.axes[1].get_yticklabels()] == ["stock_sdpa", *OURS]
    bars = sum(patch.get_width() for patch in stages.axes[1].patches)
    assert bars == pytest.approx(sum(row["median_ms"] for row in told["answer"]["results"]))
    assert {"stock_static_graph", *OURS} <= set(batch.axes[0].get_legend_handles_labels()[1])
    lines = {line.get_label(): line for line in memory.axes[0].lines}
    assert {"stock_sdpa", *OURS} <= set(lines) and list(lines["engine_dycoke"].get_xdata()) == [4, 5]


@pytest.mark.parametrize(
    ("option", "value", "complaint"),
    [
        ("--shape", "70b", "shape '70b': expected one of 0.5b, 7b, 72b, tiny, small"),
        ("--dtype", "int8", "expected one of bfloat16"),
        ("--frames", 0, "frames=0: expected at least 1"),
        ("--rounds", 0, "rounds=0"),
        ("--answer", 1, "answer=1: expected at least 2 tokens"),
        ("--batches", "1,x", "--batches 1,x: expected numbers"),
        ("--clips", "0", "clips=(0,): expected numbers from 1"),
        ("--warm-up", -1, "expected at least 0 seconds"),
        ("--l", 6, "l=6: expected 1 to 5"),
        ("--p", 1.0, "p=1.0"),
        ("--part", "speed", "part 'speed': expected one of decode"),
        ("--versions", "stock_flash", "version 'stock_flash': expected one of stock_eager"),
        ("--versions", "stock_sdpa,stock_sdpa", "expected each once"),
        ("--methods", "pruning", "version 'engine_pruning'"),
        ("--methods", "pdrop", "layer 8: expected 0 to 5"),
        ("--device-map", "spread", "device-map 'spread': expected none, or auto"),
        ("--json", "absent/record.json", "no folder absent"),
    ],
)
def test_refused(dycoke, option, value, complaint):
    assert complaint in dycoke("bench", "engine", "--shape", "tiny", option, value).complaint


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "not JSON"),
        ('{"benchmark": "decode"}', "expected a record that `dycoke bench engine --json` wrote"),
        ('{"benchmark": "engine", "answer": {"failed": "no"}}', "nothing to draw"),
    ],
)
def test_plots_of_other_files_are_refused(dycoke, tmp_path, text, complaint):
    (tmp_path / "record.json").write_text(text)
    done = dycoke("bench", "plot", tmp_path / "record.json", "--out", tmp_path / "plots")
    assert complaint in done.complaint and not (tmp_path / "plots").exists()


class TestModel:
    @pytest.fixture(scope="class")
    def model(self):
        return build_llava(SMALL, "cpu")

    def test_weights_are_random_and_buffers_are_what_the_model_computes(self, model):
        for name, weight in model.named_parameters():
            assert float(weight.std()) > 0, name
        again = type(model)(model.config)
        for (name, buffer), (_, expected) in zip(model.named_buffers(), again.named_buffers(), strict=True):
            assert torch.equal(buffer, expected), name

    def test_another_model_has_the_same_weights_and_its_own_attention(self, model):
        other = share_llava(model, "eager")
        for weight, shared in zip(model.parameters(), other.parameters(), strict=True):
            assert weight.data_ptr() == shared.data_ptr()
        names = {part.config._attn_implementation for part in (other.model.vision_tower, other.model.language_model)}
        assert names == {"eager"} and model.model.language_model.config._attn_implementation == "sdpa"
        request = make_request(model, SMALL, 4)
        answers = [each.generate(**request.inputs, max_new_tokens=4, do_sample=False) for each in (model, other)]
        assert torch.equal(*answers)

    def test_no_answer_ends_early_and_the_head_may_be_tied(self, monkeypatch):
        from dycoke.bench.engine.setting import LANGUAGE, Shape

        monkeypatch.setitem(LANGUAGE, "tiny", Shape(6, 64, 128, 4, 2, 512, tied=True))
        model = build_llava(SMALL, "cpu")
        assert model.lm_head.weight is model.get_input_embeddings().weight
        request = make_request(model, SMALL, 4)
        model.lm_head.weight.data.zero_()  # all tokens are as likely, and the first is no end
        out = model.generate(**request.inputs, max_new_tokens=4, do_sample=False)
        assert out.shape[1] == request.length + 4 and model.generation_config.eos_token_id == 509

    def test_the_prompt_holds_the_video(self, model):
        request = make_request(model, SMALL, 5, rows=3)
        ids = request.inputs["input_ids"]
        assert (ids == model.config.video_token_id).sum(-1).tolist() == [5 * 16 + 1] * 3
        assert ids.shape == (3, 5 * 16 + 1 + 30)
        assert not torch.isin(ids[:, :15], torch.tensor([0, *range(509, 512)])).any()

    def test_a_part_lies_where_the_longest_prefix_says(self):
        place = placed({"model": 0, "model.layers.1": 1, "lm_head": torch.device("cpu")})
        assert [place(name) for name in ("model.layers.0.w", "model.layers.1.w", "model.layers.10.w")] == [
            torch.device("cuda", 0),
            torch.device("cuda", 1),
            torch.device("cuda", 0),
        ]
        assert place("lm_head.weight") == torch.device("cpu")


def test_the_papers_size_is_the_default_on_a_gpu():
    setting = Setting(**ON_GPU)
    assert (setting.visual, setting.text, setting.vision.patches) == (6272, 31, 729)
