"""What a config_list may say, and what it may not."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fairprune_plugin.errors import ConfigError
from fairprune_plugin.nni import config_list as configs
from nni_toys import mlp

WRONG: dict[str, tuple[Any, str]] = {
    "no list": ({"op_types": ["Linear"]}, "list of dicts"),
    "empty": ([], "nothing would be pruned"),
    "unknown key": ([{"op_types": ["Linear"], "sparse_ration": 0.5}], "did you mean 'sparse_ratio'"),
    "integer ratio": ([{"op_types": ["Linear"], "sparse_ratio": 1}], r"float, got 1 \(int\): write it as 0.5"),
    "zero as an integer": ([{"op_types": ["Linear"], "sparse_ratio": 0}], r"got 0 \(int\)"),
    "text ratio": ([{"op_types": ["Linear"], "sparse_ratio": "0.5"}], "float, got '0.5'"),
    "everything": ([{"op_types": ["Linear"], "sparse_ratio": 1.0}], r"\[0, 1\)"),
    "integer in settings": (
        [{"op_types": ["Linear"], "target_settings": {"weight": {"sparse_ratio": 1}}}],
        "as a float, got 1",
    ),
    "integer threshold": ([{"op_types": ["Linear"], "sparse_threshold": 1}], "as a float, got 1"),
    "threshold nan": ([{"op_types": ["Linear"], "sparse_threshold": float("nan")}], "finite sparse_threshold.*got nan"),
    "threshold inf": ([{"op_types": ["Linear"], "sparse_threshold": float("inf")}], "finite sparse_threshold.*got inf"),
    "bound as true": (
        [{"op_types": ["Linear"], "sparse_ratio": 0.5, "max_sparse_ratio": True}],
        "max_sparse_ratio as a float",
    ),
    "upper bound as a zero": (
        [{"op_types": ["Linear"], "sparse_ratio": 0.5, "max_sparse_ratio": 0}],
        "max_sparse_ratio as a float",
    ),
    "lower bound as a one": (
        [{"op_types": ["Linear"], "sparse_ratio": 0.5, "min_sparse_ratio": 1}],
        "min_sparse_ratio as a float",
    ),
    "both goals": ([{"op_types": ["Linear"], "sparse_ratio": 0.5, "sparse_threshold": 0.1}], "not both"),
    "bounds crossed": (
        [{"op_types": ["Linear"], "sparse_ratio": 0.5, "min_sparse_ratio": 0.6, "max_sparse_ratio": 0.4}],
        "above max_sparse_ratio",
    ),
    "threshold in a group": (
        [{"op_types": ["Linear"], "sparse_threshold": 0.5, "global_group_id": 1}],
        "does not go with sparse_threshold",
    ),
    "no such name": (
        [{"op_names": ["33"], "sparse_ratio": 0.5}],
        "'33', which the model does not have: did you mean '3'",
    ),
    "no such type": ([{"op_types": ["linear"], "sparse_ratio": 0.5}], "did you mean 'Linear'"),
    "no such exclusion": (
        [{"op_types": ["Linear"], "exclude_op_names": ["7"], "sparse_ratio": 0.5}],
        "exclude_op_names lists '7'",
    ),
    "no such pattern": ([{"op_names_re": ["conv.*"], "sparse_ratio": 0.5}], "op_names_re 'conv.*' matches no layer"),
    "no such excluded pattern": (
        [{"op_types": ["Linear"], "exclude_op_names_re": ["conv.*"], "sparse_ratio": 0.5}],
        "exclude_op_names_re 'conv.*' matches no layer",
    ),
    "no such target": (
        [{"op_types": ["Linear"], "sparse_ratio": 0.5, "target_names": ["wieght"]}],
        r"target_names lists 'wieght', which \w+ \(Linear\) does not have: did you mean 'weight'",
    ),
    "no such target in settings": (
        [{"op_types": ["Linear"], "target_settings": {"scale": {"sparse_ratio": 0.5}}}],
        "target_settings lists 'scale'.*choose from bias, weight",
    ),
    "all excluded": ([{"op_names": ["0"], "exclude_op_names": ["0"], "sparse_ratio": 0.5}], "no layer is left"),
    "no setting for the type": ([{"op_types": ["ReLU"], "sparse_ratio": 0.5}], "no pruning setting for"),
    "unknown granularity": (
        [{"op_types": ["Linear"], "sparse_ratio": 0.5, "granularity": "block"}],
        "'2:4', or a block",
    ),
    "4:2": ([{"op_types": ["Linear"], "sparse_ratio": 0.5, "granularity": "4:2"}], "0 < N < M"),
    "2:4 at another ratio": (
        [{"op_types": ["Linear"], "sparse_ratio": 0.75, "granularity": "2:4"}],
        "is a sparse_ratio of 0.5, got 0.75",
    ),
    "2:4 below its lower bound": (
        [{"op_types": ["Linear"], "sparse_ratio": 0.5, "granularity": "2:4", "min_sparse_ratio": 0.75}],
        "is a sparse_ratio of 0.5, which is not between min_sparse_ratio 0.75 and max_sparse_ratio 1",
    ),
    "2:4 above its upper bound": (
        [{"op_types": ["Linear"], "sparse_ratio": 0.5, "granularity": "2:4", "max_sparse_ratio": 0.25}],
        "not between min_sparse_ratio 0 and max_sparse_ratio 0.25",
    ),
    "channels of activations": (
        [{"op_types": ["Linear"], "sparse_ratio": 0.5, "granularity": "per_channel"}],
        "per_channel.*for activations.*'out_channel'",
    ),
    "2:4 in a group": (
        [{"op_types": ["Linear"], "sparse_ratio": 0.5, "granularity": "2:4", "global_group_id": "a"}],
        "does not go with global_group_id",
    ),
    "apply method": ([{"op_types": ["Linear"], "sparse_ratio": 0.5, "apply_method": "add"}], "trains under its mask"),
    "activations": (
        [{"op_types": ["Linear"], "target_settings": {"_output_": {"sparse_ratio": 0.5}}}],
        "masks parameters",
    ),
    "activations by name": (
        [{"op_types": ["Linear"], "sparse_ratio": 0.5, "target_names": ["_output_"]}],
        "masks parameters",
    ),
}


@pytest.mark.parametrize(("entries", "words"), WRONG.values(), ids=WRONG)
def test_mistakes(entries: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        configs.check(mlp(), entries)


def test_what_only_nnis_schema_knows() -> None:
    entries = [{"op_types": ["Linear"], "sparse_ratio": 0.5, "align": {"module": "0"}}]
    configs.check(mlp(), entries)
    with pytest.raises(ConfigError, match="NNI's schema refuses"):
        configs.validate(entries)


@pytest.mark.parametrize("bounds", [{"max_sparse_ratio": 1}, {"min_sparse_ratio": 0}])
def test_integers_that_nni_takes_for_bounds(bounds: dict[str, int]) -> None:
    for granularity in ("out_channel", "2:4"):
        entries = [{"op_types": ["Linear"], "sparse_ratio": 0.5, "granularity": granularity, **bounds}]
        configs.check(mlp(), entries)
        configs.validate(entries)


def test_a_parameter_that_the_entry_itself_configures() -> None:
    model = mlp()
    model[0].register_parameter("scale", torch.nn.Parameter(torch.ones(16)))
    configs.check(model, [{"op_names": ["0"], "target_settings": {"scale": {"sparse_ratio": 0.5}}}])


def test_the_form_before_nni_2_5() -> None:
    entries = [{"op_types": ["Linear"], "sparsity": 0.5}, {"op_names": ["6"], "exclude": True}]
    configs.check(mlp(), entries)
    assert configs.row_layers(mlp(), entries) == ["0", "3"]


@pytest.mark.parametrize("granularity", ["unstructured", "2:4", "out_channel", "in_channel", "default", [4, 4]])
def test_granularities(granularity: Any) -> None:
    entries = [{"op_types": ["Linear"], "sparse_ratio": 0.5, "granularity": granularity}]
    configs.check(mlp(), entries)
    configs.validate(entries)
    rows = granularity in ("out_channel", "default")
    assert configs.row_layers(mlp(), entries) == (["0", "3", "6"] if rows else [])
