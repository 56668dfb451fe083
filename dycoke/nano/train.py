"""Train the embedded model.

    accelerate launch -m dycoke.nano.train --output FOLDER [--steps N] [--until STEP] [--minutes M] [--resume]

Every step draws new scenes on the device from (seed, step); nothing is read from disk and no scene comes twice.
The learning rate is a function of the step alone, so a run cut by --minutes and resumed equals one that was not.
A run may --start-from the weights of another's model; scripts/train_nano.sh makes the shipped one of two.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.utils.data import DataLoader

from dycoke.lab.interrupts import guarded, tell
from dycoke.nano import MODEL_PATH
from dycoke.nano import tokenizer as nano_tokenizer
from dycoke.nano.architecture import SHAPES, build_model, export
from dycoke.nano.batches import Batch, TrainingData
from dycoke.nano.recipe import Recipe
from dycoke.nano.scoring import exact_match, shares
from dycoke.nano.step import NanoStep, draw
from dycoke.registry import build

if TYPE_CHECKING:
    from accelerate import Accelerator

STATE, CURVE, MODEL = "state", "curve.jsonl", "model"
_BEFORE = "state.before"  # for the moment in which a state takes the place of another
_AGREE_EVERY = 10  # steps between two questions of several processes whether to stop


class Trainer:
    """The state of a run: model, optimiser, step; saved to and resumed from `output`/state."""

    def __init__(self, recipe: Recipe, output: Path, accelerator: Accelerator):
        self.recipe, self.output, self.accelerator = recipe, output, accelerator
        self.tokenizer = nano_tokenizer.load(MODEL_PATH)
        processes = accelerator.num_processes
        self.data = TrainingData(self.tokenizer, recipe.seed, recipe.batch, recipe.steps, processes)
        model = build_model(self.tokenizer, SHAPES[recipe.shape], recipe.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            raw = NanoStep(model, self.data.chat.prefix)
        trained = [p for p in raw.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": recipe.weight_decay},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
        ]
        fused = accelerator.device.type == "cuda"
        optimiser = torch.optim.AdamW(groups, lr=recipe.rate, betas=(0.9, 0.98), fused=fused)
        self.module, self.optimiser = accelerator.prepare(raw, optimiser)
        self.step = 0
        accelerator.register_for_checkpointing(self)

    def state_dict(self) -> dict:
        return {"step": self.step, "recipe": asdict(self.recipe), "processes": self.accelerator.num_processes}

    def load_state_dict(self, state: dict) -> None:
        """Raises ValueError if the state belongs to another recipe, or to a run of more or fewer processes."""
        if state["recipe"] != asdict(self.recipe):
            raise ValueError(f"the saved run's recipe is {state['recipe']}, not {asdict(self.recipe)}")
        if state["processes"] != self.accelerator.num_processes:
            raise ValueError(f"processes: the saved run has {state['processes']}, not {self.accelerator.num_processes}")
        self.step = state["step"]

    @property
    def raw(self) -> NanoStep:
        return self.accelerator.unwrap_model(self.module)

    def batches(self, until: int, workers: int) -> DataLoader:
        """The batches still to come up to step `until`, one stream a process."""
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        numbers = range(self.step * world + rank, min(until, self.recipe.steps) * world, world)
        return DataLoader(
            self.data, batch_size=None, sampler=numbers, num_workers=workers, prefetch_factor=8 if workers else None
        )

    def take(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """One optimiser step on a batch; returns the two losses."""
        device = self.accelerator.device
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.rate_at(self.step)
        pixels, wanted = draw(batch, self.recipe.seed, device)
        answers, dense = self.module(pixels, wanted, batch.view, batch.rows.to(device))
        self.optimiser.zero_grad(set_to_none=True)
        self.accelerator.backward(answers + self.recipe.dense_at(self.step) * dense)
        self.accelerator.clip_grad_norm_(self.module.parameters(), self.recipe.clip)
        self.optimiser.step()
        self.step += 1
        return answers.detach(), dense.detach()

    def past(self, deadline: float) -> bool:
        """Whether a process is past the deadline; all get the same answer, or some would wait for one that left."""
        over = time.monotonic() > deadline
        if self.accelerator.num_processes == 1:
            return over
        if self.step % _AGREE_EVERY:
            return False
        votes = self.accelerator.reduce(torch.tensor(float(over), device=self.accelerator.device), "sum")
        return votes.item() > 0

    def save(self) -> None:
        """Write the resumable state, by rename: a kill at any moment leaves a state that is whole."""
        partial, before = self.output / f"{STATE}.partial", self.output / _BEFORE
        if self.accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(partial))
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            if (self.output / STATE).is_dir():
                shutil.rmtree(before, ignore_errors=True)
                (self.output / STATE).rename(before)
            partial.rename(self.output / STATE)
            shutil.rmtree(before, ignore_errors=True)

    def start_from(self, folder: Path) -> None:
        """Take the weights of the model in `folder`. Raises FileNotFoundError if there is none."""
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(f"nothing to start from: no {folder / 'config.json'}")
        loaded = type(self.raw.model).from_pretrained(str(folder), dtype=torch.float32)
        self.raw.model.load_state_dict(loaded.state_dict())

    def resume(self) -> None:
        """Go on from the saved state, which is the one before where a kill came between two renames.

        Raises FileNotFoundError if there is none.
        """
        folder = next((self.output / name for name in (STATE, _BEFORE) if (self.output / name).is_dir()), None)
        if folder is None:
            raise FileNotFoundError(f"nothing to resume: no folder {self.output / STATE}")
        self.accelerator.load_state(str(folder))

    def log(self, record: dict) -> None:
        """Append a line to the curve and show it."""
        if self.accelerator.is_main_process:
            with (self.output / CURVE).open("a") as file:
                file.write(json.dumps(record) + "\n")
            self.accelerator.print(json.dumps(record))

    def evaluate(self, videos: int, k: float = 0.0) -> None:
        """Exact match in the training's precision; with k > 0 under temporal merging, which training never sees."""
        compressor = build("dycoke", k=k).plan().before if k else None
        self.module.eval()
        # compiling once more for a few forward passes without gradients would not pay
        with self.accelerator.autocast(), torch.compiler.set_stance("force_eager"):
            tally = exact_match(self.raw, self.data.chat, videos, self.accelerator.device, compressor)
        self.module.train()
        self.log({"step": self.step, "k": k, "exact_match": shares(tally)})

    def export(self) -> None:
        """Write the model as a bf16 LLaVA-NeXT checkpoint with its tokenizer's files."""
        if not self.accelerator.is_main_process:
            return
        export(self.raw.model, MODEL_PATH, self.output / MODEL)


def train(
    trainer: Trainer,
    until: int,
    minutes: float,
    log_every: int,
    evaluate_every: int,
    videos: int,
    ks: list[float],
    workers: int,
) -> None:
    """Run to the recipe's last step, to step `until` or for `minutes`, whichever is first; save, export, evaluate."""
    begin = time.monotonic()
    trainer.module.train()
    done = trainer.step
    for batch in trainer.batches(until, workers):
        answers, dense = trainer.take(batch)
        if trainer.step % log_every == 0:
            seconds = round(time.monotonic() - begin, 1)
            losses = {"answers": round(answers.item(), 5), "dense": round(dense.item(), 5)}
            trainer.log({"step": trainer.step, "seconds": seconds, **losses})
        if trainer.step % evaluate_every == 0:
            trainer.evaluate(videos)
        if trainer.past(begin + minutes * 60):
            break
    seconds = time.monotonic() - begin
    trainer.log({"step": trainer.step, "ms_per_step": round(1000 * seconds / max(1, trainer.step - done), 2)})
    trainer.save()
    trainer.export()
    for k in (0.0, *ks):
        trainer.evaluate(videos, k)


def main(arguments: list[str] | None = None) -> None:
    from accelerate import Accelerator

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--until", type=int, default=sys.maxsize, help="step to stop at, short of the recipe's last")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after so many minutes, and save")
    parser.add_argument("--start-from", type=Path, help="folder of a model whose weights a new run begins with")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--log-every", type=int, default=100)
    parser.add_argument("--evaluate-every", type=int, default=2000)
    parser.add_argument("--videos", type=int, default=64, help="evaluation videos")
    parser.add_argument(
        "--k",
        type=float,
        nargs="*",
        default=[0.3, 0.5, 0.7],
        help="values of K for temporal merging, evaluated at the end",
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="fuse the layers (half a minute, then faster)")
    parser.add_argument("--precision", choices=("no", "bf16"), default="bf16")
    for name, value in asdict(Recipe()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    options = parser.parse_args(arguments)
    if options.until < 1:
        parser.error(f"--until {options.until}: expected at least 1")
    recipe = Recipe(**{name: getattr(options, name) for name in asdict(Recipe())})
    options.output.mkdir(parents=True, exist_ok=True)
    torch.set_float32_matmul_precision("high")
    # its plans are made anew for every length, which takes longer than the attention itself
    torch.backends.cuda.enable_cudnn_sdp(False)
    trainer = Trainer(recipe, options.output, Accelerator(mixed_precision=options.precision))
    tell(lambda: f"stopped at step {trainer.step}; with --resume it goes on from what {options.output / STATE} holds")
    if options.compile:
        trainer.raw.compile()
    if options.resume:
        trainer.resume()
    elif options.start_from is not None:
        trainer.start_from(options.start_from)
    trainer.log({"step": trainer.step, "recipe": asdict(recipe), "processes": trainer.accelerator.num_processes})
    train(
        trainer,
        options.until,
        options.minutes,
        options.log_every,
        options.evaluate_every,
        options.videos,
        options.k,
        options.workers,
    )


if __name__ == "__main__":
    sys.exit(guarded(main, last=True))
