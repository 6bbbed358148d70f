"""Every method of the comparison: the size asked for, the passes allowed, the same numbers for the same seed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from evidence_synthetic import problem
from torch import nn

from evidence.ablations import ABLATIONS
from evidence.cuts import cut, uniform_budget
from evidence.methods import METHODS, NNI, TORCH_PRUNING, applies, bifp
from evidence.nni_channels import nni_ratio
from evidence.problems import SETTINGS, on_network
from evidence.records import judge
from evidence.tuning import Budget

RATIO, PASSES = 0.7, 24


@pytest.fixture(scope="module")
def given() -> Any:
    return problem()


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", [name for name in METHODS if name != "dense"])
def test_the_size_and_the_passes_are_those_of_the_budget(name: str, given: Any) -> None:
    before = copy.deepcopy(given.dense.state_dict())
    torch.manual_seed(0)
    outcome = METHODS[name](given, Budget(RATIO, PASSES, 0.05))
    size = parameters(outcome.model) / parameters(given.dense)
    slack = (
        0.08 if "uniform" in name or name in NNI else 0.02
    )  # whole channels of every layer are coarse on so small a network
    assert size == pytest.approx(1 - RATIO, abs=slack)
    assert outcome.passes == PASSES
    assert all(torch.equal(value, before[key]) for key, value in given.dense.state_dict().items())
    assert 0.4 < judge(outcome.model, given)["test"]["accuracy"] <= 1


@pytest.mark.parametrize(
    "name", ["bifp", "magnitude + constraint", "lottery-then-fair", "ceag", "snip", "random", *NNI, *TORCH_PRUNING]
)
def test_the_same_seed_gives_the_same_weights(name: str, given: Any) -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(0)
        states.append(METHODS[name](given, Budget(RATIO, PASSES, 0.05)).model.state_dict())
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


@pytest.mark.parametrize(
    "name", ["magnitude", "snip", "prune-then-fair", "lottery ticket", "ceag", "bifp", *NNI, *TORCH_PRUNING]
)
def test_every_pass_with_gradients_is_counted(name: str, given: Any) -> None:
    taken = 0

    def count(module: Any, inputs: Any, output: Any) -> None:
        nonlocal taken
        # The two examples are looks at the graph: tracing, the self-check and the count of MACs.
        output_layer = isinstance(module, nn.Linear) and module.out_features == 2
        taken += output_layer and output.requires_grad and len(output) > len(given.example)

    handle = nn.modules.module.register_module_forward_hook(count)
    try:
        torch.manual_seed(0)
        outcome = METHODS[name](given, Budget(RATIO, PASSES, 0.05))
    finally:
        handle.remove()
    assert taken == outcome.passes == PASSES


def test_levels_without_the_constraint_see_the_task_loss_alone(given: Any) -> None:
    """With a multiplier that is driven high, leaving it out of both levels is another run than leaving it in."""
    torch.manual_seed(0)
    both = bifp(joint=False)(given, Budget(RATIO, PASSES, 0.05)).model
    torch.manual_seed(0)
    neither = ABLATIONS["strict, neither with constraint"](given, Budget(RATIO, PASSES, 0.05)).model
    torch.manual_seed(0)
    assert any(
        a.shape != b.shape or not torch.equal(a, b)
        for a, b in zip(both.parameters(), neither.parameters(), strict=True)
    )


def test_uniform_means_the_same_share_of_every_layer(given: Any) -> None:
    found = uniform_budget(given, Budget(RATIO, PASSES, 0.05))
    assert found.target == "channels"
    model, spent = cut(given, Budget(RATIO, PASSES, 0.05), "magnitude uniform")
    assert spent == 0
    widths = [layer.out_features for layer in model if isinstance(layer, nn.Linear)][:-1]
    assert widths[0] == widths[1] == pytest.approx(24 * (1 - found.ratio), abs=1)


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.9])
def test_nnis_ratio_is_the_one_nearest_to_the_budget(ratio: float, given: Any) -> None:
    """Of all numbers of units that can go from both hidden layers of 24."""

    def size(hidden: int) -> int:
        width = 24 - hidden
        return (12 + 1 + 2) * width + (width + 1 + 2) * width + (width + 1) * 2  # two batch norms, biases

    assert size(0) == parameters(given.dense)
    nearest = min(range(24), key=lambda hidden: abs(1 - size(hidden) / size(0) - ratio))
    found = nni_ratio(given, Budget(ratio, PASSES, 0.05))
    assert int(24 * found) == nearest
    torch.manual_seed(0)
    outcome = METHODS["nni fpgm"](given, Budget(ratio, PASSES, 0.05))
    assert parameters(outcome.model) == size(nearest)
    assert outcome.details["sparse_ratio"] == pytest.approx(found, abs=1e-4)


def test_fpgm_of_nni_keeps_the_filters_far_from_all_others(given: Any) -> None:
    """With a learning rate of 0 the rows that stay are dense ones: those of the largest sum of distances."""
    model = METHODS["nni fpgm"](given, Budget(RATIO, PASSES, 0.0)).model
    rows = given.dense[0].weight.detach()
    distances = torch.stack([torch.stack([(a - b).norm() for b in rows]).sum() for a in rows])
    stay = distances.argsort(descending=True)[: model[0].out_features].sort().values
    torch.testing.assert_close(model[0].weight.detach(), rows[stay])


def test_nnis_channels_are_not_asked_of_a_vit() -> None:
    for name in METHODS:
        assert applies(name, SETTINGS["smiling"])
        assert applies(name, on_network(SETTINGS["smiling"], "vit", 64)) == (not name.startswith("nni"))
