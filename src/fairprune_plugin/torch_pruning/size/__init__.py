"""How large a model is under a mask, and how much of it may stay."""
