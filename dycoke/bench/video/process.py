"""One reader, one file, in a process of its own, so that its memory can be told from that of others.

    python -m dycoke.bench.video.process READER FILE FRAMES TOTAL TIMES

FRAMES of the file's TOTAL frames at even places are read TIMES times; the last line printed is what that took, as JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dycoke.bench.video.clips import CLIPS, number_of
from dycoke.report.peak_memory import reset_resident_peak, resident_peak
from dycoke.video.frames import read_frames
from dycoke.video.reading import check_reader

COMMAND = "ffmpeg"  # the command, beside the readers


def by_command(path: Path, places: list[int], width: int, height: int, peaks: list[int]) -> np.ndarray:
    """Frames [T, H, W, 3] uint8 that the ffmpeg command shows at these places; its bytes go to `peaks`."""
    chosen = "+".join(f"eq(n\\,{place})" for place in places)
    line = ["ffmpeg", "-v", "error", "-nostdin", "-i", str(path), "-vf", f"select='{chosen}'"]
    line += ["-fps_mode", "passthrough", "-pix_fmt", "rgb24", "-f", "rawvideo", "-"]
    process = subprocess.Popen(line, stdout=subprocess.PIPE)
    watch = threading.Thread(target=_watch, args=(process, peaks))
    watch.start()
    output, _ = process.communicate()
    watch.join()
    if process.returncode:
        raise RuntimeError(f"the ffmpeg command ended with code {process.returncode}")
    return np.frombuffer(output, np.uint8).reshape(-1, height, width, 3)


def _watch(process: subprocess.Popen, peaks: list[int]) -> None:
    """Note the resident set of a process while it runs: the kernel's own count of an ended one begins with ours."""
    while process.poll() is None:
        peaks.append(resident_peak(process.pid) or 0)
        time.sleep(0.005)


def main() -> None:
    reader, file, count, total, times = sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:6])
    clip = CLIPS[file.stem]
    places = np.linspace(0, total - 1, count, dtype=int).tolist()
    peaks: list[int] = []
    if reader == COMMAND:
        read: Callable[[], np.ndarray] = lambda: by_command(file, places, clip.width, clip.height, peaks)  # noqa: E731
    else:
        check_reader(reader)  # imports its package
        read = lambda: read_frames(file, count, reader=reader)  # noqa: E731
    reset_resident_peak()
    before, seconds = resident_peak() or 0, []
    for _ in range(times):
        began = time.perf_counter()
        frames = read()
        seconds.append(time.perf_counter() - began)
    peak = (resident_peak() or 0) - before + max(peaks, default=0)
    numbers = [number_of(frame, frames.shape[2] / clip.width) for frame in frames]
    right = len(frames) == count and numbers == [clip.number(place) for place in places]
    print(json.dumps({"seconds": seconds, "peak_bytes": peak, "right": right}))


if __name__ == "__main__":
    main()
