"""Processes of a sweep, from start to end, and the lock on the folder that one sweep works in at a time."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from dycoke.lab.interrupts import ended_with

LOCK = ".lock"
_LOOK_EVERY = 0.5  # seconds
_PATIENCE = 5  # seconds that the processes of a sweep that was killed have to be gone
_END = 3  # seconds after which a process that was killed is left to the kernel


@contextmanager
def held(home: Path) -> Iterator[int]:
    """Hold an experiment's folder for one sweep; what its processes inherit, so that they hold it as well.

    A sweep that was killed may leave processes that take a moment to go; they are waited for.
    Raises ValueError if others still hold it then.
    """
    home.mkdir(parents=True, exist_ok=True)
    with (home / LOCK).open("w") as lock:
        until = time.monotonic() + _PATIENCE
        while not _locked(lock):
            if time.monotonic() > until:
                raise ValueError(f"{home}: another sweep is at work there; wait for it, or stop it")
            time.sleep(_LOOK_EVERY)
        yield lock.fileno()


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def run(
    line: Sequence[str], more: Mapping[str, str], output: IO[str], holds: Sequence[int], look: Callable[[], None]
) -> int:
    """Run a command to its end and return its exit code; `look` is called every now and then.

    more: of its environment, beside this one's; holds: descriptors it inherits. However this ends, so does the
    command, with all it has started.
    """
    process = subprocess.Popen(
        line,
        env=os.environ | more,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        pass_fds=holds,
    )
    with ended_with(process.pid):
        try:
            while not _over(process):
                look()
            look()
            return process.returncode
        finally:
            _end(process)


def _over(process: subprocess.Popen) -> bool:
    try:
        process.wait(_LOOK_EVERY)
    except subprocess.TimeoutExpired:
        return False
    return True


def _end(process: subprocess.Popen) -> None:
    """Kill a process and its group at once: what it has written by then is whole, or is known not to be."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(_END)
    except (ProcessLookupError, subprocess.TimeoutExpired):
        return
