"""Timelines: when the frames of a video are shown, and which of them a sampling takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from dycoke.video.reading import INDEX, TIME, check_count, check_sampling

_SAME_MOMENT = 1e-9  # seconds by which sums of floats may differ


@dataclass(frozen=True)
class Timeline:
    """The frames that a video shows, in the order in which it shows them.

    count: how many. times: seconds at which each begins, None where the file does not say. rate: frames per second, as
    the file states it or as its times have it on average; None where neither is known.
    """

    count: int
    times: Sequence[float] | None = None
    rate: float | None = None


# Numbers of the frames to read of a video, never descending; a number may stand there more than once.
Choose = Callable[[Timeline], np.ndarray]


def evenly(count: int, sampling: str = INDEX) -> Choose:
    """`count` frames at even steps, the first and the last one of a video among them.

    sampling="index" counts frames: np.linspace(0, N - 1, count) cut to integers, as lmms-eval's llava_onevision has it,
    whatever the time between them. sampling="time" counts seconds: what is shown at `count` even moments from the
    beginning of the first frame to that of the last, which differs where the frame rate varies. A video of fewer frames
    gives some of them more than once.
    Raises ValueError for a count below 1 and an unknown sampling, and, when it is asked to choose, for sampling="time"
    of a video without times.
    """
    check_count(count)
    check_sampling(sampling)

    def by_index(timeline: Timeline) -> np.ndarray:
        return np.linspace(0, timeline.count - 1, count, dtype=int)

    def by_time(timeline: Timeline) -> np.ndarray:
        if timeline.times is None:
            raise ValueError(f"sampling={TIME!r}: the file does not say when its frames are shown; accepted: {INDEX}")
        times = np.asarray(timeline.times)
        moments = np.linspace(times[0], times[-1], count)
        return np.searchsorted(times, moments + _SAME_MOMENT, side="right") - 1

    return by_index if sampling == INDEX else by_time


def at_rate(fps: float, most: int, always_most: bool = False) -> Choose:
    """Every frame at which another 1 / fps seconds have passed, or `most` even ones where those are more.

    always_most: `most` even ones in any case. As lmms-eval's llava_vid takes them: every round(rate / fps)-th frame, of
    a file that states the rate of its frames. Raises ValueError for fps of 0 or below, and, when it is asked to
    choose, for a video of unknown rate.
    """
    if not fps > 0:
        raise ValueError(f"fps={fps!r}: expected a number above 0")
    even = evenly(most)

    def choose(timeline: Timeline) -> np.ndarray:
        if timeline.rate is None:
            raise ValueError(f"fps={fps!r}: the file does not say how many frames it shows per second")
        stepped = np.arange(0, timeline.count, max(round(timeline.rate / fps), 1))
        return even(timeline) if always_most or len(stepped) > most else stepped

    return choose
