"""Choice of a decode policy for one request: its state, and the columns that follow from it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from dycoke.bases.state import adopted_state
from dycoke.types import DecodePolicy


class Choice:
    """The choice of a policy among the visual columns of one section of a prompt, for all its rows.

    visual [B, C] bool: columns the policy may leave out; real [B, C] bool: columns that are not padding; section: the
    number of theirs. `width`: columns a step reads at most. Reads the device when it is made. Raises TypeError or
    ValueError for a state that cannot follow its rows.
    """

    def __init__(self, policy: DecodePolicy, visual: Tensor, real: Tensor, section: int) -> None:
        self.policy, self.section = policy, section
        self.state = adopted_state(policy.start(visual), len(visual))
        self._kept = self.state.keep.shape
        text = real & ~visual
        self.width = min(visual.shape[1], int(text.sum(1).max()) + self._kept[1])
        # One column more than there are: what is padded in `keep` marks that one.
        self.text = pad(text, (0, 1))

    def step(self, attn: Tensor) -> Tensor:
        """Choose anew by attn [B, S] of the observer: columns [B, C] bool that later layers read.

        Raises ValueError for a state whose `keep` has changed its shape.
        """
        self.policy.step(self.state.own, attn)
        keep = self.state.keep
        if keep.shape != self._kept:
            raise ValueError(
                f"state.keep of shape {tuple(keep.shape)}: expected {tuple(self._kept)}, as start() made it"
            )
        columns = self.text.shape[1] - 1
        return self.text.scatter(1, torch.where(keep < 0, columns, keep), True)[:, :columns]

    def reorder(self, rows: Tensor) -> None:
        """Give each batch row what row rows[b] had."""
        self.state.select(rows)
        self.text = self.text.index_select(0, rows.to(self.text.device))

    def widen(self, multiple: int) -> None:
        """Round up how much a step reads and keeps at most, so that prompts of about one length share a graph.

        What a policy keeps is widened where it declares `padded_keep`.
        """
        columns = self.text.shape[1] - 1
        self.width = min(columns, -(-self.width // multiple) * multiple)
        if self.policy.padded_keep:
            self.state.widen(min(columns, -(-self._kept[1] // multiple) * multiple))
            self._kept = self.state.keep.shape

    @property
    def signature(self) -> tuple[Any, ...]:
        """Signature in which two choices agree that can share a CUDA graph: nothing that follows from values."""
        shapes = tuple((name, tuple(each.shape), each.dtype) for name, each in self.state.tensors().items())
        return self.section, self.width, shapes, tuple(self.state.constants().items())

    def refill(self, other: Choice) -> None:
        """Take over the values of a choice of the same signature, in place."""
        self.text.copy_(other.text)
        self.state.fill(other.state)

    def recorded(self) -> dict[str, Any]:
        """Parts of the state that a graph takes over: where its tensors lie, and whatever else it holds, by name."""
        return {name: each.data_ptr() for name, each in self.state.tensors().items()} | self.state.constants()
