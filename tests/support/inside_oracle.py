"""The stage inside the language model once more, as slow and obvious as it is described, a row at a time, in float64.

A prompt goes through the layers as a dictionary of columns. On entry to some layers a rule, a few lines of Python over
lists, says which visual columns go on; decoded tokens read in each layer what is left there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.support.decode_oracle import Everything, Row


@dataclass
class View:
    """What a rule sees on entry to a layer: the columns there, and how the last token attends to them, [heads] each.

    previous: in the layer before; own: as the layer entered would. rotary: the score of ones against ones there.
    """

    hidden: dict[int, Tensor]
    visual: list[int]
    previous: dict[int, Tensor]
    own: dict[int, Tensor]
    rotary: dict[int, float]


class Rule:
    """Says which visual columns go on. packed: positions are renumbered. evicts: earlier layers forget the others.

    newlines: columns that are visual to it, though to nothing else.
    """

    packed = False
    evicts = False
    newlines: tuple[int, ...] = ()

    def keep(self, view: View) -> list[int]:
        raise AssertionError

    def merge(self, view: View, kept: list[int]) -> dict[int, Tensor]:
        return view.hidden


@dataclass
class Answer:
    """Logits [n, vocab] float64, the ids chosen by them, and the prompt's columns that entered each layer."""

    logits: Tensor
    ids: list[int]
    entered: list[list[int]] = field(default_factory=list)


class Whole(Row):
    """One sequence in a Qwen2 or Llama causal language model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.keys = [{} for _ in self.layers]
        self.values = [{} for _ in self.layers]
        self.next = [0 for _ in self.layers]  # the next decoded token's position

    def prompt(self, embeds: Tensor, visual: list[int], rules: dict[int, Rule], positions: list[int]) -> Answer:
        """Logits of every column of embeds [S, D] that reaches the end."""
        hidden = {column: embed.double() for column, embed in enumerate(embeds)}
        place = dict(enumerate(positions))
        last, previous, entered = len(embeds) - 1, {}, []
        for number, block in enumerate(self.layers):
            rule = rules.get(number)
            if rule is not None:
                left = [column for column in sorted({*visual, *rule.newlines}) if column in hidden]
                view = View(hidden, left, previous, self._own(number, hidden, place), self._rotary(place, last))
                kept = rule.keep(view)
                gone = set(left) - set(kept)
                hidden = {column: h for column, h in rule.merge(view, kept).items() if column not in gone}
                if rule.packed:
                    first = place[min(hidden)]
                    place = {column: first + rank for rank, column in enumerate(sorted(hidden))}
                for earlier in range(number if rule.evicts else 0):
                    for column in gone:
                        del self.keys[earlier][column], self.values[earlier][column]
            entered.append(sorted(hidden))
            self.next[number] = place[last] + 1
            hidden, previous = self._layer(number, block, hidden, place)
        logits = [self.model.lm_head(self._norm(self.model.model.norm, hidden[column])) for column in sorted(hidden)]
        return Answer(torch.stack(logits), [], entered)

    def step(self, token: int, column: int, layer: int, policy: Everything, visual: list[int]) -> Tensor:
        """Logits [vocab] of a decoded token at `column`, whose layers from `layer` on read what the policy leaves."""
        hidden, attention, seen = self.model.model.embed_tokens.weight[token], {}, None
        for number, block in enumerate(self.layers):
            if number == layer:
                watched = [each for each in visual if each in attention]
                chosen = policy.choose(watched, [float(attention[each].mean()) for each in watched])
                seen = set(chosen)
            narrow = self._norm(block.input_layernorm, hidden)
            query = self._write(number, narrow, column, self.next[number])
            columns = [c for c in self.keys[number] if c not in visual or seen is None or c in seen]
            mixed, attention = self._read(number, query, columns)
            hidden = self._mlp(block, hidden + mixed)
            self.next[number] += 1
        return self.model.lm_head(self._norm(self.model.model.norm, hidden))

    def _layer(self, number, block, hidden, place) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        out, attention = {}, {}
        for column in sorted(hidden):
            query = self._write(number, self._norm(block.input_layernorm, hidden[column]), column, place[column])
            mixed, attention = self._read(number, query, [c for c in self.keys[number] if c <= column])
            out[column] = self._mlp(block, hidden[column] + mixed)
        return out, attention

    def _write(self, number: int, narrow: Tensor, column: int, position: int) -> Tensor:
        block = self.layers[number].self_attn
        self.keys[number][column] = self._rotate(block.k_proj(narrow).view(-1, self.dim), position)
        self.values[number][column] = block.v_proj(narrow).view(-1, self.dim)
        return self._rotate(block.q_proj(narrow).view(-1, self.dim), position)

    def _read(self, number: int, query: Tensor, columns: list[int]) -> tuple[Tensor, dict[int, Tensor]]:
        weights = self._weights(query, torch.stack([self.keys[number][c] for c in columns], 1))
        values = torch.stack([self.values[number][c] for c in columns], 1).repeat_interleave(
            len(query) // self.keys[number][columns[0]].shape[0], 0
        )
        mixed = self.layers[number].self_attn.o_proj((weights[:, :, None] * values).sum(1).flatten())
        return mixed, dict(zip(columns, weights.unbind(1), strict=True))

    def _weights(self, query: Tensor, keys: Tensor) -> Tensor:
        keys = keys.repeat_interleave(len(query) // len(keys), 0)
        return ((keys @ query[:, :, None]).squeeze(2) / math.sqrt(self.dim)).softmax(1)

    def _mlp(self, block: nn.Module, hidden: Tensor) -> Tensor:
        narrow = self._norm(block.post_attention_layernorm, hidden)
        return hidden + block.mlp.down_proj(F.silu(block.mlp.gate_proj(narrow)) * block.mlp.up_proj(narrow))

    def _own(self, number: int, hidden: dict[int, Tensor], place: dict[int, int]) -> dict[int, Tensor]:
        block = self.layers[number]
        narrow = {c: self._norm(block.input_layernorm, h) for c, h in hidden.items()}
        last = max(hidden)
        query = self._rotate(block.self_attn.q_proj(narrow[last]).view(-1, self.dim), place[last])
        keys = [self._rotate(block.self_attn.k_proj(n).view(-1, self.dim), place[c]) for c, n in narrow.items()]
        return dict(zip(narrow, self._weights(query, torch.stack(keys, 1)).unbind(1), strict=True))

    def _rotary(self, place: dict[int, int], last: int) -> dict[int, float]:
        ones = torch.ones(1, self.dim, dtype=torch.float64)
        query = self._rotate(ones, place[last])
        return {c: float((query * self._rotate(ones, p)).sum()) / math.sqrt(self.dim) for c, p in place.items()}


@torch.no_grad()
def answer(
    model: nn.Module,
    embeds: Tensor,
    visual: list[int],
    rules: dict[int, Rule],
    count: int,
    *,
    positions: list[int] | None = None,
    layer: int | None = None,
    policy: Everything | None = None,
    ids: list[int] | None = None,
) -> tuple[Answer, Answer]:
    """Prefill of embeds [S, D] with all its logits, and `count` tokens behind it, greedy or the given `ids`.

    rules: by the layer on entry to which they are asked. layer, policy: of pruning while decoding.
    """
    row = Whole(model)
    prefill = row.prompt(embeds, visual, rules, list(range(len(embeds))) if positions is None else positions)
    logits, chosen = [prefill.logits[-1]], []
    layer, policy = len(row.layers) if layer is None else layer, policy or Everything()
    for number in range(count):
        chosen.append(int(logits[-1].argmax()) if ids is None else ids[number])
        if number + 1 < count:
            logits.append(row.step(chosen[-1], len(embeds) + number, layer, policy, visual))
    return prefill, Answer(torch.stack(logits), chosen)
