"""One size of request: its KV store, the request a graph was recorded over, and the graph."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dycoke.engine.step import decode_step
from dycoke.engine.weights import JoinedWeights, Weights
from dycoke.kv_cache.request import DecodeRequest
from dycoke.kv_cache.side_stream import SideStream
from dycoke.ops.attend.sparse_decode import Scratch

WARM_UPS = 2  # eager steps ahead of a capture, which compile the kernels and make their working memory


class Bucket:
    """Decodes requests of one signature, one after the other.

    weights: of the model, where they lie now; joined: a copy of some of them, to read instead. make: builds the request
    that the store is made for; what it says of a prompt is overwritten by each that comes. On CUDA the first use
    records a graph, on a CPU steps run eagerly. pool: memory that graphs share, which are replayed one at a time.
    """

    def __init__(
        self,
        weights: Weights,
        make: Callable[[SideStream | None], DecodeRequest],
        pool: tuple[int, int] | None,
        joined: JoinedWeights | None = None,
    ) -> None:
        self._weights, self.joined, self._scratch = weights if joined is None else joined.weights, joined, Scratch()
        if joined is not None:
            joined.refresh()  # for the warm-ups
        self.template = make(SideStream(weights.device))
        rows, device = self.template.batch, weights.device
        for layer in range(len(weights.layers)):
            shape = (rows, weights.kv_heads, self.template.section(layer).columns, weights.head_dim)
            self.template.fill(layer, *(torch.zeros(shape, dtype=weights.dtype, device=device) for _ in range(2)))
        self.tokens = torch.zeros(rows, dtype=torch.int64, device=device)
        self.positions = torch.zeros(rows, dtype=torch.int64, device=device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._logits: Tensor | None = None
        self._last: torch.cuda.Event | None = None
        if device.type == "cuda":
            self._capture(pool)

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values."""
        return self.template.use.device_bytes

    def take(self, request: DecodeRequest, positions: Tensor) -> None:
        """Begin with a request of the template's signature: positions [B] int64 of the tokens it decodes first."""
        if self.joined is not None:
            self.joined.refresh()
        self.template.refill(request)
        self.template.use.restart(self.template.batch - len(positions))
        self.positions.zero_()
        self.positions[: len(positions)] = positions

    @torch.inference_mode()
    def store(self, layer: int, keys: Tensor, values: Tensor, order: Tensor | None) -> None:
        """Copy a layer's prompt, [B, H, S, D] each, to the right end of its columns.

        order [B, S] int64: the columns with padding first, None where it is first already.
        """
        entry = self.template.layers[layer].entries
        rows, _, columns, _ = keys.shape
        for to, of in ((entry.keys, keys), (entry.values, values)):
            of = of if order is None else of.take_along_dim(order[:, None, :, None], 2)
            to[:rows, :, to.shape[2] - columns :].copy_(of)

    def step(self) -> Tensor:
        """Read `tokens` and return logits [B, V], which the next step overwrites."""
        if self._graph is None:
            return self._run()
        self._graph.replay()
        return self._logits

    def leave(self) -> None:
        """The request is over, as far as the host is concerned; on its stream a step may still be under way."""
        if self._graph is not None:
            self._last = torch.cuda.Event()
            self._last.record()

    def wait(self) -> None:
        """Let the current stream wait for the steps of the request before, which share memory with other buckets'."""
        if self._last is not None:
            torch.cuda.current_stream().wait_event(self._last)

    def _run(self) -> Tensor:
        return decode_step(self._weights, self.template, self.tokens, self.positions, self._scratch)

    def _capture(self, pool: tuple[int, int] | None) -> None:
        """Raises ValueError for a policy that replaces what is in its state: a graph would go on with the old."""
        before = self.template.recorded()
        side = torch.cuda.Stream(self._weights.device)
        side.wait_stream(torch.cuda.current_stream(self._weights.device))
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                self._run()
        torch.cuda.current_stream(self._weights.device).wait_stream(side)
        if self.template.recorded() != before:
            raise ValueError(
                f"{type(self.template.policy).__name__}.step replaced what is in its state; expected: tensors that are "
                "updated in place, or engine='off'"
            )
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the GPU meanwhile, such as those that pin memory.
        with torch.cuda.graph(graph, pool=pool, stream=side, capture_error_mode="thread_local"):
            self._logits = self._run()
        self._graph = graph
