"""dycoke bench decode: attention and steps that read part of the KV cache."""
