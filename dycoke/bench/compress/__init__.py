"""dycoke bench compress: time and memory of the compressors."""

from dycoke.moved import names_of

__getattr__ = names_of(__name__, f"{__name__}.run")
