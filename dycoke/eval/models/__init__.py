"""What lmms-eval loads: the models with our arguments."""
