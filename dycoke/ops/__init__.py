"""Tensor operations: a plain torch reference each, and a Triton kernel beside it with the same signature."""
