"""What an audit found, and the forms it can be shown in."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .decide import MET, UNDECIDABLE, VIOLATED, AuditVerdict
from .history import Run
from .levelling import LevellingDown
from .measures import EVERYONE, Measure


@dataclass(frozen=True)
class Settings:
    """How the intervals were made: bootstrap replicates, seed, bins of the calibration error."""

    bootstrap: int
    seed: int
    bins: int


@dataclass(frozen=True)
class GroupingReport:
    """One grouping of the samples.

    Attributes:
        attribute: What the groups are about; empty for a single attribute without a name.
        groups: Their names.
        sizes: Samples of each.
        missing: Samples left out because their attribute is NaN or missing.
        unknown: Samples left out by their value, which the constraint never saw.
        measures: Of every group, and of everyone (all samples, those of no group included).
    """

    attribute: str
    groups: tuple[str, ...]
    sizes: tuple[int, ...]
    missing: int
    unknown: dict[str, int]
    measures: tuple[Measure, ...]

    @property
    def skipped(self) -> int:
        """Samples that are in no group."""
        return self.missing + sum(self.unknown.values())


@dataclass(frozen=True)
class FairnessAudit:
    """A model's fairness on one split.

    Attributes:
        split: Name of the split.
        samples: ``N``.
        task: In words, for example ``"2 classes"``.
        model_name: Name of the audited model.
        reference_name: Name of the reference model; empty without one.
        class_names: Of the classes (or labels); empty: their numbers.
        verdicts: One per constraint, floors included.
        groupings: One per set of groups the constraints are about.
        levelling_down: Parity that was met at the cost of the better-off group.
        warnings: What a reader should know about the data.
        runs: The training runs, if given.
        settings: How intervals were made.
    """

    split: str
    samples: int
    task: str
    model_name: str
    reference_name: str
    class_names: tuple[str, ...]
    verdicts: tuple[AuditVerdict, ...]
    groupings: tuple[GroupingReport, ...]
    levelling_down: tuple[LevellingDown, ...]
    warnings: tuple[str, ...]
    runs: tuple[Run, ...]
    settings: Settings

    @property
    def status(self) -> str:
        """``"violated"`` if any constraint is, else ``"not decidable"`` if any is, else ``"met"``."""
        statuses = {verdict.status for verdict in self.verdicts}
        return next((status for status in (VIOLATED, UNDECIDABLE) if status in statuses), MET)

    @property
    def skipped(self) -> int:
        """Samples left out of the groups of some grouping, the largest number of any."""
        return max(grouping.skipped for grouping in self.groupings)

    def measure(
        self,
        name: str,
        group: str = EVERYONE,
        *,
        cls: int | None = None,
        label: int | None = None,
        attribute: str | None = None,
    ) -> Measure:
        """One quantity of one group, for example ``measure("true_positive_rate", "female")``.

        Args:
            name: As in :class:`~.measures.Measure`.
            group: Name of a group; default everyone.
            cls: Class it is about; default the first that there is.
            label: Label it is about; default the first that there is.
            attribute: Of the grouping; default any.

        Raises:
            KeyError: If there is none.
        """
        for grouping in self.groupings:
            if attribute not in (None, grouping.attribute):
                continue
            for item in grouping.measures:
                if (item.name, item.group) == (name, group) and cls in (None, item.cls) and label in (None, item.label):
                    return item
        there = sorted({item.name for grouping in self.groupings for item in grouping.measures})
        raise KeyError(f"no {name!r} of {group!r}: there are {', '.join(there)}")

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values; what is undefined or infinite becomes ``None``."""
        head = {"status": self.status, "skipped": self.skipped}
        plain: dict[str, Any] = _plain({**head, **dataclasses.asdict(self)})
        return plain

    def to_json(self, path: str | Path | None = None) -> str:
        """:meth:`to_dict` as JSON text, also written to ``path`` if one is given."""
        return _written(json.dumps(self.to_dict(), indent=2, ensure_ascii=False), path)

    def to_markdown(self, path: str | Path | None = None) -> str:
        """The report as Markdown text, also written to ``path`` if one is given."""
        from .markdown import markdown

        return _written(markdown(self), path)

    def to_html(self, path: str | Path | None = None) -> str:
        """The report as one self-contained HTML page, also written to ``path`` if one is given."""
        from .page import page

        return _written(page(self), path)

    def to_model_card(self, path: str | Path | None = None, **names: str) -> str:
        """A Hugging Face model card: metadata (model index) and a section on fairness.

        Args:
            path: Also written there if given.
            **names: See :func:`~.model_card.model_card`.
        """
        from .model_card import model_card

        return _written(model_card(self, **names), path)

    def _repr_html_(self) -> str:
        from .page import fragment

        return fragment(self)

    def __str__(self) -> str:
        return self.to_markdown()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _written(text: str, path: str | Path | None) -> str:
    if path is not None:
        Path(path).write_text(text, encoding="utf-8")
    return text
