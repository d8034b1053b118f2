"""The modules that work on a family of models. Those of every family have the same functions."""

from __future__ import annotations

from typing import Any

from unlearner.models.loading import FAMILIES
from unlearner.pipeline import assess, classifier_assess, classifier_pipeline, pipeline


def line_for(family: str) -> Any:
    """The module with `start`, `check` and `forget`, and what `forget` needs."""
    return pipeline if family == FAMILIES[0] else classifier_pipeline


def assessor_for(family: str) -> Any:
    """The module with `evaluate`, and what it needs."""
    return assess if family == FAMILIES[0] else classifier_assess
