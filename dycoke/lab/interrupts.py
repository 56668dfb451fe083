"""Commands that SIGINT (Ctrl-C) and SIGTERM end within a few seconds, whatever they are at, and that say how to go on.

Python runs signal handlers between two of its own steps, so never while native code decodes or loads. The number of a
signal is therefore written to a pipe as well, at once, and a thread that reads it cuts short what takes too long.
"""

from __future__ import annotations

import atexit
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

GRACE = 2.0  # seconds in which a command may end by itself
SIGNALS = (signal.SIGINT, signal.SIGTERM)
_INSISTS = 0.5  # seconds; a second signal that comes sooner is a copy of the first, as `timeout` sends it
_STOP = 0  # not the number of a signal
_SAID = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


class Interrupted(BaseException):
    """Error raised by SIGINT or SIGTERM. Not a KeyboardInterrupt, which others on its way would handle as their own."""

    def __init__(self, sign: int) -> None:
        super().__init__(sign)
        self.sign = sign


def _begin_again() -> str:
    return "the same command begins anew"


_words: Callable[[], str] = _begin_again
_groups: set[int] = set()  # processes and their groups that are not to outlive this one
_watch: _Watch | None = None


def tell(words: Callable[[], str]) -> None:
    """Set what the command says if it is interrupted from here on: what is done, and how to go on."""
    global _words
    _words = words


@contextmanager
def ended_with(group: int) -> Iterator[None]:
    """Kill a group of processes should this one have to be cut short within the block."""
    _groups.add(group)
    try:
        yield
    finally:
        _groups.discard(group)


def guarded(command: Callable[[], int | None], last: bool = False) -> int:
    """Run a command and return its code, or 130 or 143 and a line on stderr if SIGINT or SIGTERM ended it.

    What does not end in GRACE seconds is cut short, and so is what does not at a second signal. last: nothing comes
    behind the command, and one that did not succeed takes its process along at once.
    A signal that is ignored stays so, and in a thread other than the main one all are left as they are.
    """
    global _watch
    tell(_begin_again)
    if threading.current_thread() is not threading.main_thread() or _watch is not None:
        return command() or 0
    _watch = watch = _Watch()
    try:
        code = watch.run(command)
        if code and last:
            _leave(code)
        return code
    finally:
        watch.stop()


def _leave(code: int) -> NoReturn:
    """End the process with what was registered for its end, and without the seconds that Python takes to tidy up."""
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


class _Watch:
    """Handlers of the signals, and the thread that enforces them. Made by the main thread."""

    def __init__(self) -> None:
        self.sign: int | None = None
        self.raises = True
        self._said = False
        self._reads, self._writes = os.pipe()
        os.set_blocking(self._writes, False)
        self._before = {}
        self._fd_before = signal.set_wakeup_fd(self._writes, warn_on_full_buffer=False)
        for sign in SIGNALS:
            if signal.getsignal(sign) != signal.SIG_IGN:  # as in the background of a shell's script
                self._before[sign] = signal.signal(sign, self._handle)
        self._thread = threading.Thread(target=self._wait, daemon=True)
        self._thread.start()

    def run(self, command: Callable[[], int | None]) -> int:
        """Run a command and return its code, or what it ends with if a signal ended it, having said so."""
        try:
            try:
                return command() or 0
            finally:
                self.raises = False
        except (Interrupted, KeyboardInterrupt) as error:
            sign = getattr(error, "sign", signal.SIGINT)
            self.say(sign)
            return 128 + sign

    def stop(self) -> None:
        """Leave everything as it was."""
        global _watch
        for sign, handler in self._before.items():
            signal.signal(sign, handler)
        signal.set_wakeup_fd(self._fd_before)
        os.write(self._writes, bytes([_STOP]))
        self._thread.join()
        os.close(self._writes)
        os.close(self._reads)
        _watch = None

    def leave_in_child(self) -> None:
        """After a fork: the pipe is the parent's."""
        signal.set_wakeup_fd(-1)
        for sign in self._before:
            signal.signal(sign, signal.default_int_handler if sign == signal.SIGINT else signal.SIG_DFL)

    def say(self, sign: int) -> None:
        """Print what is done and how to go on, once."""
        if self._said:
            return
        self._said = True
        with suppress(OSError, ValueError):  # nobody reads it any more
            newline = "\n" if sys.stderr.isatty() else ""  # behind the terminal's ^C
            print(f"{newline}dycoke: {_SAID[sign]}; {_words()}", file=sys.stderr, flush=True)

    def _handle(self, sign: int, frame: FrameType | None) -> None:
        again, self.sign = self.sign is not None, self.sign or sign
        if self.raises and not again:  # what is being put in order is not to be interrupted once more
            raise Interrupted(sign)

    def _wait(self) -> None:
        first, began = None, 0.0
        while True:
            left = None if first is None else max(began + GRACE - time.monotonic(), 0)
            if not select.select([self._reads], [], [], left)[0]:
                self._cut_short(first)
            for sign in os.read(self._reads, 64):
                if sign == _STOP:
                    return
                if sign not in self._before:
                    continue
                if first is None:
                    first, began = sign, time.monotonic()
                elif time.monotonic() > began + _INSISTS:
                    self._cut_short(first)

    def _cut_short(self, sign: int) -> None:
        """End the process where it stands."""
        for group in tuple(_groups):
            with suppress(OSError):
                os.killpg(group, signal.SIGKILL)
        last = threading.Thread(target=self._leave_terminal, args=(sign,), daemon=True)
        last.start()
        last.join(_INSISTS)  # the main thread may be in the middle of writing, to nobody
        os._exit(128 + sign)

    def _leave_terminal(self, sign: int) -> None:
        with suppress(OSError, ValueError):
            if sys.stderr.isatty():
                sys.stderr.write("\x1b[?25h")  # the cursor, which progress bars hide
            self.say(sign)
            sys.stdout.flush()


def _leave_in_child() -> None:
    global _watch
    if _watch is not None:
        _watch.leave_in_child()
        _watch = None


os.register_at_fork(after_in_child=_leave_in_child)
