"""Adapter of transformers' LlavaOnevisionForConditionalGeneration.

The family writes video features into `inputs_embeds` at the <video> ids and then calls its language model. A hook on
the inner model notes the ids; a hook on the language model takes the tokens of each video out of `inputs_embeds`,
compresses them, and shortens embeddings, mask and positions, in prefill and consistently at every decode step.

Images pass the vision tower first and the videos after them, in a call of their own: inside the inner model, or before
it in `generate`, by the release of transformers. The latest call is thus that of the videos.
"""

from __future__ import annotations

import math
import weakref
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from dycoke.adapters.arguments import real_tokens, refuse_full_length
from dycoke.adapters.base import FamilyAdapter
from dycoke.adapters.tower import video_rows
from dycoke.turns import OfThread


@dataclass
class _Video:
    """A video in a row: its first slot, its frames, and their rows of the tower call, where a probe remembers one."""

    first: int
    frames: int
    rows: slice | None = None


@dataclass
class _Row:
    """One row after compression: tokens [L, D], the slots they come from [L], and its positions [L].

    video [L], index [L]: number of the video of each token and its slot in that video, -1 at all others.
    """

    tokens: Tensor
    source: Tensor
    positions: Tensor
    video: Tensor
    index: Tensor


@dataclass
class _Shortened:
    """What a prefill did to its rows; lives as long as its cache."""

    before: int  # slots of the sequence as the caller knows it
    after: int  # slots of it that are left
    mask: Tensor | None  # [B, S'] long; None where none is needed
    shift: Tensor  # [B, 1] by how much the positions of decoded tokens move back
    decoded: int = 0


class HFLlavaOnevisionAdapter(FamilyAdapter):
    """transformers' LLaVA-OneVision. A video is T * N tokens and one newline; N follows from the vision config."""

    provides = frozenset({"saliency", "keys", "query"})
    knows_frames = True
    knows_newlines = True

    # On the way of a prompt to the language model, and within it.
    _visual: Tensor | None = OfThread()
    _newlines: Tensor | None = OfThread()
    _places: tuple[Tensor, Tensor, int] | None = OfThread()
    _ids: Tensor | None = OfThread()
    _on_host: tuple[Tensor | None, Tensor | None] | None = OfThread()
    _keeps_tower: bool = OfThread(False)
    _noted: _Shortened | None = OfThread()

    def hook(self, model: nn.Module, undo: ExitStack) -> None:
        inner, vision = model.model, model.config.vision_config
        side = math.ceil(vision.image_size // vision.patch_size / 2)
        self._grid = (side, side)
        self._video_id, self._image_id = model.config.video_token_id, model.config.image_token_id
        self._newline = weakref.ref(inner.image_newline)
        undo.callback(model.register_forward_pre_hook(refuse_full_length, with_kwargs=True).remove)
        undo.callback(inner.register_forward_pre_hook(self._note_ids, with_kwargs=True).remove)
        self.probe_tower(inner.vision_tower, _depth(model.config), undo)
        if self._probe is not None:
            # Only hooks that are always called learn that their module has failed.
            for module in (inner.vision_tower, inner.multi_modal_projector, inner):
                undo.callback(module.register_forward_hook(self._forget_tower, always_call=True).remove)
        self.time_vision(inner.vision_tower, inner.multi_modal_projector, undo)
        self.follow(inner.language_model, undo)

    def language_model(self, model: nn.Module) -> nn.Module:
        return model.model.language_model

    def visual(self, kwargs: dict[str, Any], shape: tuple[int, int]) -> Tensor | None:
        visual, self._visual = self._visual, None
        # The ids of an image stand for its newlines too, which are text. They are copies of one vector.
        newline = self._newline().to(kwargs["inputs_embeds"])
        self._newlines = visual & (kwargs["inputs_embeds"] == newline).all(-1)
        return visual & ~self._newlines

    def newlines(self) -> Tensor | None:
        newlines, self._newlines = self._newlines, None
        return newlines

    def places(self) -> tuple[Tensor, Tensor, int] | None:
        places, self._places = self._places, None
        return places

    def _note_ids(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        self._ids = args[0] if args else kwargs.get("input_ids")
        self._on_host = None
        if any(kwargs.get(name) is not None for name in ("pixel_values_videos", "pixel_values")):
            # Before the tower is under way: a copy behind it would wait for it, and the language model for the copy.
            self._on_host = self._copied(self._ids, kwargs.get("attention_mask"))
        # Where `generate` has encoded the videos beforehand and fills no cache, every step reads them anew.
        self._keeps_tower = self._probe is not None and self._probe.frames > 0 and kwargs.get("use_cache") is False

    def _forget_tower(self, module: nn.Module, args: tuple, output: Any) -> None:
        """The tower call is over where the inner model ends, or where anything failed."""
        if output is None or (module is self._model().model and not self._keeps_tower):
            self._probe.forget()

    def prefill_inputs(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Shorten embeddings [B, S, D], mask and positions by the tokens the compressor drops.

        Raises ValueError without input_ids, with a cache another request filled, for a run of <video> ids that is no
        whole number of videos, or where the compressor needs of the tower what it has not seen of them.
        """
        ids, self._ids = self._ids, None
        on_host, self._on_host = self._on_host, None
        if ids is None:
            raise ValueError("inputs_embeds=: a method needs input_ids to find the video tokens")
        cache = kwargs.get("past_key_values")
        if cache is not None and int(cache.get_seq_length()) > 0:
            raise ValueError("past_key_values= of another request: pass the whole prompt and a fresh cache")
        embeds = kwargs["inputs_embeds"]
        count, before = embeds.shape[:2]
        is_video, seen = on_host or self._copied(ids, kwargs.get("attention_mask"))
        real = real_tokens(kwargs.get("attention_mask"), before)
        if cache is not None and seen is not None and bool(seen.all()):
            real = None  # a mask would be read again by the language model; without a cache it speaks of positions
        given = kwargs.get("position_ids")
        given = torch.arange(before, device=embeds.device)[None] if given is None else given
        given = given.expand(count, -1)

        spans = _content(seen, count, before)
        is_visual = (ids == self._video_id) | (ids == self._image_id)
        videos = self._find_videos(is_video)
        texts = self._texts(embeds, is_visual, real)
        rows = [self._compress_row(embeds[r], given[r], videos[r], texts[r], *spans[r]) for r in range(count)]
        if self._probe is not None and not self._keeps_tower:
            self._probe.forget()  # the language model needs the memory
        right_padded = any(stop < before for _, stop in spans)
        common = min(before - (stop - start) for start, stop in spans)  # padding every row has, kept as it was
        width = common + max(len(row.tokens) for row in rows)
        shifts = [(stop - start) - len(row.tokens) for row, (start, stop) in zip(rows, spans, strict=True)]
        consecutive = self.compressor.positions == "packed"
        if not consecutive:
            shifts = [0] * count

        out = embeds.new_zeros(count, width, embeds.shape[2])
        positions = given.new_zeros(count, width)
        mask = torch.zeros(count, width, dtype=torch.long, device=embeds.device)
        self._visual = torch.zeros(count, width, dtype=torch.bool, device=embeds.device)
        number, slots = (torch.full((count, width), -1, device=embeds.device) for _ in range(2))
        for r, row in enumerate(rows):
            length = len(row.tokens)
            at = slice(0, length) if right_padded else slice(width - length, width)
            out[r, at], positions[r, at] = row.tokens, row.positions
            mask[r, at] = 1 if real is None else real[r, row.source].long()
            self._visual[r, at] = is_visual[r, row.source]
            number[r, at], slots[r, at] = row.video, row.index
        self._places = (number, slots, self._grid[0] * self._grid[1]) if any(videos) else None
        # A mask also where positions have gaps: without one transformers takes a gap for the border of a packed sample.
        padded = real is not None or not consecutive or any(len(row.tokens) < width for row in rows)
        shift = given.new_zeros(count, 1)
        for r, moved in enumerate(shifts):
            shift[r] = moved  # filled in on the device: a copy from the host would wait for it
        self._noted = _Shortened(before, width, mask if padded else None, shift)
        return {
            **kwargs,
            "inputs_embeds": out,
            "attention_mask": self._noted.mask,
            "position_ids": positions,
        }

    def decode_inputs(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Move mask and positions of a decode step to the shortened sequence.

        Raises ValueError if the step does not go on where the shortened cache ends.
        """
        state, embeds = self._noted, kwargs["inputs_embeds"]
        new = embeds.shape[1]
        length = kwargs["past_key_values"].get_seq_length()
        # A growing cache knows its length, also after tokens were taken back; a static one would have to be asked on
        # the device, and grows by what it was given.
        decoded = length - state.after if isinstance(length, int) else state.decoded
        end = state.before + decoded + new
        mask, given = kwargs.get("attention_mask"), kwargs.get("position_ids")
        if isinstance(mask, Tensor) and mask.ndim == 2:
            seen = mask.shape[1]
        elif new > 1 and given is not None and state.mask is None:
            seen = int(given.max()) + 1
        else:
            seen = end
        if seen != end:
            raise ValueError(
                f"the cache holds a prompt of {state.before} slots shortened to {state.after} and {decoded} decoded "
                f"tokens, and cannot be continued to slot {seen} with {new} more; pass the whole prompt without "
                "past_key_values"
            )
        state.decoded = decoded + new
        if given is None:
            given = torch.arange(end - new, end, device=embeds.device)[None]
        mask = None
        if state.mask is not None:
            made = state.mask.new_ones(len(state.mask), max(state.decoded, 0))
            # Fewer than none are decoded where guesses were read along with the prompt and then taken back.
            mask = torch.cat([state.mask, made], dim=1)[:, : state.after + state.decoded]
        return {**kwargs, "attention_mask": mask, "position_ids": given - state.shift}

    def _copied(
        self, ids: Tensor | None, mask: Tensor | dict[str, Tensor] | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """On the CPU: which of the ids [B, S] stand for videos, and which slots are no padding, None where none is."""
        if ids is None:
            return None, None
        real = real_tokens(mask, ids.shape[1])
        return (ids == self._video_id).cpu(), None if real is None else real.cpu()

    def _texts(self, embeds: Tensor, is_visual: Tensor, real: Tensor | None) -> list[Tensor | None]:
        """The embedded text [Q, D] of each row, None where it is not needed."""
        if "query" not in self.compressor.needs:
            return [None] * len(embeds)
        is_text = ~is_visual if real is None else ~is_visual & real
        return [row[text] for row, text in zip(embeds, is_text, strict=True)]

    def _find_videos(self, is_video: Tensor) -> list[list[_Video]]:
        """The videos of each row, is_video [B, S] bool on the CPU, with their rows of the tower call if needed."""
        found = [_videos(row, self._grid[0] * self._grid[1]) for row in is_video]
        if self._probe is None:
            return found
        seen = video_rows([[video.frames for video in row] for row in found], self._probe.frames)
        for video, rows in zip(chain.from_iterable(found), chain.from_iterable(seen), strict=True):
            video.rows = rows
        return found

    def _compress_row(
        self, embeds: Tensor, given: Tensor, videos: list[_Video], text: Tensor | None, start: int, stop: int
    ) -> _Row:
        """Compress the videos of one row: embeds [S, D], positions given [S], content in slots start to stop.

        text [Q, D]: the embedded text of the row, where it is needed.
        """
        per_frame = self._grid[0] * self._grid[1]
        slots = torch.arange(len(embeds), device=embeds.device)
        nowhere = torch.full_like(slots, -1)
        tokens, source, number, index, cursor = [], [], [], [], start
        for i, video in enumerate(videos):
            first, end = video.first, video.first + video.frames * per_frame  # its newline is text, and comes behind
            frames = embeds[first:end].view(video.frames, per_frame, -1)
            kept = self.compress(frames, self._grid, video.rows, text)
            tokens += [embeds[cursor:first], kept.embeds.to(embeds)]
            source += [slots[cursor:first], kept.index + first]
            number += [nowhere[cursor:first], torch.full_like(kept.index, i)]
            index += [nowhere[cursor:first], kept.index]
            cursor = end
        slot = torch.cat([*source, slots[cursor:stop]])
        if self.compressor.positions == "original":
            positions = given[slot]
        else:
            ascending = slot.sort().values
            # Slots dropped so far: what an unshortened row would have counted, less what stands here.
            positions = given[ascending] - (ascending - start - slots[: len(slot)])
        rest = nowhere[cursor:stop]
        video, index = torch.cat([*number, rest]), torch.cat([*index, rest])
        return _Row(torch.cat([*tokens, embeds[cursor:stop]]), slot, positions, video, index)


def _depth(config: Any) -> int:
    """How many layers of the vision tower make the features of a config: up to the deepest that it asks for."""
    asked, layers = config.vision_feature_layer, config.vision_config.num_hidden_layers
    return max(layer % (layers + 1) for layer in ([asked] if isinstance(asked, int) else asked))


def _content(real: Tensor | None, count: int, length: int) -> list[tuple[int, int]]:
    """First slot and end of each row's content, without its padding: on the right if any row ends in it, else left.

    real [B, S] bool on the CPU, or None for no padding.
    """
    if real is None:
        return [(0, length)] * count
    where = [row.nonzero().flatten().tolist() or [0, length - 1] for row in real]
    if any(slots[-1] + 1 < length for slots in where):
        return [(0, slots[-1] + 1) for slots in where]
    return [(slots[0], length) for slots in where]


def _videos(is_video: Tensor, per_frame: int) -> list[_Video]:
    """The videos of a row, is_video [S] bool on the CPU.

    Videos of a batch have equal T, and each ends in one newline, so a run of n videos side by side has
    n * (T * N + 1) ids, and n is what is left of it after whole frames.
    Raises ValueError for a run that is no whole number of videos.
    """
    edge = torch.zeros(1, dtype=torch.int)
    edges = torch.diff(is_video.int(), prepend=edge, append=edge)
    found = []
    for start, stop in edges.nonzero().view(-1, 2).tolist():
        length = stop - start
        videos = length % per_frame
        if videos == 0 or (length - videos) % (videos * per_frame):
            raise ValueError(
                f"{length} <video> ids in a row: expected T * {per_frame} + 1 for a video of T frames, as the "
                "processor of this family writes them, in one piece (no prefill_chunk_size)"
            )
        frames = (length - videos) // (videos * per_frame)
        found += [_Video(start + i * (frames * per_frame + 1), frames) for i in range(videos)]
    return found


ADAPTER = HFLlavaOnevisionAdapter
