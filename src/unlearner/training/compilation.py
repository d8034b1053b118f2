"""The layers' arithmetic in training, compiled by torch.

Only while a step computes: evaluation rounds and reports run the layers as they are, so that their
figures do not depend on a compiler, and caches of keys and values are never compiled.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from unlearner.errors import UserError
from unlearner.models import sharding


class CompiledLayers:
    """The blocks of a model's body, each with its forward and backward pass compiled.

    Lengths and numbers of rows may change from step to step without compiling anew.

    Raises:
        UserError: This machine cannot compile.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        _check_compiler(device)
        self._layers = sharding.blocks(model)
        self._compiled = [torch.compile(layer.forward, dynamic=True) for layer in self._layers]

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Within, the model's layers are the compiled ones."""
        for layer, compiled in zip(self._layers, self._compiled, strict=True):
            layer.forward = compiled
        try:
            yield
        finally:
            for layer in self._layers:
                del layer.forward  # the class's own is behind it


def _check_compiler(device: torch.device) -> None:
    """What compiling needs differs by device and version, so something small is compiled.

    Raises:
        UserError: It cannot be.
    """
    try:
        torch.compile(lambda x: x * 2 + 1)(torch.ones(8, device=device))
    except Exception as error:  # noqa: BLE001 - of torch, its compiler or the system
        raise UserError(
            f"training.compile: torch {torch.__version__} cannot compile for this {device.type} "
            f"({type(error).__name__}); it needs a C++ compiler and Python's headers, on a CUDA "
            "device the package triton as well; install them, or leave it out"
        ) from None
