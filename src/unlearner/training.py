"""One optimiser step and what surrounds it: device, precision, clipping, log, progress.

Methods write their own loops; this file knows nothing of any of them. It stands on `accelerate`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Literal, TextIO

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor

from unlearner.errors import UserError
from unlearner.models import SMALL_MODEL, num_parameters

Terms = Mapping[str, Tensor]


class TrainingSettings(BaseModel):
    """The machine's side of training; what belongs to a method stands in the method.

    Args:
        seed: Of every random draw of the run.
        device: "auto" takes an accelerator where there is one.
        precision: Arithmetic of the forward pass; weights and optimiser stay float32.
        max_gradient_norm: Gradients are scaled down to this norm; None leaves them.
        gradient_checkpointing: Recompute activations in the backward pass to save memory.
        lora_rank: Rank of low-rank adapters on every linear layer, which are then all that is
            trained; 0 trains the weights themselves.
        lora_alpha: Their output is scaled by alpha / rank; None takes twice the rank.
        keep_adapter: Save the adapter beside the merged model. Whoever has both can undo the
            unlearning.
        checkpoint_every: Steps between two checkpoints, from which `--resume` goes on; "auto" saves
            about once a minute, and spends a twentieth of the time on it at most.
        keep_checkpoints: Where the result is an earlier round's model, save the last one as well.
        trackers: Where the figures of steps and rounds also go: tensorboard, wandb, trackio, mlflow
            or any other tracker of accelerate; each has to be installed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    seed: int = Field(default=0, ge=0, lt=2**32)  # NumPy takes no larger one
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["float32", "bfloat16"] = "float32"
    max_gradient_norm: float | None = Field(default=None, gt=0)
    gradient_checkpointing: bool = False
    lora_rank: int = Field(default=0, ge=0)
    lora_alpha: float | None = Field(default=None, gt=0)
    keep_adapter: bool = False
    checkpoint_every: PositiveInt | Literal["auto", "never"] = "auto"
    keep_checkpoints: bool = False
    trackers: tuple[str, ...] = ()


class TrainingError(RuntimeError):
    """Training went wrong in a way that no further step can mend."""


class Log:
    """One JSON line per step and per round, and the same line to a listener (the progress bar)."""

    def __init__(
        self, path: Path | None = None, listener: Callable[[dict[str, Any]], None] | None = None
    ) -> None:
        self.path, self.listener = path, listener
        self._file: TextIO | None = None

    def write(self, line: dict[str, Any]) -> None:
        """Append a line; it must hold ids and numbers only, never text of a record."""
        if self.path is not None:
            if self._file is None:
                self._file = self.path.open("a", encoding="utf-8")
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        if self.listener is not None:
            self.listener(line)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class Trainer:
    """Optimiser, precision and bookkeeping of one run.

    Attributes:
        steps: Optimiser steps taken.
        tokens: Tokens that went forward and backward.
        rounds: One line per round, as the report holds them.
        details: What a method has to tell beside its model, such as the retrieved set.
        generator: The run's source of randomness for data order and draws.
    """

    def __init__(self, settings: TrainingSettings, log: Log) -> None:
        self.settings, self.log = settings, log
        # Its state is one for the process, and refuses a second run on another device.
        AcceleratorState._reset_state(reset_partial_state=True)
        self.accelerator = Accelerator(cpu=settings.device == "cpu", mixed_precision="no")
        if self.accelerator.num_processes > 1:
            raise UserError("several processes are not supported; start one, without accelerate")
        if settings.device not in ("auto", self.accelerator.device.type):
            raise UserError(
                f"training.device: {settings.device} was asked for, this machine offers "
                f"{self.accelerator.device.type}; use auto"
            )
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.steps = self.tokens = 0
        self.rounds: list[dict[str, Any]] = []
        self.details: dict[str, Any] = {}
        self.optimiser: Any = None
        self.model: Any = None
        self.dropout = False
        self.max_gradient_norm = settings.max_gradient_norm

    def start(
        self, model: Any, learning_rate: float, *, betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0, dropout: bool = False, max_gradient_norm: float | None = None,
    ) -> Any:  # fmt: skip
        """Put the model on its device with an AdamW of its own; returns the model to train.

        Args:
            dropout: Train with the model's own dropout. It is off for a loss that compares a model
                with itself, not with its noise.
            max_gradient_norm: The method's limit, where `training.max_gradient_norm` sets none.
        """
        model.to(self.accelerator.device).eval()
        self.dropout = dropout
        self.max_gradient_norm = self.settings.max_gradient_norm or max_gradient_norm
        if self.settings.gradient_checkpointing:
            model.gradient_checkpointing_enable()
            if not dropout:
                _switch_dropout_off(model)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        # With weight_decay 0 AdamW is Adam. Fused, a step of 22M parameters took 32 ms, not 143.
        optimiser = torch.optim.AdamW(
            trained, lr=learning_rate, betas=betas, weight_decay=weight_decay,
            fused=num_parameters(model) >= SMALL_MODEL,
        )  # fmt: skip
        self.model, self.optimiser = self.accelerator.prepare(model, optimiser)
        return self.model

    def arithmetic(self) -> torch.autocast:
        """The context of every forward pass of training, and of the looks between steps."""
        # Accelerate's own mixed precision would stay in the model's forward pass behind training.
        lower, device = self.settings.precision == "bfloat16", self.accelerator.device.type
        return torch.autocast(device, torch.bfloat16, enabled=lower)

    def step(self, loss: Callable[[], Terms], private: Collection[str] = ()) -> dict[str, float]:
        """One optimiser step on the sum of the terms; returns the values of those not private.

        Args:
            private: Terms whose value must not leave the run.

        Raises:
            TrainingError: A term or the gradient is not finite; the weights are as before the step.
        """
        self.optimiser.zero_grad(set_to_none=True)
        if self.dropout or self.settings.gradient_checkpointing:
            self.model.train()  # asking it ends that; checkpointing works in training mode only
        with self.arithmetic():
            terms = loss()
        values = {name: float(term.detach()) for name, term in terms.items()}
        self._check_finite(values)
        self.accelerator.backward(torch.stack([term.float() for term in terms.values()]).sum())
        limit = self.max_gradient_norm or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        self._check_finite({"gradient norm": float(norm)})
        self.optimiser.step()
        self.steps += 1
        told = {name: value for name, value in values.items() if name not in private}
        self.log.write({"step": self.steps, "loss": told})
        return told

    def log_round(self, line: dict[str, Any]) -> None:
        """Keep and log the line of a round."""
        self.rounds.append(line)
        self.log.write(line)

    def keep_last(self, model: Any) -> None:
        """Save the last weights beside the result, which is an earlier checkpoint."""
        if self.settings.keep_checkpoints and self.log.path is not None:
            model.save_pretrained(self.log.path.parent / "checkpoints" / "last")

    def _check_finite(self, values: Mapping[str, float]) -> None:
        wrong = [name for name, value in values.items() if not math.isfinite(value)]
        if wrong:
            raise TrainingError(
                f"step {self.steps + 1}: {', '.join(wrong)} is not a finite number; "
                "use a lower learning rate, or training.max_gradient_norm=1"
            )


def _switch_dropout_off(model: Any) -> None:
    """Also where a module holds the rate itself, as OPT's layers do."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "drop" in name and isinstance(value, float):
                setattr(module, name, 0.0)
