"""Splice blocks of visual tokens into the embedded text of a batch of prompts."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.model.layout import Block


class PromptRow(NamedTuple):
    """The real tokens of one prompt.

    text_ids [Q] int64 without placeholders; cuts, the number of text tokens before each placeholder; entries, the
    image or video that each placeholder takes; labels [Q] of the text, or None.
    """

    text_ids: Tensor
    cuts: list[int]
    entries: list[int]
    labels: Tensor | None


class Packed(NamedTuple):
    """A padded batch: embeds [B, S, D], mask, visual [B, S] bool, positions [B, S] int64, labels [B, S] or None.

    positions count in the uncompressed, unpadded sequence; 0 at padding. video [B, S] int64 is the number of the video
    a token belongs to, counted from 0 in its row, and slots [B, S] int64 its slot t * N + n in that video; both are -1
    at text, newlines, images and padding. newlines [B, S] bool is True at the newlines of videos and images. padded:
    whether any row is shorter than the longest, or the batch goes to a caller, who may mask more of it.
    """

    embeds: Tensor
    mask: Tensor
    visual: Tensor
    positions: Tensor
    labels: Tensor | None
    video: Tensor
    slots: Tensor
    newlines: Tensor
    padded: bool

    def consecutive(self) -> Tensor:
        """Return position ids [B, S] that count the real tokens of each row; 0 at padding."""
        return (self.mask.long().cumsum(-1) - 1).clamp_(min=0) * self.mask


def read_rows(
    input_ids: Tensor, attention_mask: Tensor | None, labels: Tensor | None, entries: int, *, unseen: bool = True
) -> list[PromptRow]:
    """Take a batch apart into its rows, dropping padding, and hand the visual entries out in order.

    input_ids, attention_mask (true at real tokens, None for all), labels: [B, L]. One counter runs over the batch:
    each placeholder takes the next entry, and a row without one uses up an entry unseen, or none with unseen=False. If
    a single entry is lacking at the end, the last one is used twice. Raises ValueError if more are lacking.
    """
    if input_ids.ndim != 2:
        raise ValueError(f"input_ids of shape {tuple(input_ids.shape)}: expected [batch, length]")
    mask = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    if mask.shape != input_ids.shape:
        raise ValueError(f"attention_mask of shape {tuple(mask.shape)} for input_ids of shape {tuple(input_ids.shape)}")
    rows = []
    taken = 0
    for number, host_ids in enumerate(input_ids.masked_fill(~mask, IGNORE_INDEX).tolist()):
        real = [token for token in host_ids if token != IGNORE_INDEX]
        places = [place for place, token in enumerate(real) if token == IMAGE_TOKEN_INDEX]
        used = range(taken, taken + len(places))
        if used and used[-1] > entries:
            raise ValueError(f"the prompts have more <image> tokens ({used.stop} or more) than images ({entries})")
        if used and entries == 0:
            raise ValueError("a prompt has an <image> token, but there are no images")
        text = mask[number] & (input_ids[number] != IMAGE_TOKEN_INDEX)
        rows.append(
            PromptRow(
                text_ids=input_ids[number][text],
                cuts=[place - before for before, place in enumerate(places)],
                entries=[min(entry, entries - 1) for entry in used],
                labels=None if labels is None else labels[number][text],
            )
        )
        taken += max(len(places), 1) if unseen else len(places)
    return rows


def splice(
    rows: Sequence[PromptRow],
    texts: Sequence[Tensor],
    blocks: Sequence[Block | None],
    max_length: int | None,
    padding_side: str,
) -> Packed:
    """Put the blocks into the embedded texts, cut rows to max_length and pad them to the longest.

    texts: one [Q, D] for each row. Padding is zeros on `padding_side` ("left" or "right"); labels of visual tokens
    and padding are -100.
    """
    if padding_side not in ("left", "right"):
        raise ValueError(f"padding side {padding_side!r}: expected 'left' or 'right'")
    packed = [
        _splice_row(row, text, [blocks[entry] for entry in row.entries]) for row, text in zip(rows, texts, strict=True)
    ]
    if max_length is not None:
        packed = [[None if part is None else part[:max_length] for part in parts] for parts in packed]
    embeds, visual, positions, video, slots, newlines, labels = zip(*packed, strict=True)
    mask = [torch.ones_like(row) for row in visual]
    return Packed(
        embeds=_pad(embeds, 0, padding_side),
        mask=_pad(mask, False, padding_side),
        visual=_pad(visual, False, padding_side),
        positions=_pad(positions, 0, padding_side),
        labels=None if labels[0] is None else _pad(labels, IGNORE_INDEX, padding_side),
        video=_pad(video, -1, padding_side),
        slots=_pad(slots, -1, padding_side),
        newlines=_pad(newlines, False, padding_side),
        padded=len({len(row) for row in visual}) > 1,
    )


def _splice_row(row: PromptRow, text: Tensor, blocks: Sequence[Block]) -> list[Tensor | None]:
    """Return embeds [S, D], visual, positions, video, slots and newlines [S] and labels [S] (or None) of one row."""
    device = text.device
    parts: list[tuple[Tensor, ...]] = []
    offset = videos = 0
    pieces = torch.tensor_split(text, row.cuts)
    for number, piece in enumerate(pieces):
        length = piece.shape[0]
        place = torch.arange(offset, offset + length, device=device)
        nowhere = torch.full_like(place, -1)
        neither = torch.zeros_like(place, dtype=torch.bool)
        parts.append((piece, neither, place, nowhere, nowhere, neither))
        offset += length
        if number < len(blocks):
            block = blocks[number]
            place = block.slots.to(device) + offset
            slots = torch.full_like(place, -1) if block.index is None else block.index.to(device)
            video = torch.where(slots < 0, slots, videos)
            visual = block.visual.to(device)
            parts.append((block.tokens.to(text), visual, place, video, slots, ~visual))
            offset += block.full_length
            videos += block.index is not None
    return [*(torch.cat(column) for column in zip(*parts, strict=True)), _splice_labels(row, blocks)]


def _splice_labels(row: PromptRow, blocks: Sequence[Block]) -> Tensor | None:
    if row.labels is None:
        return None
    pieces = list(torch.tensor_split(row.labels, row.cuts))
    for number, block in reversed(list(enumerate(blocks))):
        pieces.insert(number + 1, row.labels.new_full((block.tokens.shape[0],), IGNORE_INDEX))
    return torch.cat(pieces)


def _pad(rows: Sequence[Tensor], value: float, side: str) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value, padding_side=side)
