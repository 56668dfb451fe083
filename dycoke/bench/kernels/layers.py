"""The linear layers that `dycoke bench kernels` times: random weights, calls of each, and what they must come to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dycoke.bench.decode.check import apart
from dycoke.bench.kernels.setting import Setting
from dycoke.bench.timing import Step
from dycoke.ops.attend.sparse_decode import Scratch
from dycoke.ops.layer.rotary_step import rotary_write
from dycoke.ops.layer.skinny_linear import skinny_linear, skinny_linear_torch
from dycoke.ops.layer.skinny_linear_triton import Tiling

LINEARS = ("qkv", "o", "gate_up", "down", "head")
EPS = 1e-6
TAIL = 64  # columns of a tail
# Relative root-mean-square errors: inputs are exact, but norm, products and sums are each rounded to the dtype.
APART = {torch.bfloat16: 1.5e-2, torch.float16: 2e-3, torch.float32: 1e-5}
_EXACT_ROWS = 8192  # of a weight, in float64 at a time


@dataclass(frozen=True)
class Linear:
    """One call of `skinny_linear`, all but its input: one tuple of weights for each layer."""

    weights: list[tuple[Tensor, ...]]
    biases: tuple[Tensor, ...] | None = None
    has_norm: bool = False
    gate: bool = False
    has_residual: bool = False

    @property
    def width(self) -> int:
        return self.weights[0][0].shape[1]

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(weight.shape[0] for weight in self.weights[0])

    @property
    def columns(self) -> int:
        """Columns of the output."""
        return self.sizes[0] if self.gate else sum(self.sizes)


class Layers:
    """Weights of some layers and of the head, shared by all batch sizes."""

    def __init__(self, setting: Setting, device: str) -> None:
        shape, self.setting, self.device = setting.model, setting, device
        self.generator = torch.Generator(device).manual_seed(3)
        self.scratch = Scratch()
        queries, keys = shape.hidden, shape.kv_heads * shape.head_dim
        self.norm = 1 + 0.1 * self.normal(shape.hidden), EPS

        def linear(*sizes: int, width: int = shape.hidden, copies: int = setting.copies, **options: bool) -> Linear:
            weights = [tuple(self.normal(size, width) * width**-0.5 for size in sizes) for _ in range(copies)]
            return Linear(weights, **options)

        biases = tuple(self.normal(size) for size in (queries, keys, keys))
        self.linears = {
            "qkv": linear(queries, keys, keys, biases=biases, has_norm=True),
            "o": linear(shape.hidden, has_residual=True),
            "gate_up": linear(shape.intermediate, shape.intermediate, has_norm=True, gate=True),
            "down": linear(shape.hidden, width=shape.intermediate, has_residual=True),
            "head": linear(shape.vocabulary, copies=1, has_norm=True),
        }

    def normal(self, *sizes: int) -> Tensor:
        return torch.randn(sizes, generator=self.generator, device=self.device, dtype=self.setting.torch_dtype)


class Calls:
    """Inputs and outputs of every linear at one batch size."""

    def __init__(self, layers: Layers, batch: int) -> None:
        shape = layers.setting.model
        self.layers, self.batch = layers, batch
        self.inputs = {name: layers.normal(batch, linear.width) for name, linear in layers.linears.items()}
        self.residual = layers.normal(batch, shape.hidden)
        self.outputs = {
            name: torch.full((batch, linear.columns), torch.nan, dtype=self.residual.dtype, device=layers.device)
            for name, linear in layers.linears.items()
        }
        self.tails = [layers.normal(batch, shape.kv_heads, TAIL, shape.head_dim) for _ in range(2)]
        self.cos, self.sin = (layers.normal(batch, shape.head_dim) for _ in range(2))
        self.position = torch.tensor([TAIL // 2], device=layers.device)

    def call(
        self, name: str, layer: int, x: Tensor, tiling: Tiling | None = None, hidden: Tensor | None = None
    ) -> Tensor:
        """One linear of one layer; hidden: the residual, to which it is added in place."""
        linear = self.layers.linears[name]
        residual, out = (self.residual, self.outputs[name]) if hidden is None else (hidden, hidden)
        return skinny_linear(
            *(x, linear.weights[layer], linear.biases),
            norm=self.layers.norm if linear.has_norm else None,
            gate=linear.gate,
            residual=residual if linear.has_residual else None,
            **{"out": out, "scratch": self.layers.scratch, "tiling": tiling},
        )

    def ours(self, name: str, tiling: Tiling | None = None) -> Step:
        """One linear of every layer in turn."""
        layers = range(len(self.layers.linears[name].weights))
        return lambda: [self.call(name, layer, self.inputs[name], tiling) for layer in layers]

    def torch_versions(self, name: str) -> dict[str, Step]:
        """The products of `ours` by torch, by version.

        "cublas": one weight at a time, without norm, gate or residual. "cublas joined": several as if they were one.
        "addmm_": with the residual, in place.
        """
        linear, x = self.layers.linears[name], self.inputs[name]
        biases = linear.biases or (None,) * len(linear.sizes)
        versions: dict[str, Step] = {
            "cublas": lambda: [
                functional.linear(x, weight, bias)
                for weights in linear.weights
                for weight, bias in zip(weights, biases, strict=True)
            ]
        }
        if len(linear.sizes) > 1:
            joined = [torch.cat(weights) for weights in linear.weights]
            bias = torch.cat(linear.biases) if linear.biases else None
            versions["cublas joined"] = lambda: [functional.linear(x, weight, bias) for weight in joined]
        if linear.has_residual:
            sums = self.residual.clone()
            versions["addmm_"] = lambda: [sums.addmm_(x, weights[0].t()) for weights in linear.weights]
        return versions

    def rotary(self) -> Step:
        """Rotary and the write to the tails, on the last output of "qkv"."""
        inputs = (self.outputs["qkv"], self.cos, self.sin, *self.tails, self.position)
        return lambda: rotary_write(*inputs)

    def chain(self, tilings: Mapping[str, Tiling | None]) -> Step:
        """Every linear and the rotary of every layer, and the head, each fed by the one before: a step's dependences.

        Residuals are added in place, and the rotated queries stand in for the attention's output. None: the tiling, or
        the product of cuBLAS, that `skinny_linear` chooses.
        """
        rotary, hidden = self.rotary(), self.inputs["qkv"].clone()

        def step() -> list[Tensor]:
            for layer in range(self.layers.setting.copies):
                self.call("qkv", layer, hidden, tilings["qkv"])
                self.call("o", layer, rotary().flatten(1), tilings["o"], hidden)
                inner = self.call("gate_up", layer, hidden, tilings["gate_up"])
                self.call("down", layer, inner, tilings["down"], hidden)
            return [self.call("head", 0, hidden, tilings["head"])]

        return step

    def chain_cublas(self) -> Step:
        """The products of `chain` by torch, each on an input of its own."""
        steps = [self.torch_versions(name)["cublas"] for name in LINEARS]
        return lambda: [step() for step in steps]

    def exact(self, name: str) -> Tensor:
        """What the last layer's linear must come to, in float64."""
        linear, x = self.layers.linears[name], self.inputs[name].double()
        norm = (self.layers.norm[0].double(), EPS) if linear.has_norm else None
        rows = max(linear.sizes)
        chunk = _EXACT_ROWS if linear.gate or len(linear.sizes) == 1 else rows  # weights side by side stay whole

        def part(begin: int) -> Tensor:
            weights = [weight[begin : begin + chunk].double() for weight in linear.weights[-1]]
            biases = [bias.double() for bias in linear.biases] if linear.biases else None
            return skinny_linear_torch(x, weights, biases, norm=norm, gate=linear.gate)

        result = torch.cat([part(begin) for begin in range(0, rows, chunk)], dim=1)
        return result + self.residual.double() if linear.has_residual else result

    def check(self, name: str, version: str, exact: Tensor) -> None:
        """Raise RuntimeError if the output is further from `exact` than rounding explains."""
        error, bound = apart(self.outputs[name], exact), APART[self.residual.dtype]
        if not error <= bound:  # also for NaN
            raise RuntimeError(f"{name}, {self.batch} rows, {version}: {error:.1e} from float64; expected {bound}")
