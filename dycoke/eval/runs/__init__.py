"""A run of an experiment and its folder: configuration, samples, scores."""
