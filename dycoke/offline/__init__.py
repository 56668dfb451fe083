"""Answers to prepared requests: one, or many in batches."""
