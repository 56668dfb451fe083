"""Buffers that sparse decode attention keeps from call to call, in a request and in CUDA graphs."""

import pytest
import torch

from dycoke.kv_cache.request import DecodeRequest
from dycoke.ops.attend import sparse_decode as dispatch
from dycoke.ops.attend import sparse_decode_triton as kernels
from dycoke.ops.attend.sparse_decode import Scratch, sparse_decode_observed, sparse_decode_torch
from dycoke.ops.attend.sparse_decode_triton import Tiling
from tests.support.decode_stores import (
    DEVICE,
    NAN,
    PARTS,
    as_double,
    assert_close,
    assert_observed,
    needs_gpu,
    subject,
)


def test_scratch_serves_calls_of_any_shape_in_turn(monkeypatch):
    """Nothing is allocated the second time, whatever was left behind does no harm, and counters are back at zero."""
    one, other = subject(2, 2, 3, 64, 101, 77, 20, seed=1), subject(3, 2, 3, 64, 70, 50, 40, dense=True, seed=2)
    calls = [
        (case, tiling) for tiling in (Tiling(16, 4), Tiling(16, 0, 32), Tiling(16, 1)) for case in (one, other, one)
    ]
    want = [kernels._decode(*case, observed=True, tiling=tiling) for case, tiling in calls]
    scratch = Scratch()
    for _ in range(2):
        for (case, tiling), (out, attn) in zip(calls, want, strict=True):
            got = kernels._decode(*case, scratch, observed=True, tiling=tiling)
            assert torch.equal(got[0], out) and torch.equal(got[1], attn)
            for (name, _), buffer in scratch._buffers.items():
                assert name != "done" or not buffer.any()
                if name != "done":
                    buffer.fill_(NAN)
        monkeypatch.setattr(Scratch, "_keep", None)


def test_a_request_keeps_its_scratch_from_step_to_step(monkeypatch, planning):
    """Of kernels that run for every tensor: a step allocates what they need at the first layer, and once it grew."""
    planning("processors", lambda device: 132)  # which deals out the tail separately
    monkeypatch.setattr(dispatch, "_has_kernel", lambda query: True)
    made, keep = [], Scratch._keep
    monkeypatch.setattr(Scratch, "_keep", lambda self, name, buffer: made.append(name) or keep(self, name, buffer))
    random = torch.Generator().manual_seed(3)

    def normal(*sizes):
        return torch.randn(sizes, generator=random).to(DEVICE)

    request = DecodeRequest(None, 2, (2, 40), torch.device(DEVICE), None, None, tail=2)
    for layer in range(2):
        request.fill(layer, normal(2, 2, 40, 64), normal(2, 2, 40, 64))
    expected = [True, False, False, True, False]
    for step, grows in enumerate(expected):
        if step == 3:
            request.reserve(100)  # more parts of the tail
            request.reorder(torch.tensor([1, 1]))
        request.advance()
        for layer in range(2):
            if step == 3:
                request.reorder_layer(layer, torch.tensor([1, 1]))
            request.append(layer, normal(2, 2, 1, 64), normal(2, 2, 1, 64))
            query = normal(2, 6, 1, 64)
            made.clear()
            got = request.attend(layer, query, 0.125)[:, 0]
            reads = request.columns(query.device).whole
            assert_close(got, sparse_decode_torch(*as_double(query[:, :, 0], request.store(layer), reads, 0.125)))
            assert bool(made) == (grows and layer == 0)
        request.end_step()


@needs_gpu
@pytest.mark.parametrize("scratch", [None, "warm", "cold"])
@pytest.mark.parametrize("tiling,dense", [(Tiling(64, 1), True), (Tiling(32, 6), False), (Tiling(64, 0, 64), True)])
def test_a_graph_follows_its_inputs_and_repeats_exactly(dense, tiling, scratch, planning):
    planning("_tiling", lambda *args: tiling)
    shared = scratch and Scratch()
    size, options = (4, 4, 7, 128, 700, 300, 64), {"dense": dense, "dtype": torch.bfloat16}
    case, other = subject(*size, seed=1, **options), subject(*size, seed=2, **options)
    sparse_decode_observed(*case, shared if scratch == "warm" else None)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):  # a host read would end the capture with an error
        out, attn = sparse_decode_observed(*case, shared)
    assert shared is None or bool(shared._buffers) == (scratch == "warm")  # a capture's own memory is not kept
    query, store, reads, _ = case
    into = [query, *(getattr(store, name) for name in PARTS), reads.count, reads.index]
    query, store, reads, _ = other
    new = [query, *(getattr(store, name) for name in PARTS), reads.count, reads.index]
    for old, value in zip(into, new, strict=True):
        if old is not None:
            old.copy_(value)
    runs = []
    for _ in range(2):
        out.fill_(NAN)
        attn.fill_(NAN)
        graph.replay()
        runs.append((out.clone(), attn.clone()))
    assert_observed(other, out, attn)
    assert torch.equal(runs[0][0], runs[1][0]) and torch.equal(runs[0][1], runs[1][1])
