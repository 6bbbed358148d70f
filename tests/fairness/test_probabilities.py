"""Probabilities in place of logits are noticed on the first batch, once; logits are not taken for them."""

from __future__ import annotations

import warnings

import pytest
import torch

from fairprune_plugin.errors import FairPruneWarning
from fairprune_plugin.fairness.constraints import AccuracyParity
from fairprune_plugin.fairness.lagrangian import Lagrangian
from fairprune_plugin.fairness.probabilities import could_be_probabilities

LOGITS = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
Y = torch.arange(64) % 3


@pytest.mark.parametrize(
    ("scores", "targets", "expected"),
    [
        (LOGITS.softmax(1), Y, True),
        (LOGITS.sigmoid(), Y, False),  # in [0, 1], but rows of classes do not sum to 1
        (LOGITS.sigmoid(), (LOGITS > 0).long(), True),  # labels are independent
        (LOGITS[:, 0].sigmoid(), Y % 2, True),
        (LOGITS[:, :1].sigmoid() + 1e-7, Y % 2, True),
        (LOGITS[:, 0], Y % 2, False),
        (LOGITS, Y, False),
        (torch.zeros(64), Y % 2, False),  # a head that starts at zero
    ],
)
def test_what_looks_like_probabilities(scores: torch.Tensor, targets: torch.Tensor, expected: bool) -> None:
    assert could_be_probabilities(scores, targets) is expected


def test_the_first_batch_warns_and_no_other() -> None:
    lagrangian = Lagrangian(AccuracyParity(0.1))
    batch = LOGITS[:, 0].sigmoid().requires_grad_(), Y % 2, torch.arange(64) % 2
    with pytest.warns(FairPruneWarning, match="remove the sigmoid or softmax"):
        lagrangian.loss(*batch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lagrangian.loss(*batch)
        Lagrangian(AccuracyParity(0.1)).loss(LOGITS[:, 0].requires_grad_(), Y % 2, torch.arange(64) % 2)
