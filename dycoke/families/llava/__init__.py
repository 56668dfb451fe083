"""Models of the package llava: LLaVA-NeXT's checkpoints, LLaVA-OneVision and LLaVA-Video among them."""
