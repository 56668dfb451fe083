"""The three places where a plan removes visual tokens, the same for every model family."""
