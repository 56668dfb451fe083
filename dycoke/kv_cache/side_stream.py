"""Side stream: work of a decode step that the next layer does not wait for, in turn or on a stream of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class SideStream:
    """Forks off the current stream and joins it again, also while a CUDA graph is captured.

    device: a GPU, on which it gets a stream; without one all is done in turn.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self._stream = torch.cuda.Stream(device) if device is not None and device.type == "cuda" else None
        self._read: tuple[Tensor, ...] | None = None

    @contextmanager
    def work(self, *read: Tensor) -> Iterator[None]:
        """Within the context, what is launched waits for what came before, and nothing waits for it until `join`.

        read: what it reads and nobody else holds on to; its memory is not given to others before `join`.
        """
        if self._stream is None:
            yield
            return
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        self._read = (*(self._read or ()), *read)
        with torch.cuda.stream(self._stream):
            yield

    def join(self) -> None:
        """What is launched from now on waits for what was done on the side, if anything was."""
        if self._read is not None:
            torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)
            self._read = None
