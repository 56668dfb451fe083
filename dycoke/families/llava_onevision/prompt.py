"""Where the visual tokens of a prompt of transformers' LLaVA-OneVision stand, as its inner model is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from dycoke.stages.masks import NOTHING, Told, read_mask

_PIXELS = {"video": "pixel_values_videos", "image": "pixel_values"}


@dataclass
class Video:
    """A video in a row: its first slot, its frames, and their rows of the tower call, where a probe remembers one."""

    first: int
    frames: int
    rows: slice | None = None


@dataclass
class Prompt:
    """A prompt [B, S] on its way to the language model.

    ids [B, S] if it came as ids. visual [B, S] bool: slots of videos and images, None if it shows none; is_video: those
    of videos, on the CPU, None if it shows none; lengths: how many it shows, and their frames or slots. unpadded:
    whether a 2-D mask says that nothing is padding. told: what its mask says, seen [B, S] the same on the CPU, for one
    whose rows are going to be shortened.
    """

    shape: tuple[int, int]
    ids: Tensor | None
    visual: Tensor | None = None
    is_video: Tensor | None = None
    lengths: tuple[int, int | None, int | None] = (0, None, None)
    unpadded: bool = False
    told: Told = NOTHING
    seen: Tensor | None = None


class Finder:
    """Finds the visual tokens of prompts. per_frame: tokens of a frame; table [V, D]: the embeddings of ids."""

    def __init__(self, video_id: int, image_id: int, per_frame: int) -> None:
        self._ids, self._per_frame = {"video": video_id, "image": image_id}, per_frame

    def read(self, kwargs: dict[str, Any], table: Tensor, *, shortens: bool) -> Prompt | None:
        """The prompt of a call of the inner model, None without ids and embeddings.

        Ids of a video or an image without its pixels are text, as they are to the model. Copies to the CPU what the
        layout depends on, before the tower is under way: a copy behind it would wait for it.
        Raises ValueError, if `shortens`, for a mask that does not fit.
        """
        ids, embeds = kwargs.get("input_ids"), kwargs.get("inputs_embeds")
        given = embeds if ids is None else ids
        if given is None:
            return None
        prompt = Prompt((given.shape[0], given.shape[1]), ids)
        where = {what: self._placeholders(what, ids, embeds, table) for what in _PIXELS if _shown(what, kwargs)}
        for found in where.values():
            prompt.visual = found if prompt.visual is None else prompt.visual | found
        mask = kwargs.get("attention_mask")
        prompt.unpadded = isinstance(mask, Tensor) and mask.shape == prompt.shape and bool(mask.all())
        if "video" in where:
            prompt.is_video, prompt.lengths = where["video"].cpu(), _lengths(kwargs)
            if shortens:
                prompt.told = read_mask(mask, prompt.shape)
                prompt.seen = None if prompt.told.real is None else prompt.told.real.cpu()
        return prompt

    def videos(self, prompt: Prompt) -> list[list[Video]]:
        """The videos of each row. Raises ValueError where they are not all there, and whole."""
        return _videos(prompt.is_video, *prompt.lengths, self._per_frame)

    def refuse_missing(self, ids: Tensor) -> None:
        """Raise ValueError for a prompt without videos that has as many <video> ids in a row as one would have."""
        for row in (ids == self._ids["video"]).cpu():
            longest = max((stop - start for start, stop in _runs(row)), default=0)
            if longest > self._per_frame > 1:
                raise ValueError(
                    f"{longest} <video> ids in a row: expected T * {self._per_frame} + 1 for a video of T frames, as "
                    "the processor of this family writes them, with its pixel_values_videos"
                )

    def _placeholders(self, what: str, ids: Tensor | None, embeds: Tensor | None, table: Tensor) -> Tensor:
        """Slots [B, S] bool of videos or images; among embeddings they are those of their id, as for the model."""
        if ids is not None:
            return ids == self._ids[what]
        return (embeds == table[self._ids[what]].to(embeds)).all(-1)


def _encoded(what: str, kwargs: dict[str, Any]) -> Any:
    """What `generate` has encoded beforehand, None where it has not."""
    encoded = kwargs.get("mm_encoder_outputs")
    return encoded.get(what) if isinstance(encoded, Mapping) else None


def _shown(what: str, kwargs: dict[str, Any]) -> bool:
    return kwargs.get(_PIXELS[what]) is not None or _encoded(what, kwargs) is not None


def _lengths(kwargs: dict[str, Any]) -> tuple[int, int | None, int | None]:
    """How many videos a call brings, their frames if it brings pixels, and their slots if it brings features."""
    pixels = kwargs.get("pixel_values_videos")
    if pixels is not None:
        return pixels.shape[0], pixels.shape[1], None
    features = _encoded("video", kwargs).pooler_output
    return features.shape[0], None, features.shape[1]


def _videos(is_video: Tensor, count: int, frames: int | None, slots: int | None, per_frame: int) -> list[list[Video]]:
    """The videos of each row, is_video [B, S] bool on the CPU. All have as many frames, and each ends in a newline.

    Raises ValueError unless they are `count` whole ones.
    """
    slots = cast(int, frames) * per_frame + 1 if slots is None else slots
    frames = (slots - 1) // per_frame
    rows = [_runs(row) for row in is_video]
    whole = frames * per_frame + 1 == slots and not any((stop - start) % slots for row in rows for start, stop in row)
    if not whole or int(is_video.sum()) != count * slots:
        raise ValueError(
            f"{int(is_video.sum())} <video> ids for {count} videos of {frames} frames: expected {count} times T * "
            f"{per_frame} + 1, in a row each, as the processor of this family writes them, read in one piece (no "
            "prefill_chunk_size)"
        )
    return [[Video(at, frames) for start, stop in row for at in range(start, stop, slots)] for row in rows]


def _runs(flags: Tensor) -> list[tuple[int, int]]:
    """First slot and end of each run of true ones, flags [S] bool on the CPU."""
    edge = torch.zeros(1, dtype=torch.int)
    edges = torch.diff(flags.int(), prepend=edge, append=edge)
    return [tuple(pair) for pair in edges.nonzero().view(-1, 2).tolist()]
