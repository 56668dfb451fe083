"""Operations of a decode step that reads part of the KV cache."""
