"""One module per provider: build it, say whether it is warm, keep it warm."""
