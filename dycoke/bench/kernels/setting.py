"""Setting of `dycoke bench kernels`: the linear layers of which language model, for how many rows, how often."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dycoke.bench.decode.setting import DTYPES, SHAPES
from dycoke.model_shape import LLAVA_ONEVISION, Shape

KERNEL_SHAPES = SHAPES | LLAVA_ONEVISION
MOST_COPIES = 4  # layers of weights made up: enough that none is in the L2 cache when its turn comes again
_LEAST_BYTES = 5e8  # of all layers together, for models whose layers are small
ON_GPU = {"shape": "7b", "batches": (1, 16, 64), "dtype": "bfloat16"}
ON_CPU = {"shape": "tiny", "batches": (1, 2), "dtype": "float32"}


@dataclass(frozen=True)
class Setting:
    """What is measured; raises ValueError if something is out of range.

    batches: numbers of rows. repeat: timed runs of each version. tune: every candidate tiling, instead of the chosen.
    """

    shape: str
    batches: tuple[int, ...]
    dtype: str
    repeat: int = 30
    tune: bool = False

    def __post_init__(self) -> None:
        for name, value, accepted in (("shape", self.shape, KERNEL_SHAPES), ("dtype", self.dtype, DTYPES)):
            if value not in accepted:
                raise ValueError(f"{name} {value!r}: expected one of {', '.join(accepted)}")
        for name, value in (("repeat", self.repeat), *(("batch", batch) for batch in self.batches)):
            if value < 1:
                raise ValueError(f"{name}={value}: expected at least 1")
        if self.tune and not torch.cuda.is_available():
            raise ValueError("--tune: this machine has no GPU; leave it out")

    @classmethod
    def chosen(cls, **given: object) -> Setting:
        """Setting of the values given; the others are those for a GPU where there is one, else small ones."""
        default = ON_GPU if torch.cuda.is_available() else ON_CPU
        return cls(**default | {name: value for name, value in given.items() if value is not None})

    @property
    def model(self) -> Shape:
        return KERNEL_SHAPES[self.shape]

    @property
    def torch_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype]

    @property
    def layer_weights(self) -> int:
        """Numbers in the linear layers of one layer."""
        shape = self.model
        return shape.hidden * (2 * shape.hidden + shape.column_values + 3 * shape.intermediate)

    @property
    def copies(self) -> int:
        """Layers of weights made up."""
        few = int(_LEAST_BYTES // (self.layer_weights * self.torch_dtype.itemsize)) + 1
        return min(self.model.layers, max(few, MOST_COPIES if torch.cuda.is_available() else 1))
