"""Outputs: every accepted layout is one task, checked against the softmax."""

from __future__ import annotations

import pytest
import torch

from fairprune_plugin.errors import DataError
from fairprune_plugin.fairness.outputs import Outputs, Task

TARGETS = torch.tensor([0, 1, 1, 0, 1, 0])
LOG_ODDS = torch.tensor([-2.0, 0.5, -0.1, 3.0, 1.0, 0.0], dtype=torch.float64)
# Softmax over (a, b) is the sigmoid of b − a, whatever a is.
OFFSET = torch.tensor([1.0, -4.0, 0.3, 2.0, 0.0, 7.0], dtype=torch.float64)
BINARY = {
    "N": LOG_ODDS,
    "N1": LOG_ODDS[:, None],
    "N2": torch.stack([OFFSET, OFFSET + LOG_ODDS], dim=1),
}


def many_classes() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(50, 4, dtype=torch.float64), torch.randint(4, (50,))


@pytest.mark.parametrize("logits", BINARY.values(), ids=BINARY.keys())
@pytest.mark.parametrize("column", [False, True], ids=["targets-N", "targets-N1"])
def test_binary_layouts_are_one_task(logits: torch.Tensor, column: bool) -> None:
    outputs = Outputs.parse(logits, TARGETS[:, None] if column else TARGETS)
    probability = torch.softmax(torch.stack([torch.zeros(6).double(), LOG_ODDS], 1), dim=1)
    assert outputs.num_classes == 2
    assert outputs.logits.shape == outputs.targets.shape == (6,)
    assert outputs.predicted().tolist() == [0, 1, 0, 1, 1, 0]
    torch.testing.assert_close(outputs.probability(1), probability[:, 1])
    torch.testing.assert_close(outputs.probability(0), probability[:, 0])
    torch.testing.assert_close(outputs.probability(None), probability.gather(1, TARGETS[:, None])[:, 0])
    torch.testing.assert_close(outputs.margin(1), LOG_ODDS)
    torch.testing.assert_close(outputs.margin(0), -LOG_ODDS)
    torch.testing.assert_close(outputs.margin(None), LOG_ODDS * (2 * TARGETS - 1))


def test_zero_log_odds_is_class_zero_in_every_layout() -> None:
    for logits in (torch.zeros(3), torch.zeros(3, 1), torch.zeros(3, 2)):
        assert Outputs.parse(logits, torch.zeros(3)).predicted().tolist() == [0, 0, 0]


@pytest.mark.parametrize("cls", [0, 3, None], ids=["class-0", "class-3", "true-class"])
def test_multi_class_against_softmax_and_argmax(cls: int | None) -> None:
    logits, targets = many_classes()
    outputs = Outputs.parse(logits, targets)
    wanted = targets if cls is None else torch.full_like(targets, cls)
    softmax = logits.exp() / logits.exp().sum(1, keepdim=True)
    assert outputs.num_classes == 4
    torch.testing.assert_close(outputs.probability(cls), softmax[torch.arange(50), wanted])
    # The margin is positive exactly where the class is predicted, and is the distance to the best other class.
    assert torch.equal(outputs.margin(cls) > 0, outputs.predicted() == wanted)
    for i in range(50):
        others = [float(logits[i, c]) for c in range(4) if c != int(wanted[i])]
        assert float(outputs.margin(cls)[i]) == pytest.approx(float(logits[i, wanted[i]]) - max(others))


def test_margin_and_probability_have_finite_gradients() -> None:
    logits, targets = many_classes()
    logits.requires_grad_()
    outputs = Outputs.parse(logits, targets)
    (outputs.margin(None).sum() + outputs.probability(2).sum()).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    # Each margin raises its own class by one and lowers the best other by one.
    margin_gradient = torch.autograd.grad(Outputs.parse(logits, targets).margin(None).sum(), logits)[0]
    assert margin_gradient.sum(1).abs().max() == 0
    assert (margin_gradient.gather(1, targets[:, None]) == 1).all()


@pytest.mark.parametrize(
    "targets",
    [torch.tensor([0.0, 1.0]), torch.tensor([False, True]), torch.tensor([0, 1], dtype=torch.uint8)],
    ids=["float", "bool", "uint8"],
)
def test_whole_numbers_of_any_type_are_class_ids(targets: torch.Tensor) -> None:
    assert Outputs.parse(torch.zeros(2), targets).targets.tolist() == [0, 1]
    assert Outputs.parse(torch.zeros(2), targets).targets.dtype == torch.int64


ERRORS = {
    "logits-not-a-tensor": (None, torch.tensor([0]), r"got NoneType and Tensor: pass model\(x\), or its \.logits$"),
    "logits-in-a-list": ([0.1], torch.tensor([0]), r"got list and Tensor: pick the logits .* out\[0\]$"),
    "logits-in-a-dict": ({}, torch.tensor([0]), r"got dict and Tensor: pick the logits .* out\[\"…\"\]$"),
    "targets-not-a-tensor": (torch.zeros(1), [0], r"got Tensor and list: pass torch\.as_tensor\(y\)$"),
    "neither-a-tensor": ((), [0], r"out\[0\] and pass torch\.as_tensor\(y\)$"),
    "scalar-logits": (torch.tensor(0.3), torch.tensor([0]), "shape"),
    "logits-3d": (torch.zeros(2, 3, 4), torch.tensor([0, 1]), "shape"),
    "empty-batch": (torch.zeros(0, 3), torch.zeros(0), "shape"),
    "no-classes": (torch.zeros(3, 0), torch.zeros(3), "shape"),
    "too-few-targets": (torch.zeros(3), torch.tensor([0, 1]), "expected targets of shape"),
    "labels-for-other-logits": (torch.zeros(3, 3), torch.zeros(3, 2), "expected targets of shape.*multi-label"),
    "soft-labels": (torch.zeros(2, 3), torch.full((2, 3), 0.5), "not whole numbers"),
    "label-class-2": (torch.zeros(2, 3), torch.full((2, 3), 2), r"in \[0, 2\)"),
    "scalar-target": (torch.zeros(1), torch.tensor(1), "expected targets of shape"),
    "binary-target-2": (torch.zeros(2), torch.tensor([0, 2]), r"in \[0, 2\)"),
    "plus-minus-one": (torch.zeros(2), torch.tensor([-1, 1]), r"in \[0, 2\).*number the classes from 0"),
    "class-too-high": (torch.zeros(2, 3), torch.tensor([0, 3]), r"in \[0, 3\).*number of logits must match"),
    "ignore-index": (torch.zeros(2, 3), torch.tensor([0, -100]), r"in \[0, 3\).*Leave samples without a label"),
    "label-to-ignore": (torch.zeros(1, 2), torch.tensor([[1, -100]]), r"in \[0, 2\).*Leave samples without a label"),
    "fraction": (torch.zeros(2), torch.tensor([0.0, 0.5]), "not whole numbers"),
    "nan": (torch.zeros(2), torch.tensor([0.0, float("nan")]), "not whole numbers"),
    "infinite": (torch.zeros(2), torch.tensor([0.0, float("inf")]), "not whole numbers"),
    "other-device": (torch.zeros(2), torch.zeros(2, device="meta"), "meta"),
}


@pytest.mark.parametrize(("logits", "targets", "message"), ERRORS.values(), ids=ERRORS.keys())
def test_unusable_batches_are_refused(logits: torch.Tensor, targets: torch.Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Outputs.parse(logits, targets)


def test_what_the_error_says_of_samples_without_a_label_works() -> None:
    logits, targets = torch.randn(4, 3), torch.tensor([0, -100, 2, 1])
    there = targets >= 0
    outputs = Outputs.parse(logits[there], targets[there])
    ignoring = torch.nn.functional.cross_entropy(logits, targets)
    torch.testing.assert_close(outputs.losses().mean(), ignoring)


class TestLabels:
    """Logits and targets of the same shape (N, L): L binary tasks over the same samples."""

    LOGITS = torch.tensor([[1.0, -2.0, 0.0], [-0.5, 3.0, 0.1]], dtype=torch.float64)
    TARGETS = torch.tensor([[1, 1, 0], [0, 1, 1]])

    def test_every_number_is_that_of_the_binary_task(self) -> None:
        outputs = Outputs.parse(self.LOGITS, self.TARGETS)
        assert (outputs.num_classes, outputs.num_labels, outputs.task) == (2, 3, Task(2, 3))
        assert outputs.predicted().tolist() == [[1, 0, 0], [0, 1, 1]]
        for index in range(3):
            alone = Outputs.parse(self.LOGITS[:, index], self.TARGETS[:, index])
            one = outputs.label(index)
            assert one.task == Task(2)
            for cls in (0, 1, None):
                torch.testing.assert_close(outputs.margin(cls)[:, index], alone.margin(cls))
                torch.testing.assert_close(outputs.probability(cls)[:, index], alone.probability(cls))
                torch.testing.assert_close(one.probability(cls), alone.probability(cls))
        expected = torch.nn.functional.binary_cross_entropy_with_logits(
            self.LOGITS, self.TARGETS.double(), reduction="none"
        )
        torch.testing.assert_close(outputs.losses(), expected.mean(1))

    def test_two_labels_are_not_two_classes(self) -> None:
        assert Outputs.parse(torch.zeros(4, 2), torch.zeros(4, 2)).task == Task(2, 2)
        assert Outputs.parse(torch.zeros(4, 2), torch.zeros(4)).task == Task(2)
        assert Outputs.parse(torch.zeros(4, 1), torch.zeros(4, 1)).task == Task(2)
        assert Outputs.parse(torch.zeros(2, 2), torch.zeros(2)).task == Task(2)

    def test_tasks_read_well(self) -> None:
        assert (str(Task(4)), str(Task(2, 3))) == ("4 classes", "3 labels")


def test_losses_of_classes_are_the_cross_entropy() -> None:
    logits, targets = many_classes()
    expected = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(Outputs.parse(logits, targets).losses(), expected)
    assert torch.isfinite(Outputs.parse(torch.tensor([1e4, -1e4]), torch.tensor([0, 1])).losses()).all()
