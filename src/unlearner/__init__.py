"""Make a Hugging Face language model forget given records, and measure whether it did."""

from typing import TYPE_CHECKING, Any

from unlearner._version import __version__ as __version__
from unlearner.errors import UserError

if TYPE_CHECKING:
    from unlearner import methods, requests
    from unlearner.api import Result, unlearn
    from unlearner.pipeline.pipeline import NothingToUnlearn

__all__ = ["NothingToUnlearn", "Result", "UserError", "methods", "requests", "unlearn"]


def __getattr__(name: str) -> Any:
    """Import torch and transformers only when they are needed: `--help` must be quick."""
    import importlib

    if name in ("Result", "unlearn"):
        return getattr(importlib.import_module("unlearner.api"), name)
    if name == "NothingToUnlearn":
        return importlib.import_module("unlearner.pipeline.pipeline").NothingToUnlearn
    if name in ("methods", "requests"):
        return importlib.import_module(f"unlearner.{name}")
    raise AttributeError(f"module 'unlearner' has no attribute {name!r}")
