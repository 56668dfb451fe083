"""Frames of a video as `dycoke ask` reads them; kept under this name for those who import it. See `dycoke.video`."""

from dycoke.video.frames import check_video, read_frames
from dycoke.video.reading import check_count

__all__ = ["check_count", "check_video", "read_frames"]
