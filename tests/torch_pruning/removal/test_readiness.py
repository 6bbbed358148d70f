"""``step()`` looks, before it removes anything, whether the hidden channels may go now."""

from __future__ import annotations

import copy
import os
import signal
from typing import Any

import pytest
import torch
from torch import nn

from driving import SGD, SmallMLP, batches_for, drive, small_pruner
from fairprune_plugin import EqualOpportunity
from fairprune_plugin.errors import FairPruneWarning, NonFiniteError, TrainingStateError
from fairprune_plugin.torch_pruning import BiFPPruner

STEPS, RAMP_END = 8, 4


def build(**options: Any) -> tuple[SmallMLP, BiFPPruner, torch.optim.Optimizer]:
    model = SmallMLP()
    settings = {"total_steps": STEPS, "bilevel": {"ramp_end": RAMP_END / STEPS}, "self_check": False, **options}
    return model, small_pruner(model, **settings), SGD(model.parameters(), lr=0.05, momentum=0.9)


def assert_refused(model: nn.Module, pruner: BiFPPruner, error: type[Exception], message: str) -> None:
    """And nothing has changed."""
    before, keep = copy.deepcopy(model.state_dict()), pruner.engine.weights.keep.clone()
    for interactive in (False, True):
        with pytest.raises(error, match=message):
            pruner.step(interactive=interactive)
    assert pruner.current_step == 0
    assert torch.equal(pruner.engine.weights.keep, keep)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("steps", range(STEPS + 1))
def test_channels_may_go_once_the_mask_is_at_its_target(steps: int) -> None:
    model, pruner, optimizer = build(constraint=EqualOpportunity(0.02))
    drive(pruner, model, optimizer, batches_for(model, steps))
    if steps < RAMP_END:
        message = (
            rf"^step\(\) came after {steps} training steps, but the mask reaches its target at step {RAMP_END} of {STEPS}: "
            r"train further \(loss, backward, regularize, optimizer\.step\), or plan fewer total_steps$"
        )
        assert_refused(model, pruner, TrainingStateError, message)
        drive(pruner, model, optimizer, batches_for(model, RAMP_END - steps))  # the refusal was no harm
    pruner.step()
    assert (model.fc1.out_features, model.fc2.out_features) == (8, 8)


def test_without_a_length_it_says_so() -> None:
    model, pruner, _ = build(total_steps=None)
    assert_refused(model, pruner, TrainingStateError, r"pass total_steps=… to the pruner .* or use fit\(epochs=…\)")


@pytest.mark.parametrize("rounds", [1, 2])
def test_step_after_the_last_round(rounds: int) -> None:
    model, pruner, optimizer = build(iterative_steps=rounds)
    for _ in range(rounds):
        drive(pruner, model, optimizer, batches_for(model, STEPS // rounds))
        pruner.step()
        optimizer = pruner.rebuild_optimizer(optimizer)
    with pytest.raises(
        TrainingStateError, match=rf"^all {rounds} pruning rounds are done: the channels are already removed$"
    ):
        pruner.step()
    assert (model.fc1.out_features, pruner.current_step) == (8, rounds)


def test_every_round_has_a_target_of_its_own() -> None:
    model, pruner, optimizer = build(iterative_steps=2)
    drive(pruner, model, optimizer, batches_for(model, STEPS // 2))
    pruner.step()
    with pytest.raises(TrainingStateError, match=r"came after 0 training steps, .* at step 2 of 4"):
        pruner.step()


def test_a_layer_that_was_replaced() -> None:
    model, pruner, optimizer = build()
    drive(pruner, model, optimizer, batches_for(model, STEPS))
    model.fc2 = copy.deepcopy(model.fc2)
    assert_refused(model, pruner, TrainingStateError, r"fc2\.weight is another parameter now than when the pruner was")


def test_a_layer_whose_parameters_moved_into_another() -> None:
    """As conversions do it (SyncBatchNorm): the weights are the pruner's, but channels would go from the old layer."""
    model, pruner, optimizer = build()
    drive(pruner, model, optimizer, batches_for(model, STEPS))
    model.fc2 = copy.copy(model.fc2)
    message = r"fc2 was a Linear when the pruner was built, and is now a Linear that it does not know: convert the"
    assert_refused(model, pruner, TrainingStateError, message)
    other = SmallMLP()
    late = small_pruner(other)
    other.fc1 = copy.copy(other.fc1)
    with pytest.raises(TrainingStateError, match="fc1 was a Linear"):
        drive(late, other, torch.optim.SGD(other.parameters(), lr=0.1), batches_for(other, 1))


def test_weights_that_something_else_has_written_to() -> None:
    model, pruner, optimizer = build()
    drive(pruner, model, optimizer, batches_for(model, STEPS))
    with torch.no_grad():
        model.fc2.weight.add_(0.01)
    assert_refused(model, pruner, TrainingStateError, r"hidden weights are not zero.*pruner\.apply_mask\(\)")
    pruner.apply_mask()
    pruner.step()
    assert model.fc1.out_features == 8


def test_what_an_accelerator_has_found_by_then_is_raised() -> None:
    """There a bad step is found later; the channels must not go before everything is known."""
    model, pruner, optimizer = build()
    drive(pruner, model, optimizer, batches_for(model, STEPS))
    checks = pruner.lagrangian.checks
    checks.note(torch.tensor(True), lambda: NonFiniteError("the loss became nan at training step 7"))
    checks.end_step()
    with pytest.raises(NonFiniteError, match="training step 7"):
        pruner.step()
    assert (model.fc1.out_features, pruner.current_step) == (16, 0)


# ---- a mask that learned nothing ---------------------------------------------------------------------------

NOTHING_LEARNED = (
    r"^none of the {due} mask steps taught the scores anything .*: channels go by their scores before training\. "
    r"Start the scaler lower, GradScaler\(init_scale=…\), plan more total_steps, or train in bfloat16$"
)


@pytest.mark.parametrize("joint", [True, False])
def test_steps_that_were_all_left_out_are_warned_of_at_the_users_line(joint: bool) -> None:
    model, pruner, _ = build(bilevel={"ramp_end": RAMP_END / STEPS, "joint": joint})
    for _ in range(STEPS):
        pruner.engine.pass_over()
    due = RAMP_END if joint else RAMP_END // 2
    with pytest.warns(FairPruneWarning, match=NOTHING_LEARNED.format(due=due)) as caught:
        pruner.step()
    assert [warning.filename for warning in caught] == [__file__]
    assert model.fc1.out_features == 8


def test_a_run_whose_every_step_overflows_says_so() -> None:
    model, pruner, optimizer = build()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for x, y, s in batches_for(model, STEPS):
        optimizer.zero_grad()
        scaler.scale(pruner.loss(model(x), y, s)).backward()
        model.fc2.weight.grad[0, 0] = torch.inf
        pruner.regularize(model, scaler=scaler, optimizer=optimizer)
        scaler.step(optimizer)
        scaler.update()
    with pytest.warns(FairPruneWarning, match=NOTHING_LEARNED.format(due=RAMP_END)):
        pruner.step()
    assert model.fc1.out_features == 8


def test_one_mask_step_that_taught_something_is_enough() -> None:
    model, pruner, optimizer = build()
    for _ in range(RAMP_END - 1):
        pruner.engine.pass_over()
    drive(pruner, model, optimizer, batches_for(model, STEPS - RAMP_END + 1))
    assert pruner.engine.scores.updates == 1
    pruner.step()  # warnings are errors here


def test_where_nothing_is_hidden_nothing_had_to_be_learned() -> None:
    model, pruner, _ = build(pruning_ratio=0.0)
    for _ in range(STEPS):
        pruner.engine.pass_over()
    pruner.step()  # warnings are errors here
    assert model.fc1.out_features == 16


def test_ctrl_c_waits_until_all_channels_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    model, pruner, optimizer = build(constraint=EqualOpportunity(0.02))
    drive(pruner, model, optimizer, batches_for(model, STEPS))
    find = pruner.DG.get_pruning_group

    def interrupted(*args: Any, **options: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        monkeypatch.setattr(pruner.DG, "get_pruning_group", find)
        return find(*args, **options)

    monkeypatch.setattr(pruner.DG, "get_pruning_group", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pruner.step()
    assert (model.fc1.out_features, model.fc2.out_features) == (8, 8)
    assert pruner.rebuild_optimizer(optimizer).param_groups
    with pytest.raises(TrainingStateError, match="the channels are already removed"):
        pruner.step()


def test_a_removal_that_failed_is_not_called_done(monkeypatch: pytest.MonkeyPatch) -> None:
    model, pruner, optimizer = build(constraint=EqualOpportunity(0.02))
    drive(pruner, model, optimizer, batches_for(model, STEPS))

    def failing(*args: Any, **options: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(pruner.DG, "get_pruning_group", failing)
    with pytest.raises(MemoryError):
        pruner.step()
    with pytest.raises(TrainingStateError, match="the removal of channels was broken off"):
        pruner.step()
