"""dycoke bench kernels: each Triton kernel against its reference."""
