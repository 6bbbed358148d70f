"""What surrounds data parallelism, seen from one process; real ranks are in the integration tests."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from fairprune_plugin.distributed import ALONE
from fairprune_plugin.engine.data_parallel import (
    different_data,
    is_shard,
    refuse_different_settings,
    refuse_diverged,
    rewrap,
    wrap,
)
from fairprune_plugin.engine.loaders.batch_stream import BatchStream
from fairprune_plugin.engine.loaders.census import read_labels
from fairprune_plugin.errors import ConfigError, DataError
from fairprune_plugin.fairness.constraints import AccuracyParity
from fairprune_plugin.fairness.evaluator import Evaluator
from fairprune_plugin.fairness.lagrangian import Lagrangian


def dataset(samples: int = 12) -> TensorDataset:
    return TensorDataset(torch.arange(samples))


def shards() -> DataLoader[Any]:
    return DataLoader(dataset(), 2, sampler=DistributedSampler(dataset(), 2, 0))


def test_one_process_trains_the_bare_model() -> None:
    model = nn.Linear(2, 2)
    assert wrap(model, ALONE) is model
    assert wrap(model, ALONE, nn.Sequential)[0] is model
    refuse_diverged(model, ALONE)


def test_wrappers_of_something_else_are_refused() -> None:
    with pytest.raises(ConfigError, match="a module around the model it was given"):
        wrap(nn.Linear(2, 2), ALONE, lambda model: nn.Linear(2, 2))
    with pytest.raises(ConfigError, match="expected a DistributedDataParallel to wrap anew, got Linear"):
        rewrap(nn.Linear(2, 2))  # type: ignore[arg-type]


def test_loaders_that_share_data_out_are_known_by_their_sampler() -> None:
    sampler = DistributedSampler(dataset(), 2, 0)
    assert is_shard(shards())
    assert is_shard(DataLoader(dataset(), batch_sampler=BatchSampler(sampler, 3, False)))
    assert not is_shard(DataLoader(dataset(), 2, shuffle=True))
    assert not is_shard([1, 2])


def test_equal_parts_count_once_unless_a_sampler_shares_out() -> None:
    def same(a: Any, b: Any) -> bool:
        return bool(a == b)

    assert different_data([1, 1], [1], same) == [1]
    assert different_data([1, 2], [1], same) == [1, 2]
    assert different_data([1, 1], shards(), same) == [1, 1]


def test_settings_that_differ_are_named_and_lengths_of_loaders_may() -> None:
    rows = [{"total_steps": 8, "training batches": 4, "driver": "train"}, {"total_steps": 8, "training batches": 5}]
    rows[1]["driver"] = "train"
    refuse_different_settings(rows)
    rows[1]["driver"] = "validation"
    with pytest.raises(ConfigError, match="driver differs between ranks: 'train' on rank 0, 'validation' on rank 1"):
        refuse_different_settings(rows)
    with pytest.raises(ConfigError, match="pass total_steps to the pruner instead of epochs"):
        refuse_different_settings([{"total_steps": 8}, {"total_steps": 10}])


def test_every_pass_over_shards_is_shuffled_anew() -> None:
    stream = BatchStream.over(shards(), "train")
    passes = [[int(i) for _ in range(3) for i in next(stream)[0]] for _ in range(3)]
    expected = []
    for number in range(3):
        sampler = DistributedSampler(dataset(), 2, 0)
        sampler.set_epoch(number)
        expected.append(list(sampler))
    assert passes == expected
    assert passes[0] != passes[1]


# ---- evaluations of parts ----------------------------------------------------------------------------------


def batch(samples: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(samples, generator=generator)
    return logits, *(torch.randint(2, (samples,), generator=generator) for _ in range(2))


def evaluator_of(*batches: tuple[Tensor, Tensor, Tensor]) -> Evaluator:
    evaluator = Evaluator(Lagrangian(AccuracyParity(0.1)), "test")
    for one in batches:
        evaluator.add(*one)
    return evaluator


def test_the_sum_of_parts_is_the_evaluation_of_the_whole() -> None:
    parts = [batch(20, 0), batch(13, 1), batch(7, 2)]
    whole = evaluator_of(*parts).result()
    together = evaluator_of(parts[1])
    together.take([evaluator_of(part).state_dict() for part in parts])
    assert together.result().to_dict() == whole.to_dict()


def test_a_rank_without_a_sample_learns_the_task_from_the_others() -> None:
    nothing, whole = evaluator_of(), evaluator_of(batch(20, 0))
    nothing.take([nothing.state_dict(), whole.state_dict()])
    assert nothing.result().to_dict() == whole.result().to_dict()
    empty = evaluator_of()
    empty.take([empty.state_dict(), empty.state_dict()])
    with pytest.raises(DataError, match="the test loader is empty"):
        empty.result()


def test_ranks_with_other_tasks_are_refused() -> None:
    _, y, s = batch(20, 0)
    other = evaluator_of((torch.randn(20, 3), y, s))
    with pytest.raises(DataError, match="expected the same task on every rank, got"):
        other.take([evaluator_of(batch(20, 0)).state_dict(), other.state_dict()])


def test_the_same_data_are_recognised_in_whatever_order() -> None:
    logits, y, s = batch(40, 0)
    order = torch.randperm(40)
    one = evaluator_of((logits, y, s)).state_dict()
    shuffled = evaluator_of((logits[order], y[order], s[order])).state_dict()
    assert Evaluator.of_the_same_data(one, shuffled)
    assert not Evaluator.of_the_same_data(one, evaluator_of((logits + 0.01, y, s)).state_dict()), (
        "another sum of logits"
    )
    assert not Evaluator.of_the_same_data(one, evaluator_of((logits, y, 1 - s)).state_dict()), "other groups"


def test_labels_of_all_ranks_are_looked_at_together() -> None:
    """Parts of a census, as if the second rank had told the same or something else."""
    from fairprune_plugin.engine.loaders import census

    model = nn.Linear(2, 2)
    rows = [(torch.zeros(3, 2), torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]))]
    (own,) = read_labels(rows, model, "train")
    mapping = census.Labels(own.targets, {"a": own.sensitive, "b": ["x", "y", "y"]})
    swapped = census.Labels(own.targets.flip(0), own.sensitive.flip(0))
    assert census._same_labels([own], [swapped])
    assert census._same_labels([mapping], [mapping])
    assert not census._same_labels([own], [census.Labels(own.targets, 1 - own.sensitive)])


def test_a_wrapper_is_renewed_with_its_settings_and_without_a_warning() -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        wrapper = nn.parallel.DistributedDataParallel(nn.Linear(2, 2), find_unused_parameters=True)
        for synchronised in (True, False):
            wrapper.broadcast_buffers = synchronised
            renewed = rewrap(wrapper)  # warnings are errors here
            assert renewed.module is wrapper.module
            assert renewed.broadcast_buffers == synchronised
            assert renewed.find_unused_parameters
    finally:
        dist.destroy_process_group()
