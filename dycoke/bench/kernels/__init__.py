"""dycoke bench kernels: each Triton kernel against its reference."""

from dycoke.moved import names_of

__getattr__ = names_of(__name__, f"{__name__}.run")
