"""The checks of `dycoke bench decode` can fail: loops, graphs, attention, choices, answers."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import replace

import pytest
import torch

from dycoke.bench.decode import attention as decode_attention
from dycoke.bench.decode import memory as decode_memory
from dycoke.bench.decode import step as decode_step
from dycoke.bench.decode.attention import CARRIED, DENSE, EVERY, SDPA, STREAM
from dycoke.bench.decode.check import check_agree, check_attention, check_choice, check_loop
from dycoke.bench.decode.memory import check_same
from dycoke.bench.decode.model import FULL, STOCK, Loop, build_model, make_prompt, running
from dycoke.bench.decode.setting import Setting
from dycoke.bench.timing import WARM_UPS, Captured, Times
from dycoke.kv_cache.request import DecodeRequest
from dycoke.ops.attend.sparse_decode import Reads, Store, sparse_decode_observed_torch

SMALL = Setting("tiny", 2, 4, 16, "float32", 0.0, rounds=2, repeat=2)


@pytest.fixture(scope="module")
def model():
    return build_model(SMALL, "cpu")


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def replayed(step):
    """A captured step as a CPU can have it: warmed up, and run again by `replay` into the same tensors."""
    for _ in range(WARM_UPS):
        output = step()
    flat = output if isinstance(output, list) else [output]
    kept = [out.clone() for out in flat]

    class Graph:
        def replay(self):
            again = step()
            for out, new in zip(kept, again if isinstance(again, list) else [again], strict=True):
                out.copy_(new)

    return Captured(Graph(), kept if isinstance(output, list) else kept[0])


def replay_all(graphs, repeat, before):
    for count in (WARM_UPS, repeat):
        for _ in range(count):
            for captured in graphs.values():
                before()
                captured.graph.replay()
    return {name: Times((1.0,) * repeat) for name in graphs}


@pytest.fixture
def replays(monkeypatch):
    """Lets the parts run as on a GPU, but for the graphs."""
    for module in (decode_step, decode_attention):
        monkeypatch.setattr(module, "capture", replayed)
        monkeypatch.setattr(module, "time_graphs", replay_all)
        monkeypatch.setattr(module, "stream_step", lambda nbytes: lambda: torch.zeros(1))


def test_attention_reads_entries_laid_out_as_prefill_leaves_them(model):
    prompt = make_prompt(model, SMALL.visual)
    with running(model, FULL, prompt):
        left = Loop(model, prompt, None, room=1).request.layers[0].entries
    made = decode_attention._Layers(replace(SMALL, batch=1), "cpu").requests[DENSE].layers[0].entries
    assert made.keys.stride() == left.keys.stride() and made.values.stride() == left.values.stride()


class TestCaptured:
    @pytest.fixture
    def time_alone(self, model, replays, monkeypatch):
        """Time one loop. A call of the step needs its method on the model, unlike a graph: it stays until the end."""
        prompt = make_prompt(model, SMALL.visual)

        @contextmanager
        def staying(*given):
            undo.enter_context(running(*given))
            yield

        monkeypatch.setattr(decode_step, "running", staying)
        with ExitStack() as undo:
            yield lambda name, method: decode_step._time_captured(
                model, {name: decode_step.Version(method, prompt)}, SMALL
            )

    METHODS = (
        ("stock", STOCK),
        ("full", FULL),
        ("dp", SMALL.pruning()),
        ("dp_every_step", SMALL.pruning(refresh=1.0)),
    )

    @pytest.mark.parametrize(("name", "method"), METHODS)
    def test_loops_advance_by_their_replays(self, time_alone, name, method):
        (told,) = time_alone(name, method)
        assert told["version"] == name and told["runs"] == 4

    def test_a_replay_that_does_not_advance_is_seen(self, time_alone, monkeypatch):
        monkeypatch.setattr(DecodeRequest, "advance", every_other(DecodeRequest.advance))
        with pytest.raises(RuntimeError, match="columns behind the prompt"):
            time_alone("full", FULL)

    def test_a_step_that_does_not_choose_anew_is_seen(self, time_alone):
        with pytest.raises(RuntimeError, match="dp_every_step: chose 1 times"):
            time_alone("dp_every_step", SMALL.pruning(refresh=0.0))

    def test_attention_is_checked_in_place(self, replays):
        times = decode_attention._on_gpu(decode_attention._Layers(SMALL, "cpu"), SMALL)
        assert list(times) == [DENSE, SDPA, EVERY, CARRIED, STREAM]

    def test_rows_that_choose_where_they_should_not_are_seen(self, replays):
        layers = decode_attention._Layers(SMALL, "cpu")
        layers.requests[CARRIED] = layers._request(SMALL.pruning(refresh=1.0), [])
        with pytest.raises(RuntimeError, match="dp_carried_on: rows chose"):
            decode_attention._on_gpu(layers, SMALL)

    def test_a_layer_that_reads_what_was_chosen_before_is_seen(self, replays, monkeypatch):
        layers = decode_attention._Layers(SMALL, "cpu")
        request = layers.requests[EVERY]
        choose, first = request._choose, []

        def once(attn):
            choose(attn)
            columns = request.columns(attn.device)
            first.append(Reads(columns.pruned.count.clone(), columns.pruned.index.clone()))
            columns.pruned = first[0]

        monkeypatch.setattr(request, "_choose", once)
        with pytest.raises(RuntimeError, match="dp_every_step"):
            decode_attention._on_gpu(layers, SMALL)


def every_other(advance):
    calls = []

    def sometimes(request):
        calls.append(1)
        if len(calls) % 2:
            advance(request)
        request.stepping = True

    return sometimes


class TestChecks:
    @pytest.fixture
    def loop(self, model):
        prompt = make_prompt(model, SMALL.visual)
        with running(model, FULL, prompt):
            loop = Loop(model, prompt, None, room=2)
            return loop, loop.step(), prompt.embeds.shape[1]

    def test_loop(self, loop):
        check_loop("full", *loop, 1)
        with pytest.raises(RuntimeError, match="2 steps left 1 columns"):
            check_loop("full", *loop, 2)
        loop[1][0, 3] = torch.nan
        with pytest.raises(RuntimeError, match="not written"):
            check_loop("full", *loop, 1)

    def test_a_cache_that_loses_the_answer_is_seen(self, model, monkeypatch):
        monkeypatch.setattr(DecodeRequest, "append", lambda *given: None)
        with pytest.raises(RuntimeError, match="from the stock model's"):
            decode_step._compare_first(model, SMALL, make_prompt(model, SMALL.visual))

    @pytest.mark.parametrize("value", [0.1, float("nan")])
    def test_logits(self, value):
        logits = torch.randn(1, 64, generator=torch.Generator().manual_seed(0))
        assert check_agree(logits, logits, torch.float32) == 0
        with pytest.raises(RuntimeError, match="logits are"):
            check_agree(logits, logits + value, torch.float32)

    @pytest.fixture
    def attention(self):
        generator = torch.Generator().manual_seed(0)

        def normal(*sizes):
            return torch.randn(sizes, generator=generator)

        keys, values, tail = normal(2, 2, 9, 16), normal(2, 2, 9, 16), normal(2, 2, 4, 16)
        store = Store(keys, values, tail, tail, torch.arange(2).int(), torch.tensor([2, 2]).int())
        reads = Reads(torch.tensor([9, 9]).int())
        query = normal(2, 4, 1, 16)
        out, attn = sparse_decode_observed_torch(query[:, :, 0], store, reads, 0.25)
        return out[:, None], query, store, reads, attn

    def test_attention(self, attention):
        out, query, store, reads, attn = attention
        exact = check_attention("dense", out, query, store, reads, 0.25, [0, 1])
        torch.testing.assert_close(exact.float(), attn, atol=1e-6, rtol=0)

    @pytest.mark.parametrize("fault", ["unwritten", "swapped", "short"])
    def test_wrong_attention(self, attention, fault):
        out, query, store, reads, _ = attention
        if fault == "unwritten":
            out[1, 0, 3, 5] = torch.nan
        elif fault == "swapped":
            out = out.flip(2)
        else:
            reads = Reads(reads.count - 1)
        with pytest.raises(RuntimeError, match="dense: attention is"):
            check_attention("dense", out, query, store, reads, 0.25, [0, 1])

    ATTN = torch.tensor([[0.1, 0.3, 0.05, 0.2, 0.25, 0.1]])
    VISUAL = torch.tensor([False, True, True, True, True, False])

    def choose(self, *columns, count=None):
        index = torch.tensor([[*columns, -1]], dtype=torch.int32)
        reads = Reads(torch.tensor([count or len(columns)], dtype=torch.int32), index)
        check_choice("dp", self.ATTN, reads, self.VISUAL, 2, [0])

    def test_choice(self):
        self.choose(0, 1, 4, 5)

    @pytest.mark.parametrize(
        ("columns", "complaint"),
        [
            ((0, 1, 3, 5), "more attention"),
            ((0, 1, 2, 4, 5), "reads 5 columns"),
            ((0, 4, 1, 5), "ascending"),
            ((1, 3, 4, 5), "leaves out text"),
        ],
    )
    def test_wrong_choice(self, columns, complaint):
        with pytest.raises(RuntimeError, match=complaint):
            self.choose(*columns)

    def test_unwritten_choice(self):
        with pytest.raises(RuntimeError, match="expected 4, ascending"):
            self.choose(-1, 1, 4, 5)

    def test_answers(self):
        answer = list(range(decode_memory.ANSWER))
        check_same({"dp_device": answer, "dp_host": answer})
        with pytest.raises(RuntimeError, match="dp_host answers"):
            check_same({"dp_device": answer, "dp_host": answer[::-1]})
        with pytest.raises(RuntimeError, match="an answer of 15 tokens"):
            check_same({"dp_device": answer[:-1]})
