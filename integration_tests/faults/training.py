"""A training loop of the user's own: bad batches, numbers that are not finite, and calls in the wrong order."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from driving import SGD, SmallMLP
from fairprune_plugin import DegradationParity, EqualOpportunity
from fairprune_plugin.errors import (
    ConfigError,
    DataError,
    FairPruneWarning,
    NonFiniteError,
    StaleOptimizerError,
    TrainingStateError,
)

from .case import GOES_ON, STEPS, UNTOUCHED, Left, Overflowing, Scene, in_section


def trained(steps: int) -> Any:
    """Some steps were taken before."""
    return lambda scene: scene.train(steps)


# ---- batches ------------------------------------------------------------------------------------------------

add = in_section("Batches in a loop of one's own", GOES_ON)
for what, says, change in (
    (
        "a group that was never declared",
        "group id 2 of the sensitive attribute was never declared",
        lambda x, y, s: (x, y, s + 1),
    ),
    ("a negative group id", "group id -1", lambda x, y, s: (x, y, s - 1)),
    ("NaN among the group ids", "has NaN or infinite ids", lambda x, y, s: (x, y, s / 0)),
    ("fractions as group ids", "got fractions", lambda x, y, s: (x, y, s / 2)),
    ("complex group ids", "got dtype torch.complex64", lambda x, y, s: (x, y, s.to(torch.complex64))),
    ("a group id beyond 64 bits", "group ids that fit 64 bits", lambda x, y, s: (x, y, [10**30] * 16)),
    ("a sensitive attribute too short", "one group id per sample, got (15,)", lambda x, y, s: (x, y, s[1:])),
    ("a group name that was never declared", "group 'other'", lambda x, y, s: (x, y, ["other"] * 16)),
    ("no sensitive attribute", "needs the sensitive attribute", lambda x, y, s: (x, y, None)),
    ("groups on another device", "on meta: move the batch", lambda x, y, s: (x, y, s.to("meta"))),
    ("targets on another device", "targets on meta", lambda x, y, s: (x, y.to("meta"), s)),
    ("a class beyond the logits", "the number of logits must match", lambda x, y, s: (x, y + 1, s)),
    ("targets too short", "expected targets of shape (16,)", lambda x, y, s: (x, y[1:], s)),
    ("soft targets", "not whole numbers", lambda x, y, s: (x, y * 0.5, s)),
    ("NaN among the targets", "not whole numbers (or NaN)", lambda x, y, s: (x, y / 0, s)),
    ("complex targets", "torch.complex64", lambda x, y, s: (x, y.to(torch.complex64), s)),
    ("targets as a list", "got Tensor and list", lambda x, y, s: (x, y.tolist(), s)),
    (
        "whole numbers as logits",
        "logits as floating-point numbers",
        lambda x, y, s: (torch.ones(16, 2, dtype=torch.long), y, s),
    ),
    ("logits per pixel", "expected logits of shape (N,)", lambda x, y, s: (torch.randn(16, 2, 4, 4), y, s)),
    ("a batch without samples", "expected logits of shape (N,)", lambda x, y, s: (torch.randn(0, 2), y[:0], s[:0])),
):
    add(what, DataError, says, lambda scene, change=change: scene.loss(change), prepare=trained(3))
add(
    "logits of another number of classes than before",
    TrainingStateError,
    "the logits have 3 classes now and had 2",
    lambda scene: scene.loss(lambda x, y, s: (torch.randn(16, 3), y, s)),
    prepare=trained(3),
)


def _one_hot(x: Tensor, y: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return x, torch.nn.functional.one_hot(y, 2), s


add(
    "one-hot targets after class ids",
    TrainingStateError,
    "of one-hot rows: y.argmax(1)",
    lambda scene: scene.loss(_one_hot),
    prepare=trained(3),
)
add(
    "one-hot targets from the first batch on",
    FairPruneWarning,
    "if these are one-hot classes, pass class ids, y.argmax(1)",
    lambda scene: scene.loss(_one_hot),
    left=Left("they are read as labels of a multi-label task", lambda scene, _: _labels(scene, 2)),
)
add(
    "one-hot targets with CrossEntropyLoss as the task loss",
    DataError,
    "pass class ids, y.argmax(1), or use BCEWithLogitsLoss if they are labels",
    lambda scene: scene.loss(_one_hot),
    prepare=lambda scene: scene.build(task_loss=torch.nn.CrossEntropyLoss()),
)


def _labels(scene: Scene, count: int) -> None:
    assert scene.pruner.lagrangian.trackers[0].task.num_labels == count


add(
    "a task loss that gives one value per sample",
    ConfigError,
    "use reduction='mean'",
    lambda scene: scene.loss(),
    left=UNTOUCHED,
    prepare=lambda scene: scene.build(
        task_loss=lambda out, y: torch.nn.functional.cross_entropy(out, y, reduction="none")
    ),
)
add(
    "a task loss that gives a Python number",
    ConfigError,
    "got float",
    lambda scene: scene.loss(),
    left=UNTOUCHED,
    prepare=lambda scene: scene.build(task_loss=lambda out, y: 1.0),
)


def _rare(scene: Scene) -> None:
    for x, y, s in scene.batches[:4]:
        for kept in (s == 0, s == 1):  # never both groups in one batch
            loss = scene.pruner.loss(scene.model(x[kept]), y[kept], s[kept])
            assert torch.isfinite(loss)


add(
    "batches from which a group is absent",
    None,
    "",
    _rare,
    left=Left("it contributes nothing and keeps its running rate", lambda scene, _: _counted(scene)),
)


def _counted(scene: Scene) -> None:
    assert bool(torch.isfinite(scene.pruner.lagrangian.trackers[0].counts.values()).all())


def _missing(scene: Scene) -> None:
    scene.build(total_steps=40)
    for _ in range(20):
        x, y, s = scene.batches[0]
        scene.pruner.loss(scene.model(x), y, s * 0)


add(
    "a group that does not come for 20 batches",
    FairPruneWarning,
    "after 20 batches no sample was seen",
    _missing,
    left=Left("nothing constrains it, training goes on", lambda *_: None),
)
add(
    "probabilities instead of logits",
    FairPruneWarning,
    "remove the sigmoid or softmax",
    lambda scene: scene.loss(lambda x, y, s: (torch.linspace(0, 1, 16), y, s)),
    left=Left("read as logits, which they are not", lambda *_: None),
)

# ---- not finite ---------------------------------------------------------------------------------------------

add = in_section("Numbers that are not finite", GOES_ON)


def _step_with(scene: Scene, change: Any = lambda x: x, damage: Any = lambda loss: loss) -> None:
    """One step; the mask moves at every second one (``weight_steps_per_mask_step=1``)."""
    x, y, s = scene.batches[0]
    scene.model.train()
    damage(scene.pruner.loss(scene.model(change(x)), y, s)).backward()
    scene.pruner.regularize(scene.model)


def _overflow(scene: Scene) -> None:
    overflowing = Overflowing()
    x, y, s = scene.batches[0]
    scene.model.train()
    scene.pruner.loss(overflowing(scene.model(x)), y, s).backward()
    scene.pruner.regularize(scene.model)


for steps, kind in ((0, "the very first step"), (1, "a mask step"), (2, "a weight step"), (STEPS - 1, "the last step")):
    add(
        f"NaN in the inputs at {kind}",
        NonFiniteError,
        f"the loss became nan at training step {steps}",
        lambda scene: _step_with(scene, lambda x: x * torch.nan),
        prepare=lambda scene, steps=steps: (scene.build(bilevel={"ramp_end": 0.7, "warmup": 0.0}), scene.train(steps)),
    )
    add(
        f"an infinite gradient of a finite loss at {kind}",
        NonFiniteError,
        f"the gradient became NaN or infinite at training step {steps}",
        _overflow,
        prepare=lambda scene, steps=steps: (scene.build(bilevel={"ramp_end": 0.7, "warmup": 0.0}), scene.train(steps)),
    )
add(
    "infinite inputs",
    NonFiniteError,
    "at training step 3",
    lambda scene: _step_with(scene, lambda x: x * torch.inf),
    prepare=trained(3),
)


def _nan_hidden_from_the_task_loss(scene: Scene) -> None:
    x, y, s = scene.batches[0]
    logits = scene.model(x)
    scene.pruner.loss(torch.cat([logits[:1] * torch.nan, logits[1:]]), y, s)


add(
    "NaN in a logit that the task loss of one's own skips",
    NonFiniteError,
    "the loss became nan",
    _nan_hidden_from_the_task_loss,
    prepare=lambda scene: (
        scene.build(task_loss=lambda out, y: torch.nn.functional.cross_entropy(out[1:], y[1:])),
        scene.train(3),
    ),
)


def _large(scene: Scene) -> None:
    _step_with(scene, damage=lambda loss: loss * 1e25)


add(
    "gradients whose squares overflow, at a mask step",
    NonFiniteError,
    "the gradient became NaN or infinite",
    _large,
    prepare=lambda scene: (scene.build(bilevel={"ramp_end": 0.7, "warmup": 0.0}), scene.train(1)),
)

# ---- order of the calls ---------------------------------------------------------------------------------------

add = in_section("Calls in the wrong order", GOES_ON)
add(
    "`regularize` before any loss",
    TrainingStateError,
    "needs fresh gradients",
    lambda scene: scene.pruner.regularize(scene.model),
    prepare=lambda scene: scene.build(),
)
add(
    "`regularize` before `backward`",
    TrainingStateError,
    "before backward() of its loss",
    lambda scene: (scene.loss(), scene.pruner.regularize(scene.model)),
    left=Left("weights and mask are untouched", lambda *_: None),
)
add(
    "`regularize` for another model",
    ConfigError,
    "another model than the pruner was built for",
    lambda scene: scene.pruner.regularize(SmallMLP()),
    prepare=trained(3),
)
add(
    "`step` before the mask is at its target",
    TrainingStateError,
    "step() came after 1 training steps",
    lambda scene: scene.pruner.step(),
    prepare=trained(1),
)
add(
    "`step` twice",
    TrainingStateError,
    "already removed",
    lambda scene: scene.pruner.step(),
    prepare=lambda scene: (scene.train(STEPS), scene.pruner.step()),
    left=UNTOUCHED,
)
add(
    "a training step too many",
    TrainingStateError,
    "all 8 planned training steps are done",
    _step_with,
    prepare=trained(STEPS),
    left=Left("`pruner.step()` removes the channels", lambda scene, _: scene.pruner.step()),
)
add(
    "no word about the length of the run",
    TrainingStateError,
    "pass total_steps=… to the pruner",
    lambda scene: scene.loss(),
    prepare=lambda scene: scene.build(total_steps=None),
    left=UNTOUCHED,
)
add(
    "another length of the run in the middle",
    TrainingStateError,
    "it cannot become 9 now",
    lambda scene: scene.pruner.plan(9),
    prepare=trained(3),
)
add(
    "the old optimizer after `step`",
    StaleOptimizerError,
    "rebuild_optimizer",
    lambda scene: scene.optimizer.step(),
    prepare=lambda scene: (scene.train(STEPS), scene.pruner.step()),
    left=UNTOUCHED,
)
add(
    "`measure_dense` after training has begun",
    TrainingStateError,
    "the model is not the dense one any more",
    lambda scene: scene.pruner.measure_dense(scene.batches),
    prepare=trained(3),
)
add(
    "degradation parity without the dense model's rates",
    TrainingStateError,
    "call pruner.measure_dense(loader",
    lambda scene: scene.loss(),
    prepare=lambda scene: scene.build(constraint=DegradationParity(0.1)),
    left=UNTOUCHED,
)
add(
    "groups to be discovered, and nobody discovers",
    TrainingStateError,
    "call pruner.discover_groups(loader)",
    lambda scene: scene.loss(),
    prepare=lambda scene: scene.build(constraint=EqualOpportunity(0.1, groups=None)),
    left=UNTOUCHED,
)


def _replaced(scene: Scene) -> None:
    scene.model.load_state_dict(copy.deepcopy(scene.model.state_dict()), assign=True)


add(
    "weights loaded with `assign=True` after the pruner was built",
    TrainingStateError,
    "is another parameter now",
    lambda scene: scene.loss(),
    prepare=lambda scene: (scene.build(), _replaced(scene)),
    left=UNTOUCHED,
)
add(
    "layers frozen after the pruner was built",
    TrainingStateError,
    "freeze layers first",
    lambda scene: scene.loss(),
    prepare=lambda scene: (scene.build(), scene.model.requires_grad_(False)),
    left=UNTOUCHED,
)


def _dense_again(scene: Scene) -> None:
    dense = copy.deepcopy(scene.model.state_dict())
    scene.train(STEPS)
    scene.model.load_state_dict(dense)


add(
    "weights that were not trained under the mask, then `step`",
    TrainingStateError,
    "hidden weights are not zero",
    lambda scene: scene.pruner.step(),
    prepare=_dense_again,
    left=UNTOUCHED,
)


def _other_optimizer(scene: Scene) -> None:
    other = SmallMLP()
    optimizer = SGD(other.parameters(), lr=0.1)
    other(scene.batches[0][0]).sum().backward()
    optimizer.step()
    scene.train(1)


def _moved(scene: Scene, _: Any) -> None:
    assert scene.pruner.engine.step_index == 1


add(
    "an optimizer of another model in the same process",
    None,
    "",
    _other_optimizer,
    left=Left("it is none of the pruner's business", _moved),
)


def _no_grad(scene: Scene) -> None:
    with torch.no_grad():
        looked: Tensor = scene.loss()
    assert torch.isfinite(looked)


add("`loss` under `no_grad`, to look at it", None, "", _no_grad, prepare=trained(3))
