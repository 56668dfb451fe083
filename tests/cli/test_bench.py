"""`dycoke bench compress`: what it refuses, what it writes, and that its check can fail."""

from __future__ import annotations

import json

import pytest
import torch

from dycoke.bench.check import check_merge_output
from dycoke.bench.compress import STREAM, STREAM_BYTES, Setting, _results
from dycoke.bench.record import circumstances
from dycoke.bench.timing import Times, time_on_host
from dycoke.ops.temporal_merge import temporal_merge_torch

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


@pytest.mark.parametrize(
    ("option", "value", "complaint"),
    [
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
