"""The command `dycoke`: ask about a video, list the methods, run and report experiments, measure the kernels."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from dycoke.eval.launch.parent_death import PARENT, end_with_parent
from dycoke.lab.command_group import SETTINGS, CommandGroup
from dycoke.lab.interrupts import guarded
from dycoke.text.brief import LINE, shorten
from dycoke.text.visible import visible_line
from dycoke.version import __version__

BAD_INPUT = 2

# Typer's copy of click's base of all errors in a command line, which it does not export.
_CommandLineError = next(cls for cls in typer.BadParameter.__mro__ if cls.__name__ == "ClickException")


class _Commands(CommandGroup):
    """The commands, `bench` among them, which is imported when they are first looked at."""

    @property
    def commands(self) -> dict[str, Any]:
        if "bench" not in self._commands:
            from dycoke.bench.commands import bench

            self._commands["bench"] = typer.main.get_command(bench)
        return self._commands

    @commands.setter
    def commands(self, value: dict[str, Any]) -> None:
        self._commands = dict(value)


app = typer.Typer(
    name="dycoke",
    cls=_Commands,
    context_settings=SETTINGS,
    help="Training-free token compression for video language models.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 2 and one line on stderr for input it cannot take.

    130 or 143 and a line where SIGINT or SIGTERM ended it. Without arguments they are those of this process, which is
    over behind the command; started by a script that names itself in DYCOKE_PARENT, it is ended with the script.
    """
    if arguments is not None:
        return guarded(lambda: _run(arguments))
    if PARENT in os.environ:
        end_with_parent(signal.SIGTERM)
    return guarded(lambda: _run(sys.argv[1:]), last=True)


def _run(arguments: list[str]) -> int:
    """Run the command of these arguments and return its exit code.

    This is the one place where an error becomes a line. Errors that are no ValueError or OSError are bugs and keep
    their traceback, and --traceback keeps it for every error.
    """
    try:
        return app(args=arguments, prog_name="dycoke", standalone_mode=False) or 0
    except typer.Abort:
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # the reader of a pipe has left; Python would complain about it at exit
        return 1
    except _CommandLineError as error:
        message = error.format_message()
        if type(error).__name__ == "NoArgsIsHelpError":  # a group of commands, alone
            print(message)
            return 0
    except (ValueError, OSError) as error:
        if "--traceback" in arguments:
            raise
        message = str(error)
    print(f"dycoke: {shorten(visible_line(message), LINE)}", file=sys.stderr)
    return BAD_INPUT


def _show_version(asked: bool) -> None:
    if asked:
        print(f"dycoke {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where an error comes from.")] = False,
) -> None:
    """Training-free token compression for video language models."""


@app.command()
def ask(
    video: Annotated[str, typer.Argument(help="Video file, folder of its frames, or picture.")],
    question: Annotated[str, typer.Argument(help="What to ask about it.")],
    frames: Annotated[int, typer.Option(help="Frames to read, evenly spaced from the first to the last.")] = 32,
    method: Annotated[
        str | None,
        typer.Option(help="Method, or method and options as in dycoke,k=.3; see `dycoke methods`. [default: dycoke]"),
    ] = None,
    compare: Annotated[
        list[str] | None,
        typer.Option(help="Methods to run side by side, as in full,dycoke or dycoke,k=.3 or plan.yaml; repeatable."),
    ] = None,
    plan: Annotated[str | None, typer.Option(help="YAML file of a method per stage; see docs/guide/plans.md.")] = None,
    k: Annotated[float | None, typer.Option("--k", help="Short for --option k=VALUE.")] = None,
    l: Annotated[int | None, typer.Option("--l", help="Short for --option l=VALUE.")] = None,  # noqa: E741
    p: Annotated[float | None, typer.Option("--p", help="Short for --option p=VALUE.")] = None,
    option: Annotated[list[str] | None, typer.Option(help="Option of the method, name=value; repeatable.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Checkpoint folder or hub repository. [default: nano, the embedded model]")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 128,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    dtype: Annotated[
        str, typer.Option(help="auto (bfloat16 on a GPU, float32 on a CPU), float32, bfloat16 or float16.")
    ] = "auto",
    preprocess: Annotated[
        str,
        typer.Option(
            help="Who resizes frames: exact (the checkpoint's processor, on the CPU), device (torch, where the model "
            "is; the same up to rounding), or auto (device on a GPU, exact on a CPU)."
        ),
    ] = "auto",
    reader: Annotated[
        str, typer.Option(help="Who decodes the video: pyav, or decord or torchcodec where these are installed.")
    ] = "pyav",
    sampling: Annotated[
        str, typer.Option(help="Even steps of frames (index) or of seconds (time), where the frame rate varies.")
    ] = "index",
) -> None:
    """Answer a question about a video and report what it cost."""
    from dycoke.ask.asked import Asked, check_places
    from dycoke.lab.late_torch import put_off_torch

    short = {name: value for name, value in (("k", k), ("l", l), ("p", p)) if value is not None}
    asked = Asked(
        video=video,
        question=question,
        frames=frames,
        method=method,
        compare=compare or [],
        plan=plan,
        short=short,
        options=option or [],
        model=model,
        max_new_tokens=max_new_tokens,
        device=device,
        dtype=dtype,
        preprocess=preprocess,
        reader=reader,
        sampling=sampling,
    )
    check_places(asked)
    progress = Console(stderr=True)
    with progress.status("starting"):  # importing torch takes seconds, and transformers some more
        put_off_torch()
        from dycoke.ask.methods import chosen_methods

        methods = chosen_methods(method, asked.compare, short, asked.options, plan)
        from dycoke.ask.session import ask as run

    run(asked, methods, Console(), progress)


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(help="A method, to read of it alone.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print its page, or the index, in Markdown.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="With --markdown: write the index and every page into this folder.")
    ] = None,
) -> None:
    """List the methods: where each works, what it needs and keeps, its options and how it deviates from its paper."""
    from dycoke.lab.late_torch import put_off_torch

    put_off_torch()
    from dycoke.ask.method_pages import index_page, method_markdown, write_pages
    from dycoke.ask.method_tables import method_page, methods_list

    if out is not None:
        if name is not None or not markdown:
            raise ValueError("--out writes the pages of all methods: give it with --markdown and without a method")
        print(visible_line(f"written to {out}: {len(write_pages(out))} pages"), file=sys.stderr)
    elif markdown:
        print(index_page() if name is None else method_markdown(name), end="")
    else:
        Console().print(methods_list() if name is None else method_page(name))


@app.command()
def sweep(
    experiment: Annotated[str, typer.Argument(help="YAML file, or an experiment of eval_configs/ by name: smoke.")],
    results: Annotated[Path, typer.Option(help="Folder of all results.")] = Path("results"),
    processes: Annotated[
        int | None,
        typer.Option(help="Processes on each machine, instead of the file's; models with a device_map keep to one."),
    ] = None,
    machines: Annotated[int | None, typer.Option(help="Machines that take part; run this on each of them.")] = None,
    machine_rank: Annotated[int, typer.Option(help="Number of this machine, from 0.")] = 0,
    main_address: Annotated[str | None, typer.Option(help="Address of machine 0.")] = None,
    main_port: Annotated[int | None, typer.Option(help="Port that machine 0 listens on.")] = None,
) -> None:
    """Run what is missing of an experiment; interrupted at any point, it goes on from there."""
    from dycoke.lab.late_torch import put_off_torch

    put_off_torch()
    from dycoke.eval.runs.experiment import load_experiment
    from dycoke.eval.runs.shipped import experiment_file

    path, console = experiment_file(experiment), Console(stderr=True)
    with console.status("starting"):
        load_experiment(path)  # before what takes longer to import
        from dycoke.eval.launch.command import Node
        from dycoke.eval.launch.sweep import Scale
        from dycoke.eval.launch.sweep import sweep as run

    run(path, results, Scale(processes, machines, main_port, Node(machine_rank, main_address)), console)


@app.command()
def report(
    experiment: Annotated[
        str, typer.Argument(help="Experiment that was swept: its name, its YAML file, or the folder of its results.")
    ],
    results: Annotated[Path, typer.Option(help="Folder that holds the experiments' folders.")] = Path("results"),
    times: Annotated[bool, typer.Option("--times", help="Print the efficiency table as well.")] = False,
    difference: Annotated[
        tuple[str, str] | None,
        typer.Option(help="Labels of two rows, to print how much more the first scores as well."),
    ] = None,
) -> None:
    """Write an experiment's tables and plots into its folder, and print the main table in Markdown."""
    from dycoke.eval.report.command import write_report

    written = write_report(experiment, results, difference)
    print(written.main, end="")
    if times:
        print(f"\n{written.efficiency}", end="")
    if written.difference is not None:
        print(f"\n{written.difference}", end="")
    for folder in dict.fromkeys(file.parent for file in written.files):
        names = ", ".join(sorted(file.name for file in written.files if file.parent == folder))
        print(visible_line(f"written to {folder}: {names}"), file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
