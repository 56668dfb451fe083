"""Draw which visual tokens of a sample video the embedded model keeps, and which of those a decode step reads.

    python scripts/draw_kept.py docs/images/kept.png

What the picture shows is a run: DyCoke's choice on the frames of a shipped video, and the columns that one step of the
answer reads in the layers from L on. Grey tokens were merged away before the language model, those in colour are in its
KV cache, and outlined ones are read by that step.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import dycoke
from dycoke.families.chat import load_chat, placement
from dycoke.nano import MODEL_PATH, SAMPLES_PATH
from dycoke.types import Compressed, Compressor, Plan, VisualTokens
from dycoke.video.frames import read_frames
from llava.constants import IMAGE_TOKEN_INDEX

VIDEO, QUESTION = "digits.mp4", "Describe the events in order."
FRAMES, ACROSS, STEP = 32, 8, 20
OPTIONS = {"k": 0.7, "l": 5, "p": 0.7}
CELL, GAP, LINE = 96, 6, 2  # pixels of a frame in the picture, between two, and of an outline
GREY, PAPER, OUTLINE = 215, 255, (255, 140, 0)


@dataclass(frozen=True)
class Kept:
    """What a run did with the visual tokens of a video of T frames: made, in the cache and read, [T, rows, cols] each.

    answer: what the model said.
    """

    frames: np.ndarray
    cached: np.ndarray
    read: np.ndarray
    answer: str


class Noted:
    """A compressor that does what another does, and keeps the slots it left."""

    def __init__(self, inner: Compressor) -> None:
        self.inner, self.index = inner, torch.empty(0)
        self.needs, self.positions, self.raster = inner.needs, inner.positions, inner.raster
        self.count = inner.count

    def compress(self, video: VisualTokens) -> Compressed:
        kept = self.inner.compress(video)
        self.index, self.grid = kept.index, video.grid
        return kept


def run() -> Kept:
    """Ask the embedded model about the video on the CPU, and note what its layers were left."""
    chat = load_chat(str(MODEL_PATH), placement("cpu", "float32"))
    frames = read_frames(SAMPLES_PATH / VIDEO, FRAMES)
    request = chat.request(frames, QUESTION)
    plan = dycoke.build("dycoke", **OPTIONS).plan()
    noted = Noted(plan.before)
    with dycoke.attach(chat.model, Plan(before=noted, decode=plan.decode), trace=True) as attached:
        ids = chat.model.generate(**request, max_new_tokens=128, do_sample=False)
        columns = torch.tensor(attached.report.keeps[STEP][0])
    first = int((request["inputs"][0] == IMAGE_TOKEN_INDEX).nonzero())  # the video's tokens take this slot's place
    read = columns[(columns >= first) & (columns < first + len(noted.index))] - first
    shape = (len(frames), *noted.grid)
    cached, chosen = (np.zeros(np.prod(shape), dtype=bool) for _ in range(2))
    cached[noted.index.numpy()] = True
    chosen[noted.index[read].numpy()] = True
    text = chat.tokenizer.decode(ids[0], skip_special_tokens=True).strip()
    return Kept(frames, cached.reshape(shape), chosen.reshape(shape), text)


def draw(kept: Kept) -> Image.Image:
    """The frames in raster order, each token as its state has it."""
    down = -(-len(kept.frames) // ACROSS)
    sheet = np.full((down * (CELL + GAP) - GAP, ACROSS * (CELL + GAP) - GAP, 3), PAPER, dtype=np.uint8)
    for number, frame in enumerate(kept.frames):
        top, left = (CELL + GAP) * (number // ACROSS), (CELL + GAP) * (number % ACROSS)
        sheet[top : top + CELL, left : left + CELL] = _cell(frame, kept.cached[number], kept.read[number])
    return Image.fromarray(sheet)


def _cell(frame: np.ndarray, cached: np.ndarray, read: np.ndarray) -> np.ndarray:
    pixels = np.asarray(Image.fromarray(frame).resize((CELL, CELL), Image.Resampling.BOX), dtype=np.float32)
    side = CELL // cached.shape[0], CELL // cached.shape[1]
    here, outlined = (np.kron(mask, np.ones(side, dtype=bool)) for mask in (cached, read))
    inner = np.zeros(side, dtype=bool)
    inner[LINE:-LINE, LINE:-LINE] = True
    border = outlined & ~np.tile(inner, cached.shape)
    ghost = GREY + 0.12 * (pixels.mean(axis=2, keepdims=True) - 128)
    cell = np.where(here[..., None], pixels, ghost)
    return np.where(border[..., None], OUTLINE, cell).astype(np.uint8)


def main(arguments: list[str]) -> None:
    kept = run()
    file = Path(arguments[0])
    file.parent.mkdir(parents=True, exist_ok=True)
    draw(kept).save(file, optimize=True)
    print(f"{kept.cached.sum()} of {kept.cached.size} tokens in the cache, {kept.read.sum()} read at step {STEP}")
    print(f"{kept.cached.size} tokens, {kept.answer!r}")


if __name__ == "__main__":
    main(sys.argv[1:])
