"""Work beside the steps' stream: in turn without a GPU, between a fork and a join on one."""

import weakref

import pytest
import torch

from dycoke.kv_cache.side_stream import SideStream
from tests.support.decode_stores import DEVICE, needs_gpu

LONG = 20_000_000  # cycles, about 10 ms


@pytest.mark.parametrize("device", [None, torch.device("cpu")])
def test_in_turn(device):
    """And nothing is kept: there is nothing to wait for."""
    aside, order = SideStream(device), []
    given = torch.zeros(1)
    seen = weakref.ref(given)
    with aside.work(given):
        order.append("aside")
    del given
    assert order == ["aside"] and seen() is None
    aside.join()


@needs_gpu
def test_a_graph_waits_where_it_joins():
    """Replays read what was written aside behind a join, and go on ahead of it."""
    aside, value = SideStream(torch.device(DEVICE)), torch.zeros(1, device=DEVICE)
    before, behind = torch.zeros(1, device=DEVICE), torch.zeros(1, device=DEVICE)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        value.zero_()
        with aside.work():
            torch.cuda._sleep(LONG)
            value.add_(7)
        before.copy_(value)
        aside.join()
        behind.copy_(value)
    for _ in range(3):
        before.fill_(-1), behind.fill_(-1)
        graph.replay()
        assert (before.item(), behind.item()) == (0, 7)


@needs_gpu
def test_what_is_read_aside_is_not_given_to_others():
    aside, size = SideStream(torch.device(DEVICE)), 2**20
    given, kept = torch.full((size,), 3.0, device=DEVICE), torch.zeros(size, device=DEVICE)
    with aside.work(given):
        torch.cuda._sleep(LONG)
        kept.copy_(given)
    del given
    others = [torch.full((size,), 5.0, device=DEVICE) for _ in range(8)]
    aside.join()
    assert (kept == 3.0).all() and len(others) == 8
    assert aside._read is None
