"""Warnings point at the line of the user's own code, from however deep inside the package they come."""

from __future__ import annotations

import warnings

import torch

from fairprune_plugin import EqualOpportunity, audit, audit_predictions


def test_two_depths_one_line() -> None:
    x, y = torch.randn(8, 3), torch.arange(8) % 2
    s = torch.zeros(8, dtype=torch.long)
    constraint = EqualOpportunity(0.1, groups=2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        audit(torch.nn.Linear(3, 2), [(x, y, s)], constraint)
        audit_predictions(x[:, :2], y, s, constraint)
    assert {warning.filename for warning in caught} == {__file__}
    first = test_two_depths_one_line.__code__.co_firstlineno
    assert {warning.lineno - first for warning in caught if "no sample of 1" in str(warning.message)} == {6, 7}
