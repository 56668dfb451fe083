"""Start processes by a server: what it is asked, which processes that can be, and whose children they are."""

from __future__ import annotations

import atexit
import ctypes
import functools
import inspect
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dycoke.eval.launch import parent_death

ROOT = Path(__file__).resolve().parents[2]
TITLE = "warm"
ROOM = "." * 4000  # an argument of the server, in whose place its children write their command lines
MESSAGE = 1 << 17  # bytes; a request is smaller
MOST_FDS = 16

_PLAIN = ("args", "cwd", "env", "stdin", "stdout", "stderr", "text", "encoding", "errors", "universal_newlines")
_OPTIONS = {*_PLAIN, "bufsize", "start_new_session"}
# What Python, torch, transformers and matplotlib read once, as they are imported.
_READ_ONCE = ("PYTHON", "LD_", "OMP_", "TRITON_", "HF_", "TRANSFORMERS_", "CUDA_VISIBLE", "XDG_", "MPL", "HOME", "LANG")
_NOT_ONCE = {"PYTHONPATH", "PYTHONUNBUFFERED", "HF_HOME"}  # which a warm process has as it is told
_ENDS = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER

_signature = inspect.signature(subprocess.Popen._execute_child)
_cold = subprocess.Popen._execute_child


class Server:
    """The near end of a server, which forks itself as often as it is asked to."""

    def __init__(self, channel: socket.socket, environment: Mapping[str, str]) -> None:
        self._channel, self._lock, self._owner = channel, threading.Lock(), os.getpid()
        self._environment = dict(environment)

    def takes(self, environment: Mapping[str, str]) -> bool:
        """Whether a fork can have this environment: what was read at import is as it was then."""
        theirs, ours = map(read_once, (environment, self._environment))
        return os.getpid() == self._owner and "HF_HOME" in environment and theirs == ours

    def execute(self, process: subprocess.Popen, arguments: Sequence[Any], ignored: set[int]) -> None:
        """Do what `Popen._execute_child` does, by a fork. Raises OSError if the server is gone."""
        given = _signature.bind(process, *arguments).arguments
        pipes = [given[name] for name in ("p2cread", "c2pwrite", "errwrite")]
        fds = [number if pipe == -1 else pipe for number, pipe in enumerate(pipes)]
        passed = sorted(set(given["pass_fds"]))
        environment = os.environ if given["env"] is None else given["env"]
        asked = {
            "line": [os.fspath(word) for word in given["args"]],
            "folder": os.path.realpath(given["cwd"] or os.getcwd()),
            "environment": dict(environment),
            "session": given["start_new_session"],
            "ignored": sorted(ignored),
            "parent": os.getpid(),
            "passed": passed,
        }
        with self._lock:
            process.pid = self._ask(json.dumps(asked).encode(), [*fds, *passed])
        process._child_created = True
        process._close_pipe_fds(*(given[end] for end in _ENDS))

    def _ask(self, request: bytes, fds: list[int]) -> int:
        """The id of a new child of this process: an orphan of the server's, of whom this process takes charge."""
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_SUBREAPER, 1, 0, 0, 0)
        try:
            socket.send_fds(self._channel, [request], fds)
            said = self._channel.recv(64)
        finally:
            libc.prctl(_SUBREAPER, 0, 0, 0, 0)
        if not said:
            raise OSError("the server of warm processes has ended")
        return int(said)


def read_once(environment: Mapping[str, str]) -> dict[str, str]:
    """The part of an environment that imports have read."""
    return {key: text for key, text in environment.items() if key.startswith(_READ_ONCE) and key not in _NOT_ONCE}


def ignored() -> set[int]:
    """Signals that this process ignores and a child goes on to ignore, as behind `exec`."""
    restored = {signal.SIGPIPE, signal.SIGXFSZ}
    return {sign for sign in signal.valid_signals() - restored if signal.getsignal(sign) == signal.SIG_IGN}


def module_of(line: Sequence[str]) -> list[str] | None:
    """MODULE ARGUMENTS of `python [-u] -m MODULE ARGUMENTS`, -m or the file that ends with its parent; else None."""
    words = [os.fspath(word) for word in line]
    if len(words) < 3 or words[0] != sys.executable:
        return None
    rest = words[2:] if words[1] == "-u" else words[1:]  # as accelerate starts its processes
    if rest[0] == parent_death.__file__:
        return [parent_death.__name__, *rest[1:]]
    return rest[1:] if rest[0] == "-m" and len(rest) > 1 else None


def can_be_warm(line: Any, options: Mapping[str, Any]) -> bool:
    """Whether a process can be forked: a module of Python, no GPU, nothing that was to be set before it started."""
    environment = options.get("env") or os.environ
    return (
        sys.platform == "linux"
        and not isinstance(line, str | bytes)
        and module_of(line) is not None
        and _OPTIONS.issuperset(options)
        and os.path.isdir(options.get("cwd") or ".")
        and server().takes(environment)
    )


@functools.cache
def server() -> Server:
    """The server of this process, which starts with the first that is asked for and ends with this process."""
    home = tempfile.mkdtemp(prefix="dycoke-warm-")
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    environment = os.environ | {"HF_HOME": home, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with far:
        line = [sys.executable, "-m", "tests.warm.server", str(far.fileno()), ROOM]
        process = subprocess.Popen(line, cwd=ROOT, env=environment, pass_fds=[far.fileno()], stdin=subprocess.DEVNULL)
    atexit.register(process.wait)
    atexit.register(near.close)
    return Server(near, environment)


def start_warm_from_here(channel: socket.socket) -> None:
    """Have `subprocess`, whoever imports it, fork what it starts from the server at the other end of a channel."""
    own = Server(channel, os.environ)

    def execute(process: subprocess.Popen, *arguments: Any) -> None:
        given = _signature.bind(process, *arguments).arguments
        set_before = given["preexec_fn"], given["shell"], given["gid"], given["gids"], given["uid"]
        plain = not any(set_before) and given["umask"] < 0 and given.get("process_group", -1) in (-1, None)
        line, options = given["args"], {"env": given["env"], "cwd": given["cwd"]}
        if plain and given["executable"] is None and can_be_warm(line, options):
            own.execute(process, arguments, ignored())
        else:
            _cold(process, *arguments)

    subprocess.Popen._execute_child = execute
    globals()["server"] = lambda: own
