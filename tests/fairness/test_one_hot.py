"""One-hot classes are pointed out on the first batch, once; labels are not taken for them."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fairprune_plugin.errors import DataError, FairPruneWarning
from fairprune_plugin.fairness.constraints import AccuracyParity
from fairprune_plugin.fairness.lagrangian import Lagrangian

N = 32
LOGITS = torch.randn(N, 3, generator=torch.Generator().manual_seed(0))
ONE_HOT = F.one_hot(torch.arange(N) % 3, 3)
S = torch.arange(N) % 2


@pytest.mark.parametrize("constraint", [None, AccuracyParity(0.1)])
@pytest.mark.parametrize("dtype", [torch.long, torch.float32])
def test_said_once_and_read_as_labels(constraint: AccuracyParity | None, dtype: torch.dtype) -> None:
    lagrangian, targets = Lagrangian(constraint), ONE_HOT.to(dtype)
    with pytest.warns(FairPruneWarning, match=r"exactly one of 3 labels.*pass class ids, y\.argmax\(1\)"):
        loss = lagrangian.loss(LOGITS, targets, S)
    torch.testing.assert_close(loss, F.binary_cross_entropy_with_logits(LOGITS, ONE_HOT.float()))
    lagrangian.loss(LOGITS, targets, S)  # warnings are errors here


@pytest.mark.parametrize("case", ["labels", "few samples", "class ids", "not counted", "known from all the data"])
def test_nothing_is_said(case: str) -> None:
    lagrangian = Lagrangian(AccuracyParity(0.1))
    logits, targets, s = LOGITS, ONE_HOT.clone(), S
    if case == "labels":
        targets[5, :] = 1
    elif case == "few samples":
        logits, targets, s = LOGITS[:8], targets[:8], S[:8]
    elif case == "class ids":
        targets = targets.argmax(1)
    lagrangian.knows_targets = case == "known from all the data"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lagrangian.loss(logits, targets, s, count=case != "not counted")


@pytest.mark.parametrize("targets", [ONE_HOT, ONE_HOT.float()])
def test_a_loss_over_classes_contradicts_them(targets: torch.Tensor) -> None:
    lagrangian = Lagrangian(AccuracyParity(0.1), task_loss=nn.CrossEntropyLoss())
    with pytest.raises(DataError, match=r"is over classes, but targets \(32, 3\) mean 3 labels: .*BCEWithLogitsLoss"):
        lagrangian.loss(LOGITS, targets, S)
    loss = lagrangian.loss(LOGITS, targets.argmax(1), S)
    torch.testing.assert_close(loss, F.cross_entropy(LOGITS, targets.argmax(1)))
