"""Provenance of a figure: the command, the commit, the versions and the machine."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

_ROOT = Path(__file__).resolve().parents[2]
_NUMBERS = re.compile(r"\[\n[^][{}\"]*\]")  # a list of numbers, one a line; a text has no line break in JSON


def circumstances(cpu: bool = False) -> dict[str, Any]:
    """Command, commit, whether files differ from it, versions and the device as `device` tells it.

    DYCOKE_COMMIT names the commit on a machine that got a copy of the files, whose own history, if any, is another.
    """
    named = os.environ.get("DYCOKE_COMMIT")
    commit = named or _git("rev-parse", "--verify", "HEAD")
    status = _git("status", "--porcelain", "--untracked-files=no") if commit and not named else None
    return {
        "command": shlex.join(["dycoke", *sys.argv[1:]]),
        "commit": commit,
        "modified": None if status is None else bool(status),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "triton": installed("triton"),
            "cuda": torch.version.cuda,
        },
        "device": device(cpu),
    }


def device(cpu: bool = False) -> str:
    """The GPU, or the processor where there is none; cpu: where it is not used either."""
    return f"CPU ({platform.machine()})" if cpu or not torch.cuda.is_available() else torch.cuda.get_device_name()


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write a record as JSON, a list of numbers on a line, by rename: a file that exists is complete."""
    text = _NUMBERS.sub(lambda found: f"[{' '.join(found[0][1:-1].split())}]", json.dumps(record, indent=2))
    write_text(path, text + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text by rename: a file that exists is complete, also after a power loss."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to be written within the block, which then takes the place of `path`; nothing is left of one that fails.

    Raises OSError, naming `path`, where the disk is full.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with named(path):
            yield partial
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Give an OSError that names no file, as that of a full disk, the name of this one."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(_ROOT), *arguments], capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def installed(package: str) -> str | None:
    """The version of a package, None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
