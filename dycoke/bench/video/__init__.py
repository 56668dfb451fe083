"""dycoke bench video: readers of video frames against each other."""

from dycoke.moved import names_of

__getattr__ = names_of(__name__, f"{__name__}.run")
