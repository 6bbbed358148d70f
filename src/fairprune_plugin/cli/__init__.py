"""The command ``fairprune``."""

from .main import main

__all__ = ["main"]
