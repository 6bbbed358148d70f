"""The plan of a phase: which steps are mask steps and how much is due."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairprune_plugin.engine.config import BiLevelConfig
from fairprune_plugin.engine.timetable import SettledTimetable, Timetable
from fairprune_plugin.errors import ConfigError


def table(steps: int = 20, ratio: float = 0.8, start: float = 0.0, end: float = 1.0, **options: object) -> Timetable:
    return Timetable(BiLevelConfig(**{"ramp_end": 0.5, **options}), steps, ratio=ratio, start=start, end=end)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("k", "expected"),
    [(1, [1, 3, 5, 7, 9]), (2, [2, 5, 8, 9]), (4, [4, 9]), (30, [9])],
    ids=lambda value: f"K={value}" if isinstance(value, int) else "",
)
def test_one_mask_step_after_k_weight_steps_and_one_at_the_end_of_the_ramp(k: int, expected: list[int]) -> None:
    plan = table(weight_steps_per_mask_step=k)
    assert [step for step in range(20) if plan.learns_mask(step)] == expected


def test_joint_steps() -> None:
    plan = table(weight_steps_per_mask_step=0, joint=True)
    assert [step for step in range(20) if plan.learns_mask(step)] == list(range(10))


def test_progress_of_a_linear_ramp() -> None:
    plan = table(schedule="linear", warmup=0.2, ramp_end=0.6)  # nothing in 4 steps, then 8 steps
    expected = [0] * 4 + [k / 8 for k in range(1, 9)] + [1] * 8
    assert [plan.progress(step) for step in range(20)] == pytest.approx(expected)
    assert [plan.at_target(step) for step in range(20)] == [False] * 11 + [True] * 9
    assert plan.progress(-1) == 0


@given(
    st.sampled_from(["cubic", "linear", "lottery_ticket", "constant"]),
    st.integers(2, 60),
    st.floats(0.01, 0.99),
    st.floats(0, 0.5),
    st.floats(0.51, 1),
)
def test_progress_never_falls_and_the_last_mask_step_reaches_the_target(
    schedule, steps, ratio, warmup, ramp_end
) -> None:
    plan = table(steps, ratio, schedule=schedule, warmup=warmup, ramp_end=ramp_end)
    values = [plan.progress(step) for step in range(steps)]
    assert all(a <= b + 1e-12 for a, b in itertools.pairwise(values))
    assert values[-1] == pytest.approx(1)
    mask_steps = [step for step in range(steps) if plan.learns_mask(step)]
    assert plan.progress(mask_steps[-1]) == pytest.approx(1)
    assert plan.at_target(mask_steps[-1])
    assert not any(plan.at_target(step) for step in mask_steps[:-1])


def test_later_rounds_begin_where_the_last_one_ended() -> None:
    plan = table(schedule="linear", warmup=0.0, start=0.5, end=0.75)
    assert plan.progress(-1) == 0.5
    assert plan.progress(4) == pytest.approx(0.625)
    assert plan.progress(19) == pytest.approx(0.75)


def test_a_ratio_of_zero_is_at_its_target() -> None:
    assert table(ratio=0.0).progress(0) == 1


@pytest.mark.parametrize("steps", [0, 1])
def test_too_short_a_run_is_refused(steps: int) -> None:
    with pytest.raises(ConfigError, match="at least 2 training steps"):
        table(steps)


def test_a_warm_up_that_leaves_no_step_is_refused_by_its_name() -> None:
    with pytest.raises(ConfigError, match=r"after the warm-up.*warmup=0\.8 of 2 steps are all of them: lower warmup"):
        table(2, warmup=0.8, ramp_end=0.9)
    assert table(3, warmup=0.8, ramp_end=0.9).progress(2) == 1


@pytest.mark.parametrize("steps", [0, 1, 20])
def test_after_the_last_removal_weights_alone_are_trained(steps: int) -> None:
    plan = SettledTimetable(BiLevelConfig(), steps)
    for step in range(-1, steps):
        assert not plan.learns_mask(step)
        assert plan.at_target(step)
        assert plan.progress(step) == 1
