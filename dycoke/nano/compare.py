"""Accuracy and coverage of compressors at equal budgets, on clips that waste tokens or lack them.

    python -m dycoke.nano.compare --methods dycoke_adaptive,dycoke,random_drop,uniform_frames --keep 0.5,0.25,0.1
        [--clips native,brief,held,noisy] [--videos 12] [--start 6000] [--json FILE]

Every question that a clip's frames answer is asked alone, in its first wording, by forced decoding as `scoring` does
it, on drawn frames in fp32 on the CPU. `dycoke` gets the K whose ideal retention is `keep`, and no row under 25 %,
which K = 1 leaves.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dycoke.families.chat import load_chat, placement
from dycoke.lab.interrupts import guarded
from dycoke.lab.record import circumstances, write_record
from dycoke.nano import MODEL_PATH, augment
from dycoke.nano.batches import IGNORE, Chat, evaluation_scenes, make_rows
from dycoke.nano.generator import FRAME, TICKS, Question, clip_questions, render, stories
from dycoke.nano.scoring import Tally, add, refuse_needs, shares
from dycoke.nano.step import NanoStep
from dycoke.nano.views import CLIP_GRID, NATIVE, even_ticks, spacing
from dycoke.registry import build, entry
from dycoke.types import Compressed, Compressor, VisualTokens

NEAR = 4
"""Frames to either side in which `coverage` looks for a kept token."""
_HELD = 8
_SENSOR_NOISE = 0.1


def _native() -> Tensor:
    return even_ticks(NATIVE)


def _held() -> Tensor:
    """The video with its first and its last frame standing still for a while."""
    first = torch.zeros(_HELD, dtype=torch.int64)
    return torch.cat([first, _native(), first + TICKS - 1])


CLIPS: dict[str, Callable[[], Tensor]] = {
    "native": _native,
    "brief": lambda: _native()[::2],  # what two frames show elsewhere, one shows here
    "held": _held,
    "noisy": _native,
}
"""The ticks that each clip shows, int64 [F]."""


def at_keep(name: str, keep: float) -> Compressor | None:
    """Compressor of the method that leaves a share `keep`, None where it cannot.

    Raises ValueError for a method that has no such stage, sets no share, or needs more than tokens.
    """
    options = entry(name).options
    if "before" not in entry(name).stages or not {"keep", "k"} & set(options):
        raise ValueError(f"{name}: expected a method before the language model that has an option keep or k")
    if "keep" not in options and keep < 0.25:
        return None
    before = build(name, **({"keep": keep} if "keep" in options else {"k": (1 - keep) / 0.75})).plan().before
    refuse_needs(before)
    return before


@torch.inference_mode()
def videos(step: NanoStep, clip: str, count: int, start: int) -> Iterator[tuple[VisualTokens, list[Question]]]:
    """Visual tokens of `count` evaluation scenes from number `start` on, and the questions that their frames answer."""
    ticks = CLIPS[clip]()[None]
    (widest,) = spacing(ticks)
    for number in range(start, start + count):
        scene = evaluation_scenes(1, number)
        pixels = augment.to_unit(render(scene, ticks, FRAME).pixels)
        if clip == "noisy":
            pixels = pixels + _SENSOR_NOISE * torch.randn(pixels.shape, generator=torch.Generator().manual_seed(number))
        tokens, _ = step.visual_tokens(augment.normalise(augment.to_bytes(pixels)), CLIP_GRID)
        asked = [question for question in clip_questions(stories(scene)[0]) if question.spacing >= widest]
        yield VisualTokens(tokens[0], (CLIP_GRID, CLIP_GRID)), asked


@torch.inference_mode()
def right_answers(step: NanoStep, chat: Chat, visual: Tensor, questions: list[Question]) -> list[bool]:
    """Mask of the questions about the tokens [M, D] answered right; they share a pass, unseen by each other."""
    model = step.model.get_model()
    length = max(sum(map(len, chat.turn(question, True))) for question in questions)
    rows = make_rows([[question] for question in questions], chat, length)
    seen = torch.cat([model.embed_tokens(step.prefix)[0], visual, model.image_newline.view(1, -1)])
    total = len(seen) + rows.ids.numel()
    row = torch.arange(total).sub(len(seen)).div(length, rounding_mode="floor").clamp_min(-1)  # -1: what all see
    mask = torch.ones(total, total, dtype=torch.bool).tril() & ((row[:, None] == row) | (row == -1))
    places = torch.arange(length).repeat(len(questions)) + len(seen)
    hidden = model(
        inputs_embeds=torch.cat([seen, model.embed_tokens(rows.ids).flatten(0, 1)])[None],
        attention_mask=mask[None, None],
        position_ids=torch.cat([torch.arange(len(seen)), places])[None],
        use_cache=False,
    ).last_hidden_state[0, len(seen) :]
    # a row's first token is asked, never answered, so each answer is predicted within its row
    said = step.model.lm_head(hidden).argmax(-1).view(rows.ids.shape)[:, :-1]
    labels = rows.labels[:, 1:]
    return ((said == labels) | (labels == IGNORE)).all(1).tolist()


def coverage(video: VisualTokens, left: Compressed) -> float:
    """Mean, over all tokens, of the best cosine with a kept token at most NEAR frames away; 0 where there is none."""
    frames, per_frame, _ = video.embeds.shape
    cosine = normalize(video.embeds.float().flatten(0, 1), dim=-1) @ normalize(left.embeds.float(), dim=-1).T
    time = torch.arange(frames).repeat_interleave(per_frame)
    near = (time[:, None] - left.index.div(per_frame, rounding_mode="floor")).abs() <= NEAR
    return torch.where(near, cosine, 0.0).amax(1).mean().item()


def compare(names: list[str], keeps: list[float], clips: list[str], count: int, start: int) -> list[dict[str, Any]]:
    """One row for each clip, keep and method that reaches it."""
    loaded = load_chat(str(MODEL_PATH), placement("cpu", "float32"))
    chat = Chat(loaded.tokenizer)
    step = NanoStep(loaded.model, chat.prefix).eval()
    results = []
    for clip in clips:
        asked = list(videos(step, clip, count, start))
        for keep in keeps:
            for name in names:
                before = at_keep(name, keep)
                if before is not None:
                    results.append({"clip": clip, "keep": keep, "method": name, **_row(step, chat, before, asked)})
                    sys.stdout.write(_line(results[-1]))
    return results


def _row(step: NanoStep, chat: Chat, before: Compressor, asked: list) -> dict[str, Any]:
    tally: Tally = {}
    kept, covered = [], []
    for video, questions in asked:
        left = before.compress(video)
        kept.append(len(left.index) / (video.embeds.shape[0] * video.embeds.shape[1]))
        covered.append(coverage(video, left))
        for question, right in zip(questions, right_answers(step, chat, left.embeds, questions), strict=True):
            add(tally, question.task, right)
    right, total = (sum(column) for column in zip(*tally.values(), strict=True))
    return {
        "kept": round(sum(kept) / len(kept), 4),
        "right": right,
        "asked": total,
        "exact_match": shares(tally),
        "coverage": round(sum(covered) / len(covered), 4),
    }


def _line(row: dict[str, Any]) -> str:
    share = 100 * row["right"] / row["asked"]
    return (
        f"{row['clip']:8} keep {row['keep']:<5g} {row['method']:16} kept {row['kept']:.3f}  "
        f"right {share:5.1f} %  coverage {row['coverage']:.4f}\n"
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", default="dycoke_adaptive,dycoke,random_drop,uniform_frames")
    parser.add_argument("--keep", default="0.75,0.5,0.25,0.15,0.1")
    parser.add_argument("--clips", default=",".join(CLIPS), help=f"of {', '.join(CLIPS)}")
    parser.add_argument("--videos", type=int, default=12)
    parser.add_argument("--start", type=int, default=6000, help="number of the first evaluation scene")
    parser.add_argument("--json", type=Path, help="record to write")
    options = parser.parse_args(arguments)
    clips = options.clips.split(",")
    if unknown := sorted(set(clips) - set(CLIPS)):
        parser.error(f"--clips {','.join(unknown)}: expected some of {', '.join(CLIPS)}")
    setting = {"videos": options.videos, "start": options.start, "near": NEAR}
    keeps = [float(keep) for keep in options.keep.split(",")]
    results = compare(options.methods.split(","), keeps, clips, options.videos, options.start)
    if options.json is not None:
        command = shlex.join(["python", "-m", "dycoke.nano.compare", *(arguments or sys.argv[1:])])
        record = {"benchmark": "nano compare", **circumstances(), "command": command, "setting": setting}
        write_record(options.json, record | {"results": results})


if __name__ == "__main__":
    sys.exit(guarded(main, last=True))
