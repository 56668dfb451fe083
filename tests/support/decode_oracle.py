"""The decode stage once more, as slow and obvious as it is described: a row, a token, a layer at a time, in float64.

A row's keys and values are kept whole, one entry a column and layer. What the layers from L on read of them is a
policy's word, and a policy is a few lines of Python lists. Nothing here is dycoke's or transformers' attention.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def cosine(a: list[float], b: list[float]) -> float:
    """Cosine of the angle between two vectors; 0 if one of them is empty or nought."""
    length = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / length if length else 0.0


def strongest(visual: list[int], attention: list[float], budget: int) -> list[int]:
    """The `budget` columns with the highest attention, ascending; of equals the earlier."""
    order = sorted(range(len(visual)), key=lambda n: (-attention[n], n))
    return sorted(visual[n] for n in order[:budget])


class Everything:
    """Reads all visual columns at every step, and notes how alike successive attentions are, as every policy does.

    choose: the row's visual columns and the observer's attention to each of them (softmax over all columns, mean over
    heads) -> the visual columns that the layers from L on read at this step. Then `similarity` is the cosine with the
    step before (0 at the first), and `selected` tells whether a set was chosen. An object serves a row of a request.
    """

    def __init__(self) -> None:
        self.previous: list[float] | None = None
        self.similarity = 0.0
        self.selected = False

    def compare(self, attention: list[float]) -> None:
        self.similarity = 0.0 if self.previous is None else cosine(attention, self.previous)
        self.previous = attention

    def choose(self, visual: list[int], attention: list[float]) -> list[int]:
        self.compare(attention)
        return visual


class Frozen(Everything):
    """Reads the same visual columns at every step."""

    def __init__(self, columns: list[int]) -> None:
        super().__init__()
        self.columns = columns

    def choose(self, visual: list[int], attention: list[float]) -> list[int]:
        self.compare(attention)
        return self.columns


class Replay(Everything):
    """Reads what it is told for each step; further columns in it, those of text, are passed over."""

    def __init__(self, steps: list[list[int]]) -> None:
        super().__init__()
        self.steps = iter(steps)

    def choose(self, visual: list[int], attention: list[float]) -> list[int]:
        self.compare(attention)
        told = next(self.steps)
        return [column for column in visual if column in told]


class Published(Everything):
    """The released code: all columns unless attention moved, and the last visual one is neither scored nor dropped."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def choose(self, visual: list[int], attention: list[float]) -> list[int]:
        self.compare(attention[:-1])
        self.selected = self.similarity < 0.9
        if not self.selected:
            return visual
        prunable = visual[:-1]
        return strongest(prunable, attention[:-1], int(len(prunable) * (1 - self.p))) + visual[-1:]


class Paper(Everything):
    """The paper: a set chosen when attention has moved, and carried on otherwise; refresh=1.0 chooses at every step."""

    def __init__(self, p: float, refresh: float = 0.9) -> None:
        super().__init__()
        self.p = p
        self.refresh = refresh
        self.columns: list[int] = []

    def moved(self) -> bool:
        return self.similarity < self.refresh or self.refresh == 1.0  # rounding can bring a cosine to 1 and above

    def choose(self, visual: list[int], attention: list[float]) -> list[int]:
        first = self.previous is None
        self.compare(attention)
        self.selected = first or self.moved()
        if self.selected:
            self.columns = strongest(visual, attention, int(len(visual) * (1 - self.p)))
        return self.columns


class OneShot(Paper):
    """A set chosen at the first decoded token and never again."""

    def moved(self) -> bool:
        return False


@dataclass
class Step:
    """One decoded token: what the layers from L on read for it (text, itself and what was decoded before included)."""

    columns: list[int]  # ascending
    selected: bool
    similarity: float
    attention: list[float]  # of the observer, over the row's visual columns


@dataclass
class Trace:
    """A row's request: logits [n, vocab] float64 and the n ids chosen by them; n - 1 steps, as prefill gives one id."""

    logits: Tensor
    ids: list[int]
    steps: list[Step] = field(default_factory=list)


class Row:
    """One sequence in a Qwen2 or Llama causal language model, its keys and values whole."""

    def __init__(self, model: nn.Module) -> None:
        self.model = copy.deepcopy(model).double()
        self.layers = self.model.model.layers
        self.dim = self.layers[0].self_attn.q_proj.out_features // model.config.num_attention_heads
        self.keys: list[list[Tensor]] = [[] for _ in self.layers]  # per layer and column [KV heads, dim]
        self.values: list[list[Tensor]] = [[] for _ in self.layers]
        self.length = 0

    def prefill(self, embed: Tensor, position: int) -> Tensor:
        """Add a column that sees all before it; embed [D] -> logits [vocab]."""
        return self._advance(embed, position, layer=len(self.layers), policy=Everything(), visual=[])[0]

    def decode(
        self, token: int, position: int, layer: int, policy: Everything, visual: list[int]
    ) -> tuple[Tensor, Step]:
        """Add a column whose layers from `layer` on read what the policy leaves; token -> logits [vocab], step."""
        return self._advance(self.model.model.embed_tokens.weight[token], position, layer, policy, visual)

    def _advance(self, embed, position, layer, policy, visual) -> tuple[Tensor, Step]:
        hidden, columns, attention = embed.double(), list(range(self.length + 1)), []
        for number, block in enumerate(self.layers):
            if number == layer:
                chosen = policy.choose(visual, attention)
                columns = [column for column in columns if column not in visual or column in chosen]
            mixed, weights = self._attend(number, self._norm(block.input_layernorm, hidden), position, columns)
            attention = [float(weights[:, column].mean()) for column in visual] if number == layer - 1 else attention
            hidden = hidden + mixed
            narrow = self._norm(block.post_attention_layernorm, hidden)
            hidden = hidden + block.mlp.down_proj(F.silu(block.mlp.gate_proj(narrow)) * block.mlp.up_proj(narrow))
        self.length += 1
        logits = self.model.lm_head(self._norm(self.model.model.norm, hidden))
        return logits, Step(columns, policy.selected, policy.similarity, attention)

    def _attend(self, number: int, hidden: Tensor, position: int, columns: list[int]) -> tuple[Tensor, Tensor]:
        """Output [D] and weights [heads, len(columns)] of a layer whose new column is the last one."""
        block = self.layers[number].self_attn
        queries = self._rotate(block.q_proj(hidden).view(-1, self.dim), position)
        self.keys[number].append(self._rotate(block.k_proj(hidden).view(-1, self.dim), position))
        self.values[number].append(block.v_proj(hidden).view(-1, self.dim))
        keys = torch.stack([self.keys[number][column] for column in columns], dim=1)
        values = torch.stack([self.values[number][column] for column in columns], dim=1)
        outputs, rows = [], []
        for head, query in enumerate(queries):
            shared = head * len(keys) // len(queries)  # neighbouring heads share a key head
            rows.append(torch.softmax(keys[shared] @ query / math.sqrt(self.dim), dim=0))
            outputs.append(rows[-1] @ values[shared])
        return block.o_proj(torch.cat(outputs)), torch.stack(rows)

    def _rotate(self, vectors: Tensor, position: int) -> Tensor:
        """Turn [heads, dim] by the position; the angles are rounded to fp32, as a model in fp32 has them."""
        angles = (self.model.model.rotary_emb.inv_freq.float() * position).double()
        first, second = vectors.chunk(2, dim=-1)
        cos, sin = angles.cos(), angles.sin()
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)

    def _norm(self, norm: nn.Module, hidden: Tensor) -> Tensor:
        return norm.weight * hidden / torch.sqrt(hidden.pow(2).mean() + norm.variance_epsilon)


@torch.no_grad()
def decode(
    model: nn.Module,
    embeds: Tensor,
    visual: list[int],
    layer: int,
    policy: Everything,
    count: int,
    *,
    ids: list[int] | None = None,
    positions: list[int] | None = None,
) -> Trace:
    """Decode `count` tokens greedily behind embeds [S, D], or the given `ids`; positions are 0, 1, ... unless given.

    layer: L, from 1 to the number of layers - 1; layers below it read all columns, and L - 1 is the policy's observer.
    """
    row, positions = Row(model), list(range(len(embeds))) if positions is None else positions
    for embed, position in zip(embeds, positions, strict=True):
        logits = [row.prefill(embed, position)]
    chosen, steps = [], []
    for number in range(count):
        chosen.append(int(logits[-1].argmax()) if ids is None else ids[number])
        if number + 1 < count:
            new, step = row.decode(chosen[-1], positions[-1] + 1 + number, layer, policy, visual)
            logits.append(new)
            steps.append(step)
    return Trace(torch.stack(logits), chosen, steps)
