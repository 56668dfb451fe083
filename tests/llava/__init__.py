"""Tests of the llava package, and builders of tiny checkpoints for all tests."""
