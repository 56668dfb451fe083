"""`dycoke bench video`: frames out of files, by every reader that is installed and by the ffmpeg command."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from dycoke.bench.video.clips import CLIPS, Clip
from dycoke.bench.video.process import COMMAND
from dycoke.lab.record import circumstances, installed, write_record
from dycoke.video.decode import cores
from dycoke.video.reading import PYAV, READERS, check_reader

ALL = ("720p", "1080p", "4k", "two_hours")
_LONGEST = 600  # seconds that one reader may take for one file
_PACKAGES = ("av", "decord", "torchcodec", "numpy")


@dataclass(frozen=True)
class Setting:
    """What is read: clips by name, numbers of frames, by whom; each process reads `times` times, in `rounds` rounds."""

    clips: tuple[str, ...] = ALL
    frames: tuple[int, ...] = (8, 32, 64)
    readers: tuple[str, ...] = (*READERS, COMMAND)
    times: int = 3
    rounds: int = 2

    @classmethod
    def chosen(
        cls, clips: Sequence[str], frames: Sequence[int], readers: Sequence[str], times: int, rounds: int
    ) -> Setting:
        """A setting; no readers: all that are installed. Raises ValueError for unknown ones."""
        unknown = [name for name in clips if name not in CLIPS]
        if unknown:
            raise ValueError(f"clips {', '.join(unknown)}: expected some of {', '.join(CLIPS)}")
        for reader in readers:
            if reader == COMMAND and shutil.which(COMMAND) is None:
                raise ValueError(f"readers: this machine has no command {COMMAND}; leave it out, or install it")
            if reader != COMMAND:
                check_reader(reader)
        if min((*frames, times, rounds), default=0) < 1:
            raise ValueError("frames, times and rounds: expected integers of at least 1")
        found = tuple(readers) or tuple(_there())
        return cls(tuple(clips), tuple(frames), found, times, rounds)


def _there() -> Iterator[str]:
    for reader in READERS:
        try:
            check_reader(reader)
        except ValueError:
            continue
        yield reader
    if shutil.which(COMMAND) is not None:
        yield COMMAND


def run(setting: Setting, json_file: Path | None, out: Console) -> None:
    """Make the clips, have each read by everyone in turn, print a table per clip and, where asked, write the record."""
    if json_file is not None and not json_file.parent.is_dir():
        raise ValueError(f"--json {json_file}: no folder {json_file.parent}")
    record: dict[str, Any] = {"benchmark": "video", **circumstances(cpu=True), "setting": asdict(setting)}
    record["versions"] |= {name: installed(name) for name in _PACKAGES} | {COMMAND: _version()}
    record |= {"cores": cores(), "complete": False, "clips": []}
    try:
        with tempfile.TemporaryDirectory(prefix="dycoke-video-") as folder:
            for name in setting.clips:
                record["clips"].append(_measured(CLIPS[name], setting, Path(folder), out))
        record["complete"] = True
    finally:
        if json_file is not None:
            write_record(json_file, record)


def _measured(clip: Clip, setting: Setting, folder: Path, out: Console) -> dict[str, Any]:
    path = clip.write(folder)
    size = path.stat().st_size
    _line(out, f"{clip.name}: {clip.width}x{clip.height}, {clip.frames} frames, {size / 1e6:.1f} MB")
    found: dict[str, Any] = {**asdict(clip), "bytes": size, "results": []}
    for count in setting.frames:
        results = {reader: [] for reader in setting.readers}
        for _ in range(setting.rounds):
            for reader, rounds in results.items():
                rounds.append(_read(reader, path, count, clip.frames, setting.times))
        rows = [_row(reader, count, rounds) for reader, rounds in results.items()]
        fastest = min((row["median_s"] for row in rows if row["right"]), default=None)
        for row in rows:
            row["of_fastest"] = None if fastest is None or row["median_s"] is None else row["median_s"] / fastest
            _line(out, _told(row))
        found["results"] += rows
    path.unlink()
    return found


def _read(reader: str, path: Path, count: int, total: int, times: int) -> dict[str, Any]:
    line = [sys.executable, "-m", "dycoke.bench.video.process", reader, str(path), str(count), str(total), str(times)]
    try:
        done = subprocess.run(line, capture_output=True, text=True, timeout=_LONGEST)
    except subprocess.TimeoutExpired:
        return {"failed": f"nothing within {_LONGEST} s"}
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def _row(reader: str, count: int, rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    failed = next((each["failed"] for each in rounds if "failed" in each), None)
    seconds = [] if failed else [second for each in rounds for second in each["seconds"]]
    middle = median(seconds) if seconds else None
    return {
        "reader": reader,
        "frames": count,
        "median_s": middle,
        "seconds": [round(second, 5) for second in seconds],
        "frames_per_s": count / middle if middle else None,
        "peak_bytes": max((each["peak_bytes"] for each in rounds), default=None) if seconds else None,
        "right": bool(seconds) and all(each["right"] for each in rounds),
        "failed": failed,
    }


def _told(row: dict[str, Any]) -> str:
    name = f"  {row['frames']:>3} frames  {row['reader'] + (' (ours)' if row['reader'] == PYAV else ''):<12}"
    if row["failed"]:
        return f"{name}  {row['failed']}"
    spread = f"{min(row['seconds']):.3f} to {max(row['seconds']):.3f}"
    figures = f"{row['median_s']:8.3f} s ({spread})  {row['frames_per_s']:8.1f} frames/s  "
    ratio = "-" if row["of_fastest"] is None else f"{row['of_fastest']:.2f}x"
    right = "" if row["right"] else "  other frames than asked for"
    return f"{name}{figures}{ratio:>6}  {row['peak_bytes'] / 2**20:7.0f} MiB{right}"


def _version() -> str | None:
    if shutil.which(COMMAND) is None:
        return None
    done = subprocess.run([COMMAND, "-version"], capture_output=True, text=True)
    return done.stdout.split()[2] if done.returncode == 0 else None


def _line(out: Console, text: str) -> None:
    out.print(text, markup=False, highlight=False, soft_wrap=True)
