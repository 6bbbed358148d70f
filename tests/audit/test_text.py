"""Numbers and names as a reader wants them."""

from __future__ import annotations

import math

import pytest

from fairprune_plugin.audit import text


@pytest.mark.parametrize(
    ("got", "expected"),
    [
        (text.value(0.9123, "percent"), "91.2 %"),
        (text.value(0.9123, "nats"), "0.912"),
        (text.value(math.nan, "percent"), "–"),
        (text.value(math.inf, "nats"), "∞"),
        (text.change(-0.0123, "percent"), "−1.2"),
        (text.change(0.0001, "percent"), "0.0"),
        (text.change(0.0123, "nats"), "+0.012"),
        (text.change(math.nan, "nats"), "–"),
        (text.difference(0.02, "percent"), "2.0 points"),
        (text.difference(math.nan, "nats"), "undefined"),
        (text.interval(-0.01, 0.02, "percent"), "−1.0 … 2.0"),
        (text.count(1234567), "1\u202f234\u202f567"),
        (text.factor(3.44), "3.4"),
        (text.factor(12.2), "13"),
        (text.rate_title("true_positive_rate[1]@0", ["smiling", "bald"], binary=True), "True positive rate · smiling"),
        (text.rate_title("true_positive_rate[2]", [], binary=False), "True positive rate · class 2"),
        (text.rate_title("true_positive_rate[macro]", [], binary=False), "True positive rate · mean over classes"),
        (text.rate_title("selection_rate[0]", [], binary=True), "Selection rate · class 0"),
        (text.rate_title("my [odd] rate", [], binary=True), "My [odd] rate"),
        (text.constraint_title("equal_opportunity"), "Equal opportunity"),
    ],
)
def test_words(got: str, expected: str) -> None:
    assert got == expected
