"""Conditions on values: at once, or noted and raised when their flags have been sent."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from accelerator import elsewhere, here, waits
from fairprune_plugin.errors import DataError, NonFiniteError
from fairprune_plugin.value_checks import ValueChecks, known_in_range, reading_waits, refuse_if, where_good

YES, NO = torch.tensor(True), torch.tensor(False)


def error(text: str = "wrong") -> DataError:
    return DataError(text)


def noted(checks: ValueChecks, *flags: Tensor) -> None:
    with checks.collecting():
        for number, flag in enumerate(flags):
            refuse_if(flag, lambda number=number: error(f"condition {number}"))


def test_on_the_cpu_a_condition_is_looked_at_at_once() -> None:
    checks = ValueChecks()
    refuse_if(NO, error)
    with pytest.raises(DataError, match="wrong"):
        refuse_if(YES, error)
    with pytest.raises(DataError, match="condition 1"):
        noted(checks, NO, YES)
    assert checks.good() is None
    checks.end_step()
    checks.settle()


def test_deferred_conditions_are_raised_once_in_order_and_with_a_note() -> None:
    checks = ValueChecks(deferred=True)
    noted(checks, NO, NO)
    assert bool(checks.good())
    checks.end_step()
    noted(checks, NO, YES, YES)
    assert not bool(checks.good())
    checks.end_step()
    assert checks.good() is None  # the next step has not begun
    noted(checks, YES)
    with pytest.raises(DataError, match="condition 1") as caught:
        checks.raise_arrived()
    assert "some steps later" in caught.value.__notes__[0]
    checks.raise_arrived()  # that step is dealt with; the present one has sent nothing
    checks.end_step()
    with pytest.raises(DataError, match="condition 0"):
        checks.settle()
    checks.settle()


def test_outside_of_a_training_step_nothing_is_deferred() -> None:
    checks = ValueChecks(deferred=True)
    noted(checks, NO)
    with pytest.raises(DataError):
        refuse_if(YES, error)


def test_conditions_of_a_batch_that_is_refused_at_once_are_forgotten() -> None:
    checks = ValueChecks(deferred=True)
    noted(checks, NO)
    with pytest.raises(NonFiniteError), checks.collecting():
        refuse_if(YES, error)
        raise NonFiniteError("something else")
    assert bool(checks.good())


def test_flags_that_have_not_arrived_are_not_waited_for() -> None:
    class Flight:
        done = False

        def query(self) -> bool:
            return self.done

        def synchronize(self) -> None:
            self.done = True

    checks, flight = ValueChecks(deferred=True), Flight()
    noted(checks, YES)
    checks.end_step()
    object.__setattr__(checks._sent[0], "arrival", flight)
    checks.raise_arrived()
    with pytest.raises(DataError):
        checks.settle()
    assert flight.done


def test_a_flag_of_an_accelerator_is_not_read_in_its_step() -> None:
    checks = ValueChecks()
    with waits() as seen:
        flag = elsewhere(torch.tensor(1.0)) > 0
        assert reading_waits(flag.device)
        noted(checks, flag)
        good = checks.good()
        assert good is not None
        value = where_good(good, elsewhere(torch.ones(2)), elsewhere(torch.zeros(2)))
        checks.end_step()
        with pytest.raises(DataError):
            checks.raise_arrived()
        assert seen == []
        assert here(value).tolist() == [0, 0]
        bool(flag)
        assert seen == ["_local_scalar_dense"]  # the detector detects


def test_where_good_without_a_flag_is_the_new_state() -> None:
    new, old = torch.ones(2), torch.zeros(2)
    assert where_good(None, new, old) is new
    assert torch.equal(where_good(YES, new, old), new)
    assert torch.equal(where_good(NO, new, old), old)


@pytest.mark.parametrize(
    ("values", "expected"), [([0, 2, 1], True), ([0, 3], False), ([-1, 2], False), ([2], True), ([], False)]
)
def test_whole_numbers_are_known_to_be_in_range(values: list[int], expected: bool) -> None:
    assert known_in_range(torch.tensor(values, dtype=torch.long), 3) is expected


def test_an_accelerator_is_not_asked_for_a_range() -> None:
    assert not known_in_range(torch.zeros(2, dtype=torch.long, device="meta"), 3)
