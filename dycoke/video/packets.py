"""Frame times of a video stream, read off its packets without decoding any."""

from __future__ import annotations

import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

import av

from dycoke.video.timeline import Timeline


def demuxed(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.Packet]:
    """Packets of a stream, and an empty one behind the last.

    Raises InvalidDataError where damage lets a stream appear midway, at which PyAV's own `demux` raises IndexError.
    """
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except IndexError as error:
            code = av.error.tag_to_code(b"INDA")
            raise av.error.InvalidDataError(code, "another stream begins midway") from error
        yield packet


@dataclass(frozen=True)
class Packets:
    """Presentation times (pts, in units of the stream) of the packets of one video stream.

    shown: of those that are to be shown, in the order of their times, None where a packet has none; that is a forecast,
    which decoding proves or not. keys: those that decoding can begin at, ascending. ordered: whether every packet has a
    time of its own, without which none can be found again by its time.
    """

    shown: tuple[int | None, ...]
    keys: tuple[int, ...]
    ordered: bool

    @classmethod
    def of(cls, container: av.container.InputContainer, stream: av.VideoStream) -> Packets:
        """Read all packets of the stream. What a player drops by the container's own word (edit lists) is not shown."""
        shown, keys = [], []
        for packet in demuxed(container, stream):
            if packet.size == 0:  # the end of the stream
                continue
            if not packet.is_discard:
                shown.append(packet.pts)
            if packet.is_keyframe and packet.pts is not None:
                keys.append(packet.pts)
        if None in shown:
            return cls(tuple(shown), (), False)
        shown.sort()
        ordered = all(one < other for one, other in itertools.pairwise(shown))
        return cls(tuple(shown), tuple(sorted(keys)), ordered)

    def key_before(self, place: int) -> int | None:
        """Time of the latest packet that decoding can begin at to show frame number `place`."""
        at = bisect_right(self.keys, self.shown[place])
        return self.keys[at - 1] if at else None

    def place_of(self, time: int) -> int:
        """Number of the first frame that is shown at this time or later."""
        return bisect_left(self.shown, time)


def timeline_of(shown: tuple[int | None, ...], stream: av.VideoStream) -> Timeline:
    """Timeline of frames with these presentation times."""
    rate = None if stream.average_rate is None else float(stream.average_rate)
    ascending = None not in shown and all(one <= other for one, other in itertools.pairwise(shown))
    if not ascending or stream.time_base is None:
        return Timeline(len(shown), None, rate or None)
    times = [float((time - shown[0]) * stream.time_base) for time in shown]
    if not rate and len(times) > 1 and times[-1] > 0:
        rate = (len(times) - 1) / times[-1]
    return Timeline(len(times), times, rate or None)
