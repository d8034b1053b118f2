"""Deletion requests over time, as a record that can be checked: `Ledger(path)`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unlearner.requests.ledger import Ledger

__all__ = ["Ledger"]


def __getattr__(name: str) -> Any:
    """Import what runs models only when it is needed."""
    if name == "Ledger":
        from unlearner.requests import ledger

        return ledger.Ledger
    raise AttributeError(f"module 'unlearner.requests' has no attribute {name!r}")
