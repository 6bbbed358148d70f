"""Arbitrary values for public constructors and for ``loss``: taken, or refused with a class of this package."""

from __future__ import annotations

import copy
import dataclasses
import math
from contextlib import suppress
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from driving import SGD, SmallMLP, batches_for, drive, example_of
from fairprune_plugin import (
    AccuracyParity,
    BiLevelConfig,
    DegradationParity,
    EqualOpportunity,
    ExcessAccuracyGap,
    LossParity,
    MultiplierConfig,
    PrunerConfig,
    build_pruner,
)
from fairprune_plugin.errors import ConfigError, DataError, FairPruneError, NonFiniteError, TrainingStateError
from fairprune_plugin.fairness.attribute import MOST_GROUPS
from fairprune_plugin.fairness.groups import Groups
from fairprune_plugin.torch_pruning import BiFPPruner
from faults.case import assert_same

STEPS = 8


def tries(examples: int) -> Any:
    """Settings of one property."""
    return settings(max_examples=examples, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


ATOMS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 5),
    st.sampled_from([10**9, -(10**30), 2**63, MOST_GROUPS + 1]),
    st.floats(),
    st.text(max_size=4),
    st.sampled_from(["cubic", "macro", "overall", "pairwise", "sigmoid", "nupi", "paper", "params", "0.5", "²", "１"]),
    st.binary(max_size=3),
    st.complex_numbers(),
    st.sampled_from([object, float, len, Decimal("0.1"), nn.Linear(2, 2), range(3), np.float32(0.5), np.int64(2)]),
    st.sampled_from([torch.tensor(0.5), torch.tensor([1, 2]), np.array([0.1, 0.2]), np.array(["a", "b"]), np.array(3)]),
)
KEYS = st.one_of(st.none(), st.booleans(), st.integers(-2, 3), st.text(max_size=3), st.floats())
ANYTHING = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner),
        st.dictionaries(KEYS, inner, max_size=3),
        st.sets(st.integers(0, 3), max_size=2),
    ),
    max_leaves=4,
)
CONFIGS = (
    AccuracyParity,
    EqualOpportunity,
    DegradationParity,
    ExcessAccuracyGap,
    LossParity,
    BiLevelConfig,
    MultiplierConfig,
)


@tries(400)
@given(st.data())
def test_settings_are_taken_or_refused(data: st.DataObject) -> None:
    cls = data.draw(st.sampled_from(CONFIGS))
    names = [field.name for field in dataclasses.fields(cls)]
    start = {"tolerance": 0.1} if "tolerance" in names else {}
    options = data.draw(st.dictionaries(st.sampled_from(names), ANYTHING, min_size=1, max_size=3))
    try:
        taken = cls(**{**start, **options})
    except ConfigError:
        return
    for value in dataclasses.asdict(taken).values():
        assert not isinstance(value, np.generic), "a checkpoint could not be read back"
        assert not (isinstance(value, float) and not math.isfinite(value))


@tries(200)
@given(ANYTHING)
def test_groups_are_taken_or_refused(spec: Any) -> None:
    try:
        groups = Groups.parse(spec)
    except ConfigError:
        return
    assert not groups.known or 2 <= len(groups.names) <= MOST_GROUPS


@tries(200)
@given(
    st.one_of(
        ANYTHING, st.dictionaries(st.sampled_from([*PrunerConfig.__dataclass_fields__, "round_to", "x"]), ANYTHING)
    )
)
def test_descriptions_of_pruners_are_taken_or_refused(spec: Any) -> None:
    try:
        PrunerConfig.parse(spec)
    except ConfigError:
        return


ARGUMENTS = (
    *("constraint", "target", "bilevel", "multipliers", "importance", "example_inputs", "total_steps"),
    *("pruning_ratio", "pruning_ratio_dict", "max_pruning_ratio", "iterative_steps", "round_to", "global_pruning"),
    *("isomorphic", "ignored_layers", "num_heads", "head_pruning_ratio_dict", "unwrapped_parameters", "forward_fn"),
    *("iterative_pruning_ratio_scheduler", "root_module_types", "customized_pruners", "channel_groups", "nonsense"),
)
# Functions are called as they are: what they raise is theirs.
NO_FUNCTION = ANYTHING.filter(lambda value: not callable(value))


@tries(60)
@given(st.data())
@pytest.mark.filterwarnings("ignore")  # the host's own, and that outputs are not ignored
def test_pruners_are_built_or_refused(data: st.DataObject) -> None:
    model = SmallMLP()
    before = copy.deepcopy(model.state_dict())
    name = data.draw(st.sampled_from(ARGUMENTS))
    options: dict[str, Any] = {
        "ignored_layers": [model.head],
        "self_check": False,
        "total_steps": STEPS,
        "round_to": None,
    }
    options[name] = data.draw(NO_FUNCTION)
    if name in ("total_steps", "iterative_steps") and isinstance(options[name], int) and options[name] > 100:
        return  # a long run is a plan like any other
    inputs = options.pop("example_inputs", example_of(model))
    with suppress(FairPruneError):
        build_pruner({"name": "bifp", "pruning_ratio": options.pop("pruning_ratio", 0.5)}, model, inputs, **options)
    assert_same(dict(before), dict(model.state_dict()))
    assert model.training


DTYPES = st.sampled_from(
    [torch.float32, torch.float64, torch.float16, torch.int64, torch.uint8, torch.bool, torch.complex64]
)
SHAPES = st.one_of(
    st.sampled_from([(16,), (16, 1), (16, 2), (16, 3)]), st.lists(st.integers(0, 4), max_size=3).map(tuple)
)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """Of any shape, type and content."""
    shape, dtype = draw(SHAPES), draw(DTYPES)
    low, high = draw(st.sampled_from([(0, 2), (0, 3), (-1, 2), (0, 1)]))
    values = torch.randint(low, high, shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 9)))).to(dtype)
    special = draw(st.sampled_from([None, None, math.nan, math.inf, 1e30]))
    if special is not None and dtype.is_floating_point and values.numel():
        values = values.clone()
        values.view(-1)[0] = special
    return values


def shifted(batch: tuple[Tensor, ...], part: int, value: Any) -> list[Any]:
    """A good batch with one part that is another."""
    return [value if number == part else own for number, own in enumerate(batch)]


@pytest.mark.parametrize("constrained", [True, False])
def test_any_batch_counts_or_leaves_everything_as_it_was(constrained: bool) -> None:
    model = SmallMLP()
    pruner = BiFPPruner(
        model,
        example_of(model),
        ignored_layers=[model.head],
        constraint=EqualOpportunity(0.1) if constrained else None,
        total_steps=STEPS,
        pruning_ratio=0.5,
        self_check=False,
    )
    batches = batches_for(model, STEPS)
    drive(pruner, model, SGD(model.parameters(), lr=0.05), batches[:3])
    good = (torch.randn(16, 2), *batches[0][1:])

    @tries(150)
    @given(st.integers(0, 2), st.one_of(tensors(), ANYTHING, st.lists(st.integers(-1, 2), min_size=16, max_size=16)))
    def property_(part: int, value: Any) -> None:
        batch = shifted(good, part, value)
        before = copy.deepcopy(pruner.state_dict())
        try:
            loss = pruner.loss(*batch)
        except (DataError, NonFiniteError, TrainingStateError):
            assert_same(before, pruner.state_dict())
        else:
            assert bool(torch.isfinite(loss))

    property_()
    drive(pruner, model, SGD(model.parameters(), lr=0.05), batches[3:])
    pruner.step()
    assert model.fc1.out_features == 8
