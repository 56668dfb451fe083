"""Evaluation: lmms-eval models, experiments, their cost and their reports."""
