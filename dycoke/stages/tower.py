"""What compressors need from the vision tower: one layer's input is remembered, and the rest worked out on demand.

The tower runs as it is, with the attention it has. Saliency is what a patch receives of the attention of all patches
of its frame, or of CLIP's class token alone, the mean over heads: what VisionZip and HoliTom take where they run on
videos. Letters in shapes: F frames of a tower call, P patches of a frame (side * side), S tokens the tower makes of one
(P, and a class token in CLIP), H heads, C width of the tower.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from dycoke.bases import Before
from dycoke.turns import OfThread

if TYPE_CHECKING:
    from dycoke.stages.pooling_head import PoolingHead

FROM_TOWER = frozenset({"saliency", "keys"})

_CLASS_TOKEN = {"siglip_vision_model": False, "clip_vision_model": True}
_SCORES = 2**25  # attention scores worked out at a time: 128 MiB in fp32, three frames of 27 x 27 patches and 16 heads


class Probed(NamedTuple):
    """What the tower says of a video, for its `VisualTokens`: saliency [T, N], keys [T, N, Dk], scenes [T, C], fp32."""

    saliency: Tensor | None = None
    keys: Tensor | None = None
    scenes: Tensor | None = None


def probe_for(compressor: Before, tower: nn.Module | None, depth: int) -> TowerProbe | None:
    """The probe a compressor asks for, None if it asks for nothing of the tower.

    tower: transformers' SiglipVisionModel or CLIPVisionModel, None if it is not loaded yet; depth: how many of its
    layers make the features that are used.
    Raises ValueError for another tower, one without a layer, or a `vision_head` that does not fit it,
    FileNotFoundError if there is no such checkpoint.
    """
    needs, path = compressor.needs & FROM_TOWER, compressor.vision_head
    if not needs and not path:
        return None
    asked = f"{type(compressor).__name__} needs {', '.join(sorted(needs)) or 'a pooling head'}"
    if tower is None:
        raise ValueError(f"{asked} of the vision tower, which is not loaded; load it before the method is attached")
    kind = tower.config.model_type
    if kind not in _CLASS_TOKEN:
        raise ValueError(f"{asked} of the vision tower, here {type(tower).__name__}; supported: SigLIP, CLIP")
    if depth < 1:
        raise ValueError(f"{asked} of the last layer of the vision tower, and the features used are those before any")
    head = None
    if path:
        if _CLASS_TOKEN[kind]:
            raise ValueError(f"vision_head={path!r}: a SigLIP pooling head; the vision tower is {type(tower).__name__}")
        from dycoke.stages.pooling_head import load_pooling_head  # transformers only where it is needed

        head = load_pooling_head(path, tower.config.hidden_size)
    return TowerProbe(tower, depth, needs, head)


class TowerProbe:
    """Remembers what the last layer that is used read, and wrote if a pooling head is to read it, in the latest call.

    A reference each, no copy, and nothing is worked out before `read` asks. With a head, saliency and scenes are its
    own, whether or not `needs` names saliency. Every thread has its own latest call.
    """

    _input: Tensor | None = OfThread()
    _output: Tensor | None = OfThread()

    def __init__(self, tower: nn.Module, depth: int, needs: frozenset[str], head: PoolingHead | None) -> None:
        config = tower.config
        self._layer = weakref.ref(tower.encoder.layers[depth - 1])
        self._class_token = _CLASS_TOKEN[config.model_type]
        self._side = config.image_size // config.patch_size
        self._heads = config.num_attention_heads
        self._received = "saliency" in needs and head is None
        self._keys = "keys" in needs
        self._head = head
        self._of_thread = threading.local()

    def install(self, undo: ExitStack) -> None:
        """Hook the layer's attention, or its end, or both: what is needed."""
        layer = self._layer()
        if self._received or self._keys:
            note = layer.self_attn.register_forward_pre_hook(self._note_input, with_kwargs=True)
            undo.callback(note.remove)
        if self._head is not None:
            undo.callback(layer.register_forward_hook(self._note_output).remove)
        undo.callback(self.forget)

    def _note_input(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        self._input = (args[0] if args else kwargs["hidden_states"]).detach()

    def _note_output(self, module: nn.Module, args: tuple, output: Tensor) -> None:
        self._output = output.detach()

    def forget(self, *_: Any) -> None:
        """Let go of the latest call; also a hook of modules that run behind it."""
        self._input = self._output = None

    @property
    def frames(self) -> int:
        """Frames and images of the call that is remembered, 0 if none is."""
        seen = self._output if self._input is None else self._input
        return 0 if seen is None else seen.shape[0]

    @torch.no_grad()
    def read(self, rows: slice, grid: tuple[int, int]) -> Probed:
        """What the tower says of the frames `rows` of its latest call, pooled to (rows, cols) as the features are.

        Raises ValueError if that call is not remembered or has no such rows, or the grid is none of the model's.
        """
        if not 0 <= rows.start < rows.stop <= self.frames:
            raise ValueError(
                f"frames {rows.start} to {rows.stop} of a tower call of {self.frames}: the frames of a video must pass "
                "the vision tower in the call that uses them, while the method is attached"
            )
        step = max(1, _SCORES // (self._heads * (self._side**2 + self._class_token) ** 2))
        parts = [self._read(slice(i, min(i + step, rows.stop))) for i in range(rows.start, rows.stop, step)]
        saliency, keys, scenes = (None if part[0] is None else torch.cat(part) for part in zip(*parts, strict=True))
        return Probed(
            None if saliency is None else pool(saliency[..., None], self._side, grid)[..., 0],
            None if keys is None else pool(keys, self._side, grid),
            scenes,
        )

    def _read(self, rows: slice) -> Probed:
        """Of a few frames, before pooling: saliency [F, P], keys [F, P, Dk], scenes [F, C]."""
        saliency = keys = scenes = None
        if self._input is not None:
            saliency, keys = self._attend(self._input[rows])
        if self._head is not None:
            scenes, saliency = self._head(self._output[rows])
        return Probed(saliency, keys, scenes)

    def _attend(self, hidden: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Received attention [F, P] and head-mean keys [F, P, Dk] of frames [F, S, C], of those that are needed."""
        patches, attention = slice(1, None) if self._class_token else slice(None), self._layer().self_attn
        keys = self._split(attention.k_proj(hidden))  # [F, H, S, Dk]
        received = None
        if self._received:
            # CLIP's class token asks for all of a frame; SigLIP has none, and every patch asks.
            queries = self._split(attention.q_proj(hidden[:, :1] if self._class_token else hidden))
            scores = queries @ keys.transpose(-1, -2) * attention.scale
            received = torch.softmax(scores, dim=-1, dtype=torch.float32).mean((1, 2))[:, patches]
        return received, keys.mean(1, dtype=torch.float32)[:, patches] if self._keys else None

    def _split(self, projected: Tensor) -> Tensor:
        return projected.unflatten(-1, (self._heads, -1)).transpose(1, 2)


def pool(values: Tensor, side: int, grid: tuple[int, int]) -> Tensor:
    """Values [T, side * side, C] of patches as [T, rows * cols, C] of tokens, pooled as models pool features.

    The grid is the tower's own (nothing is pooled), half of it, without a last odd row and column (the mean of 2 x 2
    patches), or half of it rounded up (bilinear interpolation, the same for even sides).
    Raises ValueError for another grid, or values of another number of patches.
    """
    if values.shape[1] != side * side:
        raise ValueError(f"{values.shape[1]} patches a frame do not make a {side} x {side} grid")
    if grid == (side, side):
        return values
    maps = values.unflatten(1, (side, side)).permute(0, 3, 1, 2)
    if grid == (side // 2, side // 2):
        pooled = functional.avg_pool2d(maps, 2)
    elif grid == (math.ceil(side / 2), math.ceil(side / 2)):
        pooled = functional.interpolate(maps, size=grid, mode="bilinear")
    else:
        raise ValueError(f"a grid of {grid[0]} x {grid[1]} tokens: no pooling by 2 of {side} x {side} patches")
    return pooled.flatten(2).transpose(1, 2).contiguous()


def video_rows(videos: Sequence[Sequence[int]], encoded: int) -> list[list[slice]]:
    """Rows of one tower call that each video of each batch row is made of.

    videos: frames of each video of each row; encoded: rows of the call. All videos have one length. A call on fewer
    frames encoded the batch before each of its rows was repeated for beams or return sequences; one on all of them
    has the videos in the order in which they stand in the prompts.
    Raises ValueError if the frames cannot be told apart so.
    """
    lengths = {frames for row in videos for frames in row}
    total = sum(len(row) for row in videos)
    if not total:
        return [[] for _ in videos]
    frames = next(iter(lengths))
    seen = encoded // frames
    beams = total // seen if seen else 0
    if (
        len(lengths) > 1
        or seen * frames != encoded
        or not beams
        or seen * beams != total
        or len(videos) % beams
        or any(len(videos[r]) != len(videos[r - r % beams]) for r in range(len(videos)))
    ):
        raise ValueError(
            f"{total} videos of {', '.join(map(str, sorted(lengths)))} frames in {len(videos)} rows, and the latest "
            f"call of the vision tower had {encoded} frames: the frames of each video cannot be told; encode the "
            "videos of a batch in the call that uses them, while the method is attached"
        )
    found, start = [], 0
    for row in videos[::beams]:
        starts = range(start, start + len(row) * frames, frames)
        found += [[slice(i, i + frames) for i in starts]] * beams
        start += len(row) * frames
    return found
