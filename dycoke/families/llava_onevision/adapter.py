"""Adapter of transformers' LlavaOnevisionForConditionalGeneration.

The family writes video features into `inputs_embeds` at the <video> ids and then calls its language model. A hook on
the inner model notes the ids; a hook on the language model takes the tokens of each video out of `inputs_embeds`,
compresses them, and shortens embeddings, mask and positions, in prefill and consistently at every decode step.

Images pass the vision tower first and the videos after them, in a call of their own: inside the inner model, or before
it in `generate`, by the release of transformers. The latest call is thus that of the videos.
"""

from __future__ import annotations

import inspect
import math
import weakref
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from dycoke.bases import KeepAll
from dycoke.families.base import FamilyAdapter, drops_tokens
from dycoke.families.llava_onevision.prompt import Finder, Prompt, Video
from dycoke.families.llava_onevision.shortened import Shortened
from dycoke.stages.arguments import ANOTHER_REQUEST, Uncompiled, from_table, refuse_full_length
from dycoke.stages.masks import packed_samples, refuse_own_mask, refuse_packed, seen_slots
from dycoke.stages.tower import video_rows
from dycoke.turns import OfThread

_DROPS = "drops video tokens"


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


class HFLlavaOnevisionAdapter(FamilyAdapter):
    """transformers' LLaVA-OneVision. A video is T * N tokens and one newline; N follows from the vision config."""

    provides = frozenset({"saliency", "keys", "query"})
    knows_frames = True
    knows_newlines = True

    # On the way of a prompt to the language model, and within it.
    _visual: Tensor | None = OfThread()
    _newlines: Tensor | None = OfThread()
    _places: tuple[Tensor, Tensor, int] | None = OfThread()
    _prompt: Prompt | None = OfThread()
    _keeps_tower: bool = OfThread(False)
    _noted: Shortened | None = OfThread()

    def hook(self, model: nn.Module, undo: ExitStack) -> None:
        inner, vision = model.model, model.config.vision_config
        side = math.ceil(vision.image_size // vision.patch_size / 2)
        self._grid = (side, side)
        self._finder = Finder(model.config.video_token_id, model.config.image_token_id, side * side)
        self._newline = weakref.ref(inner.image_newline)
        self._inner_names = list(inspect.signature(inner.forward).parameters)
        if drops_tokens(self.compressor):
            undo.callback(model.register_forward_pre_hook(refuse_full_length, with_kwargs=True).remove)
        undo.callback(inner.register_forward_pre_hook(Uncompiled(self._note_prompt), with_kwargs=True).remove)
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
        if visual is None:
            return None
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

    def _note_prompt(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        kwargs = dict(zip(self._inner_names, args, strict=False)) | kwargs
        shortens = not isinstance(self.compressor, KeepAll)
        self._prompt = self._finder.read(kwargs, module.get_input_embeddings().weight, shortens=shortens)
        # Where `generate` has encoded the videos beforehand and fills no cache, every step reads them anew.
        self._keeps_tower = self._probe is not None and self._probe.frames > 0 and kwargs.get("use_cache") is False

    def _forget_tower(self, module: nn.Module, args: tuple, output: Any) -> None:
        """The tower call is over where the inner model ends, or where anything failed."""
        if output is None or (module is self._model().model and not self._keeps_tower):
            self._probe.forget()

    def prefill_inputs(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Shorten embeddings [B, S, D], mask and positions by the tokens the compressor drops.

        Raises ValueError with a cache another request filled, for videos that are not whole or cannot be found, for a
        mask or positions that say more than padding and order where rows are shortened, or where the compressor needs
        of the tower what it has not seen of them.
        """
        prompt, self._prompt = self._prompt, None
        cache, embeds = kwargs.get("past_key_values"), kwargs.get("inputs_embeds")
        if cache is not None and int(cache.get_seq_length()) > 0:
            raise ValueError(ANOTHER_REQUEST)
        self._visual = self._places = None
        if embeds is None:  # somebody calls the language model with ids: they are text to it
            return kwargs
        shape = tuple(embeds.shape[:2])
        if prompt is None or prompt.shape != shape:
            prompt = Prompt(shape, None)
        self._check_findable(prompt, kwargs)
        if prompt.is_video is None or isinstance(self.compressor, KeepAll):
            return self._as_it_is(kwargs, prompt)
        return self._shorten(kwargs, prompt)

    def _check_findable(self, prompt: Prompt, kwargs: dict[str, Any]) -> None:
        """Raise ValueError where videos may be hidden from a method that has something to do with them."""
        keeps = isinstance(self.compressor, KeepAll)
        if prompt.ids is not None:
            if prompt.is_video is None and not keeps:
                self._finder.refuse_missing(prompt.ids)
            return
        if keeps and self._stage is None:
            return
        text = seen_slots(kwargs.get("attention_mask"), prompt.shape)
        if prompt.visual is not None:
            text = ~prompt.visual if text is None else text & ~prompt.visual
        if not from_table(kwargs["inputs_embeds"], self._model().get_input_embeddings().weight, text):
            raise ValueError(
                "inputs_embeds=: a method needs input_ids to find the video tokens; accepted without them: embeddings "
                "of ids alone, with pixel_values_videos where those of <video> stand for a video"
            )

    def _as_it_is(self, kwargs: dict[str, Any], prompt: Prompt) -> dict[str, Any]:
        """The arguments of a prompt of which nothing is dropped, its videos counted."""
        embeds, per_frame = kwargs["inputs_embeds"], self._grid[0] * self._grid[1]
        self._visual = prompt.visual
        if prompt.is_video is not None:
            number, slots = (torch.full(prompt.shape, -1, device=embeds.device) for _ in range(2))
            for r, row in enumerate(self._finder.videos(prompt)):
                for i, video in enumerate(row):
                    count = video.frames * per_frame
                    at = slice(video.first, video.first + count)
                    self.compress(embeds[r, at].view(video.frames, per_frame, -1), self._grid)
                    number[r, at], slots[r, at] = i, torch.arange(count, device=embeds.device)
            self._places = number, slots, per_frame
        # A mask would be read again by the language model; without a cache it speaks of positions.
        if prompt.unpadded and kwargs.get("past_key_values") is not None:
            return {**kwargs, "attention_mask": None}
        return kwargs

    def _shorten(self, kwargs: dict[str, Any], prompt: Prompt) -> dict[str, Any]:
        """The arguments of a prompt without what the compressor drops of its videos."""
        embeds, cache, (real, own) = kwargs["inputs_embeds"], kwargs.get("past_key_values"), prompt.told
        count, before = prompt.shape
        refuse_own_mask(own, _DROPS)
        if packed_samples(self.language_model(self._model()), kwargs):
            refuse_packed(_DROPS)
        if cache is not None and prompt.seen is not None and bool(prompt.seen.all()):
            real = None  # as above
        given = kwargs.get("position_ids")
        given = torch.arange(before, device=embeds.device)[None] if given is None else given
        given = given.expand(count, -1)

        spans = _content(prompt.seen, count, before)
        videos = self._with_rows(self._finder.videos(prompt))
        texts = self._texts(embeds, prompt.visual, real)
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
        source, number, slots = (torch.full((count, width), -1, device=embeds.device) for _ in range(3))
        for r, row in enumerate(rows):
            length = len(row.tokens)
            at = slice(0, length) if right_padded else slice(width - length, width)
            out[r, at], positions[r, at], source[r, at] = row.tokens, row.positions, row.source
            mask[r, at] = 1 if real is None else real[r, row.source].long()
            self._visual[r, at] = prompt.visual[r, row.source]
            number[r, at], slots[r, at] = row.video, row.index
        self._places = number, slots, self._grid[0] * self._grid[1]
        # A mask also where positions have gaps: without one transformers takes a gap for the border of a packed sample.
        padded = real is not None or not consecutive or any(len(row.tokens) < width for row in rows)
        mask = mask if padded else None
        shift = given.new_zeros(count, 1)
        for r, moved in enumerate(shifts):
            shift[r] = moved  # filled in on the device: a copy from the host would wait for it
        self._noted = Shortened(before, width, source, prompt.told.real, mask, shift)
        return {**kwargs, "inputs_embeds": out, "attention_mask": mask, "position_ids": positions}

    def decode_inputs(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments of a decode step; moved to the shortened sequence where the prompt was shortened.

        Raises ValueError if the step does not go on where the shortened cache ends.
        """
        self._prompt = None
        return kwargs if self._noted is None else self._noted.step(kwargs)

    def _texts(self, embeds: Tensor, is_visual: Tensor, real: Tensor | None) -> list[Tensor | None]:
        """The embedded text [Q, D] of each row, None where it is not needed."""
        if "query" not in self.compressor.needs:
            return [None] * len(embeds)
        is_text = ~is_visual if real is None else ~is_visual & real
        return [row[text] for row, text in zip(embeds, is_text, strict=True)]

    def _with_rows(self, found: list[list[Video]]) -> list[list[Video]]:
        """The videos of each row, with their rows of the tower call if needed."""
        if self._probe is None:
            return found
        seen = video_rows([[video.frames for video in row] for row in found], self._probe.frames)
        for video, rows in zip(chain.from_iterable(found), chain.from_iterable(seen), strict=True):
            video.rows = rows
        return found

    def _compress_row(
        self, embeds: Tensor, given: Tensor, videos: list[Video], text: Tensor | None, start: int, stop: int
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


ADAPTER = HFLlavaOnevisionAdapter
