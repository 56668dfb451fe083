"""Peak resident set of this process, where Linux lets a process reset it."""

from __future__ import annotations

from pathlib import Path

_CLEAR_REFS = Path("/proc/self/clear_refs")


def reset_resident_peak() -> None:
    """Reset the process's peak resident set ("5" is the kernel's word for it); nothing happens where it can't be."""
    try:
        _CLEAR_REFS.write_text("5")
    except OSError:
        return


def resident_peak(pid: int | None = None) -> int | None:
    """Peak resident set in bytes of this process since the last reset, or of another one; None off Linux."""
    try:
        lines = Path(f"/proc/{pid or 'self'}/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)
