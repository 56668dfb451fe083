"""dycoke bench engine: the engine against the stock generate."""
