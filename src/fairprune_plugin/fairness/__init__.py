"""Fairness: what is asked (constraints), what is measured (rates, counts) and what it costs (Lagrangian)."""
