"""Benchmarks: how long an operation takes, against the bytes it has to move."""
