"""Several ranks train one model: what each ends with, against one process that has all of their samples."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ranks.fits import FITS
from ranks.loops import BAD, LOOPS
from ranks.scenarios import data_parallel
from ranks.told import Ranks, assert_close, environment, equal, forks_ranks, play_all

pytestmark = forks_ranks


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ranks]:
    return play_all(data_parallel, tmp_path_factory.mktemp("ranks"))


# ---- a loop of the user's own ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOOPS)
def test_ranks_together_do_what_one_process_does(name: str, played: dict[str, Ranks]) -> None:
    first, *others = played[name]
    (alone,) = played[f"{name}-single"]
    for other in others:
        assert equal(first, other), "the ranks differ"
    assert equal(first["masks"], alone["masks"]), "some step's mask is another one"
    assert_close(first, alone)
    assert not first["keep"].all()
    rule = LOOPS[name].get("multipliers", {}).get("rule")
    if first["multipliers"] and rule != "paper":
        assert any(value.any() for value in first["multipliers"]), "else multipliers are not tested"


def test_pruners_built_on_different_weights_agree_once_the_model_does(played: dict[str, Ranks]) -> None:
    """DistributedDataParallel gives all ranks the first one's weights, after the pruner has looked at others."""
    first, second = played["other-seeds"]
    assert equal(first, second)


# ---- refused batches ---------------------------------------------------------------------------------------

OWN_ERROR = {
    "nan": "NonFiniteError",
    "undeclared-group": "DataError",
    "no-samples": "DataError",
    "no-group": "DataError",
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_batch_of_one_rank_is_refused_by_all_and_changes_nothing(kind: str, played: dict[str, Ranks]) -> None:
    first, second = played[f"refused-{kind}"]
    expected = played["left-out"][0]
    assert [(step, error) for step, error, _ in second.pop("errors")] == [(0, OWN_ERROR[kind]), (5, OWN_ERROR[kind])]
    told = first.pop("errors")
    assert [(step, error) for step, error, _ in told] == [(0, "PeerError"), (5, "PeerError")]
    assert "rank 1 of 2 processes refused its batch" in told[0][2]
    assert equal(first, second)
    assert equal(first["weights"], expected["weights"])
    assert equal(first["counts"], expected["counts"])
    assert equal(first["masks"], expected["masks"])


# ---- mistakes ----------------------------------------------------------------------------------------------

SAID_BY_BOTH = {
    "no_wrapper": "TrainingStateError: the gradient of fc1.weight differs between ranks",
    "other_weights": "TrainingStateError: the parameter of fc1.weight differs between ranks",
    "never_synchronised": "TrainingStateError: the parameter of fc1.weight differs between ranks",
    "joined": "ConfigError: ranks with different numbers of batches, under torch's Join",
    "other_length": "ConfigError: total_steps differs between ranks: 8 on rank 0, 10 on rank 1",
    "other_settings": "ConfigError: dual_every differs between ranks: 1 on rank 0, 2 on rank 1",
    "nobody_has_the_group": "DataError: the constraint cannot be learned from the training data: no sample of group 3",
    "not_a_wrapper": "ConfigError: expected a DistributedDataParallel to wrap anew, got Net",
}


@pytest.mark.parametrize(("mistake", "said"), SAID_BY_BOTH.items(), ids=SAID_BY_BOTH)
def test_a_mistake_is_said_on_every_rank(mistake: str, said: str, played: dict[str, Ranks]) -> None:
    for rank in played["mistakes"]:
        assert rank[mistake].startswith(said)


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        ("bad_loader_of_one", "DataError: the train loader yields (x, y)"),
        ("bad_evaluation_of_one", "DataError: group id 9 of the sensitive attribute was never declared"),
    ],
)
def test_bad_data_of_one_rank_stops_all(mistake: str, said: str, played: dict[str, Ranks]) -> None:
    first, second = played["mistakes"]
    assert second[mistake].startswith(said)
    assert first[mistake].startswith(f"PeerError: 1 of 2 processes failed, so this one stops too: rank 1: {said}")


# ---- after the run -----------------------------------------------------------------------------------------


def test_the_smaller_model_trains_on_in_a_new_wrapper(played: dict[str, Ranks]) -> None:
    first, second = played["train_on"]
    (alone,) = played["train_on-single"]
    one, other = first.pop("alone"), second.pop("alone")
    assert (one, other) == (24 * 15, None), "a single rank may look at its own data"
    assert first["settings kept"]
    assert equal(first, second)
    assert_close(first, alone)
    assert first["weights"]["fc2.weight"].shape == (6, 8)
    assert first["evaluation"]["samples"] == alone["evaluation"]["samples"] == 24 * 30
    assert first["evaluation"]["rates"] == alone["evaluation"]["rates"]
    assert len(first["criterion"]) == 8, "saliencies of both ranks' batches"


@pytest.mark.parametrize("name", ["loop", "session"])
def test_running_statistics_are_the_first_ranks_without_fit_too(name: str, played: dict[str, Ranks]) -> None:
    first, second = (rank[name] for rank in played["batch_norm"])
    assert first["samples"] == second["samples"] == 4 * 30, "the whole split of every rank counts once"
    for what in ("accuracy", "evaluated", "snapshot", "removed"):
        assert equal(first[what], second[what]), what
    ours, others = first.pop("own"), second.pop("own")
    assert equal(ours, first["evaluated"])
    assert equal(ours, others) == (name == "session"), "one of its own, unless the last step has evaluated"


def test_a_process_group_of_one_is_a_run_of_its_own(played: dict[str, Ranks]) -> None:
    assert [rank["size"] for rank in played["separate"]] == [1, 1]
    first, second = (rank["samples"] for rank in played["separate"])
    assert 0 < first < second, "six batches of one, four of the other"


# ---- fit ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FITS)
def test_fit_on_all_ranks(name: str, played: dict[str, Ranks]) -> None:
    first, second = played[name]
    (alone,) = played[f"{name}-single"]
    assert first.pop("rows") == alone["rows"] > 0
    assert second.pop("rows") == 0, "callbacks are for the first rank"
    assert equal(first, second)
    assert first["report"]["after"]["samples"] == alone["report"]["after"]["samples"] == 120
    if name == "fit-batch-norm":
        return  # statistics are those of a rank's batch: not what one process computes
    assert_close(first, alone)
    assert first["report"]["after"] == alone["report"]["after"]
    for row, other in zip(first["report"]["history"], alone["report"]["history"], strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-4)
        assert row["gaps"] == other["gaps"]


def test_ctrl_c_on_one_rank_stops_all_at_one_step_and_the_run_resumes(played: dict[str, Ranks]) -> None:
    assert [rank["interrupted"] for rank in played["interrupted"]] == [True, True]
    assert [rank["step"] for rank in played["interrupted"]] == [9, 9]
    assert "checkpoint-00000009.pt" in played["interrupted"][0]["files"]
    first, second = played["uninterrupted"]
    assert equal(first, second), "batch norm statistics included"
    assert first["samples"] == 42, "DistributedSampler has repeated one of 41 samples"
    for rank in played["resumed"]:
        assert equal(rank, first)


def test_a_checkpoint_is_of_as_many_ranks_as_it_was_written_by(played: dict[str, Ranks]) -> None:
    (alone,) = played["resumed-alone"]
    assert alone["told"].startswith("TrainingStateError")
    assert "processes was 2 and is 1" in alone["told"]


# ---- documentation -----------------------------------------------------------------------------------------


def test_the_documented_script_runs_under_torchrun(tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "distributed.md").read_text(encoding="utf-8")
    script = tmp_path / "train.py"
    script.write_text(page.split("```python\n")[1].split("```")[0], encoding="utf-8")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    done = subprocess.run(
        torchrun, env=environment(), cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert len(done.stdout.strip().splitlines()) == 1, "the first rank alone prints its message"
    assert "tolerance" in done.stdout
    assert (tmp_path / "pruned.safetensors").exists()
