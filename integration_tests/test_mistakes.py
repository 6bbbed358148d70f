"""Mistakes that would end in a plausible but wrong model: each is an error, or harmless."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from driving import SGD, SmallMLP, batches_for, drive, example_of, output_layer
from fairprune_plugin import DegradationParity, EqualOpportunity
from fairprune_plugin.errors import FairPruneWarning, TrainingStateError, UnsupportedModelError
from fairprune_plugin.torch_pruning import BiFPPruner

STEPS = 12


def build(model: nn.Module, **options: object) -> BiFPPruner:
    settings = {"constraint": EqualOpportunity(0.1), "pruning_ratio": 0.5, "total_steps": STEPS, **options}
    return BiFPPruner(model, example_of(model), ignored_layers=[output_layer(model)], **settings)


def test_the_pruned_model_is_not_taken_for_the_dense_one() -> None:
    model = SmallMLP()
    pruner = build(model, constraint=DegradationParity(0.1))
    batches = batches_for(model, STEPS)
    pruner.measure_dense(batches)
    drive(pruner, model, SGD(model.parameters(), lr=0.05), batches)
    pruner.step()
    with pytest.raises(TrainingStateError, match="for every split you will evaluate"):
        pruner.evaluate(batches, split="test")
    with pytest.raises(TrainingStateError, match="not the dense one any more"):
        pruner.measure_dense(batches, split="test")


def test_an_interrupted_fit_goes_on_with_the_dense_model_of_its_beginning() -> None:
    model = SmallMLP()
    pruner = build(model, constraint=DegradationParity(0.5))
    batches, optimizer = batches_for(model, STEPS), SGD(model.parameters(), lr=0.05)

    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pruner.fit(
            batches, optimizer, validation=list(batches), progress=False, on_evaluation=interrupt, validate_every=5
        )
    dense = pruner.dense_record
    result = pruner.fit(batches, optimizer, validation=list(batches), progress=False)
    assert dense is not None
    assert result.before is dense[0]
    assert result.dense is dense[1]
    assert result.passes == STEPS


def test_fit_after_a_loop_of_ones_own_is_refused() -> None:
    model = SmallMLP()
    pruner = build(model)
    batches, optimizer = batches_for(model, STEPS), SGD(model.parameters(), lr=0.05)
    drive(pruner, model, optimizer, batches[:3])
    with pytest.raises(TrainingStateError, match="3 training steps were taken already"):
        pruner.fit(batches, optimizer, progress=False)


@pytest.mark.filterwarnings(
    "ignore:the channels of head are the model's outputs"
)  # the tied layer is the last one here
def test_tied_weights_are_refused_by_name() -> None:
    model = SmallMLP()
    model.other = nn.Linear(*reversed(model.fc1.weight.shape))
    model.other.weight = model.fc1.weight
    with pytest.raises(UnsupportedModelError, match=r"fc1\.weight and other\.weight are one shared parameter"):
        build(model)


def test_replaced_parameters_are_noticed() -> None:
    model = SmallMLP()
    pruner = build(model)
    model.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)
    x, y, s = batches_for(model, 1)[0]
    with pytest.raises(TrainingStateError, match="is another parameter now"):
        pruner.loss(model(x), y, s)


def test_weights_of_another_mask_are_noticed_before_channels_go() -> None:
    model = SmallMLP()
    dense = copy.deepcopy(model.state_dict())
    pruner = build(model)
    drive(pruner, model, SGD(model.parameters(), lr=0.05), batches_for(model, STEPS))
    model.load_state_dict(dense)
    with pytest.raises(TrainingStateError, match="hidden weights are not zero"):
        pruner.step()


@pytest.mark.parametrize("set_to_none", [True, False], ids=["none", "zeros"])
def test_gradients_of_another_batch_are_noticed(set_to_none: bool) -> None:
    model = SmallMLP()
    pruner, optimizer = build(model), SGD(model.parameters(), lr=0.05)
    batches = batches_for(model, 2)
    drive(pruner, model, optimizer, batches[:1])
    optimizer.zero_grad(set_to_none=set_to_none)
    x, y, s = batches[1]
    pruner.loss(model(x), y, s)
    with pytest.raises(TrainingStateError, match="not those of this batch"):
        pruner.regularize(model)


def test_regularize_for_every_micro_batch_is_warned_of() -> None:
    model = SmallMLP()
    pruner, optimizer = build(model), SGD(model.parameters(), lr=0.05)
    with pytest.warns(FairPruneWarning, match=r"once per optimizer\.step"):
        for number, (x, y, s) in enumerate(batches_for(model, 4)):
            pruner.loss(model(x), y, s).backward()
            pruner.regularize(model)
            if number % 2:
                optimizer.step()
                optimizer.zero_grad()


def test_looking_at_the_loss_without_gradients_counts_nothing() -> None:
    model = SmallMLP()
    pruner = build(model)
    x, y, s = batches_for(model, 1)[0]
    pruner.loss(model(x), y, s)
    before = pruner.lagrangian.state_dict()
    with torch.no_grad():
        pruner.loss(model(x), y, s)
    after = pruner.lagrangian.state_dict()
    assert before["batches"] == after["batches"] == 1
    counts = [state["trackers"][0]["counts"] for state in (before, after)]
    assert all(torch.equal(counts[0][key], counts[1][key]) for key in counts[0])


class Normed(nn.Module):
    """Linear, layer norm, linear: the mask needs a hook on the norm."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.norm, self.head = nn.Linear(6, 16), nn.LayerNorm(16), nn.Linear(16, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.fc1(x)).relu())


# Triton and inductor are not needed: aot_eager runs what dynamo has captured.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_compiled_model_sees_the_hooks_of_masked_norms() -> None:
    model = Normed()
    compiled = torch.compile(model, backend="aot_eager")
    x = torch.randn(8, 6)
    compiled(x)
    pruner = BiFPPruner(model, x, pruning_ratio=0.5, ignored_layers=[model.head], total_steps=STEPS)
    for hidden in (range(8), range(4, 12)):
        keep = torch.ones(16, dtype=torch.bool)
        keep[list(hidden)] = False
        pruner.engine.set_mask(keep)
        torch.testing.assert_close(compiled(x), model(x))
    pruner.engine.set_mask(torch.ones(16, dtype=torch.bool))
    torch.testing.assert_close(compiled(x), model(x))
