"""transformers' LlavaOnevisionForConditionalGeneration."""
