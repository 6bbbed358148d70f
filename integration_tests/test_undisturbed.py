"""Issue 2, part 4: nothing of the user's is disturbed, neither by construction nor by ``step()``."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
import torch_pruning as tp
from torch import nn

from driving import (
    SGD,
    SmallCNN,
    SmallMLP,
    batches_for,
    drive,
    example_of,
    global_optimizer_hooks,
    pruner_of,
    train_case,
)
from fairprune_plugin import EqualOpportunity
from fairprune_plugin.torch_pruning import BiFPImportance, BiFPPruner, register, unregister
from zoo import CASES, Case, randomise

EXACT = [case for case in CASES if case.exact]
HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_load_state_dict_post_hooks",
)

pytestmark = pytest.mark.filterwarnings("ignore:Unwrapped parameters detected")


def portrait(model: nn.Module) -> dict[str, Any]:
    """Everything about a model that is not a value or a shape."""
    return {
        "classes": [(name, type(module)) for name, module in model.named_modules()],
        "modules": [id(module) for module in model.modules()],
        "hooks": [{kind: dict(getattr(module, kind)) for kind in HOOKS} for module in model.modules()],
        "keys": list(model.state_dict()),
        "parameters": [name for name, _ in model.named_parameters()],
        "training": [module.training for module in model.modules()],
        "requires_grad": [parameter.requires_grad for parameter in model.parameters()],
        "tensor hooks": [parameter._backward_hooks for parameter in model.parameters()],
        "attributes": [sorted(vars(module)) for module in model.modules()],
    }


def values(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def distinctive(case: Case) -> nn.Module:
    """A model with hooks of the user's, mixed training flags and a frozen parameter."""
    model = randomise(case.build())
    modules = list(model.modules())
    modules[1].register_forward_hook(lambda module, args, output: None)
    modules[-1].register_full_backward_hook(lambda module, gradients, outputs: None)
    modules[-1].register_forward_pre_hook(lambda module, args: None)
    model.train()
    for module in modules[1::3]:
        module.training = False
    return model


@pytest.mark.parametrize("case", EXACT, ids=lambda case: case.name)
def test_construction_leaves_the_model_as_it_was(case: Case) -> None:
    model = distinctive(case)
    last = list(model.parameters())[-1]
    last.requires_grad_(False)
    identity, tensors, before, rng = (
        [id(p) for p in model.parameters()],
        values(model),
        portrait(model),
        torch.get_rng_state(),
    )
    optimizer_hooks = global_optimizer_hooks()
    with pytest.warns(UserWarning, match="frozen"):
        pruner_of(case, model, target="macs", pruning_ratio=0.3, total_steps=4)
    assert portrait(model) == before
    assert [id(p) for p in model.parameters()] == identity
    assert all(torch.equal(value, tensors[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), rng)
    assert global_optimizer_hooks() == optimizer_hooks


@pytest.mark.parametrize("case", EXACT, ids=lambda case: case.name)
def test_step_changes_nothing_but_shapes(case: Case) -> None:
    model = distinctive(case)
    before = portrait(model)
    optimizer_hooks = global_optimizer_hooks()
    pruner = pruner_of(case, model, total_steps=4)
    train_case(pruner, case, model, SGD(model.parameters(), lr=1e-3), steps=4)
    for module, flag in zip(model.modules(), before["training"], strict=True):
        module.training = flag  # train_case() called model.train()
    pruner.step()
    assert portrait(model) == before
    assert global_optimizer_hooks() == optimizer_hooks
    smaller = sum(p.numel() for p in model.parameters())
    assert smaller < sum(p.numel() for p in case.build().parameters())


def test_state_dict_is_loadable_without_this_package_while_masked() -> None:
    model = SmallCNN()
    pruner = BiFPPruner(model, example_of(model), pruning_ratio=0.5, ignored_layers=[model.fc], total_steps=8)
    drive(pruner, model, SGD(model.parameters(), lr=0.05), batches_for(model, 8))
    twin = SmallCNN()
    twin.load_state_dict(model.state_dict())
    x = example_of(model)
    assert torch.equal(twin.eval()(x), model.eval()(x))


@pytest.mark.parametrize("target", ["params", "macs"])
def test_asking_for_sizes_does_not_disturb_training(target: str) -> None:
    model = SmallCNN()
    pruner = BiFPPruner(model, example_of(model), pruning_ratio=0.5, ignored_layers=[model.fc], total_steps=8)
    drive(pruner, model, SGD(model.parameters(), lr=0.05), batches_for(model, 4))
    before, tensors, rng = portrait(model), values(model), torch.get_rng_state()
    pruner.masked_size(target)
    pruner.count()
    pruner.size()
    assert portrait(model) == before
    assert all(torch.equal(value, tensors[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), rng)


def test_a_forgotten_pruner_takes_its_optimizer_hook_with_it() -> None:
    model = SmallMLP()
    before = global_optimizer_hooks()
    pruner = BiFPPruner(model, example_of(model), pruning_ratio=0.5, ignored_layers=[model.head], total_steps=8)
    drive(pruner, model, SGD(model.parameters(), lr=0.05), batches_for(model, 2))
    assert len(global_optimizer_hooks()) == len(before) + 1
    del pruner
    assert global_optimizer_hooks() == before


def test_two_pruners_share_nothing() -> None:
    """Torch-Pruning's mutable defaults carry one pruner's groups into the next."""
    defaults = [tp.pruner.BasePruner.__init__.__defaults__]
    snapshot = [dict(value) for value in defaults[0] if isinstance(value, dict)]
    (case,) = [case for case in CASES if case.name == "grouped-convs"]
    first, second = case.build(), case.build()
    one, two = pruner_of(case, first), pruner_of(case, second)
    for name in ("in_channel_groups", "out_channel_groups", "num_heads"):
        assert getattr(one, name) is not getattr(two, name)
    modules = set(second.modules())
    assert set(two.out_channel_groups) <= modules
    assert set(two.in_channel_groups) <= modules
    assert two.out_channel_groups  # there is something to leak
    assert [dict(value) for value in defaults[0] if isinstance(value, dict)] == snapshot


def test_the_users_own_dictionaries_are_left_alone() -> None:
    (case,) = [case for case in CASES if case.name == "hf-vit-heads"]
    model = case.build()
    options = case.pruner_kwargs(model)
    heads = dict(options["num_heads"])
    pruner = pruner_of(case, model, total_steps=2, **options)
    train_case(pruner, case, model, SGD(model.parameters(), lr=1e-3), steps=2)
    pruner.step()
    assert options["num_heads"] == heads
    assert set(pruner.num_heads.values()) == {2}


def test_nothing_is_patched_at_import() -> None:
    """In a fresh process: the hosts' namespaces and torch's hooks are the same before and after the import."""
    program = """
import torch, torch_pruning as tp
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks
from torch.nn.modules import module as m

def look():
    spaces = [tp, tp.pruner, tp.importance, tp.utils, tp.pruner.BasePruner, tp.importance.Importance,
              torch.nn.Module, torch.optim.Optimizer, torch.Tensor, torch.nn.Linear, torch.nn.Conv2d]
    hooks = [len(_global_optimizer_post_hooks), len(_global_optimizer_pre_hooks), len(m._global_forward_hooks),
             len(m._global_forward_pre_hooks), len(m._global_backward_hooks)]
    return [{k: id(v) for k, v in vars(space).items() if not k.startswith('__')} for space in spaces], hooks

before = look()
import fairprune_plugin, fairprune_plugin.torch_pruning
after = look()
names = [{k for k in b if a.get(k) != b[k]} | (set(a) - set(b)) for b, a in zip(before[0], after[0])]
assert not any(names), names
assert before[1] == after[1]
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_importing_the_package_imports_no_host() -> None:
    program = "import sys, fairprune_plugin; assert 'torch_pruning' not in sys.modules and 'nni' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_register_and_unregister_are_idempotent() -> None:
    before = set(vars(tp.pruner)), set(vars(tp.importance))
    assert "BiFPPruner" not in before[0]
    unregister()  # nothing to take away
    register()
    register()
    try:
        assert tp.pruner.BiFPPruner is BiFPPruner
        assert tp.importance.BiFPImportance is BiFPImportance
        model = SmallMLP()
        tp.pruner.BiFPPruner(
            model,
            example_of(model),
            pruning_ratio=0.5,
            ignored_layers=[model.head],
            constraint=EqualOpportunity(tolerance=0.02),
            total_steps=4,
        )
    finally:
        unregister()
    unregister()
    assert (set(vars(tp.pruner)), set(vars(tp.importance))) == before
