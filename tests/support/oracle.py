"""The masking oracle: with original positions, compressing equals running the whole sequence with the compressed
embeddings written into their slots and every other visual slot masked. It needs no code of the adapters.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dycoke.types import Compressor, VisualTokens
from tests.support.subjects import HF_VIDEO, PROMPT_FRAMES, HFSubject, forward
from tests.support.tower_subjects import Reference, videos_of


@dataclass
class Whole:
    """A packed, uncompressed batch: embeds [B, S, D], mask [B, S], positions [B, S], and each video's slots."""

    embeds: Tensor
    mask: Tensor
    positions: Tensor
    videos: list[tuple[int, Tensor, list[list[int]]]]  # row, slots [T * N], slots of each group that shares a newline


class Marker:
    """A seam that changes nothing but notes the tokens, so that their slots can be found in the packed batch."""

    def __init__(self) -> None:
        self.frames: list[Tensor] = []

    def video(self, frames, grid, newline, text, rows):
        self.frames.append(frames)
        self.newline, self.grid = newline, grid
        return frames.flatten(0, 1), torch.arange(frames.shape[0] * frames.shape[1])

    def release(self):
        """Nothing was kept."""

    def packed(self, packed):
        self.positions, self.mask = packed.positions, packed.mask


@torch.no_grad()
def whole(subject, prompts: list[list]) -> Whole:
    """The batch as the untouched model sees it."""
    inputs = subject.inputs(prompts)
    if isinstance(subject, HFSubject):
        seen = {}
        hook = subject.language_model().register_forward_pre_hook(
            lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True
        )
        subject.model(**inputs)
        hook.remove()
        mask = inputs["attention_mask"].bool()
        length = PROMPT_FRAMES * subject.grid[0] * subject.grid[1] + 1  # every video ends in a newline
        videos = [
            (row, part[:-1], [])
            for row, ids in enumerate(inputs["input_ids"])
            for run in _runs(ids == HF_VIDEO)
            for part in run.split(length)
        ]
        positions = torch.arange(mask.shape[1]).expand_as(mask)
        return Whole(seen["inputs_embeds"], mask, positions, videos)

    marker = Marker()
    subject.model.video_seam = marker
    packed = subject.model.prepare_inputs_labels_for_multimodal(
        inputs["input_ids"],
        None,
        inputs["attention_mask"],
        None,
        None,
        inputs["images"],
        inputs["modalities"],
        inputs["image_sizes"],
    )
    del subject.model.video_seam
    embeds = packed[4]
    videos = []
    for frames in marker.frames:
        tokens = frames.flatten(0, 1)
        row, first = (embeds == tokens[0]).all(-1).nonzero()[0].tolist()
        slots, cursor = [], first
        for token in tokens:  # newlines stand between the tokens
            while not torch.equal(embeds[row, cursor], token):
                cursor += 1
            slots.append(cursor)
            cursor += 1
        size = {"grid": marker.grid[1], "frame": frames.shape[1]}.get(marker.newline)
        groups = [] if size is None else [slots[i : i + size] for i in range(0, len(slots), size)]
        videos.append((row, torch.tensor(slots), groups))
    return Whole(embeds, marker.mask, marker.positions, videos)


@torch.no_grad()
def masked_logits(subject, prompts: list[list], compressor: Compressor, answer: Tensor | None = None):
    """Logits [K, V] of the kept slots of each row, and with an answer [B, n] of the slots of its tokens behind them."""
    batch = whole(subject, prompts)
    embeds, mask, positions = batch.embeds.clone(), batch.mask.clone(), batch.positions.clone()
    per_frame = subject.grid[0] * subject.grid[1]
    tower = Reference(subject) if compressor.needs else None
    for (row, slots, groups), clip in zip(batch.videos, videos_of(prompts), strict=True):
        frames = batch.embeds[row, slots].view(-1, per_frame, embeds.shape[2])
        seen = {} if tower is None else {name: tower.of(clip)[name] for name in ("saliency", "keys")}
        kept = compressor.compress(VisualTokens(frames, subject.grid, **seen))
        mask[row, slots] = False
        mask[row, slots[kept.index]] = True
        embeds[row, slots[kept.index]] = kept.embeds
        for group in groups:  # a group none of whose tokens survives loses its newline
            mask[row, group[-1] + 1] = bool(mask[row, group].any())
    if answer is not None:
        table = subject.model.get_input_embeddings()
        embeds = torch.cat([embeds, table(answer)], dim=1)
        last = (batch.positions * batch.mask).max(dim=1, keepdim=True).values
        positions = torch.cat([positions, last + 1 + torch.arange(answer.shape[1])], dim=1)
        mask = torch.cat([mask, torch.ones_like(answer, dtype=torch.bool)], dim=1)
    hidden = subject.language_model()(inputs_embeds=embeds, attention_mask=mask.long(), position_ids=positions)
    logits = subject.model.lm_head(hidden.last_hidden_state)
    return [logits[row, mask[row]] for row in range(len(mask))]


def compressed_logits(subject, prompts: list[list]) -> list[Tensor]:
    """Logits of the real slots of each row of the model as it stands, with whatever is attached to it."""
    logits, real = forward(subject, prompts)
    return [logits[row, real[row]] for row in range(len(real))]


def _runs(flags: Tensor) -> list[Tensor]:
    """Consecutive slots where flags [S] is true."""
    slots = flags.nonzero().flatten()
    if not len(slots):
        return []
    return list(slots.tensor_split((slots.diff() != 1).nonzero().flatten() + 1))
