"""Heads that ``forward_fn`` leaves out run unseen by the graph: they are named, and so is the cure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch_pruning as tp
from host_networks import MLP, batches, rows, sgd
from torch import Tensor, nn

from fairprune_plugin import AccuracyParity
from fairprune_plugin.errors import UnsupportedModelError
from fairprune_plugin.torch_pruning import BiFPPruner
from fairprune_plugin.torch_pruning.trial.unseen_layers import unseen_layer_that_fails

Pack = Callable[[Tensor, Tensor], Any]


class TwoHeads(MLP):
    """A second head beside the classifier, and a layer that is never called."""

    def __init__(self, pack: Pack) -> None:
        super().__init__()
        self.aux, self.spare, self._pack = nn.Linear(8, 3), nn.Linear(8, 3), pack

    def forward(self, x: Tensor) -> Any:
        h = torch.relu(self.b(torch.relu(self.bn(self.a(x)))))
        return self._pack(self.fc(h), self.aux(h))


KINDS: dict[str, tuple[Pack, Callable[[Any], Tensor]]] = {
    "tuple": (lambda main, aux: (main, aux), lambda out: out[0]),
    "dict": (lambda main, aux: {"main": main, "aux": aux}, lambda out: out["main"]),
    "detached": (lambda main, aux: main + aux.detach().sum(), lambda out: out),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_that_forward_fn_leaves_out_is_named(kind: str) -> None:
    pack, pick = KINDS[kind]
    model = TwoHeads(pack)
    with pytest.raises(UnsupportedModelError, match=r"^aux runs .* differ at b .*Let forward_fn .* return all outputs"):
        BiFPPruner(
            model, rows(), pruning_ratio=0.5, ignored_layers=[model.fc], forward_fn=lambda model, x: pick(model(x))
        )


@pytest.mark.parametrize("kind", ["tuple", "dict"])
def test_with_all_outputs_it_is_pruned_as_the_message_says(kind: str) -> None:
    torch.manual_seed(0)
    pack, pick = KINDS[kind]
    model = TwoHeads(pack)

    def all_outputs(model: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
        out = model(x)
        return tuple(out.values()) if isinstance(out, dict) else out

    pruner = BiFPPruner(
        model,
        rows(),
        pruning_ratio=0.5,
        constraint=AccuracyParity(0.1),
        ignored_layers=[model.fc, model.aux],
        forward_fn=all_outputs,
    )
    pruner.fit(batches(10), sgd(model), epochs=1, progress=False, forward=lambda model, x: pick(model(x)))
    assert (model.b.out_features, model.fc.in_features, model.aux.in_features) == (4, 4, 4)
    assert len(all_outputs(model.eval(), rows())) == 2


class Innocent(nn.Module):
    """A head that reads the inputs alone, and a softmax over features."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.fc, self.aux = nn.Linear(6, 16), nn.Linear(16, 12), nn.Linear(12, 2), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.fc(self.b(self.a(x).softmax(-1)).relu()), self.aux(x)


def test_a_head_that_loses_nothing_is_not_accused() -> None:
    torch.manual_seed(0)  # with others all units before the second layer may be silent, and nothing is inexact
    model = Innocent()
    with pytest.raises(UnsupportedModelError, match=r"a softmax over pruned features.*: a \(with b\)") as raised:
        BiFPPruner(model, rows(), pruning_ratio=0.5, ignored_layers=[model.fc], forward_fn=lambda model, x: model(x)[0])
    assert "aux" not in str(raised.value)


def test_only_a_layer_that_cannot_run_counts() -> None:
    model = TwoHeads(KINDS["tuple"][0])
    graph = tp.DependencyGraph().build_dependency(model, rows(), forward_fn=lambda model, x: model(x)[0], verbose=False)
    assert unseen_layer_that_fails(model, graph, lambda: model(rows())) is None
    assert unseen_layer_that_fails(model, graph, lambda: model(rows()[:, :5])) is None  # a stops, which is in the graph
    graph.get_pruning_group(model.b, tp.prune_linear_out_channels, [0, 1]).prune()
    assert unseen_layer_that_fails(model, graph, lambda: model(rows())) == "aux"
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
