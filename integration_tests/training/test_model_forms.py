"""Forms a model comes in: compiled, averaged, in another memory layout, with tied weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from driving import SGD, SmallCNN, SmallMLP, batches_for, drive, example_of, kept_of, output_layer
from fairprune_plugin.errors import TrainingStateError, UnsupportedModelError
from fairprune_plugin.torch_pruning import BiFPPruner, load_pruned, save_pruned

STEPS = 8


def build(model: Any, ignored: nn.Module, example: Tensor, **options: Any) -> BiFPPruner:
    settings = {"pruning_ratio": 0.5, "total_steps": STEPS, "bilevel": {"ramp_end": 0.9}, "self_check": False}
    return BiFPPruner(model, example, ignored_layers=[ignored], **{**settings, **options})


def test_a_compiled_model_is_pruned_as_the_one_inside() -> None:
    results = []
    for compiled in (False, True):
        torch._dynamo.reset()
        torch.manual_seed(0)
        model = SmallMLP()
        called = torch.compile(model, backend="eager") if compiled else model
        pruner = build(called, model.head, example_of(model))
        assert pruner.model is model
        drive(pruner, called, SGD(called.parameters(), lr=0.05, momentum=0.9), batches_for(model, STEPS))
        keep = pruner.engine.weights.keep
        pruner.step()
        called.eval()
        results.append((keep, called(example_of(model))))
        assert torch.equal(results[-1][1], model(example_of(model)))
    assert torch.equal(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1])


def test_averaged_weights_are_pruned_by_the_mask_of_the_run() -> None:
    model = SmallMLP()
    pruner = build(model, model.head, example_of(model))
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.8))
    drive(
        pruner,
        model,
        SGD(model.parameters(), lr=0.05),
        batches_for(model, STEPS),
        lambda _: average.update_parameters(model),
    )
    first = kept_of(pruner, "fc1")
    second = kept_of(pruner, "fc2")
    averaged = average.module.fc2.weight.detach().clone()
    model.load_state_dict(average.module.state_dict())
    with pytest.raises(TrainingStateError, match=r"apply_mask\(\)"):
        pruner.step()
    pruner.apply_mask()
    x = example_of(model)
    masked = model.eval()(x)
    pruner.step()
    torch.testing.assert_close(model(x), masked, rtol=1e-4, atol=1e-6)
    assert torch.equal(model.fc2.weight, averaged[second][:, first])


def test_channels_last_learns_the_same_mask() -> None:
    results = []
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        model = SmallCNN().to(memory_format=layout)
        pruner = build(model, model.fc, example_of(model))
        batches = [(x.contiguous(memory_format=layout), y, s) for x, y, s in batches_for(model, STEPS)]
        drive(pruner, model, SGD(model.parameters(), lr=0.05, momentum=0.9), batches)
        assert model.conv2.weight.is_contiguous(memory_format=layout)
        results.append((pruner.engine.weights.keep, model.state_dict()))
    assert torch.equal(results[0][0], results[1][0])
    for name, value in results[0][1].items():
        torch.testing.assert_close(value, results[1][1][name], rtol=1e-3, atol=1e-5)


# ---- tied weights ------------------------------------------------------------------------------------------


class TinyLM(nn.Module):
    """Embedding, a feed-forward block on a residual stream, and a head tied to the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.embed(tokens)
        h = h + self.down(self.up(h).relu())
        y: Tensor = self.head(h)[:, -1]
        return y


def lm_pruner(ignored: Callable[[TinyLM], list[nn.Module]]) -> tuple[TinyLM, Tensor, BiFPPruner]:
    model, tokens = TinyLM(), torch.randint(11, (8, 5))
    pruner = BiFPPruner(model, tokens, ignored_layers=ignored(model), pruning_ratio=0.5, total_steps=4)
    return model, tokens, pruner


def test_tied_weights_stay_tied_where_no_channel_of_them_goes() -> None:
    model, tokens, pruner = lm_pruner(lambda m: [m.embed, m.down, m.head])
    optimizer: torch.optim.Optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
    drive(pruner, model, optimizer, [(tokens, torch.randint(11, (8,)), torch.zeros(8).long())] * 4)
    masked = model.eval()(tokens)
    pruner.step()
    assert model.up.out_features == 8
    assert model.head.weight is model.embed.weight
    torch.testing.assert_close(model(tokens), masked, rtol=1e-4, atol=1e-5)
    optimizer = pruner.rebuild_optimizer(optimizer)
    before = model.embed.weight.detach().clone()
    model(tokens).sum().backward()
    optimizer.step()
    assert model.head.weight is model.embed.weight
    assert not torch.equal(model.embed.weight, before)


def test_tied_weights_that_would_be_untied_are_refused_by_name() -> None:
    with pytest.raises(UnsupportedModelError, match=r"embed.weight and head.weight are one shared .* ignored_layers"):
        lm_pruner(lambda m: [m.head])


class Used(nn.Module):
    """A layer in the middle that is used once or twice, and may have a second name."""

    def __init__(self, second_name: bool, twice: bool) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 12), nn.Linear(12, 12), nn.Linear(12, 2)
        if second_name:
            self.c = self.b
        self.times = 2 if twice else 1

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).relu()
        for time in range(self.times):
            h = (self.c if time and hasattr(self, "c") else self.b)(h).relu()
        y: Tensor = self.head(h)
        return y


@pytest.mark.parametrize("twice", [False, True])
def test_one_layer_under_two_names_is_one_layer(twice: bool, tmp_path: Path) -> None:
    """As it is under one name: the same channels go, and the layer stays one, also in a file."""
    outputs = []
    for second_name in (False, True):
        torch.manual_seed(0)
        model = Used(second_name, twice)
        pruner = build(model, model.head, torch.randn(2, 6), self_check=True)
        drive(pruner, model, SGD(model.parameters(), lr=0.05, momentum=0.9), batches_for(SmallMLP(), STEPS))
        masked = model.eval()(torch.ones(3, 6))
        pruner.step()
        assert model.b.out_features == 6
        outputs.append(model(torch.ones(3, 6)))
        torch.testing.assert_close(outputs[-1], masked, rtol=1e-4, atol=1e-5)
        save_pruned(model, pruner, tmp_path / "pruned.safetensors")
        again = load_pruned(Used(second_name, twice), tmp_path / "pruned.safetensors", torch.randn(2, 6)).eval()
        assert torch.equal(again(torch.ones(3, 6)), outputs[-1])
        if second_name:
            assert model.c is model.b
            assert again.c is again.b
    assert torch.equal(*outputs)


def test_one_layer_whose_channels_meet_the_inputs_is_refused() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(6, 6)
            self.b = self.a
            self.head = nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.head(self.b(self.a(x).relu()))
            return y

    model = Twice()
    with pytest.raises(UnsupportedModelError, match=r"a masked channel is not the same as a pruned one .*: a "):
        build(model, output_layer(model), torch.randn(2, 6), self_check=True)
