"""A model that ``fully_shard`` (FSDP2) has spread over ranks, against one process that has all of it and all samples."""

from __future__ import annotations

import pytest
import torch

from ranks.scenarios import sharded
from ranks.sharded import SHARDED
from ranks.told import Ranks, assert_close, equal, forks_ranks, play_all

pytestmark = forks_ranks


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ranks]:
    return play_all(sharded, tmp_path_factory.mktemp("sharded"))


@pytest.mark.parametrize("name", SHARDED)
def test_ranks_with_a_part_each_do_what_one_process_does(name: str, played: dict[str, Ranks]) -> None:
    first, *others = (rank["told"] for rank in played[name])
    alone = played[f"{name}-single"][0]["told"]
    for other in others:
        assert equal(first, other), "the ranks differ"
    assert equal(first["masks"], alone["masks"]), "some step's mask is another one"
    assert not first["masks"][-1].all()
    assert_close(first, alone)
    for key in ("held", "momenta"):
        for one, other in zip(first[key], alone[key], strict=True):
            torch.testing.assert_close(one, torch.zeros_like(one) if other is None else other, rtol=1e-4, atol=1e-5)
    for key, weight in alone["gathered"].items():
        torch.testing.assert_close(first["gathered"][key], weight, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SHARDED)
def test_no_rank_has_all_of_the_model(name: str, played: dict[str, Ranks]) -> None:
    here = [rank["numbers here"] for rank in played[name]]
    assert sum(here) == played[f"{name}-single"][0]["numbers here"]
    assert max(here) < sum(here) * (0.6 if len(here) == 2 else 0.4)


def test_a_rank_with_fewer_batches_joins_in_with_its_last_one(played: dict[str, Ranks]) -> None:
    """One batch of 15 on the first rank and two on the second, in an evaluation between two steps."""
    assert [rank["told"]["samples"] for rank in played["sharded-mlp"]] == [45, 45]


def test_rounds_of_removal_with_the_momentum_of_the_shards(played: dict[str, Ranks]) -> None:
    first, second = played["sharded_rounds"]
    assert equal(first, second)
    assert len(first["keep"]) == 2
    assert_close(first, played["sharded_rounds-single"][0])


@pytest.mark.parametrize("how", ["loaded", "attached"])
def test_a_run_goes_on_from_the_state_of_another(how: str, played: dict[str, Ranks]) -> None:
    """The state is loaded into the whole model, of which a copy is sharded then, or once that is attached."""
    for rank in played["sharded_resumed"]:
        assert equal(rank[how], rank["uninterrupted"]), "to the last bit"


def test_a_bad_batch_of_one_rank_changes_nothing(played: dict[str, Ranks]) -> None:
    first, second = played["sharded_refused"]
    assert first["nan"].pop("errors") == [(0, "PeerError"), (5, "PeerError")]
    assert second["nan"].pop("errors") == [(0, "NonFiniteError"), (5, "NonFiniteError")]
    assert [rank["left out"].pop("errors") for rank in (first, second)] == [[], []]
    assert equal(first["nan"], second["nan"]), "running statistics included"
    assert equal(first["nan"], first["left out"])


SAID = {
    "pruner_before": "UnsupportedModelError: fc1.weight is sharded over ranks (a DTensor, by FSDP",
    "sharded_in_place": "UnsupportedModelError: the model is sharded over ranks (a FSDPNet, by FSDP",
    "attached_in_place": "ConfigError: expected a sharded copy of the model, got the model itself",
    "not_sharded": "ConfigError: expected a model that fully_shard(sharded) was applied to as a whole",
    "in_part": "UnsupportedModelError: fc1.weight is not sharded: apply fully_shard() to the whole copy",
    "of_another_model": "ConfigError: expected a copy of the pruner's model, but fc2.weight is (12, 16) in the model",
    "frozen_in_the_copy": "ConfigError: head.bias is frozen in one of model and sharded copy",
    "replicated_shards": "UnsupportedModelError: fc1.weight lies on a mesh of 2 dimensions",
    "over_other_ranks": "ConfigError: fc1.weight is sharded over ranks [0, 1], and the pruner counts over",
    "twice": "TrainingStateError: attach() came twice",
    "whole_model_regularized": "ConfigError: regularize(model) was given another model than the sharded copy",
    "gradient_scaler": "ConfigError: gradients of a sharded model under a GradScaler are not unscaled here",
    "scaled_gradients": "TrainingStateError: the gradients were still scaled by 1024",
    "gradients_of_one_rank_overflow": "NonFiniteError: the gradient became NaN or infinite at training step 0",
    "never_synchronised": "TrainingStateError: a step came before backward()",
    "fit": "ConfigError: fit() trains the pruner's own model, whole on every rank",
    "no_batches_on_one": "DataError: the loader of rank 1 is empty, and those of other ranks are not",
    "nothing_to_gather": "TrainingStateError: gather() without a sharded copy of the model",
    "weights_not_under_the_mask": "TrainingStateError: hidden weights are not zero",
    "attached_in_the_middle": "TrainingStateError: attach() came after training steps had been taken",
    "attached_at_the_end": "TrainingStateError: all pruning rounds are done",
    "state_of_a_later_round": "TrainingStateError: the state is of a run that has removed channels (1 rounds)",
}


@pytest.mark.parametrize(("mistake", "said"), SAID.items(), ids=SAID)
def test_a_mistake_is_said_on_every_rank(mistake: str, said: str, played: dict[str, Ranks]) -> None:
    for rank in played["sharded_mistakes"]:
        assert rank[mistake].startswith(said)


def test_bad_data_of_one_rank_stop_the_evaluation_of_all(played: dict[str, Ranks]) -> None:
    first, second = (rank["bad_evaluation_of_one"] for rank in played["sharded_mistakes"])
    assert second.startswith("DataError: group id 9 of the sensitive attribute was never declared")
    assert first.startswith("PeerError: 1 of 2 processes failed, so this one stops too: rank 1: DataError: group id 9")


def test_one_rank_cannot_evaluate_alone(played: dict[str, Ranks]) -> None:
    assert played["sharded_mistakes"][0]["evaluated_alone"].startswith(
        "ConfigError: a sharded model cannot be evaluated"
    )
