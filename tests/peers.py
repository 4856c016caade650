"""Libraries that know the figures of `compare`, imported when a test asks: each takes seconds, in every worker."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


def metrics() -> ModuleType:
    """scikit-learn's."""
    return import_module("sklearn.metrics")


def tables() -> ModuleType:
    """statsmodels' tests for tables of counts."""
    return import_module("statsmodels.stats.contingency_tables")


def raters() -> ModuleType:
    """statsmodels' agreement of several raters."""
    return import_module("statsmodels.stats.inter_rater")


def choix() -> ModuleType:
    """Who is preferred to whom."""
    return import_module("choix")
