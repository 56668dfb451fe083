"""Settings of a training run; the defaults are those of the shipped model's first run."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dycoke.nano.architecture import SHAPES


@dataclass(frozen=True, slots=True)
class Recipe:
    """Settings that decide the weights, beside those a run starts from and the number of its processes.

    batch: videos a step and process; rate: of learning, risen to over warm_up steps, ending at floor x rate;
    dense: weight of the auxiliary loss at the start, falling to 0 at dense_until (a share) of the run.
    """

    shape: str = "nano"
    seed: int = 0
    steps: int = 12_000
    batch: int = 96
    rate: float = 1.5e-3
    floor: float = 0.02
    warm_up: int = 300
    weight_decay: float = 0.05
    clip: float = 1.0
    dense: float = 0.5
    dense_until: float = 0.8

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise ValueError(f"shape={self.shape!r}: expected one of {', '.join(SHAPES)}")
        if min(self.steps, self.batch) < 1 or self.seed < 0:
            raise ValueError(f"steps={self.steps}, batch={self.batch}: at least 1; seed={self.seed}: at least 0")

    def rate_at(self, step: int) -> float:
        """Linear warm-up, then half a cosine down to the floor."""
        rise = min(1.0, (step + 1) / self.warm_up)
        fall = 0.5 + 0.5 * math.cos(math.pi * min(1.0, step / self.steps))
        return self.rate * rise * (self.floor + (1 - self.floor) * fall)

    def dense_at(self, step: int) -> float:
        return self.dense * max(0.0, 1 - step / (self.dense_until * self.steps))
