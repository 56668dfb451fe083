"""Sharing work over processes: every item is done once, and results come back in the order of the work."""

from __future__ import annotations

import json
from itertools import islice

import pytest

from dycoke.lab.ranks import Ranks, interleaved
from dycoke.nano import evaluate
from tests.cases import folded
from tests.eval.launch.launch import launch


@folded("count", [0, 1, 2, 3, 7, 8])
@folded("world", [1, 2, 3, 8])
def test_items_are_dealt_as_lmms_eval_deals_samples_and_come_back_in_order(world, count):
    items = list(range(count))
    parts = [Ranks(rank, world).mine(items) for rank in range(world)]
    assert parts == [list(islice(items, rank, None, world)) for rank in range(world)]
    assert interleaved(parts) == items


@pytest.mark.parametrize("parts", [[[1], [2, 3]], [[1, 2, 3], [4]], [[], [1]]])
def test_results_that_were_not_dealt_so_are_refused(parts):
    with pytest.raises(ValueError, match=f"{len(parts[0])}, {len(parts[1])} results of 2 processes"):
        interleaved(parts)


@pytest.mark.parametrize(("rank", "world"), [(2, 2), (-1, 2), (0, 0)])
def test_a_rank_beyond_the_processes_is_refused(rank, world):
    with pytest.raises(ValueError, match=f"rank {rank} of {world} processes"):
        Ranks(rank, world)


def test_a_process_by_itself_has_all_the_work_and_waits_for_nobody():
    ranks = Ranks.current(cpu=True)
    assert ranks == Ranks(0, 1) and ranks.is_main
    assert ranks.gather(ranks.mine("abc")) == ["a", "b", "c"]
    ranks.wait()


@pytest.mark.slow
def test_two_processes_write_the_record_of_one(tmp_path, capsys):
    asked = ["--videos", "2", "--method", "dycoke,k=0.7", "--device", "cpu", "--output"]
    done = launch(2, "dycoke.nano.evaluate", *asked, str(tmp_path / "two.json"))
    assert done.returncode == 0, done.stderr
    evaluate.main([*asked, str(tmp_path / "one.json")])
    assert done.stdout == capsys.readouterr().out
    assert (tmp_path / "two.json").read_bytes() == (tmp_path / "one.json").read_bytes()
    wrong = json.loads((tmp_path / "one.json").read_text())["dycoke,k=0.7"]["wrong"]
    assert len(wrong) > 1  # or their order would say nothing
