"""``fit``: the whole run in one call, with its checkpoints and its end."""
