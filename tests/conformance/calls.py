"""Calls that a model of transformers serves, by name: each is to be the same with a method on the model."""

from tests.conformance import cache_calls, forward_calls, generate_calls, model_calls  # noqa: F401  they enter theirs
from tests.conformance.call import CALLS

__all__ = ["CALLS"]
