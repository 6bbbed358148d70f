"""Issue 2, part 1: just before ``step()`` and just after it the model gives the same output."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from driving import SGD, few_examples, impose, judged, pruner_of, stray_hooks, train_case
from fairprune_plugin.errors import UnsupportedModelError
from fairprune_plugin.torch_pruning import BiFPPruner
from zoo import CASES, Case, randomise

EXACT = [case for case in CASES if case.exact]
INEXACT = [case for case in CASES if not case.exact]

# Torch-Pruning announces how it will treat parameters outside of layers (ViT's position embedding); nothing
# here prunes them.
pytestmark = pytest.mark.filterwarnings("ignore:Unwrapped parameters detected")


def names(case: Case) -> str:
    return case.name


def draw_mask(pruner: BiFPPruner, data: st.DataObject) -> Tensor:
    """A random mask that leaves a unit in every group, two where a grouped convolution must stay one."""
    parts = []
    for index, (group, limits) in enumerate(zip(pruner.host_groups, pruner.budget.limits, strict=True)):
        units = group.channels.num_units
        least = limits.floor
        hidden = torch.tensor(
            data.draw(st.lists(st.booleans(), min_size=units, max_size=units), label=f"group {index}")
        )
        first = data.draw(st.integers(0, units - 1), label=f"kept in {index}")
        hidden[(torch.arange(least) + first) % units] = False
        parts.append(~hidden)
    return torch.cat(parts)


@pytest.mark.parametrize("case", EXACT, ids=names)
@few_examples
@given(data=st.data())
def test_step_changes_shapes_and_nothing_else(case: Case, data: st.DataObject) -> None:
    torch.manual_seed(data.draw(st.integers(0, 3), label="weights"))
    model = randomise(case.build())
    pruner = pruner_of(case, model, total_steps=2, self_check=False)
    optimizer = SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-3)
    dense_params = sum(p.numel() for p in model.parameters())
    keep = draw_mask(pruner, data)
    impose(pruner, keep)
    train_case(pruner, case, model, optimizer, steps=2)
    assert torch.equal(pruner.engine.weights.keep, keep)

    masked = judged(case, model)
    expected_params = pruner.masked_size("params")
    pruner.step()
    pruned = judged(case, model)

    assert masked.abs().max() > 1e-3  # a dead network would satisfy everything below
    assert (masked - pruned).abs().max() <= 1e-4 * masked.abs().max()
    params = sum(p.numel() for p in model.parameters())
    assert params == expected_params
    assert (params < dense_params) == (not bool(keep.all()))
    assert list(stray_hooks(model)) == []

    # The smaller model trains on, with the optimizer's state cut to size.
    optimizer = pruner.rebuild_optimizer(optimizer)
    before = [p.detach().clone() for p in model.parameters()]
    model.train()
    case.forward(model).square().mean().backward()
    optimizer.step()
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())


@pytest.mark.parametrize("case", EXACT, ids=names)
def test_every_group_may_come_down_to_its_floor(case: Case) -> None:
    """One unit, two where a grouped or depthwise convolution must stay one; a random mask hardly gets there."""
    model = randomise(case.build())
    pruner = pruner_of(case, model, total_steps=2, self_check=False)
    for group, limits in zip(pruner.host_groups, pruner.budget.limits, strict=True):
        kinds = [model.get_submodule(name) for name in group.channels.layers if name in dict(model.named_modules())]
        grouped = any(getattr(module, "groups", 1) > 1 for module in kinds) or group.channels.channels_per_unit > 1
        assert limits.floor == (2 if grouped and not group.heads else 1)
    keep = torch.cat([torch.arange(limits.size) < limits.floor for limits in pruner.budget.limits])
    impose(pruner, keep)
    train_case(pruner, case, model, SGD(model.parameters(), lr=1e-3), steps=2)
    masked = judged(case, model)
    pruner.step()
    assert (masked - judged(case, model)).abs().max() <= 1e-4 * masked.abs().max()


@pytest.mark.parametrize("case", EXACT, ids=names)
def test_hiding_a_channel_shows_in_the_output(case: Case) -> None:
    """The property above could hold for a mask that masks nothing."""
    model = randomise(case.build())
    pruner = pruner_of(case, model, total_steps=2, self_check=False)
    dense = judged(case, model)
    silent = []
    for index, group in enumerate(pruner.host_groups):
        keep = torch.ones(pruner.engine.weights.num_units, dtype=torch.bool)
        keep[pruner.engine.weights.offsets[index]] = False
        pruner.engine.set_mask(keep)
        if (judged(case, model) - dense).abs().max() < 1e-6 * dense.abs().max():
            # One unit may be dead behind its activation; all of them are not.
            keep[pruner.engine.weights.of(index)] = torch.arange(group.channels.num_units) == 0
            pruner.engine.set_mask(keep)
            if (judged(case, model) - dense).abs().max() < 1e-6 * dense.abs().max():
                silent.append(group.channels.name)
        pruner.engine.set_mask(torch.ones_like(keep))
    assert silent == []
    assert torch.allclose(judged(case, model), dense)  # every channel came back as it was
    pruner.engine.norms.release()


@pytest.mark.parametrize("case", EXACT, ids=names)
def test_the_self_check_accepts_what_is_exact(case: Case) -> None:
    model = case.build()
    assert len(pruner_of(case, model).host_groups) > 0


@pytest.mark.parametrize(("name", "culprit"), [("softmax-mlp", "mix"), ("torch-mha-encoder", "layers.1.attention")])
def test_what_cannot_be_exact_is_refused_by_name(name: str, culprit: str) -> None:
    (case,) = [case for case in INEXACT if case.name == name]
    model = case.build()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(UnsupportedModelError, match="ignored_layers") as raised:
        pruner_of(case, model)
    assert culprit in str(raised.value)
    # Refused means untouched: the model can be used as before.
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert list(stray_hooks(model)) == []


def test_every_inexact_case_of_the_zoo_is_covered() -> None:
    assert {case.name for case in INEXACT} == {"softmax-mlp", "torch-mha-encoder"}


def test_ignoring_the_named_layer_makes_it_work() -> None:
    (case,) = [case for case in INEXACT if case.name == "softmax-mlp"]
    model = case.build()
    ignored = [*case.ignored(model), model.get_submodule("mix")]
    pruner = pruner_of(case, model, ignored_layers=ignored, total_steps=2)
    assert [group.channels.name for group in pruner.host_groups] == ["body.0"]
