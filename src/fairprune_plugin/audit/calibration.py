"""Expected calibration error: how far confidence is from frequency, over equal-width bins of the confidence.

Binary tasks (and each label of a multi-label one): the probability of class 1 against the frequency of class 1 (Naeini,
Cooper and Hauskrecht, *Obtaining well calibrated probabilities using Bayesian binning*, AAAI 2015). Multi-class:
the probability of the predicted class against the accuracy, "top-label" (Guo et al., *On calibration of modern neural
networks*, ICML 2017). ECE = Σ_b |Σ_{i in b} (confidence_i − hit_i)| / n. Bin b of B holds confidences in
``(b / B, (b + 1) / B]``; 0 is in the first one. The estimate is too large in small samples.
"""

from __future__ import annotations

import numpy as np

from ..fairness.outputs import Outputs
from .bootstrap import Array, basic_interval, resampled_sums


def signed_errors(outputs: Outputs, bins: int) -> Array:
    """Confidence minus hit of each sample, in the column of its bin, ``(N, bins)``; not for multi-label outputs."""
    if outputs.num_classes == 2:
        confidence = outputs.probability(1)
        hit = outputs.targets == 1
    else:
        confidence = outputs.logits.softmax(dim=1).amax(dim=1)
        hit = outputs.predicted() == outputs.targets
    column = (confidence * bins).ceil().long().sub(1).clamp(0, bins - 1).numpy()
    errors = np.zeros((len(hit), bins))
    errors[np.arange(len(hit)), column] = (confidence - hit.double()).numpy()
    return errors


def error(sums: Array, samples: int) -> Array:
    """ECE from the sums of :func:`signed_errors` over a group, ``(…, bins) → (…)``."""
    return np.asarray(np.abs(sums).sum(axis=-1) / samples if samples else np.full(sums.shape[:-1], np.nan))


def interval_and_change(
    errors: Array, reference: Array | None, replicates: int, rng: np.random.Generator
) -> tuple[tuple[float, float], tuple[float, float]]:
    """95 % intervals of a group's calibration error (widened to contain the estimate) and of its paired change."""
    n, bins = errors.shape
    both = errors if reference is None else np.concatenate([errors, reference], axis=1)
    drawn = resampled_sums(both, replicates, rng)
    value, draws = float(error(errors.sum(0), n)), error(drawn[:, :bins], n)
    low, high = basic_interval(value, draws)
    own = (max(0.0, min(low, value)), min(1.0, max(high, value)))
    if reference is None:
        return own, (float("nan"), float("nan"))
    change = value - float(error(reference.sum(0), n))
    return own, basic_interval(change, draws - error(drawn[:, bins:], n))
