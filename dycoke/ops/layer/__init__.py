"""Operations of a transformer layer of one new token, and of the choice of the next token."""
