"""The decode engine: static shapes and CUDA graphs behind the stock `generate` of a model that carries a method."""
