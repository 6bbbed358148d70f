"""Metrics of a run into the tools that show them; each is imported, and needs its package, only when it is used.

A writer is a :class:`~..engine.results.metrics.Metrics` hook: pass it as ``metrics=`` to ``fit`` or to a trainer's callback.
"""
