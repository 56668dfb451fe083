"""Adapter of transformers' LlavaOnevisionForConditionalGeneration.

The family writes video features into `inputs_embeds` at the <video> ids and then calls its language model. A hook on
the inner model notes the ids; a hook on the language model takes the tokens of each video out of `inputs_embeds`,
compresses them, and shortens embeddings, mask and positions, in prefill and consistently at every decode step.
"""

from __future__ import annotations

import math
import weakref
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dycoke.adapters.base import FamilyAdapter, real_tokens, refuse_full_length


@dataclass
class _Row:
    """One row after compression: tokens [L, D], the slots they come from [L], and its positions [L]."""

    tokens: Tensor
    source: Tensor
    positions: Tensor


@dataclass
class _Shortened:
    """What a prefill did to its rows; lives until the next prefill."""

    before: int  # slots of the sequence as the caller knows it
    after: int  # slots of it that are left
    mask: Tensor | None  # [B, S'] long; None where none is needed
    shift: Tensor  # [B, 1] by how much the positions of decoded tokens move back
    decoded: int = 0


class HFLlavaOnevisionAdapter(FamilyAdapter):
    """transformers' LLaVA-OneVision. A video is T * N tokens and one newline; N follows from the vision config."""

    def hook(self, model: nn.Module, undo: ExitStack) -> None:
        inner, vision = model.model, model.config.vision_config
        side = math.ceil(vision.image_size // vision.patch_size / 2)
        self._grid = (side, side)
        self._video_id, self._image_id = model.config.video_token_id, model.config.image_token_id
        self._newline = weakref.ref(inner.image_newline)
        self._visual: Tensor | None = None
        self._ids: Tensor | None = None
        self._state: _Shortened | None = None
        undo.callback(model.register_forward_pre_hook(refuse_full_length, with_kwargs=True).remove)
        undo.callback(inner.register_forward_pre_hook(self._note_ids, with_kwargs=True).remove)
        self.time_vision(inner.vision_tower, inner.multi_modal_projector, undo)
        self.follow(inner.language_model, undo)

    def language_model(self, model: nn.Module) -> nn.Module:
        return model.model.language_model

    def visual(self, kwargs: dict[str, Any], shape: tuple[int, int]) -> Tensor | None:
        visual, self._visual = self._visual, None
        # The ids of an image stand for its newlines too, which are text. They are copies of one vector.
        newline = self._newline().to(kwargs["inputs_embeds"])
        return visual & ~(kwargs["inputs_embeds"] == newline).all(-1)

    def _note_ids(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        self._ids = args[0] if args else kwargs.get("input_ids")

    def prefill_inputs(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Shorten embeddings [B, S, D], mask and positions by the tokens the compressor drops.

        Raises ValueError without input_ids, with a cache another request filled, or for a run of <video> ids that is
        no whole number of videos.
        """
        ids, self._ids = self._ids, None
        if ids is None:
            raise ValueError("inputs_embeds=: a method needs input_ids to find the video tokens")
        cache = kwargs.get("past_key_values")
        if cache is not None and int(cache.get_seq_length()) > 0:
            raise ValueError("past_key_values= of another request: pass the whole prompt and a fresh cache")
        embeds = kwargs["inputs_embeds"]
        count, before = embeds.shape[:2]
        real = real_tokens(kwargs.get("attention_mask"), before)
        given = kwargs.get("position_ids")
        given = torch.arange(before, device=embeds.device)[None] if given is None else given
        given = given.expand(count, -1)

        spans = _content(real, count, before)
        is_video = (ids == self._video_id).cpu()
        is_visual = (ids == self._video_id) | (ids == self._image_id)
        rows = [self._compress_row(embeds[r], given[r], is_video[r], *spans[r]) for r in range(count)]
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
        for r, row in enumerate(rows):
            length = len(row.tokens)
            at = slice(0, length) if right_padded else slice(width - length, width)
            out[r, at], positions[r, at] = row.tokens, row.positions
            mask[r, at] = 1 if real is None else real[r, row.source].long()
            self._visual[r, at] = is_visual[r, row.source]
        # A mask also where positions have gaps: without one transformers takes a gap for the border of a packed sample.
        padded = real is not None or not consecutive or any(len(row.tokens) < width for row in rows)
        self._state = _Shortened(
            before, width, mask if padded else None, torch.tensor(shifts, device=embeds.device)[:, None]
        )
        return {
            **kwargs,
            "inputs_embeds": out,
            "attention_mask": self._state.mask,
            "position_ids": positions,
        }

    def decode_inputs(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Move mask and positions of a decode step to the shortened sequence.

        Raises ValueError if the step does not go on where the shortened cache ends.
        """
        state, embeds = self._state, kwargs["inputs_embeds"]
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

    def _compress_row(self, embeds: Tensor, given: Tensor, is_video: Tensor, start: int, stop: int) -> _Row:
        """Compress the videos of one row: embeds [S, D], positions given [S], content in slots start to stop."""
        per_frame = self._grid[0] * self._grid[1]
        slots = torch.arange(len(embeds), device=embeds.device)
        tokens, source, cursor = [], [], start
        for first, frames in _videos(is_video, per_frame):
            end = first + frames * per_frame  # its newline is text, and goes on with what follows
            kept = self.compress(embeds[first:end].view(frames, per_frame, -1), self._grid)
            tokens += [embeds[cursor:first], kept.embeds.to(embeds)]
            source += [slots[cursor:first], kept.index + first]
            cursor = end
        slot = torch.cat([*source, slots[cursor:stop]])
        if self.compressor.positions == "original":
            positions = given[slot]
        else:
            ascending = slot.sort().values
            # Slots dropped so far: what an unshortened row would have counted, less what stands here.
            positions = given[ascending] - (ascending - start - slots[: len(slot)])
        return _Row(torch.cat([*tokens, embeds[cursor:stop]]), slot, positions)


def _content(real: Tensor | None, count: int, length: int) -> list[tuple[int, int]]:
    """First slot and end of each row's content, without its padding: on the right if any row ends in it, else left."""
    if real is None:
        return [(0, length)] * count
    where = [row.nonzero().flatten().tolist() or [0, length - 1] for row in real.cpu()]
    if any(slots[-1] + 1 < length for slots in where):
        return [(0, slots[-1] + 1) for slots in where]
    return [(slots[0], length) for slots in where]


def _videos(is_video: Tensor, per_frame: int) -> list[tuple[int, int]]:
    """First slot and frames of each video of a row, is_video [S] bool on the CPU.

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
        found += [(start + i * (frames * per_frame + 1), frames) for i in range(videos)]
    return found


ADAPTER = HFLlavaOnevisionAdapter
