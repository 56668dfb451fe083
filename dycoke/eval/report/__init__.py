"""Tables, intervals and plots out of the folders of runs."""

from dycoke.moved import names_of

__getattr__ = names_of(__name__, f"{__name__}.command")
