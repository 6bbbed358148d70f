"""Channels leave for good: whether they may, how they do, and what has to follow."""
