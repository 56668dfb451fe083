"""Two small functions that tutorials and launch scripts import."""

import logging
import os

logger = logging.getLogger("llava")


def disable_torch_init() -> None:
    """Do nothing: weights are built on the meta device, so there is no initialisation to skip."""


def rank0_print(*args: object) -> None:
    """Log a message at INFO level on the first process of a launch only."""
    if int(os.environ.get("RANK", "0")) == 0:
        logger.info(" ".join(str(arg) for arg in args))
