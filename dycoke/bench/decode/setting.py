"""Setting of `dycoke bench decode`: shapes of language models, the prompt's length and how often to run."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dycoke import budget
from dycoke.bases.dynamic_pruning import DynamicPruning
from dycoke.model_shape import LLAVA_ONEVISION, Shape

PARTS = ("step", "attention", "memory")
TEXT = 30  # text tokens of a prompt: a system line, a short question, the template
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
# Those of LLaVA-OneVision that one GPU holds, and one for a CPU.
SHAPES = {"7b": LLAVA_ONEVISION["7b"], "0.5b": LLAVA_ONEVISION["0.5b"], "tiny": Shape(6, 64, 128, 4, 2, 512)}
ON_GPU = {"shape": "7b", "batch": 64, "frames": 32, "tokens": 196, "dtype": "bfloat16", "warm_up": 40.0}
ON_CPU = {"shape": "tiny", "batch": 2, "frames": 4, "tokens": 16, "dtype": "float32", "warm_up": 0.0}


@dataclass(frozen=True)
class Setting:
    """What is measured; raises ValueError if something is out of range.

    batch: rows of the attention part; the other parts have one. frames of `tokens` visual tokens each, of which
    temporal merging at K leaves `visual`. rounds of `repeat` timed runs each. warm_up: seconds of work ahead.
    """

    shape: str
    batch: int
    frames: int
    tokens: int
    dtype: str
    warm_up: float
    k: float = budget.PAPER_K
    l: int = budget.PAPER_L  # noqa: E741
    p: float = budget.PAPER_P
    rounds: int = 5
    repeat: int = 20
    parts: tuple[str, ...] = PARTS

    def __post_init__(self) -> None:
        budget.check_ratio("k", self.k)
        for name in ("batch", "frames", "tokens", "rounds", "repeat"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: expected at least 1")
        if self.warm_up < 0:
            raise ValueError(f"warm-up={self.warm_up}: expected at least 0 seconds")
        for name, value, accepted in (("shape", self.shape, SHAPES), ("dtype", self.dtype, DTYPES)):
            if value not in accepted:
                raise ValueError(f"{name} {value!r}: expected one of {', '.join(accepted)}")
        for part in self.parts:
            if part not in PARTS:
                raise ValueError(f"part {part!r}: expected one of {', '.join(PARTS)}")
        if not 1 <= self.l < self.model.layers:
            raise ValueError(
                f"l={self.l}: expected 1 to {self.model.layers - 1}; the model has {self.model.layers} layers"
            )
        self.pruning()

    @classmethod
    def chosen(cls, **given: object) -> Setting:
        """Setting of the values given; the others are those for a GPU where there is one, else small ones."""
        default = ON_GPU if torch.cuda.is_available() else ON_CPU
        return cls(**default | {name: value for name, value in given.items() if value is not None})

    @property
    def model(self) -> Shape:
        return SHAPES[self.shape]

    @property
    def torch_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype]

    @property
    def visual(self) -> int:
        """Visual tokens behind temporal merging."""
        return budget.windows_count(self.frames, self.tokens, self.k)

    @property
    def prompt(self) -> int:
        return self.visual + TEXT

    @property
    def untouched(self) -> int:
        """Tokens of the prompt without temporal merging."""
        return self.frames * self.tokens + TEXT

    @property
    def kept(self) -> int:
        """Columns of the prompt that pruned layers read."""
        return TEXT + self.pruning().budget(self.visual)

    def pruning(self, refresh: float = 0.9, dp_cache: str = "device") -> DynamicPruning:
        """The policy under test; at refresh 1.0 it chooses anew at every step."""
        return DynamicPruning(layer=self.l, p=self.p, refresh=refresh, dp_cache=dp_cache)
