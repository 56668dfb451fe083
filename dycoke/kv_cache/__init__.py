"""The KV cache of a request: keys and values of the prompt and the answer, and what a decode step reads of them."""
