"""Which targets a pruner takes over."""

from __future__ import annotations

from fairprune_plugin.nni import BiFPPruner
from fairprune_plugin.nni.targets import Targets
from nni_toys import config, evaluator, mlp


def test_a_frozen_wrapper_keeps_its_mask() -> None:
    model = mlp()
    pruner = BiFPPruner(model, config(), evaluator(model), 2, 6)
    pruner.unwrap_model()
    pruner._module_wrappers["0"].freeze()
    targets = Targets(model, pruner._module_wrappers, pruner._target_spaces)
    assert {module for module, _ in targets} == {"3"}
