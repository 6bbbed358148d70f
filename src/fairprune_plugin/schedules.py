"""Sparsity schedules for Torch-Pruning's ``iterative_pruning_ratio_scheduler=``: ``(ratio, steps) → list``."""

from .masks.schedule import constant, cubic, linear, lottery_ticket

__all__ = ["constant", "cubic", "linear", "lottery_ticket"]
