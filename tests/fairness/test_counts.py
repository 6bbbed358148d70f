"""Running counts: Fairlearn's MetricFrame is the oracle; sums, windows, absent groups and permutations are exact."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from fairlearn.metrics import MetricFrame, false_positive_rate, selection_rate, true_positive_rate
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score

from fairprune_plugin.fairness import rates
from fairprune_plugin.fairness.counts import RateCounts
from fairprune_plugin.fairness.outputs import Outputs

RATES = (rates.accuracy(), rates.selection_rate(1), rates.true_positive_rate(1), rates.false_positive_rate(1))
FAIRLEARN = {
    "accuracy": accuracy_score,
    "selection_rate": selection_rate,
    "true_positive_rate": true_positive_rate,
    "false_positive_rate": false_positive_rate,
}


@st.composite
def samples(draw: st.DrawFn) -> tuple[int, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Number of groups, log-odds, labels and group ids; groups may be absent and lack positives or negatives."""
    groups = draw(st.integers(2, 5))
    rows = draw(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, groups - 1)), min_size=2, max_size=40))
    predictions, labels, sensitive = (torch.tensor(column, dtype=torch.long) for column in zip(*rows, strict=True))
    return groups, predictions * 2.0 - 1.0, labels, sensitive


def count(groups: int, logits: torch.Tensor, labels: torch.Tensor, s: torch.Tensor, decay: float = 1.0) -> RateCounts:
    counts = RateCounts(RATES, groups, decay=decay)
    counts.update(Outputs.parse(logits, labels), s)
    return counts


@given(samples())
def test_rates_are_fairlearns(data: tuple[int, torch.Tensor, torch.Tensor, torch.Tensor]) -> None:
    groups, logits, labels, s = data
    values = count(groups, logits, labels, s).values()
    predictions = (logits > 0).long().numpy()
    frame = MetricFrame(
        metrics=FAIRLEARN, y_true=labels.numpy(), y_pred=predictions, sensitive_features=s.numpy()
    ).by_group
    for row, (name, rate) in enumerate(zip(FAIRLEARN, RATES, strict=True)):
        for group in range(groups):
            if int(rate.counted(labels)[s == group].sum()) == 0:
                assert math.isnan(values[row, group]), "nothing counted is unknown, not a rate of 0"
            else:
                assert float(values[row, group]) == pytest.approx(float(frame[name][group]), abs=1e-12)


@given(samples(), st.integers(1, 6))
def test_batches_add_up(data: tuple[int, torch.Tensor, torch.Tensor, torch.Tensor], batch: int) -> None:
    groups, logits, labels, s = data
    whole = count(groups, logits, labels, s)
    parts = RateCounts(RATES, groups)
    for start in range(0, len(s), batch):
        part = slice(start, start + batch)
        parts.update(Outputs.parse(logits[part], labels[part]), s[part])
    assert torch.equal(parts.hits, whole.hits)
    assert torch.equal(parts.totals, whole.totals)
    torch.testing.assert_close(parts.shares(), whole.totals / len(s), rtol=0, atol=1e-15)


@given(samples(), st.randoms(use_true_random=False))
def test_renaming_groups_renames_rates(data: tuple[int, torch.Tensor, torch.Tensor, torch.Tensor], random) -> None:
    groups, logits, labels, s = data
    order = list(range(groups))
    random.shuffle(order)
    new_id = torch.tensor(order)
    before = count(groups, logits, labels, s).values().numpy()
    after = count(groups, logits, labels, new_id[s]).values().numpy()
    np.testing.assert_array_equal(after[:, order], before)


def test_the_order_of_samples_does_not_matter() -> None:
    logits, labels, s = torch.randn(30), torch.randint(2, (30,)), torch.randint(3, (30,))
    order = torch.randperm(30)
    np.testing.assert_array_equal(
        count(3, logits, labels, s).values(), count(3, logits[order], labels[order], s[order]).values()
    )


def test_window_forgets_geometrically() -> None:
    decay, batches = 0.75, 7
    counts = RateCounts([rates.accuracy()], 2, decay=decay)
    right = torch.randint(2, (batches, 10))
    for row in right:
        counts.update(Outputs.parse(row * 2.0 - 1, torch.ones(10)), torch.tensor([0] * 6 + [1] * 4))
    weights = decay ** torch.arange(batches - 1, -1, -1, dtype=torch.float64)
    torch.testing.assert_close(counts.hits[0, 0], (weights * right[:, :6].sum(1)).sum())
    torch.testing.assert_close(counts.hits[0, 1], (weights * right[:, 6:].sum(1)).sum())
    assert float(counts.samples) == pytest.approx(10 * (1 - decay**batches) / (1 - decay))
    # Everyone ages alike: shares are those of the data whatever the window.
    torch.testing.assert_close(counts.shares()[0], torch.tensor([0.6, 0.4], dtype=torch.float64))


def test_a_group_absent_from_a_batch_keeps_its_rate_and_loses_weight() -> None:
    counts = count(2, torch.tensor([1.0, 1.0, -1.0]), torch.tensor([1, 0, 1]), torch.tensor([0, 1, 1]), decay=0.5)
    rate_before, total_before = float(counts.values()[0, 1]), float(counts.totals[0, 1])
    counts.update(Outputs.parse(torch.tensor([1.0, 1.0]), torch.tensor([1, 1])), torch.tensor([0, 0]))
    assert float(counts.values()[0, 1]) == rate_before == 0.0
    assert float(counts.totals[0, 1]) == total_before / 2


def test_state_round_trip_copies() -> None:
    counts = count(2, torch.tensor([1.0, -1.0]), torch.tensor([1, 1]), torch.tensor([0, 1]))
    state = counts.state_dict()
    counts.update(Outputs.parse(torch.ones(4), torch.zeros(4)), torch.tensor([0, 0, 1, 1]))
    assert float(state["totals"].sum()) == 2 + 2 + 2  # accuracy, selection rate, TPR; nobody is negative
    fresh = RateCounts(RATES, 2)
    fresh.load_state_dict(state)
    assert torch.equal(fresh.totals, state["totals"])
    assert float(fresh.samples) == 2
    fresh.update(Outputs.parse(torch.ones(1), torch.ones(1)), torch.tensor([0]))
    assert float(state["samples"]) == 2


class TestVariances:
    """Squared standard errors, against numpy and against simulation."""

    def test_of_a_proportion_is_agresti_and_caffos(self) -> None:
        counts = count(2, torch.tensor([1.0, 1.0, -1.0, 1.0]), torch.ones(4), torch.tensor([0, 0, 0, 1]))
        variances = counts.variances()
        right = [True, True, False, True, False]  # two of three were right: one success and one failure more
        assert float(variances[0, 0]) == pytest.approx(np.var(right) / 5)
        assert float(variances[0, 1]) == pytest.approx(np.var([1, 1, 0]) / 3)
        assert variances[3].isnan().all(), "nobody is negative: nothing is known of the false positive rate"

    @given(st.lists(st.floats(-4, 4), min_size=2, max_size=30), st.integers(1, 5))
    def test_of_another_mean_is_the_sample_variance_over_n(self, logits: list[float], batch: int) -> None:
        counts = RateCounts([rates.mean_loss()], 1)
        values = torch.tensor(logits, dtype=torch.float64)
        for part in values.split(batch):
            counts.update(Outputs.parse(part, torch.ones(len(part))), torch.zeros(len(part), dtype=torch.long))
        losses = np.logaddexp(0, -values.numpy())
        assert float(counts.values()) == pytest.approx(losses.mean())
        assert float(counts.variances()) == pytest.approx(losses.var(ddof=1) / len(losses), rel=1e-6, abs=1e-12)

    def test_one_sample_says_nothing_about_a_mean(self) -> None:
        counts = RateCounts([rates.mean_loss()], 2)
        counts.update(Outputs.parse(torch.zeros(4), torch.ones(4)), torch.tensor([0, 1, 1, 1]))
        assert math.isnan(counts.variances()[0, 0])
        assert float(counts.variances()[0, 1]) == 0, "three equal losses"

    def test_ten_times_the_data_make_them_ten_times_smaller(self) -> None:
        logits, labels, s = torch.randn(400), torch.randint(2, (400,)), torch.randint(2, (400,))
        once, ten = count(2, logits, labels, s), count(2, logits.repeat(10), labels.repeat(10), s.repeat(10))
        np.testing.assert_allclose(ten.variances() * 10, once.variances(), rtol=0.03)


def test_samples_of_no_group_are_left_out_of_the_rates() -> None:
    logits, labels = torch.tensor([1.0, -1.0, 1.0, 1.0]), torch.ones(4)
    some = count(2, logits, labels, torch.tensor([0, -1, 1, -1]))
    assert some.totals[0].tolist() == [1, 1]
    assert some.hits[0].tolist() == [1, 1]
    assert float(some.samples) == 4, "they are samples all the same: shares are shares of everybody"
