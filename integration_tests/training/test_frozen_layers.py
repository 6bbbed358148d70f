"""Layers that are not trained: which channels they lose, and that their values stay."""

from __future__ import annotations

import pytest
import torch

from driving import SGD, SmallCNN, batches_for, drive, example_of, kept_of, small_pruner
from fairprune_plugin.errors import FairPruneWarning, TrainingStateError


def test_channels_that_only_frozen_layers_read_stay() -> None:
    """conv2 reads conv1 and is frozen: nothing would score conv1's channels."""
    model = SmallCNN()
    model.conv2.requires_grad_(False)
    with pytest.warns(FairPruneWarning, match="those that only frozen layers read"):
        pruner = small_pruner(model, total_steps=8)
    assert [group.channels.name for group in pruner.host_groups if group.channels.name == "conv1"] == []
    assert "conv2" in [group.channels.name for group in pruner.host_groups]


def test_freezing_after_construction_is_refused() -> None:
    model = SmallCNN()
    pruner = small_pruner(model, total_steps=8)
    model.conv2.requires_grad_(False)
    x, y, s = batches_for(model, 1)[0]
    with pytest.raises(TrainingStateError, match="conv1 was frozen after the pruner was built"):
        pruner.loss(model(x), y, s)


@pytest.mark.parametrize(
    ("frozen", "left"),
    [
        (("conv1",), {"conv1": 4, "conv2": 8, "conv3": 8}),
        # Only a frozen layer reads conv1's channels: nothing scores them, so they stay.
        (("conv1", "bn1", "conv2", "bn2"), {"conv1": 8, "conv2": 8, "conv3": 8}),
    ],
    ids=["conv1", "backbone"],
)
def test_frozen_layers_lose_channels_and_keep_their_values(frozen: tuple[str, ...], left: dict[str, int]) -> None:
    model = SmallCNN()
    for name in frozen:
        model.get_submodule(name).requires_grad_(False)
    with pytest.warns(FairPruneWarning, match=r"frozen \(first: conv1.weight\)"):
        pruner = small_pruner(model, total_steps=8)
    assert not model.conv1.weight.requires_grad
    before = {name: model.get_submodule(name).weight.detach().clone() for name in frozen}
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    drive(pruner, model, SGD(trainable, lr=0.05, momentum=0.9), batches_for(model, 8))
    last = frozen[-1].replace("bn", "conv")
    keep = kept_of(pruner, last)
    masked = model.eval()(example_of(model))
    pruner.step()
    assert {name: model.get_submodule(name).out_channels for name in left} == left
    assert torch.equal(model.get_submodule(last).weight, before[last][keep])
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (name.rsplit(".", 1)[0] not in frozen), name
    torch.testing.assert_close(model.eval()(example_of(model)), masked, rtol=1e-4, atol=1e-5)
