"""Every method on single weights: zeros as asked for, passes as allowed, the masks that NNI's papers and ours describe."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from evidence_synthetic import problem
from torch import Tensor, nn
from torch.nn import functional as F

from evidence.nni_masks import CALIBRATION, GOALS, gradual
from evidence.records import judge
from evidence.tuning import Budget, batches
from evidence.weight_methods import WEIGHT_METHODS, host_config, units_of

RATIO, PASSES = 0.8, 24
BUDGET = Budget(RATIO, PASSES, 0.05, "weights")
STILL = Budget(RATIO, PASSES, 0.0, "weights")  # a learning rate of 0: the weights that stay are the dense ones


@pytest.fixture(scope="module")
def given() -> Any:
    return problem()


def run(name: str, given: Any, budget: Budget = BUDGET) -> Any:
    torch.manual_seed(0)
    return WEIGHT_METHODS[name](given, budget)


def pruned_layers(model: nn.Module) -> list[Tensor]:
    return [layer.weight for layer in model.modules() if isinstance(layer, nn.Linear)][:-1]


def kept(model: nn.Module) -> Tensor:
    """Which prunable weights are not zero, layer after layer."""
    return torch.cat([weight.detach().reshape(-1) != 0 for weight in pruned_layers(model)])


def highest(values: list[Tensor], ratio: float) -> Tensor:
    """All but the lowest share of the values, over all layers."""
    flat = torch.cat([value.reshape(-1) for value in values])
    keep = torch.ones(len(flat), dtype=torch.bool)
    keep[flat.argsort()[: int(len(flat) * ratio)]] = False
    return keep


@pytest.mark.parametrize("name", [name for name in WEIGHT_METHODS if name != "dense"])
def test_the_zeros_and_the_passes_are_those_of_the_budget(name: str, given: Any) -> None:
    before = copy.deepcopy(given.dense.state_dict())
    outcome = run(name, given)
    total = sum(weight.numel() for weight in pruned_layers(given.dense))
    slack = 2 if name in ("magnitude uniform", "fairgrape") else 1  # rounded layer by layer
    assert outcome.details["weights"] == int(kept(outcome.model).sum())
    assert outcome.details["weights"] == pytest.approx(total - RATIO * total, abs=slack)
    assert outcome.details["sparsity"] == pytest.approx(RATIO, abs=slack / total + 1e-5)
    assert outcome.passes == PASSES
    untouched = [value for key, value in outcome.model.state_dict().items() if key in ("6.weight", "0.bias", "3.bias")]
    assert all(bool((value != 0).all()) for value in untouched)  # the output layer and the biases stay
    assert [type(module) for module in outcome.model.modules()] == [type(module) for module in given.dense.modules()]
    assert all(torch.equal(value, before[key]) for key, value in given.dense.state_dict().items())
    assert 0.4 < judge(outcome.model, given)["test"]["accuracy"] <= 1


@pytest.mark.parametrize("name", ["bifp", "gradual magnitude + constraint", "taylor", "random"])
def test_the_same_seed_gives_the_same_weights(name: str, given: Any) -> None:
    first, second = (run(name, given).model.state_dict() for _ in range(2))
    assert all(torch.equal(value, second[key]) for key, value in first.items())


@pytest.mark.parametrize("name", ["magnitude", "taylor", "snip", "gradual magnitude", "lottery ticket", "ceag", "bifp"])
def test_every_pass_with_gradients_is_counted(name: str, given: Any) -> None:
    taken = 0

    def count(module: Any, inputs: Any, output: Any) -> None:
        nonlocal taken
        # The two examples are looks at the graph: tracing, the self-check and the count of MACs.
        output_layer = isinstance(module, nn.Linear) and module.out_features == 2
        taken += output_layer and output.requires_grad and len(output) > len(given.example)

    handle = nn.modules.module.register_module_forward_hook(count)
    try:
        outcome = run(name, given)
    finally:
        handle.remove()
    assert taken == outcome.passes == PASSES


def test_magnitude_is_one_ranking_of_all_weights(given: Any) -> None:
    expected = highest([weight.detach().abs() for weight in pruned_layers(given.dense)], RATIO)
    for name in ("magnitude", "prune-then-fair", "ceag", "lottery ticket"):  # rewound weights are the dense ones
        assert torch.equal(kept(run(name, given, STILL).model), expected), name


def test_uniform_magnitude_ranks_every_layer_alone(given: Any) -> None:
    expected = [highest([weight.detach().abs()], RATIO) for weight in pruned_layers(given.dense)]
    assert torch.equal(kept(run("magnitude uniform", given).model), torch.cat(expected))


def gradients(given: Any) -> list[tuple[int, list[Tensor]]]:
    """Size and gradient of every calibration batch, of the dense model in eval mode."""
    model = copy.deepcopy(given.dense).eval()
    out = []
    for x, y, _ in batches(given, CALIBRATION, order=given.seed):
        out.append((len(x), list(torch.autograd.grad(F.cross_entropy(model(x), y), pruned_layers(model)))))
    return out


def test_taylor_squares_before_it_sums_over_batches(given: Any) -> None:
    weights, found = pruned_layers(given.dense), gradients(given)
    sums = [
        sum((weight.detach() * batch[layer]).square() for _, batch in found) for layer, weight in enumerate(weights)
    ]
    assert torch.equal(kept(run("taylor", given).model), highest(sums, RATIO))


def test_snip_sums_before_it_takes_the_size(given: Any) -> None:
    weights, found = pruned_layers(given.dense), gradients(given)
    sums = [
        (weight.detach() * sum(size * batch[layer] for size, batch in found)).abs()
        for layer, weight in enumerate(weights)
    ]
    assert torch.equal(kept(run("snip", given).model), highest(sums, RATIO))


def test_a_gradual_mask_comes_with_trained_weights_and_says_what_it_took(given: Any) -> None:
    model = copy.deepcopy(given.dense)
    masks, spent = gradual("LevelPruner")(given, model, host_config(units_of(given, BUDGET, model)), BUDGET)
    assert spent == GOALS * round(0.2 * PASSES / GOALS)
    keep = units_of(given, BUDGET, model).of_masks(masks)
    assert int((~keep).sum()) == int(len(keep) * RATIO)
    assert not torch.equal(model[0].weight, given.dense[0].weight)


def test_the_constraint_moves_weights_and_not_a_fixed_mask(given: Any) -> None:
    plain, fair = run("magnitude", given).model, run("magnitude + constraint", given).model
    assert torch.equal(kept(plain), kept(fair))
    assert not torch.equal(plain[6].weight, fair[6].weight)


def test_bifp_learns_a_mask_of_its_own(given: Any) -> None:
    assert not torch.equal(kept(run("bifp", given).model), kept(run("magnitude", given).model))
