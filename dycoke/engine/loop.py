"""The loop over decoded tokens: choosing them on the device, one step ahead of the host that reads them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.generation.stopping_criteria import EosTokenCriteria, MaxLengthCriteria, MaxTimeCriteria

from dycoke.engine.bucket import Bucket
from dycoke.ops.layer.greedy import finish, greedy_tokens

_ANYWHERE = (EosTokenCriteria, MaxLengthCriteria, MaxTimeCriteria)


@dataclass(frozen=True)
class Rules:
    """How tokens are chosen and where answers end.

    processors: transformers' LogitsProcessorList, of any processors; sample: draw instead of taking the best; ends:
    ids [E] int64 that end an answer, None without; pad: id that a row is filled up with behind its end; criteria:
    transformers' StoppingCriteriaList. One that takes ids wherever they are, as `any_device` = True says, gets them on
    the host; others wait for the device at every token.
    """

    processors: Any
    sample: bool
    ends: Tensor | None
    pad: int
    criteria: Any


class Chooser:
    """Chooses the next token of every row from its logits, on the device.

    prompt [B, S] int64: the ids that the processors see in front of the answer; room: new tokens there may be.
    """

    def __init__(self, rules: Rules, prompt: Tensor, room: int) -> None:
        self._rules, self._before, self._count = rules, prompt.shape[1], prompt.shape[1]
        self._ids = torch.cat([prompt, prompt.new_zeros(len(prompt), room)], dim=1)
        self._done = torch.zeros(len(prompt), dtype=torch.bool, device=prompt.device)

    def ids(self, count: int) -> Tensor:
        """Prompt and the first `count` new ids [B, S + count] on the device; new tensors, and no inference ones."""
        with torch.inference_mode(False):
            return self._ids[:, : self._before + count].clone()

    @torch.inference_mode()
    def choose(self, logits: Tensor) -> Tensor:
        """Ids [B] int64 behind logits [B, V]; the pad id in rows that have ended."""
        rules = self._rules
        if rules.sample or len(rules.processors):
            logits = rules.processors(self._ids[:, : self._count], logits.to(torch.float32, copy=True))
        end = self._done, rules.ends, rules.pad, self._ids[:, self._count]
        if rules.sample:
            chosen = finish(torch.multinomial(logits.softmax(dim=-1), num_samples=1).squeeze(1), *end)
        else:
            chosen = greedy_tokens(logits, *end)
        self._count += 1
        return chosen


class Emitted:
    """The new ids as the host gets to know them, [B, room] int64, without holding up the device.

    prompt [B, S] int64, for the criteria. show: called with the ids [B] of each token, in order.
    """

    @torch.inference_mode()
    def __init__(self, rules: Rules, prompt: Tensor, room: int, show: Callable[[Tensor], None] | None) -> None:
        self._rules, self._show, self._before, self._room = rules, show, prompt.shape[1], room
        self._arriving = torch.zeros(room, len(prompt), dtype=torch.int64, pin_memory=prompt.is_cuda)
        # Here before the first token is, whose event is waited for.
        self._prompt = torch.zeros(prompt.shape, dtype=torch.int64, pin_memory=prompt.is_cuda)
        self._prompt.copy_(prompt, non_blocking=True)
        self._events: list[torch.cuda.Event | None] = []
        self._ids: Tensor | None = None
        self._ended = torch.zeros(len(prompt), dtype=torch.bool)
        self.count = 0

    def send(self, chosen: Tensor) -> None:
        """Let the ids [B] of the next token come to the host."""
        self._arriving[len(self._events)].copy_(chosen, non_blocking=True)
        event = None
        if chosen.is_cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
        self._events.append(event)

    def read(self, chooser: Chooser) -> bool:
        """Wait for the oldest ids that have not been read. Returns whether every row has ended.

        chooser: has them on the device, for criteria that may want them there.
        """
        event = self._events[self.count]
        if event is not None:
            event.synchronize()
        if self._ids is None:
            self._ids = torch.cat([self._prompt, self._prompt.new_zeros(len(self._prompt), self._room)], dim=1)
        chosen = self._arriving[self.count]
        if self._rules.ends is not None:  # what a criterion of the host ended goes on on the device
            chosen = torch.where(self._ended, self._rules.pad, chosen)
        self._ids[:, self._before + self.count] = chosen
        self.count += 1
        if self._show is not None:
            self._show(chosen)
        for criterion in self._rules.criteria:
            here = isinstance(criterion, _ANYWHERE) or getattr(criterion, "any_device", False)
            ids = self._ids[:, : self._before + self.count] if here else chooser.ids(self.count)
            ended = criterion(ids, None)
            self._ended |= ended.cpu() if isinstance(ended, Tensor) else bool(ended)
        return bool(self._ended.all())

    @property
    def arrival(self) -> torch.cuda.Event | None:
        """When the last id that was read was there, on the device; None on a CPU."""
        return self._events[self.count - 1]

    @property
    def ids(self) -> Tensor:
        """Prompt and new ids [B, S + count] int64 on the host."""
        return self._ids[:, : self._before + self.count]


@torch.inference_mode()
def decode(bucket: Bucket, logits: Tensor, chooser: Chooser, emitted: Emitted, room: int) -> int:
    """Decode until every row has ended, at most `room` tokens, the first of logits [B, V].

    Returns the steps it took. On CUDA the next step is queued before the host waits for the token of the one before, so
    that the device is never idle; what it computes past the end is thrown away.
    """
    rows, ahead = len(logits), int(logits.is_cuda)
    for step in range(room):
        if step:
            logits = bucket.step()[:rows]
        chosen = chooser.choose(logits)
        bucket.tokens[:rows].copy_(chosen)
        emitted.send(chosen)
        if step >= ahead and emitted.read(chooser):
            break
    else:
        while emitted.count < room:
            emitted.read(chooser)
    bucket.leave()
    return emitted.count - 1
