"""Vision towers: SigLIP and CLIP."""
