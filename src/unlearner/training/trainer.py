"""One optimiser step and what surrounds it: device, precision, clipping, log, checkpoints.

Methods write their own loops; this file knows nothing of any of them. It stands on `accelerate`.
"""

import ctypes
import json
import math
import sys
import warnings
from collections.abc import Callable, Collection, Mapping
from contextlib import nullcontext, suppress
from functools import partial
from typing import Literal, TypeVar, cast

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import patch_environment
from peft.tuners.lora import LoraModel
from pydantic import PositiveFloat
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel

from unlearner import processes
from unlearner.errors import TrainingError, UserError
from unlearner.inference.micro_batches import windows_at_most
from unlearner.models import adapters, sharding
from unlearner.models.heads import hidden_size
from unlearner.models.layerwise_casting import widen
from unlearner.models.loading import FLOAT_BYTES, num_parameters
from unlearner.models.quantised_training import merge_into, quantise, restore_layers
from unlearner.output import Json
from unlearner.settings import TrainingSettings
from unlearner.training.checkpoints import (
    DIFFERENT,
    Journal,
    State,
    Weights,
    random_state,
    set_random_state,
)
from unlearner.training.compilation import CompiledLayers
from unlearner.training.log import Log
from unlearner.training.optimisers import (
    give_format_back,
    make_optimiser,
    optimiser_state,
    set_optimiser_state,
)
from unlearner.training.way_back import OnWayBack, WayBack

Terms = dict[str, Tensor]  # the weighted scalar terms of a loss, by name

Result = TypeVar("Result")


class Trainer:
    """Optimiser, precision and bookkeeping of one run.

    A method whose every step goes through `step`, and every evaluation through `evaluate_round`,
    can be cut off and go on without a line of its own: see `checkpoints`. It draws from `generator`
    between steps, and from `draws` inside a loss.

    Attributes:
        steps: Optimiser steps taken.
        tokens: Tokens that went forward and backward.
        rounds: One line per round, as the report holds them.
        details: What a method has to tell beside its model, such as the retrieved set.
        generator: The run's source of randomness for data order and draws.
        draws: Another, for what is drawn inside a loss: it begins anew with every step.
        kept: This process's part of the weights that were kept; none while a run is repeated.
        journal: What can be repeated when the run goes on; None where it cannot be cut off.
    """

    def __init__(self, settings: TrainingSettings, log: Log, bits: int = 0) -> None:
        """Begin a run.

        Args:
            bits: What linear layers are quantised to under adapters; 0 for not at all.

        Raises:
            UserError: The machine lacks the device, or a quantised model was to be divided.
        """
        self.settings, self.log, self.bits = settings, log, bits
        self.device = resolve_device(settings)
        if sharding.wanted():
            _check_divided(settings, bits)
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.draws = torch.Generator()
        self.steps = self.tokens = 0
        self.rounds: list[Json] = []
        self.details: Json = {}
        self.optimiser: Optimizer  # from `start` on
        self.learning_rate: float  # likewise
        self.model: PreTrainedModel | None = None
        self.adapter: LoraModel | None = None
        self.layers: dict[str, nn.Module] = {}  # what quantised ones stand in for
        self.dropout = False
        self.max_gradient_norm = settings.max_gradient_norm
        self.journal: Journal | None = None
        self._schedule: LambdaLR | None = None
        self.kept: Weights = {}
        self._skeleton: nn.Module | None = None
        self._way_back: WayBack | None = None
        self._compiled: CompiledLayers | None = None

    @property
    def seconds_before(self) -> float:
        """Training time of the earlier parts of a run that was cut off."""
        return 0.0 if self.journal is None else self.journal.seconds_before

    @property
    def repeats(self) -> bool:
        """Whether the run is still before the checkpoint that it goes on from."""
        return self.journal is not None and bool(self.journal.past)

    def prepare(self, model: PreTrainedModel) -> PreTrainedModel:
        """Put the model on its device, with its adapters; `start` does so where it was not done.

        The target model can be run here: it is not sharded yet.
        """
        if trains_whole(self.settings):
            widen(model)
        if self.settings.lora_rank and not adapters.has_adapters(model):
            settings, names = self.settings, adapters.linear_layers(model)
            if self.bits:
                self.layers = quantise(model, names, self.bits, self.device)
            self.adapter = adapters.attach(model, settings.lora_rank, settings.lora_alpha, names)
        return model.eval().to(self.device)  # type: ignore[arg-type]

    def start(
        self,
        model: PreTrainedModel,
        learning_rate: float,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        dropout: bool = False,
        max_gradient_norm: float | None = None,
        schedule: Callable[[int], float] | None = None,
        path: float = 0.0,
    ) -> PreTrainedModel:
        """Put the model on its device with an AdamW of its own; returns the model to train.

        Args:
            dropout: Train with the model's own dropout. It is off for a loss that compares a model
                with itself, not with its noise.
            max_gradient_norm: The method's limit, where `training.max_gradient_norm` sets none.
            schedule: The share of the learning rate that a step takes, by its number from 0.
            path: How far on the way back to this model steps may be asked to go; below 1.
        """
        if self.journal is not None:
            last = self.model
            weights = None if last is None else partial(adapters.trained_weights, last)
            self.journal.begin_stage(weights)
        self.prepare(model)
        give_memory_back()
        self.learning_rate = learning_rate
        self.dropout = dropout
        self.max_gradient_norm = self.settings.max_gradient_norm or max_gradient_norm
        if self.settings.gradient_checkpointing:
            recompute_activations(model)
            if not dropout:
                switch_dropout_off(model)
        processes.same_weights(some for some in model.parameters() if some.requires_grad)
        if sharding.wanted():
            self._skeleton = sharding.skeleton(self.adapter or model)
            sharding.shard(model, self.device)
        if processes.count() > 1:  # or dropout would leave out the same units of every share
            torch.manual_seed(self.settings.seed * processes.count() + processes.rank())
        self.optimiser = make_optimiser(
            self.settings.optimiser,
            model,
            learning_rate,
            betas=betas,
            weight_decay=weight_decay,
            short_gradients=self.settings.gradients == "bfloat16",
        )
        self._schedule = None
        if schedule is not None:
            self._schedule = LambdaLR(self.optimiser, schedule)
        self._way_back = WayBack(model) if path else None
        self._compiled = CompiledLayers(model, self.device) if self.settings.compile else None
        self.model = model
        return model

    def scale_rate(self, share: float) -> None:
        """Take the next steps at a share of the learning rate that training began with."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate * share

    def arithmetic(self) -> torch.autocast:
        """The context of every forward pass of training, and of a classifier's evaluation rounds.

        A language model is evaluated in the arithmetic of its report.
        """
        # Accelerate's own mixed precision would stay in the model's forward pass behind training.
        lower, device = self.settings.precision == "bfloat16", self.device.type
        # Weights of a sharded model are let go as soon as a layer has worked, and so must be what
        # autocast makes of them; of others that is half the size of the model.
        keeps = not (sharding.is_sharded(self.model) or self.settings.gradient_checkpointing)
        return torch.autocast(device, torch.bfloat16, enabled=lower, cache_enabled=keeps)

    def step(
        self,
        loss: Callable[[], Terms],
        private: Collection[str] = (),
        on_way_back: OnWayBack | None = None,
    ) -> dict[str, float]:
        """One optimiser step on the sum of the terms; returns the values of those not private.

        Args:
            private: Terms whose value must not leave the run.
            on_way_back: Further terms, whose gradient is taken on the way back to the target.

        Raises:
            TrainingError: A term or the gradient is not finite; the weights are as before the step.
            Interrupted: The user wants to stop, and a checkpoint was saved.
        """
        if self.repeats:
            return cast("dict[str, float]", self._repeat("step"))
        assert self.model is not None
        self.optimiser.zero_grad(set_to_none=True)
        if self.dropout or self.settings.gradient_checkpointing:
            self.model.train()  # inference ends that; checkpointing works in training mode only
        self.draws.manual_seed((self.settings.seed << 31) + self.steps)
        gathers, limit = processes.gathers(), self.settings.micro_batch
        with windows_at_most(None if limit == "auto" else limit):
            values = self._backward(loss)
            if on_way_back is not None:
                values |= self._backward_on_way_back(on_way_back)
        trained = [
            parameter for group in self.optimiser.param_groups for parameter in group["params"]
        ]
        alone = processes.gathers() == gathers  # nothing was shared: each has the whole gradient
        self._sum_gradients(trained, divide_by=processes.count() if alone else 1)
        norm = sharding.clip_gradients(trained, self.max_gradient_norm or math.inf)
        self._check_finite({"gradient norm": norm})
        self.optimiser.step()
        if self._schedule is not None:
            self._schedule.step()
        self.steps += 1
        logged = {name: value for name, value in values.items() if name not in private}
        self.log.write({"step": self.steps, "loss": logged})
        self._record({"step": logged})
        return logged

    def _backward(self, loss: Callable[[], Terms], factor: float = 1.0) -> dict[str, float]:
        """Add the gradient of the terms' sum to the weights'; returns their values."""
        # Also around the backward pass, where checkpointing and micro-batches compute layers again.
        with nullcontext() if self._compiled is None else self._compiled.at_work():
            with self.arithmetic():
                terms = loss()
            values = {name: float(term.detach()) for name, term in terms.items()}
            self._check_finite(values)
            (factor * torch.stack([term.float() for term in terms.values()]).sum()).backward()
        return values

    def _backward_on_way_back(self, some: OnWayBack) -> dict[str, float]:
        if some.share == 0:
            return self._backward(some.loss)
        assert self._way_back is not None  # `start` was told of a path
        with self._way_back.at(some.share):
            return self._backward(some.loss, self._way_back.factor(some.share))

    def _sum_gradients(self, trained: list[Tensor], divide_by: int) -> None:
        if not sharding.is_sharded(self.model):
            processes.sum_gradients(trained, divide_by=divide_by)
            return
        for gradient in sharding.gradients_of(trained):  # those are sums since the backward pass
            gradient.div_(divide_by)

    def evaluate_round(self, examine: Callable[[], Result]) -> Result:
        """What `examine` gives of the model as it is now, as plain JSON values.

        Raises:
            Interrupted: The user wants to stop, and a checkpoint was saved.
        """
        if self.repeats:
            return cast("Result", self._repeat("look"))
        give_memory_back()
        found = json.loads(json.dumps(examine(), default=_plain))
        found = sharding.agree(self.model, found)
        self._record({"look": found})
        return found

    def log_round(self, line: Json) -> None:
        """Keep and log the line of a round."""
        self.rounds.append(line)
        self.log.write(line)

    def keep(self, model: PreTrainedModel) -> None:
        """Remember the weights as they are, in place of those kept before."""
        if not self.repeats:
            self.kept = adapters.own_weights(model)

    def restore(self, model: PreTrainedModel) -> None:
        """Go back to the weights that were kept."""
        if self.repeats:
            return
        if self.settings.keep_checkpoints:
            self._save_last(*self._whole(model))
        adapters.set_own_weights(model, self.kept)

    def _save_last(self, model: PreTrainedModel, adapter: LoraModel | None) -> None:
        if self.log.path is None:
            return
        folder = self.log.path.parent / "checkpoints" / "last"
        if adapter is None:
            model.save_pretrained(folder)
        else:
            adapters.save_adapter(adapter, "", folder)

    def _whole(self, model: PreTrainedModel) -> tuple[PreTrainedModel, LoraModel | None]:
        """The model and its adapter, unsharded; only in the main process do they have weights."""
        if not sharding.is_sharded(model):
            return model, self.adapter
        assert self._skeleton is not None
        whole = sharding.filled(self._skeleton, model)
        if self.adapter is None:
            return cast("PreTrainedModel", whole), None
        return cast("PreTrainedModel", whole.model), cast("LoraModel", whole)

    def finish(self, model: PreTrainedModel, target: str = "") -> PreTrainedModel:
        """The ordinary model that a method's is: adapters are merged, parts are put together.

        Of several processes that trained a sharded model only the main one gets weights.

        Args:
            target: The target model's name, for an adapter that is kept.
        """
        if self.settings.gradients == "bfloat16":  # whoever trains it next has them as usual
            give_format_back(model.parameters())
        whole, adapter = self._whole(model)
        if adapter is None or (whole is not model and not processes.is_main()):
            return whole
        if self.settings.keep_adapter and self.log.path is not None:
            adapters.save_adapter(adapter, target, self.log.path.parent / "adapter")
        return merge_into(adapter, self.layers) if self.layers else adapters.merge(adapter)

    def detach(self, model: PreTrainedModel) -> None:
        """Take the adapters off again, where there are some: it is then the target model."""
        if self.adapter is not None and adapters.has_adapters(model):
            self.adapter.unload()
            if hasattr(model, "peft_config"):
                del model.peft_config
            restore_layers(model, self.layers)

    def resume(self) -> int:
        """Go on from the last checkpoint; returns its steps, 0 where there is none.

        Raises:
            UserError: The checkpoint is of another run or cannot be read.
        """
        assert self.journal is not None
        self.log.silent = self.journal.open()
        return self.journal.steps_to_repeat

    @property
    def _started(self) -> PreTrainedModel:
        """The model in training."""
        assert self.model is not None
        return self.model

    def _state(self) -> State:
        tensors, rates = optimiser_state(self.optimiser)
        random: Weights = {}
        for some in processes.gather(random_state(processes.rank())):
            random |= some
        return State(
            tokens=self.tokens,
            weights=adapters.trained_weights(self._started),
            optimiser=tensors,
            rates=rates,
            random=random,
            generator=self.generator.get_state(),
            kept=adapters.whole_weights(self._started, self.kept),
            reserve=FLOAT_BYTES * num_parameters(self._started),
        )

    def _go_on(self, state: State) -> None:
        """Load the checkpoint: from here on steps are computed again."""
        same = torch.equal(self.generator.get_state(), state.generator)
        if not same or f"cpu-{processes.count() - 1}" not in state.random:
            raise TrainingError(DIFFERENT)
        adapters.set_weights(self._started, state.weights)
        set_optimiser_state(self.optimiser, state.optimiser, state.rates)
        set_random_state(state.random, processes.rank())
        self.kept, self.tokens = adapters.parts(self._started, state.kept), state.tokens
        self.log.silent = False

    def _repeat(self, kind: str) -> object:
        """What a step or an evaluation gave before the run was cut off."""
        assert self.journal is not None
        value = self.journal.repeat(kind)
        if kind == "step":
            self.steps += 1
            if self._schedule is not None:
                with warnings.catch_warnings():  # it misses the optimiser's step
                    warnings.simplefilter("ignore")
                    self._schedule.step()
        reached = self.journal.reached()
        if isinstance(reached, State):
            self._go_on(reached)
        elif reached:
            adapters.set_weights(self._started, reached)
        return value

    def _record(self, event: Json) -> None:
        if self.journal is not None:
            state = None if self.model is None else self._state
            self.journal.record(event, self.steps, state)

    def _check_finite(self, values: Mapping[str, float]) -> None:
        wrong = [name for name, value in values.items() if not math.isfinite(value)]
        if wrong:
            raise TrainingError(
                f"step {self.steps + 1}: {', '.join(wrong)} is not a finite number; "
                "use a lower learning rate, or training.max_gradient_norm=1"
            )


def trains_whole(settings: TrainingSettings) -> bool:
    """Whether a run needs its model's weights in float32: they are trained, or divided."""
    return not settings.lora_rank or sharding.wanted()


def _check_divided(settings: TrainingSettings, bits: int) -> None:
    """Refuse what a model divided among processes cannot have.

    Raises:
        UserError: It was asked for.
    """
    wrong = {
        f"model.load_in_{bits}bit: a model divided by --use_fsdp is not quantised": bool(bits),
        "training.micro_batch: a model divided by --use_fsdp takes its steps whole": (
            settings.micro_batch != "auto"
        ),
        "training.optimiser: moments divided by --use_fsdp are float32": (
            settings.optimiser != "adamw"
        ),
        "training.compile: layers divided by --use_fsdp are not compiled": settings.compile,
    }
    for sentence, asked in wrong.items():
        if asked:
            raise UserError(f"{sentence}; leave one of them out")


def resolve_device(settings: TrainingSettings) -> torch.device:
    """Where a run computes.

    Raises:
        UserError: The machine does not offer what was asked for.
    """
    # Its state is one for the process, and refuses a second run on another device.
    AcceleratorState._reset_state(reset_partial_state=True)
    has_one = torch.cuda.is_available() or torch.backends.mps.is_available()
    cpu = settings.device == "cpu" or not has_one
    with patch_environment(accelerate_use_fsdp="false"):  # `sharding` does it, not accelerate
        device = Accelerator(cpu=cpu, mixed_precision="no").device
    if settings.device not in ("auto", device.type):
        raise UserError(
            f"training.device: {settings.device} was asked for, this machine offers {device.type}; "
            "use auto"
        )
    return device


def recompute_activations(model: PreTrainedModel) -> None:
    # The reentrant kind finds no gradient behind frozen embeddings.
    options = {"use_reentrant": False}
    if hasattr(model, "activation_checkpointing_enable"):  # transformers 5.23 renamed it
        model.activation_checkpointing_enable(options)
    else:
        model.gradient_checkpointing_enable(options)


def give_memory_back() -> None:
    """Give the system what was freed and what the C library keeps, where it can: glibc does.

    What measuring and steps leave in small pieces is not used again for large ones: with 10M
    parameters it was 448 of 1,242 MiB before training and 254 of 1,482 behind eight steps, and took
    30 to 60 ms to give back.
    """
    if sys.platform == "linux":
        with suppress(AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)


def _plain(value: np.generic) -> object:
    """A number of numpy's as one of Python's."""
    return value.item()


def switch_dropout_off(model: nn.Module) -> None:
    """Also where a module holds the rate itself, as OPT's layers do."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "drop" in name and isinstance(value, float):
                setattr(module, name, 0.0)


LearningRate = PositiveFloat | Literal["auto"]

# Adam's step is about the learning rate whatever the gradient, while the useful change of a weight
# shrinks with the width of the layer: one rate times width serves small and large models alike.
# 0.064 / width is 1e-3 for 64 hidden units and 1.6e-5 for 4096.
AUTO_RATE_TIMES_WIDTH = 0.064

# Of a classifier: 1e-4 for 384 hidden units, 5e-5 for 768.
CLASSIFIER_RATE_TIMES_WIDTH = 0.0384


def resolve_learning_rate(rate: float | str, model: PreTrainedModel, times_width: float) -> float:
    """The rate itself, or for "auto" `times_width` / hidden size."""
    if isinstance(rate, float):
        return rate
    return times_width / hidden_size(model)
