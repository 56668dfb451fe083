"""Models of the package llava: LLaVA-NeXT's checkpoints, LLaVA-OneVision and LLaVA-Video among them."""

from dycoke.moved import names_of

__getattr__ = names_of(__name__, f"{__name__}.adapter")  # of dycoke.adapters.llava
