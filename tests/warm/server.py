"""The server of warm processes: imports once, then forks itself for each process that it is asked to start.

python -m tests.warm.server FD ROOM      requests come through the socket FD; ROOM is there to be written over
"""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import gc
import importlib
import json
import os
import random
import runpy
import signal
import socket
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from dycoke.eval.launch.parent_death import PARENT, end_with_parent
from tests.warm import starting

# Run by their names: imported for what they import, then forgotten, since each runs anew as __main__.
ENTRIES = [
    "dycoke.cli",
    "dycoke.eval.launch.worker",
    "dycoke.nano.evaluate",
    "lmms_eval.__main__",
    "accelerate.commands.launch",
    "torch.distributed.run",
]
IMPORTS = [
    "dycoke.eval.runs.evaluate",
    "dycoke.eval.models.llava_onevision",
    "dycoke.eval.models.llava_vid",
    "dycoke.eval.models.dycoke_hf",
    "dycoke.eval.launch.sweep",
    "dycoke.eval.report.command",
    "matplotlib.pyplot",
    "decord",
    "av",
]

_imported: dict[str, ModuleType] = {}
_interrupted: list[bool] = []
_homes: list[tuple[str, str]] = []  # (module, name) of the strings and paths that came of HF_HOME


@dataclass(frozen=True)
class Request:
    """What a process is to be; parent: the id of the one that asks for it; passed: descriptors it is to have."""

    line: list[str]
    folder: str
    environment: dict[str, str]
    session: bool
    ignored: list[int]
    parent: int
    passed: list[int]


def warm_up() -> None:
    for name in (*IMPORTS, *ENTRIES):
        try:
            importlib.import_module(name)
        except ImportError:  # an optional part; who needs it will say so
            continue
    for name in ENTRIES:
        sys.modules.pop(name, None)
        package, _, module = name.rpartition(".")
        vars(sys.modules.get(package, sys)).pop(module, None)
    for name, module in list(sys.modules.items()):
        for key, value in list(getattr(module, "__dict__", {}).items()):
            if isinstance(value, str | Path) and str(value).startswith(os.environ["HF_HOME"]):
                _homes.append((name, key))
    _imported.update(sys.modules)
    atexit.register(_end)  # before all others, so that it runs behind them
    gc.collect()
    gc.freeze()


def _end() -> None:
    """End by SIGINT where that was not handled, as `python -m` does.

    Otherwise Python is not to take apart what was imported here: that takes longer than many a process lives.
    """
    if _interrupted:
        sys.stdout.flush()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(_imported))
    for name in _imported.keys() - sys.stdlib_module_names:
        sys.modules.pop(name, None)


def serve(channel: socket.socket) -> tuple[Request, list[int]] | None:
    """Fork for each request. Returns in the new process, with what it is to be; None when nobody can ask any more."""
    while True:
        message, fds, *_ = socket.recv_fds(channel, starting.MESSAGE, starting.MOST_FDS)
        if not message:
            return None
        request = Request(**json.loads(message))
        between = os.fork()
        if between == 0:
            if os.fork():
                os._exit(0)  # so that the child of this one goes to who has asked for it
            _wait_for(request.parent)
            if request.session:
                os.setsid()
            channel.send(str(os.getpid()).encode())
            channel.close()
            return request, fds
        os.waitpid(between, 0)
        for fd in fds:
            os.close(fd)


def _wait_for(parent: int) -> None:
    """Wait until this process is the child of that one."""
    between = os.getppid()
    while (now := os.getppid()) not in (parent, 1):  # asked once a turn: it may change between two questions
        if now != between:
            os._exit(1)  # who asked has ended meanwhile
        time.sleep(0.0005)


def become(request: Request, fds: list[int]) -> list[str]:
    """Make this process what it is to be. Returns its module and arguments."""
    numbers = [0, 1, 2, *request.passed]
    apart = [fcntl.fcntl(fd, fcntl.F_DUPFD, max(numbers) + 1) for fd in fds]  # none where another is to be
    for fd in fds:
        os.close(fd)
    for number, fd in zip(numbers, apart, strict=True):
        os.dup2(fd, number)
        os.close(fd)
    os.chdir(request.folder)
    _move_home(os.environ["HF_HOME"], request.environment["HF_HOME"])
    _search_in(request.folder, os.environ.get("PYTHONPATH", ""), request.environment.get("PYTHONPATH", ""))
    os.environ.clear()
    os.environ.update(request.environment)
    for sign in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(sign, signal.SIG_IGN if sign in request.ignored else signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    if signal.SIGINT not in request.ignored:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if "-u" in request.line[:2] or request.environment.get("PYTHONUNBUFFERED"):
        sys.stdout.reconfigure(write_through=True)
    tempfile.tempdir = None
    random.seed()
    sys.modules["numpy"].random.seed()
    sys.orig_argv[:] = request.line
    set_title(request.line)
    return starting.module_of(request.line)


def _move_home(old: str, new: str) -> None:
    """Put one folder for another in what modules have made of HF_HOME as they were imported."""
    for name, key in _homes:
        value = vars(_imported[name])[key]
        vars(_imported[name])[key] = type(value)(new + str(value)[len(old) :])


def _search_in(folder: str, old: str, new: str) -> None:
    """Set sys.path to what `python -m` would, with another folder and PYTHONPATH."""
    before, after = (list(filter(None, text.split(os.pathsep))) for text in (old, new))
    sys.path[: 1 + len(before)] = [folder, *after]
    importlib.invalidate_caches()


def set_title(line: list[str]) -> None:
    """Show a command line in /proc/PID/cmdline, cut to the room there is."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])  # arg_start, arg_end
    text = b"\0".join(map(os.fsencode, line))[: end - start - 1]
    ctypes.memmove(start, text.ljust(end - start, b"\0"), end - start)


def own_server() -> Any:
    """Leave a fork of this process, as it is now, for what it will start. Returns, in it, as `serve` does."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork():
        far.close()
        near.recv(1)  # it is ready
        starting.start_warm_from_here(near)
        return None
    os.environ.pop(PARENT, None)  # that of the process which this one is a fork of
    end_with_parent()
    near.close()
    for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(sign, signal.SIG_IGN)
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(nothing, number)
    os.close(nothing)
    set_title([starting.TITLE])
    far.send(b".")
    return serve(far) or os._exit(0)


def main() -> None:
    end_with_parent()
    set_title([starting.TITLE])
    channel = socket.socket(fileno=int(sys.argv[1]))
    warm_up()
    asked = serve(channel)
    while asked is not None:
        module, *arguments = become(*asked)
        asked = own_server()
        if asked is None:
            sys.argv[:] = ["-m", *arguments]
            try:
                runpy.run_module(module, run_name="__main__", alter_sys=True)
            except KeyboardInterrupt:
                _interrupted.append(True)
                raise


if __name__ == "__main__":
    main()
