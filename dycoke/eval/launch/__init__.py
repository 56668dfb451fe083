"""Processes of a sweep: workers, ranks, progress, and their end."""
