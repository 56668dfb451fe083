"""Processes of Python that start warm: forks of one that has imported torch, transformers and lmms-eval already.

    from tests import warm

    process = warm.Popen([sys.executable, "-m", "dycoke.cli", "sweep", file], cwd=folder, env=environment)
    done = warm.run([sys.executable, "-m", "lmms_eval", *arguments], env=environment, capture_output=True, text=True)

They take what `subprocess.Popen` and `subprocess.run` take, and give what those give. What starts is a process like any
other: a child of the one that started it, with its own id, command line, environment, folder, session, signals and exit
code; if it ends, or is killed, nothing of it stays. What it starts itself by `python -m` is warm, too. It saves the
15 CPU seconds that imports take. Anything else than `python [-u] -m MODULE ARGUMENTS`, and what asks for a GPU or for
something else that a fork cannot have any more (see `can_be_warm`), starts cold: by `subprocess`, as does everything
with `cold=True`. Neither ignores SIGINT, even if a shell that runs the tests in the background does.

A warm process has a child of its own beside those it starts, named `warm`, from which those are forked. It dies with
it. One test of each kind of command starts cold, so that what the imports do is tested, too.
"""

from __future__ import annotations

import signal
import subprocess
from typing import Any

from tests.warm import starting


def _interruptible() -> None:
    """A shell that runs the tests in the background has them, and what they start, ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Popen(subprocess.Popen):
    """A process, warm where that can be. cold: start it by `subprocess` in any case."""

    def __init__(self, line: list[str], *, cold: bool = False, **options: Any) -> None:
        self._server = None if cold or not starting.can_be_warm(line, options) else starting.server()
        more = {"preexec_fn": _interruptible} if self._server is None else {}
        super().__init__(line, **options, **more)

    def _execute_child(self, *arguments: Any) -> None:
        if self._server is None:
            super()._execute_child(*arguments)
        else:
            self._server.execute(self, arguments, ignored=starting.ignored() - {signal.SIGINT})


def run(
    line: list[str],
    *,
    cold: bool = False,
    capture_output: bool = False,
    timeout: float = 600,
    **options: Any,
) -> subprocess.CompletedProcess:
    """Run a process to its end, as `subprocess.run` does; if it does not end in time, it is killed."""
    pipes = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE) if capture_output else {}
    with Popen(line, cold=cold, **pipes, **options) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(line, process.returncode, out, err)
