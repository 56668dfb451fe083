"""Text from and for people: one-line errors, characters a terminal must not obey, YAML that cannot hang."""
