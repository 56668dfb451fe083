"""SIGINT and SIGTERM end a command in seconds, whatever it is at, and it says how to go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dycoke import cli
from dycoke.lab import interrupts

INT, TERM = signal.SIGINT, signal.SIGTERM
# By its file: the package around it takes seconds to import.
LOADED = f"""
import ctypes, importlib.util, os, signal, sys, threading, time
spec = importlib.util.spec_from_file_location("interrupts", {str(Path(interrupts.__file__).resolve())!r})
interrupts = importlib.util.module_from_spec(spec)
spec.loader.exec_module(interrupts)
libc = ctypes.CDLL(None)
lock = ctypes.create_string_buffer(64)

def native():  # code that comes back to Python never again
    libc.pthread_mutex_lock(lock)
    libc.pthread_mutex_lock(lock)

def command():
    interrupts.GRACE = 1
    interrupts.tell(lambda: "5 of 12 runs complete; the same command goes on")
    print("at work", flush=True)
"""
GUARDED = "\nsys.exit(interrupts.guarded(command, last=True))"
AT_WORK = {
    "python": "    time.sleep(60)",
    "native": "    native()",
    "swallows": "    while True:\n        try: time.sleep(60)\n        except BaseException: pass",
    "native, tidying up": "    try: time.sleep(60)\n    finally: native()",
    "a thread that stays": "    threading.Thread(target=time.sleep, args=(60,)).start()\n    time.sleep(60)",
    "writes to nobody": "    while True: print('x' * 10000)",
}
LINE = "{}; 5 of 12 runs complete; the same command goes on\n"


def started(body: str) -> subprocess.Popen:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    line = [sys.executable, "-c", LOADED + body + GUARDED]
    heeding = {"preexec_fn": lambda: signal.signal(INT, signal.SIG_DFL)}  # a shell's background has it ignored
    process = subprocess.Popen(line, **pipes, **heeding)
    assert process.stdout.readline() == "at work\n"
    return process


def told(process: subprocess.Popen, *signs: signal.Signals, apart: float = 0) -> tuple[int, str, float]:
    """Exit code, what it said, and the seconds it took from the first of the signals on."""
    time.sleep(0.1)
    began = time.monotonic()
    for sign in signs:
        process.send_signal(sign)
        time.sleep(apart)
    process.wait(20)
    took = time.monotonic() - began
    said = process.stderr.read()
    process.stdout.close()
    process.stderr.close()
    return process.returncode, said, took


@pytest.mark.parametrize("body", AT_WORK.values(), ids=AT_WORK)
def test_a_command_ends_in_seconds_and_says_how_to_go_on(body):
    code, said, took = told(started(body), INT)
    assert (code, said) == (130, f"dycoke: {LINE.format('interrupted')}")
    assert took + interrupts.GRACE < 5 + 1  # which the script has shortened to 1


def test_it_heeds_sigterm_as_it_does_sigint():
    assert told(started("    time.sleep(60)"), TERM)[:2] == (143, f"dycoke: {LINE.format('terminated')}")


def test_what_has_to_be_put_in_order_is_and_a_copy_of_the_signal_does_not_disturb():
    """`timeout` sends its signal to a process, and then to the group it is in."""
    body = """    import atexit
    atexit.register(print, "put away", file=sys.stderr)
    try: time.sleep(60)
    finally:
        time.sleep(.6)
        print("in order", file=sys.stderr)"""
    assert told(started(body), TERM, TERM)[:2] == (143, f"in order\ndycoke: {LINE.format('terminated')}put away\n")


def test_a_second_signal_ends_it_at_once():
    code, said, took = told(started("    interrupts.GRACE = 60\n    native()"), INT, INT, apart=0.8)
    assert (code, said) == (130, f"dycoke: {LINE.format('interrupted')}") and took < 5


def test_what_it_has_started_ends_with_it_where_it_is_cut_short():
    body = """    import subprocess
    child = subprocess.Popen(["sleep", "61"], start_new_session=True)
    with interrupts.ended_with(child.pid):
        print(child.pid, file=sys.stderr, flush=True)
        native()"""
    process = started(body)
    child = int(process.stderr.readline())
    assert told(process, TERM)[0] == 143
    with pytest.raises(ProcessLookupError):
        for _ in range(200):
            os.kill(child, 0)
            time.sleep(0.01)


def test_a_child_that_is_ended_does_not_end_its_parent():
    """Workers that load data are forked, and ended by a signal."""
    body = """    child = os.fork()
    if not child: time.sleep(60)
    time.sleep(.2)
    os.kill(child, signal.SIGTERM)
    status = os.waitpid(child, 0)[1]
    time.sleep(interrupts.GRACE + .5)
    print(status, file=sys.stderr)"""
    assert told(started(body))[:2] == (0, f"{int(TERM)}\n")


def test_one_that_fails_ends_its_process_with_what_it_said():
    body = "    print('out', flush=False); print('sorry', file=sys.stderr); return 2"
    process = started(body)
    process.wait(20)
    with process.stdout, process.stderr:  # by the stream that has read ahead, which `communicate` passes by
        assert (process.returncode, process.stdout.read(), process.stderr.read()) == (2, "out\n", "sorry\n")


def test_a_signal_that_is_ignored_stays_ignored():
    body = "    pass\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nold = command\ndef command(): old(); time.sleep(1)"
    assert told(started(body), INT)[:2] == (0, "")


def test_behind_a_command_all_is_as_it_was():
    handlers = [signal.getsignal(sign) for sign in (INT, TERM)]
    assert interrupts.guarded(lambda: None) == 0
    assert interrupts.guarded(lambda: os.kill(os.getpid(), TERM) or time.sleep(30)) == 143
    with pytest.raises(ZeroDivisionError):
        interrupts.guarded(lambda: 1 // 0)
    assert [signal.getsignal(sign) for sign in (INT, TERM)] == handlers
    assert signal.set_wakeup_fd(-1) == -1


def test_dycoke_says_that_it_was_interrupted(monkeypatch, capsys):
    monkeypatch.setattr("dycoke.ask.method_pages.available", lambda: os.kill(os.getpid(), INT) or time.sleep(30))
    assert cli.main(["methods", "--markdown"]) == 130
    assert capsys.readouterr().err.strip() == "dycoke: interrupted; the same command begins anew"
