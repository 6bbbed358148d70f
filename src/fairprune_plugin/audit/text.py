"""Numbers and names as a reader wants them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

TITLES = {
    "accuracy": "Accuracy",
    "selection_rate": "Selection rate",
    "true_positive_rate": "True positive rate",
    "false_positive_rate": "False positive rate",
    "precision": "Precision",
    "loss": "Loss",
    "calibration_error": "Calibration error",
}
PERCENT, NATS, NUMBER = "percent", "nats", "number"  # how a quantity is written
NOTHING = "–"
_RATE_NAME = re.compile(r"^(?P<name>[^\[@]+)(\[(?P<cls>\d+|macro)\])?(@(?P<label>\d+))?$")


def title(name: str, cls: int | str | None, label: int | None, class_names: Sequence[str], *, binary: bool) -> str:
    """A quantity in words: ``"True positive rate · cat"``; class 1 of a binary task goes without saying."""
    head = TITLES.get(name, name.replace("_", " "))
    parts = [head[:1].upper() + head[1:]]
    if label is not None:
        parts.append(class_names[label] if class_names else f"label {label}")
    if cls == "macro":
        parts.append("mean over classes")
    elif cls is not None and not (binary and cls == 1):
        named = bool(class_names) and label is None
        parts.append(class_names[int(cls)] if named else f"class {cls}")
    return " · ".join(parts)


def rate_title(rate: str, class_names: Sequence[str], *, binary: bool) -> str:
    """A compared rate, ``"true_positive_rate[1]@0"``, in words."""
    return title(*parsed(rate), class_names, binary=binary)


def parsed(rate: str) -> tuple[str, int | str | None, int | None]:
    """Name, class (or ``"macro"``) and label of a compared rate; a user's own name stays as it is."""
    match = _RATE_NAME.match(rate)
    if match is None:
        return rate, None, None
    cls, label = match["cls"], match["label"]
    return match["name"], int(cls) if cls and cls.isdigit() else cls, int(label) if label else None


def constraint_title(name: str) -> str:
    """``"equal_opportunity"`` as ``"Equal opportunity"``."""
    return name.replace("_", " ").capitalize()


def value(number: float, scale: str) -> str:
    """A quantity: ``"91.2 %"``, or ``"0.345"`` where it is no proportion."""
    if math.isnan(number):
        return NOTHING
    if math.isinf(number):
        return "∞" if number > 0 else "−∞"
    return f"{100 * number:.1f} %" if scale == PERCENT else f"{number:.3f}"


def interval(low: float, high: float, scale: str) -> str:
    """``"90.1 … 92.2"``, in the unit of the value."""
    if math.isnan(low) or math.isnan(high):
        return NOTHING
    factor, digits = (100, 1) if scale == PERCENT else (1, 3)
    return f"{_signed(low * factor, digits, plus=False)} … {_signed(high * factor, digits, plus=False)}"


def change(number: float, scale: str) -> str:
    """A difference, signed, without its unit: ``"+1.2"``."""
    if not math.isfinite(number):
        return NOTHING
    return _signed(100 * number, 1) if scale == PERCENT else _signed(number, 3)


def unit(scale: str) -> str:
    """Of a difference, with a blank before it; nothing for a plain number."""
    return {PERCENT: " points", NATS: " nats"}.get(scale, "")


def difference(number: float, scale: str) -> str:
    """A gap or tolerance: ``"2.3 points"``."""
    if math.isnan(number):
        return "undefined"
    return change(number, scale).lstrip("+") + unit(scale)


def count(number: float) -> str:
    """``"12 345"`` with a narrow space that does not break."""
    return f"{int(number):,}".replace(",", "\u202f")


def factor(number: float) -> str:
    """``"3.4"``, or ``"120"``."""
    return f"{number:.1f}" if number < 10 else count(math.ceil(number))


def _signed(number: float, digits: int, *, plus: bool = True) -> str:
    rounded = round(number, digits)
    if rounded == 0:
        return f"{0:.{digits}f}"
    sign = "−" if rounded < 0 else ("+" if plus else "")
    return f"{sign}{abs(rounded):.{digits}f}"
