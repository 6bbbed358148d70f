"""The forward pass in NNI's wrappers, while the mask is learned."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from fairprune_plugin.nni import BiFPPruner
from nni_toys import batches, config, evaluator, mlp

X = batches(1)[0][0]
GRANULARITIES: dict[str, Any] = {
    "rows": "default",
    "unstructured": "unstructured",
    "2:4": "2:4",
    "columns": "in_channel",
    "tiles": [4, 4],
}


@pytest.mark.parametrize("granularity", GRANULARITIES.values(), ids=GRANULARITIES)
def test_the_forward_pass_is_that_of_nnis_own_product(granularity: Any) -> None:
    """At every step: θ as the engine holds it, times the wrapper's mask, in a plain copy of the network."""
    model, plain = mlp(), mlp()
    seen = []

    def watch(wrapped: nn.Module, step: int) -> None:
        state = {}
        for name, tensor in wrapped.state_dict().items():
            state[name.replace("_nni_wrapper.", "")] = tensor
        full = {id(p.parameter): p.full_values() for p in pruner.weights.parameters}
        for name in ("0", "3"):
            for key in ("weight", "bias"):
                space = pruner._target_spaces[name][key]
                state[f"{name}.{key}"] = full.get(id(space.target), space.target) * space.mask
        plain.load_state_dict({key: value for key, value in state.items() if key in plain.state_dict()})
        wrapped.eval()
        plain.eval()
        assert torch.allclose(wrapped(X), plain(X), atol=1e-6)
        wrapped.train()
        seen.append(float(pruner._target_spaces["0"]["weight"].mask.mean()))

    pruner = BiFPPruner(model, config(granularity=granularity), evaluator(model, watch=watch), 4, 16)
    pruner.compress(24, None)
    assert seen[0] == 1
    assert seen[-1] == 0.5
    assert len(set(seen)) > 2
