"""The commands under `dycoke bench`: their options, and nothing that takes long to import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from dycoke.lab.command_group import CommandGroup
from dycoke.text.visible import visible_line

bench = typer.Typer(
    cls=CommandGroup,
    help="Benchmarks of single operations and of whole answers.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


@bench.command()
def compress(
    frames: Annotated[int | None, typer.Option(help="Frames T. [default: 32; 8 without a GPU]")] = None,
    tokens: Annotated[int | None, typer.Option(help="Tokens per frame N. [default: 196; 49 without a GPU]")] = None,
    dim: Annotated[int | None, typer.Option(help="Width D. [default: 3584; 256 without a GPU]")] = None,
    k: Annotated[
        float | None,
        typer.Option("--k", help="Share removed from every compared frame, in [0, 1]. [default: dycoke's]"),
    ] = None,
    dtype: Annotated[str, typer.Option(help="bfloat16, float16 or float32.")] = "bfloat16",
    repeat: Annotated[int, typer.Option(help="Timed runs of each version.")] = 50,
    warm_up: Annotated[
        float | None, typer.Option(help="Seconds of work ahead of the methods. [default: 40; 0 without a GPU]")
    ] = None,
    methods: Annotated[
        str | None, typer.Option(help="Methods to time, such as dycoke,full; none to skip. [default: all]")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write the record to this file.")] = None,
) -> None:
    """Time temporal merging, torch and on a GPU Triton, and the compress of every method before the language model."""
    from dycoke.bench.compress.methods import chosen_names
    from dycoke.bench.compress.run import Setting, run

    setting = Setting.chosen(frames, tokens, dim, k, dtype, repeat, warm_up)
    run(setting, chosen_names(methods), json, Console())


@bench.command()
def decode(
    shape: Annotated[str | None, typer.Option(help="7b, 0.5b or tiny. [default: 7b; tiny without a GPU]")] = None,
    batch: Annotated[int | None, typer.Option(help="Rows of the attention part. [default: 64; 2 without]")] = None,
    frames: Annotated[int | None, typer.Option(help="Frames T. [default: 32; 4 without a GPU]")] = None,
    tokens: Annotated[int | None, typer.Option(help="Tokens per frame N. [default: 196; 16 without a GPU]")] = None,
    k: Annotated[
        float | None,
        typer.Option("--k", help="Share removed from every compared frame, in [0, 1]. [default: dycoke's]"),
    ] = None,
    l: Annotated[  # noqa: E741
        int | None, typer.Option("--l", help="First layer that reads less, from 1. [default: dycoke's]")
    ] = None,
    p: Annotated[
        float | None,
        typer.Option("--p", help="Share of the visual tokens it does not read, in [0, 1). [default: dycoke's]"),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="bfloat16, float16 or float32. [default: bfloat16; float32 without a GPU]")
    ] = None,
    rounds: Annotated[int, typer.Option(help="Rounds, for the spread of a ratio.")] = 5,
    repeat: Annotated[int, typer.Option(help="Timed runs of each version per round.")] = 20,
    warm_up: Annotated[float | None, typer.Option(help="Seconds of work ahead. [default: 40; 0 without a GPU]")] = None,
    part: Annotated[
        list[str] | None, typer.Option(help="step, attention or memory; repeatable. [default: all]")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write the record to this file.")] = None,
) -> None:
    """Time a decode step with dynamic pruning against one without, and measure the memory of its cache."""
    from dycoke.bench.decode.run import run
    from dycoke.bench.decode.setting import Setting

    sizes = {"shape": shape, "batch": batch, "frames": frames, "tokens": tokens, "dtype": dtype, "warm_up": warm_up}
    parts = {"parts": tuple(part)} if part else {}
    run(Setting.chosen(**sizes, k=k, l=l, p=p, rounds=rounds, repeat=repeat, **parts), json, Console())


@bench.command()
def kernels(
    shape: Annotated[str | None, typer.Option(help="7b, 0.5b, 72b or tiny. [default: 7b; tiny without a GPU]")] = None,
    batch: Annotated[
        list[int] | None, typer.Option(help="Rows; repeatable. [default: 1, 16 and 64; 1 and 2 without a GPU]")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="bfloat16, float16 or float32. [default: bfloat16; float32 without a GPU]")
    ] = None,
    repeat: Annotated[int, typer.Option(help="Timed runs of each version.")] = 30,
    tune: Annotated[bool, typer.Option("--tune", help="Time candidate plans; print the best five.")] = False,
    json: Annotated[Path | None, typer.Option(help="Write the record to this file.")] = None,
) -> None:
    """Time the linear layers of a decode step against torch's, one by one and in turn."""
    from dycoke.bench.kernels.run import run
    from dycoke.bench.kernels.setting import Setting

    batches = tuple(batch) if batch else None
    setting = Setting.chosen(shape=shape, batches=batches, dtype=dtype, repeat=repeat, tune=tune)
    run(setting, json, Console())


@bench.command()
def engine(
    shape: Annotated[
        str | None, typer.Option(help="7b, 0.5b, 72b, small or tiny. [default: 7b; tiny without a GPU]")
    ] = None,
    frames: Annotated[int | None, typer.Option(help="Frames T. [default: 32; 4 without a GPU]")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="bfloat16, float16 or float32. [default: bfloat16; float32 without a GPU]")
    ] = None,
    k: Annotated[float | None, typer.Option("--k", help="K of dycoke, in [0, 1]. [default: its own]")] = None,
    l: Annotated[int | None, typer.Option("--l", help="L of dycoke, from 1. [default: its own]")] = None,  # noqa: E741
    p: Annotated[float | None, typer.Option("--p", help="P of dycoke, in [0, 1). [default: its own]")] = None,
    answer: Annotated[
        int | None, typer.Option(help="Tokens of an answer, and steady ones of decode. [default: 64; 6 without a GPU]")
    ] = None,
    versions: Annotated[
        str | None,
        typer.Option(
            help="What to compare. [default: stock_eager,stock_sdpa,stock_static_graph,engine_full,engine_dycoke]"
        ),
    ] = None,
    methods: Annotated[str | None, typer.Option(help="More methods in our engine, such as fastv,visionzip.")] = None,
    batches: Annotated[
        str | None, typer.Option(help="Rows of the batch part. [default: 1,4,16,64; 1,2 without a GPU]")
    ] = None,
    clips: Annotated[
        str | None, typer.Option(help="Frames of the memory part. [default: 8,16,32,48,64; 4,8 without a GPU]")
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds, in turn. [default: 5; 2 without a GPU]")] = None,
    warm_up: Annotated[float | None, typer.Option(help="Seconds of work ahead. [default: 40; 0 without a GPU]")] = None,
    device_map: Annotated[str, typer.Option(help="auto spreads the model over all GPUs.")] = "none",
    part: Annotated[
        list[str] | None,
        typer.Option(help="decode, first_token, answer, batch, memory or parity; repeatable. [default: all]"),
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write the record to this file.")] = None,
) -> None:
    """Time whole answers about a video: stock transformers and our engine, side by side and stage by stage."""
    from dycoke.bench.engine.run import run
    from dycoke.bench.engine.setting import Setting, names, numbers

    sizes = {"shape": shape, "frames": frames, "dtype": dtype, "answer": answer, "rounds": rounds, "warm_up": warm_up}
    lists = {
        "versions": names(versions),
        "batches": numbers("batches", batches),
        "clips": numbers("clips", clips),
        "parts": tuple(part) if part else None,
    }
    run(Setting.chosen(methods, **sizes, **lists, k=k, l=l, p=p, device_map=device_map), json, Console())


@bench.command()
def video(
    clips: Annotated[str, typer.Option(help="Files to make and read: some of 720p, 1080p, 4k, two_hours, tiny.")] = (
        "720p,1080p,4k,two_hours"
    ),
    frames: Annotated[str, typer.Option(help="Numbers of frames to read of each.")] = "8,32,64",
    readers: Annotated[
        str | None, typer.Option(help="pyav, decord, torchcodec, ffmpeg (the command). [default: all that are there]")
    ] = None,
    times: Annotated[int, typer.Option(help="Timed runs of each in a round.")] = 3,
    rounds: Annotated[int, typer.Option(help="Rounds in which all take turns.")] = 2,
    json: Annotated[Path | None, typer.Option(help="Write the record to this file.")] = None,
) -> None:
    """Time reading frames of video files, and its peak memory: ours, other readers and the ffmpeg command."""
    from dycoke.bench.engine.setting import names, numbers
    from dycoke.bench.video.run import Setting, run

    asked = names(clips) or (), numbers("frames", frames) or (), names(readers) or ()
    run(Setting.chosen(*asked, times, rounds), json, Console())


@bench.command()
def plot(
    records: Annotated[list[Path], typer.Argument(help="Records of `dycoke bench engine`.")],
    out: Annotated[Path, typer.Option(help="Folder for the plots.")] = Path("plots"),
) -> None:
    """Draw records of the engine: milliseconds by stage, tokens per second against rows, memory against frames."""
    from dycoke.bench.engine.plots import draw

    for path in draw(records, out):
        print(visible_line(str(path)))
