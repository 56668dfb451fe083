"""Setting of `dycoke bench engine`: shapes of LLaVA-OneVision, versions, parts, and how often to run."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dycoke import budget
from dycoke.bench.decode.setting import DTYPES, SHAPES, TEXT
from dycoke.model_shape import LLAVA_ONEVISION, Shape
from dycoke.registry import available, build
from dycoke.types import Plan

PARTS = ("decode", "first_token", "answer", "batch", "memory", "parity")
STOCK_EAGER, STOCK_SDPA, STATIC_GRAPH = "stock_eager", "stock_sdpa", "stock_static_graph"
STOCK = (STOCK_EAGER, STOCK_SDPA, STATIC_GRAPH)
OURS, FULL, DYCOKE = "engine_", "engine_full", "engine_dycoke"
HOST = "dycoke_host"  # in the memory part: with the KV cache on the host, which the engine does not serve
VERSIONS = (*STOCK, FULL, DYCOKE)
# Those of LLaVA-OneVision, one for a CPU, and one of a size that a GPU's kernels take.
LANGUAGE = LLAVA_ONEVISION | {"tiny": SHAPES["tiny"], "small": Shape(4, 1024, 2816, 8, 2, 4096)}
SETTLED = 8  # tokens of an answer ahead of those that count as steady
ON_GPU = {
    "shape": "7b",
    "frames": 32,
    "dtype": "bfloat16",
    "answer": 64,
    "batches": (1, 4, 16, 64),
    "clips": (8, 16, 32, 48, 64),
    "rounds": 5,
    "warm_up": 40.0,
}
ON_CPU = {
    "shape": "tiny",
    "frames": 4,
    "dtype": "float32",
    "answer": 6,
    "batches": (1, 2),
    "clips": (4, 8),
    "rounds": 2,
    "warm_up": 0.0,
}


@dataclass(frozen=True)
class Vision:
    """Sizes of a SigLIP tower: layers, width, MLP width, heads, pixels a side of its images and of their patches."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    side: int
    patch: int

    @property
    def patches(self) -> int:
        """Patches per frame."""
        return (self.side // self.patch) ** 2

    @property
    def tokens(self) -> int:
        """Visual tokens per frame N, which LLaVA-OneVision pools out of two by two patches."""
        return (-(-(self.side // self.patch) // 2)) ** 2


SO400M = Vision(26, 1152, 4304, 16, 384, 14)
SMALL = Vision(2, 32, 64, 2, 32, 4)


@dataclass(frozen=True)
class Setting:
    """What is measured; raises ValueError if something is out of range.

    frames: T of a video. answer: tokens of an answer, and the steady ones of `decode`. batches: rows of the batch part.
    clips: frames of the videos of the memory part. device_map: "none", or "auto" to spread the model over all GPUs.
    """

    shape: str
    frames: int
    dtype: str
    answer: int
    batches: tuple[int, ...]
    clips: tuple[int, ...]
    rounds: int
    warm_up: float
    versions: tuple[str, ...] = VERSIONS
    parts: tuple[str, ...] = PARTS
    k: float = budget.PAPER_K
    l: int = budget.PAPER_L  # noqa: E741
    p: float = budget.PAPER_P
    device_map: str = "none"

    def __post_init__(self) -> None:
        for name, value, accepted in (("shape", self.shape, LANGUAGE), ("dtype", self.dtype, DTYPES)):
            if value not in accepted:
                raise ValueError(f"{name} {value!r}: expected one of {', '.join(accepted)}")
        for name in ("frames", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: expected at least 1")
        if self.answer < 2:
            raise ValueError(f"answer={self.answer}: expected at least 2 tokens, because the first comes from prefill")
        for name in ("batches", "clips"):
            if not getattr(self, name) or min(getattr(self, name)) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: expected numbers from 1")
        if not self.warm_up >= 0:
            raise ValueError(f"warm-up={self.warm_up}: expected at least 0 seconds")
        for part in self.parts:
            if part not in PARTS:
                raise ValueError(f"part {part!r}: expected one of {', '.join(PARTS)}")
        if self.device_map not in ("none", "auto") or (self.device_map == "auto" and torch.cuda.device_count() < 2):
            raise ValueError(f"device-map {self.device_map!r}: expected none, or auto with at least 2 GPUs")
        budget.check_ratio("k", self.k)
        self._check_versions()

    def _check_versions(self) -> None:
        ours = available()
        for version in self.versions:
            if version not in STOCK and version.removeprefix(OURS) not in ours:
                accepted = ", ".join([*STOCK, *(f"{OURS}{name}" for name in ours)])
                raise ValueError(f"version {version!r}: expected one of {accepted}")
            self.plan(version)
        if len(set(self.versions)) < len(self.versions) or not self.versions:
            raise ValueError(f"versions {', '.join(self.versions)}: expected each once, and at least one")
        if not 1 <= self.l < self.language.layers:
            raise ValueError(
                f"l={self.l}: expected 1 to {self.language.layers - 1}; the model has {self.language.layers} layers"
            )

    @classmethod
    def chosen(cls, methods: str | None = None, **given: object) -> Setting:
        """Setting of the values given; the others are those for a GPU where there is one, else small ones.

        methods: more of ours to measure, as "fastv,visionzip".
        """
        default = ON_GPU if torch.cuda.is_available() else ON_CPU
        chosen = default | {name: value for name, value in given.items() if value is not None}
        if methods:
            more = [OURS + name.strip() for name in methods.split(",")]
            versions = chosen.get("versions", VERSIONS)
            chosen["versions"] = (*versions, *(name for name in more if name not in versions))
        return cls(**chosen)

    @property
    def language(self) -> Shape:
        return LANGUAGE[self.shape]

    @property
    def vision(self) -> Vision:
        return SO400M if self.shape in LLAVA_ONEVISION else SMALL

    @property
    def torch_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype]

    @property
    def batch_rounds(self) -> int:
        """Rounds of the batch part, each of whose samples pays the prefill of a whole batch."""
        return max(1, self.rounds // 2)

    @property
    def visual(self) -> int:
        """Visual tokens of a video T * N, before any is dropped."""
        return self.frames * self.vision.tokens

    @property
    def text(self) -> int:
        """Tokens of the prompt that are not visual, the newline of the video among them."""
        return TEXT + 1

    def method(self, version: str, dp_cache: str = "device") -> object | None:
        """The method of a version of ours, None for a stock one; K, L and P are those of the setting."""
        if version in STOCK:
            return None
        name = version.removeprefix(OURS)
        options = {"k": self.k, "l": self.l, "p": self.p, "dp_cache": dp_cache} if name == "dycoke" else {}
        return build(name, **options)

    def plan(self, version: str) -> Plan:
        """The plan of a version; that of a stock one drops nothing."""
        method = self.method(version)
        return Plan() if method is None else method.plan()


def names(text: str | None) -> tuple[str, ...] | None:
    """The names in "a,b"; None for None."""
    return None if text is None else tuple(name.strip() for name in text.split(","))


def numbers(option: str, text: str | None) -> tuple[int, ...] | None:
    """The numbers in "1,4"; None for None. Raises ValueError for anything else, with the option's name."""
    try:
        return None if text is None else tuple(int(number) for number in text.split(","))
    except ValueError as error:
        raise ValueError(f"--{option} {text}: expected numbers, such as 1,4,16") from error
