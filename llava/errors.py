"""The error for what LLaVA-NeXT offers and this package refuses."""


class Unsupported(NotImplementedError, ValueError):
    """A feature or model family that is left out on purpose; the message names it and what to use instead."""
