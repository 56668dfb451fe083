"""Answer a question about a video file: read frames, load a model of either family, generate, report."""
