"""The supported language models."""
