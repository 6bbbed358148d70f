"""The audit: a model, or its predictions, judged per group on a split, in a form that can be shown."""

from .auditing import audit, audit_predictions
from .report import FairnessAudit

__all__ = ["FairnessAudit", "audit", "audit_predictions"]
