"""Processes that end with the one that started them, so that none works on behind a sweep that was killed.

    python dycoke/eval/launch/parent_death.py MODULE ARGUMENTS

runs a module in that way. It is run as a file: -m would import the packages around it first, and with them torch,
which takes seconds in which the parent can end unnoticed.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys
import threading
import time

PARENT = "DYCOKE_PARENT"  # what names the parent's process id in the environment of those it starts
_PR_SET_PDEATHSIG = 1
_LOOK_EVERY = 0.5  # seconds, where the kernel does not tell


def end_with_parent(sign: int = signal.SIGKILL) -> None:
    """Have this process get a signal when its parent ends, however it ends; at once if it has ended already.

    The parent is the process that DYCOKE_PARENT names, which is taken out of the environment, or else the one there is
    now. A process whose parent is the one it was told of has a parent that lives: an orphan's new parent lived beside
    the old one, and so has another id. The kernel tells on Linux; elsewhere a thread looks.
    Raises ValueError if DYCOKE_PARENT is not a number.
    """
    named = os.environ.pop(PARENT, None)
    if named is not None and not named.isdecimal():
        raise ValueError(f"{PARENT}={named!r}: expected a process id")
    parent = os.getppid() if named is None else int(named)
    told = _told_by_kernel(sign)
    if os.getppid() != parent:  # it ended before the kernel was told
        print(f"process {parent}, which started this one, has ended, and so does this one", file=sys.stderr, flush=True)
        os.kill(os.getpid(), sign)
    elif not told:
        threading.Thread(target=_look, args=(parent, sign), daemon=True).start()


def _told_by_kernel(sign: int) -> bool:
    """Ask Linux for a signal when the thread that started this process ends; False where it does not do that."""
    return sys.platform == "linux" and ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(sign)) == 0


def _look(parent: int, sign: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_EVERY)
    os.kill(os.getpid(), sign)


def main() -> None:
    end_with_parent()
    if os.path.abspath(sys.path[0]) == os.path.dirname(os.path.abspath(__file__)):
        sys.path[0] = os.getcwd()  # as -m has it: no module is to find those beside this file by their bare names
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # at once: nothing has to be put in order here
    os.environ[PARENT] = str(os.getpid())  # of those that the module starts in this way
    del sys.argv[0]  # the module is to find its own arguments there
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
