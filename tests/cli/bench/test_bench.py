"""`dycoke bench compress`: what it refuses, what it writes, and that its check can fail."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace

import pytest
import torch

from dycoke.bases import KeepAll
from dycoke.bench.compress import methods as compress_methods
from dycoke.bench.compress.check import check_merge_output
from dycoke.bench.compress.methods import check_output, inputs, measure, square_grid
from dycoke.bench.compress.run import STREAM, STREAM_BYTES, Setting, _results
from dycoke.bench.timing import Times, time_eager, time_on_host
from dycoke.lab.record import circumstances, write_record
from dycoke.ops.tokens.temporal_merge import temporal_merge_torch
from dycoke.registry import available, build, entry
from dycoke.types import Compressed, VisualTokens

SMALL = ("--frames", 5, "--tokens", 9, "--dim", 16, "--repeat", 3)
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="measures the GPU where there is one")


@no_gpu
def test_on_a_cpu_the_reference_is_timed_and_it_says_so(dycoke, tmp_path):
    record_file = tmp_path / "record.json"
    done = dycoke("bench", "compress", *SMALL, "--dtype", "float32", "--json", record_file)
    assert (done.code, done.err) == (0, "")
    assert "no GPU: the torch reference only" in done.out
    record = json.loads(record_file.read_text())
    kept = 2 * 9 + 3 * int(0.3 * 9)
    assert record["kept_tokens"] == kept
    assert record["bytes_that_must_move"] == 4 * 16 * (5 * 9 + kept) + 8 * kept
    (row,) = record["results"]
    assert row["version"] == "torch" and row["runs"] == 3
    assert row["iqr_ms"][0] <= row["median_ms"] <= row["iqr_ms"][1]
    assert row["gb_per_s"] == pytest.approx(record["bytes_that_must_move"] / row["median_ms"] / 1e6)
    assert record["versions"]["torch"] == torch.__version__
    assert record["setting"]["k"] == 0.7
    assert not list(tmp_path.glob("*.partial"))


def test_every_method_before_the_model_is_timed(dycoke, tmp_path):
    """At sizes of no square, with fewer frames than a window, and in the dtype of a GPU."""
    done = dycoke(
        "bench", "compress", "--frames", 3, "--tokens", 12, "--dim", 16, "--repeat", 2, "--json", tmp_path / "r"
    )
    assert (done.code, done.err) == (0, "")
    record = json.loads((tmp_path / "r").read_text())
    names = [name for name in available() if "before" in entry(name).stages]
    assert [row["method"] for row in record["methods"]] == names and {"dycoke", "full"} <= set(names)
    table = done.out.partition("compress of each method at its defaults")[2]
    for row in record["methods"]:
        assert list(row) == ["method", "options", "kept_tokens", "median_ms", "iqr_ms", "runs"]
        options = {name: default for name, (default, _) in entry(row["method"]).options.items()}
        assert json.dumps(row["options"]) == json.dumps(options)
        count = build(row["method"]).plan().before.count(3, 12)
        assert 0 < row["kept_tokens"] <= 36 and count in (None, row["kept_tokens"])
        assert 0 < row["iqr_ms"][0] <= row["median_ms"] <= row["iqr_ms"][1] and row["runs"] == 2
        (words,) = (line.split() for line in table.splitlines() if line.split()[:1] == [row["method"]])
        share, median = f"{row['kept_tokens'] / 36:.1%}", row["median_ms"]
        assert words[1:4] == [str(row["kept_tokens"]), share, f"{median:.3f}"] and words[-1] == f"{median / 5:.0%}"
    assert "limit 5 ms" in table
    tower = record["tower"]
    assert (tower["frames"], tower["patches"], tower["runs"]) == (3, 64, 2)  # 4 of its 3 x 4 tokens a side, twice
    assert 0 < tower["iqr_ms"][0] <= tower["median_ms"] <= tower["iqr_ms"][1]
    assert f"3 frames of 64 patches: {tower['median_ms']:.3f} ms" in " ".join(table.split())


@pytest.mark.parametrize(("text", "names"), [("none", []), ("full", ["full"]), ("full, dycoke", ["full", "dycoke"])])
def test_methods_can_be_chosen(dycoke, tmp_path, text, names):
    done = dycoke("bench", "compress", *SMALL, "--methods", text, "--json", tmp_path / "r")
    assert (done.code, done.err) == (0, "")
    record = json.loads((tmp_path / "r").read_text())
    assert [row["method"] for row in record["methods"]] == names and record["results"]
    assert ("compress of each method" in done.out) == bool(names) == (record["tower"] is not None)


@pytest.mark.parametrize(
    ("tokens", "grid"), [(196, (14, 14)), (169, (13, 13)), (1, (1, 1)), (7, (1, 7)), (12, (3, 4)), (210, (14, 15))]
)
def test_a_grid_is_as_square_as_it_can_be(tokens, grid):
    assert square_grid(tokens) == grid


def test_only_what_is_needed_is_made_up():
    embeds = torch.randn(3, 12, 16, dtype=torch.bfloat16)
    video = inputs(KeepAll(), embeds)
    assert video.embeds is embeds and (video.saliency, video.keys, video.query, video.scenes) == (None,) * 4
    asking = SimpleNamespace(needs=frozenset({"saliency", "keys", "query"}), vision_head="a path")
    video = inputs(asking, embeds)
    assert (video.saliency.shape, video.saliency.dtype) == ((3, 12), torch.float32) and (video.saliency > 0).all()
    assert (video.keys.shape, video.keys.dtype) == ((3, 12, 72), torch.bfloat16)
    assert video.query.shape[1] == 16 and video.scenes.shape[0] == 3
    assert torch.equal(inputs(asking, embeds).keys, video.keys)
    asking.vision_head = ""
    assert inputs(asking, embeds).scenes is None


class TestOutput:
    """Of the first half of 2 x 6 tokens, by a method that says how many it keeps, or how many at most."""

    video = VisualTokens(torch.ones(2, 6, 4), (2, 3))

    def check(self, embeds, index, count=6, bound=None):
        said = SimpleNamespace(count=lambda *_: count, bound=lambda *_: bound)
        check_output("half", said, self.video, Compressed(embeds, index))

    def test_accepts_what_was_said(self):
        self.check(torch.ones(6, 4), torch.arange(6).flip(0))
        self.check(torch.ones(6, 4), torch.arange(6), count=None, bound=6)

    @pytest.mark.parametrize(
        ("embeds", "index", "said", "complaint"),
        [
            (torch.ones(6, 4), torch.arange(6), {"count": 5}, "half: 6 tokens; it said 5$"),
            (torch.ones(6, 4), torch.arange(6), {"count": None, "bound": 5}, "half: 6 tokens; it said 5 at most"),
            (torch.ones(6, 3), torch.arange(6), {}, "for 6 slots"),
            (torch.ones(5, 4), torch.arange(6), {}, "for 6 slots"),
            (torch.ones(6, 4, dtype=torch.float64), torch.arange(6), {}, "torch.float64 .* for 6 slots"),
            (torch.ones(6, 4), torch.arange(6).clamp(max=4), {}, "slots are not distinct"),
            (torch.ones(6, 4), torch.arange(6) + 7, {}, "within the video"),
            (torch.ones(6, 4), torch.arange(6) - 1, {}, "within the video"),
            (torch.full((6, 4), torch.nan), torch.arange(6), {}, "not finite"),
        ],
    )
    def test_sees_what_is_wrong(self, embeds, index, said, complaint):
        with pytest.raises(RuntimeError, match=complaint):
            self.check(embeds, index, **said)


def test_a_wrong_method_is_not_timed(monkeypatch):
    wrong = Compressed(torch.ones(6, 4), torch.arange(6))
    monkeypatch.setattr(entry("random_drop").cls, "count", lambda *_: 5)
    monkeypatch.setattr(entry("random_drop").cls, "compress", lambda *_: wrong)
    monkeypatch.setattr(compress_methods, "time_on_host", lambda *_: pytest.fail("timed"))
    with pytest.raises(RuntimeError, match="random_drop: 6 tokens; it said 5"):
        measure(["random_drop"], torch.randn(2, 6, 4), 1, 0.0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_eager_times_see_the_host_and_leave_the_warm_up_out():
    calls = []

    def step():
        calls.append(torch.zeros(8, device="cuda") + 1)
        time.sleep(0.005)
        calls[-1] += 1

    times = time_eager(step, 4)
    assert len(times.samples) == 4 and len(calls) > 4
    assert 5 < times.median_ms < 50


@pytest.mark.parametrize(
    ("option", "value", "complaint"),
    [
        ("--methods", "dycok", "unknown method 'dycok'"),
        ("--methods", "full,full", "--methods full,full: expected every method once"),
        ("--methods", "dynamic_pruning", "dynamic_pruning has no stage before the model; accepted: "),
        ("--methods", "", "unknown method ''"),
        ("--frames", 0, "frames=0: expected at least 1"),
        ("--repeat", -1, "repeat=-1"),
        ("--k", 1.2, "expected a number in [0, 1]"),
        ("--dtype", "int8", "expected one of bfloat16"),
        ("--json", "absent/record.json", "no folder absent"),
    ],
)
def test_refused(dycoke, option, value, complaint):
    assert complaint in dycoke("bench", "compress", *SMALL, option, value).complaint


def test_the_papers_size_moves_what_it_must():
    setting = Setting(frames=32, tokens=196, dim=3584, k=0.7, dtype="bfloat16", repeat=1)
    assert (setting.keep, setting.kept) == (58, 8 * 196 + 24 * 58)
    assert setting.must_move == 2 * 3584 * (32 * 196 + 2960) + 8 * 2960


def test_floor_comes_from_the_measured_stream():
    setting = Setting(frames=4, tokens=4, dim=8, k=0.5, dtype="float32", repeat=1)
    results = _results(setting, {"torch": Times((2.0, 2.0)), STREAM: Times((1.0, 1.0))})
    assert results["floor_ms"] == pytest.approx(setting.must_move / (2 * STREAM_BYTES))


def test_quartiles_and_halves():
    times = Times((1.0, 2.0, 3.0, 4.0, 5.0))
    assert times.median_ms == 3.0
    assert times.iqr_ms == (2.0, 4.0)
    assert times.halves_ms == (1.5, 4.5)


def test_host_times_leave_the_warm_up_out():
    calls = []
    assert len(time_on_host(lambda: calls.append(1), 4).samples) == 4
    assert len(calls) > 4


class TestCheck:
    @pytest.fixture
    def merged(self):
        embeds = torch.randn(6, 8, 16, generator=torch.Generator().manual_seed(0))
        return embeds, 3, *temporal_merge_torch(embeds, 3)

    def test_accepts_the_reference(self, merged):
        check_merge_output(*merged)

    @pytest.mark.parametrize("keep", [0, 8])
    def test_accepts_nothing_and_everything(self, merged, keep):
        check_merge_output(merged[0], keep, *temporal_merge_torch(merged[0], keep))

    def test_sees_an_unwritten_row(self, merged):
        embeds, keep, kept, index = merged
        kept[4] = torch.nan
        with pytest.raises(RuntimeError, match="not written"):
            check_merge_output(embeds, keep, kept, index)

    def test_sees_an_unwritten_slot(self, merged):
        embeds, keep, kept, index = merged
        index[9] = -1
        with pytest.raises(RuntimeError, match="frame 1"):
            check_merge_output(embeds, keep, kept, index)

    def test_sees_a_wrong_choice(self, merged):
        embeds, keep, _, index = merged
        # Frame 1 stands at rows 8 to 10: let it keep its most similar tokens instead.
        similarity = torch.nn.functional.cosine_similarity(embeds[1], embeds[0], dim=-1)
        index[8:11] = 8 + similarity.topk(3).indices.sort().values
        with pytest.raises(RuntimeError, match="frame 1: a kept token is more similar"):
            check_merge_output(embeds, keep, embeds.flatten(0, 1)[index], index)

    def test_compares_frame_three_with_frame_two(self, merged):
        embeds, keep, _, index = merged
        similarity = torch.nn.functional.cosine_similarity(embeds[3], embeds[0], dim=-1)
        index[14:17] = 24 + similarity.topk(3, largest=False).indices.sort().values
        with pytest.raises(RuntimeError, match="frame 3"):
            check_merge_output(embeds, keep, embeds.flatten(0, 1)[index], index)

    def test_sees_rows_of_another_order(self, merged):
        embeds, keep, kept, index = merged
        swapped = index.clone()
        swapped[8], swapped[9] = index[9], index[8]
        with pytest.raises(RuntimeError, match="ascending"):
            check_merge_output(embeds, keep, kept, swapped)

    def test_sees_too_many_rows(self, merged):
        embeds, keep, kept, index = merged
        with pytest.raises(RuntimeError, match="expected"):
            check_merge_output(embeds, keep, torch.cat([kept, kept[:1]]), torch.cat([index, index[:1]]))


def test_the_commit_of_a_copied_tree_is_the_one_named(monkeypatch):
    monkeypatch.setenv("DYCOKE_COMMIT", "1234abc")
    assert (circumstances()["commit"], circumstances()["modified"]) == ("1234abc", None)
    monkeypatch.delenv("DYCOKE_COMMIT")
    assert circumstances()["commit"] != "1234abc"


def test_a_record_has_a_list_of_numbers_on_a_line_and_reads_back(tmp_path):
    record = {"numbers": [1, -2.5e-07, None, True], "texts": ["[", "1,\n2", "]"], "rows": [[1, 2], [3]], "none": []}
    write_record(tmp_path / "record.json", record)
    text = (tmp_path / "record.json").read_text()
    assert json.loads(text) == record
    assert '  "numbers": [1, -2.5e-07, null, true],\n' in text and "    [1, 2],\n    [3]\n" in text
    assert not list(tmp_path.glob("*.partial"))


def test_settings_are_those_of_dycoke_unless_others_are_given():
    """The published K, L and P stand with the method alone."""
    from dycoke.bench.decode.setting import Setting as Decode
    from dycoke.bench.engine.setting import Setting as Engine
    from dycoke.registry import entry

    published = {name: entry("dycoke").options[name][0] for name in ("k", "l", "p")}
    for setting in (Decode.chosen(k=None, l=None, p=None), Engine.chosen(k=None, l=None, p=None)):
        assert {name: getattr(setting, name) for name in published} == published
    assert Decode.chosen(k=0.5).k == Engine.chosen(k=0.5).k == 0.5
    assert Setting.chosen(None, None, None, None, "float32", 1).k == published["k"]
    assert Setting.chosen(None, None, None, 0.0, "float32", 1).k == 0.0
