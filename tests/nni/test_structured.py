"""Configs completed from the dependency graph."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from nni.compression.pruning import L1NormPruner
from torch import Tensor, nn

from fairprune_plugin.errors import ConfigError, UnsupportedModelError
from fairprune_plugin.nni import BiFPPruner, configure_structured, speedup
from nni_toys import batches, evaluator, mlp


class Residual(nn.Module):
    """stem and body share their channels; the branch behind them has its own."""

    def __init__(self, norm: type[nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.bn0 = nn.Conv2d(3, 8, 3, padding=1), norm(8) if norm is nn.BatchNorm2d else norm(2, 8)
        self.body, self.bn1 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.wide, self.bn2 = nn.Conv2d(8, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.fc = nn.Linear(12, 2)
        for norm_ in (self.bn0, self.bn1, self.bn2):
            nn.init.normal_(norm_.weight)
            nn.init.normal_(norm_.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn0(self.stem(x)))
        x = torch.relu(x + self.bn1(self.body(x)))
        x = torch.relu(self.bn2(self.wide(x)))
        out: Tensor = self.fc(x.mean((2, 3)))
        return out


X = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))
ASKED: list[dict[str, Any]] = [{"op_types": ["Conv2d"], "sparse_ratio": 0.5}]


def by_name(entries: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: entry for entry in entries for name in entry["op_names"]}


def test_groups_and_alignment_are_filled_in() -> None:
    entries = by_name(configure_structured(Residual(), X, ASKED))
    assert set(entries) == {"stem", "body", "wide", "bn0", "bn1", "bn2"}
    assert entries["stem"]["dependency_group_id"] == entries["body"]["dependency_group_id"]
    assert "dependency_group_id" not in entries["wide"]
    assert all(entries[name]["sparse_ratio"] == 0.5 for name in ("stem", "body", "wide"))
    for norm, layers in (("bn0", ("stem", "body")), ("bn1", ("stem", "body")), ("bn2", ("wide",))):
        for target in ("weight", "bias"):
            align = entries[norm]["target_settings"][target]["align"]
            assert align["module_name"] in layers
            assert (align["target_name"], align["dims"]) == ("weight", [0])


def test_the_model_is_left_as_it_was() -> None:
    model = Residual().train()
    model.stem.weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    generator = torch.get_rng_state()
    configure_structured(model, X, ASKED)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert not model.stem.weight.requires_grad
    assert torch.equal(torch.get_rng_state(), generator)


def test_nnis_own_pruner_becomes_exact() -> None:
    """A masked model with batch norm is the pruned one, which it is not without the completed config."""
    model = Residual().eval()
    pruner = L1NormPruner(model, list(configure_structured(model, X, ASKED)))
    _, masks = pruner.compress()
    masked = model(X)
    pruner.unwrap_model()
    small = speedup(model, masks, X)
    assert small.stem.out_channels == 4
    assert torch.allclose(small(X), masked, atol=1e-5)


def test_other_entries_pass_through() -> None:
    asked = [*ASKED, {"op_names": ["fc"], "sparse_ratio": 0.5, "granularity": "2:4"}]
    entries = by_name(configure_structured(Residual(), X, asked))
    assert entries["fc"] == {"op_names": ["fc"], "sparse_ratio": 0.5, "granularity": "2:4"}


def test_an_entry_of_the_users_own_for_a_norm_wins() -> None:
    own = {
        "op_names": ["bn2"],
        "target_names": ["weight"],
        "target_settings": {"weight": {"align": {"module_name": "wide", "target_name": "weight", "dims": [0]}}},
    }
    entries = configure_structured(Residual(), X, [*ASKED, own])
    assert [entry for entry in entries if entry["op_names"] == ["bn2"]] == [own]


def test_tied_channels_of_grouped_convolutions() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2), nn.ReLU(), nn.Conv2d(8, 2, 1))
    entries = by_name(configure_structured(model, X, [{"op_names": ["0", "2"], "sparse_ratio": 0.5}]))
    assert entries["0"]["internal_metric_block"] == 2


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (
            [{"op_types": ["Conv2d"], "sparse_ratio": 0.5, "exclude_op_names": ["body"]}],
            r"stem.*those of body.*leaves out",
        ),
        ([{"op_types": ["Conv2d", "Linear"], "sparse_ratio": 0.5}], r"fc \(its channels are the model's output\)"),
        (
            [{"op_names": ["stem"], "sparse_ratio": 0.5}, {"op_names": ["body"], "sparse_ratio": 0.3}],
            "stem and body lose channels together but are configured differently",
        ),
        ([{"op_names": ["fc"], "sparse_ratio": 0.5, "granularity": [1]}], "nothing to configure"),
        ([{"op_names": ["stem"], "sparse_ratio": 1}], "as a float"),
    ],
    ids=["half a group", "output", "different ratios", "no rows", "integer"],
)
def test_configs_in_conflict_with_the_graph(asked: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        configure_structured(Residual(), X, asked)


TWO: list[dict[str, Any]] = [{"op_names": ["stem", "body"], "sparse_ratio": 0.5}]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (
            [{"op_names": ["stem"], "sparse_ratio": 0.5}],
            r"stem \(its channels are those of body, which the config leaves",
        ),
        (TWO, r"(stem and body|body and stem) lose.*no common dependency_group_id \(None, None\)"),
        (
            [{**TWO[0], "op_names": [name], "dependency_group_id": name} for name in ("stem", "body")],
            r"no common dependency_group_id \(('stem', 'body'|'body', 'stem')\)",
        ),
        ([{**TWO[0], "global_group_id": "a"}], r"no common dependency_group_id"),
        ([{"op_names": ["fc"], "sparse_ratio": 0.5}], r"fc \(its channels are the model's output\)"),
    ],
    ids=["half a group", "no ids", "two ids", "a global id", "output"],
)
def test_the_pruner_with_a_config_in_conflict_with_the_graph(asked: list[dict[str, Any]], words: str) -> None:
    model = Residual()
    with pytest.raises(ConfigError, match=words):
        BiFPPruner(model, asked, evaluator(model), 2, 6, dummy_input=X)
    assert not hasattr(model.stem, "_nni_wrapper")
    # The evaluator's input may be there for other reasons: rows are masked, as NNI's own pruners do.
    pruner = BiFPPruner(model, asked, evaluator(model, dummy_input=X), 2, 6)
    assert not any(unit_set.inside for unit_set in pruner.units.sets)


@pytest.mark.parametrize("settings", [{}, {"target_settings": {"weight": {"dependency_group_id": 1}}}])
def test_the_pruner_with_a_config_that_agrees_with_the_graph(settings: dict[str, Any]) -> None:
    shared = settings or {"dependency_group_id": "a"}
    model = Residual()
    pruner = BiFPPruner(model, [{**TWO[0], **shared}], evaluator(model), 2, 6, dummy_input=X)
    assert [unit_set.inside for unit_set in pruner.units.sets] == [True]


def test_statistics_across_channels() -> None:
    model = Residual(nn.GroupNorm)
    with pytest.raises(UnsupportedModelError, match="cross bn0, a layer or group norm"):
        configure_structured(model, X, ASKED)
    asked = [{**TWO[0], "dependency_group_id": "a"}]
    with pytest.raises(UnsupportedModelError, match="cross bn0, a layer or group norm"):
        BiFPPruner(model, asked, evaluator(model), 2, 6, dummy_input=X)
    masks = {"stem": {"weight": torch.ones(8, 3, 3, 3)}, "body": {"weight": torch.ones(8, 8, 3, 3)}}
    for targets in masks.values():
        targets["weight"][:1] = 0
    with pytest.raises(ConfigError, match="bn0 normalises across them"):
        speedup(model, masks, X)


@pytest.mark.parametrize(
    ("dummy", "words"),
    [
        (torch.zeros(4, 5), r"tensor of shape \(4, 5\), torch.float32 on cpu\): RuntimeError"),
        ("x", r"does not run on the dummy_input \(str\): TypeError"),
        ((torch.zeros(2, 8), 1), r"shape \(2, 8\), torch.float32 on cpu, int\): TypeError"),
        ({"y": torch.zeros(2, 8)}, r"\(y: a tensor of shape \(2, 8\).*TypeError"),
    ],
    ids=["shape", "type", "tuple", "keyword"],
)
def test_an_input_that_the_model_does_not_take(dummy: Any, words: str) -> None:
    asked = [{"op_names": ["0", "3"], "sparse_ratio": 0.5}]
    model = mlp()
    with pytest.raises(ConfigError, match=words):
        configure_structured(model, dummy, asked)
    with pytest.raises(ConfigError, match=words):
        BiFPPruner(model, asked, evaluator(model), 2, 6, dummy_input=dummy)
    with pytest.raises(ConfigError, match=words):
        speedup(model, {"0": {"weight": torch.ones(16, 8).index_fill(0, torch.tensor(1), 0)}}, dummy)
    assert bool((model[0].weight != 0).all())
    assert model.training
    pruner = BiFPPruner(model, asked, evaluator(model, dummy_input=dummy), 2, 6)
    assert not any(unit_set.inside for unit_set in pruner.units.sets)


def test_no_input() -> None:
    with pytest.raises(ConfigError, match="dummy_input is None: expected a tensor"):
        configure_structured(mlp(), None, [{"op_names": ["0"], "sparse_ratio": 0.5}])


def test_a_layer_that_is_not_reached() -> None:
    model = Residual()
    model.spare = nn.Conv2d(3, 3, 1)
    with pytest.raises(ConfigError, match=r"spare \(the forward pass of the dummy input does not reach it\)"):
        configure_structured(model, X, ASKED)


def test_a_transposed_convolution() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ConvTranspose2d(4, 4, 2), nn.Conv2d(4, 2, 1))
    with pytest.raises(ConfigError, match="in a transposed convolution are its inputs"):
        configure_structured(model, X, [{"op_types": ["ConvTranspose2d"], "sparse_ratio": 0.5}])


def test_a_softmax_over_channels() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.Softmax(1), nn.Linear(8, 2))
    with pytest.raises(UnsupportedModelError, match="exclude_op_names"):
        configure_structured(model, torch.randn(3, 6), [{"op_names": ["0"], "sparse_ratio": 0.5}])
    configure_structured(model, torch.randn(3, 6), [{"op_names": ["0"], "sparse_ratio": 0.5}], self_check=False)


class Gated(nn.Module):
    """Hidden features times their own mean: each of them reaches the output through all others."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.fc = nn.Linear(8, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x) + 1)
        out: Tensor = self.fc(x * (x.mean(1, keepdim=True) - 0.5))
        return out


FEATURES = batches(1)[0][0]
OF_A: list[dict[str, Any]] = [{"op_names": ["a"], "sparse_ratio": 0.5}]


def test_the_pruner_tries_the_masks_of_a_graph_first() -> None:
    model = Gated()
    with pytest.raises(UnsupportedModelError, match=r"not the same as a pruned one.*exclude_op_names"):
        BiFPPruner(model, OF_A, evaluator(model), 2, 6, dummy_input=FEATURES)
    assert not hasattr(model.a, "_nni_wrapper")


def test_with_an_evaluators_input_rows_are_masked_where_consumers_are_another_function() -> None:
    model, last = Gated(), []

    def watch(bound: nn.Module, _: int) -> None:
        with torch.no_grad():
            last[:] = [bound(FEATURES)]

    pruner = BiFPPruner(model, OF_A, evaluator(model, watch=watch, dummy_input=FEATURES), 2, 6)
    assert not any(unit_set.inside for unit_set in pruner.units.sets)
    _, masks = pruner.compress(8, None)
    assert float(masks["a"]["weight"].mean()) == 0.5
    assert torch.allclose(model(FEATURES), last[0], atol=1e-6)  # what was trained is what comes out


def test_masks_are_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    module = importlib.import_module("fairprune_plugin.nni.structured")
    real = module.check
    monkeypatch.setattr(module, "check", lambda rebuild: (tried.append(1), real(rebuild)))
    asked = [{"op_names": ["0", "3"], "sparse_ratio": 0.5}]
    model = mlp()
    structured = configure_structured(model, FEATURES, asked)
    assert len(tried) == 1
    BiFPPruner(model, structured, evaluator(model), 2, 6).unwrap_model()
    BiFPPruner(model, structured, evaluator(model, dummy_input=FEATURES), 2, 6).unwrap_model()
    assert len(tried) == 1
    for options in ({"dummy_input": FEATURES}, {}):
        pruner = BiFPPruner(model, asked, evaluator(model, dummy_input=FEATURES), 2, 6, **options)
        assert all(unit_set.inside for unit_set in pruner.units.sets)
        pruner.unwrap_model()
    assert len(tried) == 3
    model = Gated()
    waived = configure_structured(model, FEATURES, OF_A, self_check=False)
    BiFPPruner(model, waived, evaluator(model), 2, 6)
    assert len(tried) == 3


def test_a_model_that_cannot_be_copied() -> None:
    class Uncopied(nn.Sequential):
        def __deepcopy__(self, memo: Any) -> Any:
            raise TypeError("one of a kind")

    model, asked = Uncopied(*mlp()), [{"op_names": ["0", "3"], "sparse_ratio": 0.5}]
    with pytest.raises(UnsupportedModelError, match=r"cannot be copied \(TypeError: one of a kind\).*self_check=False"):
        BiFPPruner(model, asked, evaluator(model), 2, 6, dummy_input=FEATURES)
    BiFPPruner(model, asked, evaluator(model, dummy_input=FEATURES), 2, 6).unwrap_model()
    pruner = BiFPPruner(model, configure_structured(model, FEATURES, asked, self_check=False), evaluator(model), 2, 6)
    assert all(unit_set.inside for unit_set in pruner.units.sets)


def test_a_later_entry_keeps_the_targets_that_the_first_one_left() -> None:
    """As in NNI: the first entry counts for what it configures, and for that alone."""
    aligned = {"bias": {"align": {"module_name": None, "target_name": "weight", "dims": [0]}}}
    asked: list[dict[str, Any]] = [
        {"op_names": ["stem", "body"], "target_names": ["weight"], "sparse_ratio": 0.5},
        {"op_names": ["stem"], "target_names": ["bias"], "target_settings": aligned},
        {"op_names": ["stem"], "target_names": ["weight"], "sparse_ratio": 0.1},
    ]
    entries = configure_structured(Residual(), X, asked)
    of_stem = [entry for entry in entries if entry["op_names"] == ["stem"]]
    targets = [set(entry["target_names"]) for entry in of_stem if "target_names" in entry]
    assert {"bias"} in targets
    assert sum("weight" in names for names in targets) == 1
    assert all(entry.get("sparse_ratio") != 0.1 for entry in entries)
