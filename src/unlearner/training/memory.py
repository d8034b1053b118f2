"""What a run takes: a first guess from its weights, then its largest step, run once and measured.

And what it writes, beside what the disk has room for. `docs/memory.md` says what is counted and
what is not.
"""

import math
import random
import re
import resource
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, Protocol, cast

import numpy as np
import psutil
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from unlearner import processes
from unlearner.data.batches import share_of
from unlearner.data.labelled import Example, LabelledSet
from unlearner.data.windows import TokenizedSet, Window
from unlearner.errors import UserError
from unlearner.files import free_bytes
from unlearner.inference.micro_batches import windows_at_most
from unlearner.inference.reference import likelihoods
from unlearner.models import adapters, sharding
from unlearner.models.heads import Classifier
from unlearner.models.layerwise_casting import SHORT, has_cast_layers, inner_layers, widen
from unlearner.models.loading import FLOAT_BYTES, Loaded, num_parameters
from unlearner.models.offloading import free_on_cuda, has_offloaded_layers
from unlearner.models.quantised_training import quantise, restore_layers
from unlearner.report.writing import duration, size
from unlearner.settings import TrainingSettings
from unlearner.training.data import DescentMethod
from unlearner.training.finetune import ClassifierFinetuneSettings, FinetuneSettings
from unlearner.training.language_loop import MAX_COMPARED
from unlearner.training.optimisers import give_format_back, keep_gradients_in
from unlearner.training.stop_rule import WATCHED_RECORDS
from unlearner.training.trainer import (
    give_memory_back,
    recompute_activations,
    switch_dropout_off,
    trains_whole,
)

# Weights, two moments and the best weights so far; a new one is whole before the last is removed.
CHECKPOINTS_OF_WEIGHTS = 2 * 4

FLOAT = 4  # bytes of a number: weights, gradients and moments are float32

# Parts that are there at one moment only, the largest of which makes the peak.
STEP, CHECKPOINT, SAVED = "largest step", "checkpoint", "saved model"
WHEN = {
    STEP: "the largest step is taken",
    CHECKPOINT: "a checkpoint is saved",
    SAVED: "the saved model is measured",
}

OUT_OF_MEMORY = re.compile("out of memory|can't allocate memory|bad_alloc|ALLOC_FAILED")

Sets = Mapping[str, TokenizedSet] | Mapping[str, LabelledSet]


class PlannedMethod(DescentMethod, Protocol):
    """What a plan reads of a method; `methods.base.Method` says what each of them means."""

    begins_anew: ClassVar[bool]
    windows_per_record: ClassVar[int]

    @property
    def name(self) -> str: ...


@dataclass
class Cost:
    """Bytes beside those held before, and seconds; NaN where the bytes were not enough."""

    bytes: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class ResourcePlan:
    """What a run is expected to take.

    Attributes:
        seconds_per_epoch: NaN where the largest step does not fit: its bytes are a lower bound.
        max_epochs: The method's limit.
        parts: Bytes by part; "held already" is what was there before the step was run.
        device: Where the model is, and the parts are.
        ways_out: Settings that take less, by the moment of the peak.
        ignored: To go on although it does not fit.
        micro_batch: Windows of a step that go forward and backward together; None for all.
    """

    seconds_per_epoch: float
    max_epochs: int
    parts: dict[str, int]
    device: torch.device
    ways_out: Mapping[str, Sequence[str]]
    ignored: bool
    micro_batch: int | None = None

    @property
    def moment(self) -> str:
        """The part that decides when the peak is."""
        return max(WHEN, key=self.parts.__getitem__)

    @property
    def peak(self) -> dict[str, int]:
        """The parts that are there together at most."""
        left_out = WHEN.keys() - {self.moment}
        return {name: number for name, number in self.parts.items() if name not in left_out}

    def sentence(self) -> str:
        """The plan in one line."""
        seconds = self.seconds_per_epoch
        memory = f"{size(sum(self.peak.values()))} of memory (when {WHEN[self.moment]})"
        if math.isnan(seconds):
            return f"a run takes more than {memory}, which is not there"
        parts = f", in micro-batches of {self.micro_batch} windows" if self.micro_batch else ""
        return (
            f"a run takes about {duration(seconds)} an epoch, at most {self.max_epochs} epochs "
            f"({duration(seconds * self.max_epochs)}), and up to {memory}{parts}"
        )


def plan_run(
    loaded: Loaded,
    sets: Sets,
    measured: Sets,
    method: PlannedMethod,
    settings: TrainingSettings,
    evaluation: Cost,
) -> ResourcePlan:
    """What a run takes; its step is not run where the first guess alone is more than there is.

    Args:
        measured: The sets whose figures are reported.
        evaluation: Of all of them, with the target model.

    Of a language model's step that does not fit ever fewer windows at a time are tried, unless
    their number is set.
    """
    model, fields, language = loaded.model, method.model_dump(), loaded.family == "causal-lm"
    recipe = FinetuneSettings() if language else ClassifierFinetuneSettings()
    step, num_steps = _largest_step(loaded, sets, method, method.batch_size or recipe.batch_size)
    parts = _first_guess(loaded, method, settings)
    if language:
        parts |= _reference(loaded, sets, measured, method, settings)
    parts[SAVED] += evaluation.bytes

    def loss() -> Tensor:
        if language:
            return likelihoods(model, share_of(cast("list[Window]", step), model.device)).loss()
        encoded = Classifier(model).encode(cast("list[Example]", step))
        return cross_entropy(encoded.logits.float(), encoded.labels)

    plan = ResourcePlan(
        math.nan,
        (fields["epochs"] or recipe.epochs) if method.begins_anew else method.max_epochs,
        parts,
        model.device,
        _ways_out(loaded, method, settings),
        settings.ignore_memory_plan,
    )
    guess = sum(plan.peak.values()) - parts["held already"] - parts[plan.moment]
    if processes.from_main(guess > room_on(model.device)):
        return plan
    if trains_whole(settings):
        widen(model)
    share = sets["forget"].num_tokens / sum(some.num_tokens for some in measured.values())
    for limit in _micro_batches(len(step), settings) if language else [None]:
        with windows_at_most(limit):
            found = processes.gather(measure_step(loaded, loss, settings))
        taken = max(cost.bytes for cost in found)
        seconds = num_steps * sum(cost.seconds for cost in found) / len(found)
        plan = replace(
            plan,
            parts=parts | {STEP: taken},
            seconds_per_epoch=seconds + share * evaluation.seconds,
            micro_batch=limit,
        )
        # Each process has measured parts of its own: the main one decides for all.
        if processes.from_main(plan.moment != STEP or not _lack(plan)):
            break
    return plan


def _micro_batches(windows: int, settings: TrainingSettings) -> list[int | None]:
    """How many windows of a step to try at a time, most first; None for all."""
    if settings.micro_batch != "auto":
        return [settings.micro_batch]
    if sharding.wanted():
        return [None]
    windows = math.ceil(windows / processes.count())
    return [None, *(max(1, windows >> times) for times in range(1, windows.bit_length()))]


def _largest_step(
    loaded: Loaded, sets: Sets, method: PlannedMethod, batch_size: int
) -> tuple[list[Window | Example], float]:
    """The sequences of a step as large as a run may meet, and how many of it an epoch is."""
    fields, language = method.model_dump(), loaded.family == "causal-lm"
    retain = sets.get("retain") or sets["forget"]
    passed, pool = retain if method.begins_anew else sets["forget"], sets.get("pool") or retain
    beside = method.kept_per_step if language else fields.get("retain_batch_size", 0)
    again = fields.get("num_views", method.windows_per_record)
    again_beside = fields.get("retain_views", 1)
    # A classifier's method without remaining records beside passes over those alone as well.
    records: dict[int, list[Window | Example]] = defaultdict(list)
    for one in _sequences(passed if language or beside else retain):
        records[one.record].append(one)
    kept = [[one] for one in _sequences(pool)]
    step = _largest([*records.values()], batch_size) * again + _largest(kept, beside) * again_beside
    tokens_beside = min(beside, len(kept)) * again_beside * pool.num_tokens / len(kept)
    tokens = again * passed.num_tokens + math.ceil(len(passed) / batch_size) * tokens_beside
    tokens *= fields.get("remaining_per_forget", 1)
    # A forward pass alone, as of what is watched, is a third of one with its backward pass.
    tokens += sum(map(len, _sequences(retain)[:WATCHED_RECORDS])) / 3
    return step, tokens / sum(map(len, step))


def _sequences(some: TokenizedSet | LabelledSet) -> Sequence[Window | Example]:
    return some.windows if isinstance(some, TokenizedSet) else some.examples


def _largest(groups: list[list[Window | Example]], count: int) -> list[Window | Example]:
    """The sequences of the largest group and of others at random, the most of a hundred draws."""
    if not count:
        return []
    generator, groups = random.Random(0), sorted(groups, key=lambda group: sum(map(len, group)))
    draws = [generator.sample(groups, min(count, len(groups)) - 1) for _ in range(100)]
    drawn = max(draws, key=lambda draw: sum(len(one) for group in draw for one in group))
    return [one for group in (*drawn, groups[-1]) for one in group]


def _first_guess(
    loaded: Loaded, method: PlannedMethod, settings: TrainingSettings
) -> dict[str, int]:
    """Bytes by part but for the step: four numbers for each that is trained, and models beside."""
    model, fields, rank = loaded.model, method.model_dump(), settings.lora_rank
    layers = [model.get_submodule(name) for name in adapters.linear_layers(model)]
    ends = sum(sum(cast("Tensor", layer.weight).shape) for layer in layers)
    for name in adapters.expert_weights(model):
        experts, *sides = model.get_parameter(name).shape
        ends += experts * sum(sides)
    adapter = FLOAT * rank * ends
    held = sum(some.nbytes for some in model.parameters())
    whole = held if rank else FLOAT * num_parameters(model)
    here_now = sum(some.nbytes for some in model.parameters() if some.device == model.device)
    more = FLOAT * num_parameters(model) - here_now
    weights = FLOAT * sum(some.numel() for some in model.parameters() if some.requires_grad)
    trained = (adapter or weights) // (processes.count() if sharding.wanted() else 1)
    # With adapters the target is the model in training, with them off.
    further = sum(not (rank and kind == "target") for kind in method.companion_models)
    # On the way back the target and the model in training are kept beside the one between them.
    further += 2 * bool(fields.get("path") and not rank)
    further += fields.get("num_shards", 0) + fields.get("num_slices", 0)
    moments = trained // 2 if settings.optimiser == "adamw_8bit" else 2 * trained
    gradients = trained // 2 if settings.gradients == "bfloat16" else trained
    here = 0 if model.device.type == "cuda" else 1  # the machine's memory is another there
    saves = settings.checkpoint_every != "never"
    leaves = loaded.bits or (rank and has_cast_layers(model))
    return {
        "held already": held_bytes(model.device),
        # Of those that are held in 16 bits, or elsewhere.
        **({"float32 weights": more} if more and trains_whole(settings) else {}),
        "gradients": gradients,
        "optimiser moments": moments,
        "best weights": here * trained,
        "adapters": adapter,
        "further models": further * whole,
        STEP: 0,
        CHECKPOINT: here * saves * (trained + moments),
        # The target leaves a device whose memory was to be spared; see `pipeline.carry_out`.
        SAVED: fields.get("num_shards", 1) * held * (here or not leaves),
    }


def _reference(
    loaded: Loaded,
    sets: Sets,
    measured: Sets,
    method: PlannedMethod,
    settings: TrainingSettings,
) -> dict[str, int]:
    """The target's output layer and states, of what is measured and what is compared with.

    The measured sets share a copy of the layer, and those that are compared with another, but where
    adapters are trained, which leave it as it is. In bfloat16 it is there rounded as well.
    """
    lower, rank = settings.precision == "bfloat16", settings.lora_rank
    pool = sets.get("pool") or sets.get("retain") or sets["forget"]
    most = min(pool.num_tokens, MAX_COMPARED * max(map(len, _sequences(pool))))
    asked = [name for name, kind in method.asks.items() if kind != "log_probs"]
    tokens = [some.num_tokens for role, some in measured.items() if role != "forget"]
    copies = bool(tokens or asked) + bool(asked and not rank)
    tokens += [most] * (len(asked) + ("analogous" in asked))
    output = loaded.model.get_output_embeddings()
    assert output is not None
    weight = cast("Tensor", output.weight)
    on_host = weight.device.type == "cuda"
    return {
        "reference outputs": (FLOAT * copies + 2 * lower * bool(asked)) * weight.numel(),
        "reference states": 0 if on_host else FLOAT * sum(tokens) * weight.shape[1],
    }


def _ways_out(
    loaded: Loaded, method: PlannedMethod, settings: TrainingSettings
) -> dict[str, list[str]]:
    """Settings that take less at each moment, without those that are set already."""
    fields = method.model_dump()
    adapt = [] if settings.lora_rank or method.begins_anew else ["training.lora_rank=16"]
    coarse = ["training.optimiser=adamw_8bit"]
    if settings.optimiser == "adamw_8bit":
        coarse = ["training.gradients=bfloat16"] * (settings.gradients == "float32")
    if settings.lora_rank or find_spec("bitsandbytes") is None:
        coarse = []  # an adapter's moments are few
    short = loaded.format.dtype in SHORT and not has_cast_layers(loaded.model)
    hold = ["model.layerwise_casting=true"] if short and settings.lora_rank else []
    waits = has_offloaded_layers(loaded.model) or loaded.model.device.type != "cuda"
    if settings.lora_rank and not (waits or sharding.wanted()) and inner_layers(loaded.model):
        hold.append("model.offload=true")
    smaller = [] if settings.gradient_checkpointing else ["training.gradient_checkpointing=true"]
    if settings.micro_batch not in ("auto", 1):
        smaller.append("training.micro_batch=auto")
    smaller += [
        f"method.{name}={fields[name] // 2}"
        for name in ("batch_size", "fresh_per_step", "retain_batch_size")
        if (fields.get(name) or 0) > 1
    ]
    return {
        STEP: [*adapt, *hold, *coarse, *smaller, "a smaller data.max_length"],
        CHECKPOINT: [*adapt, *coarse, "training.checkpoint_every=never"],
        SAVED: [*adapt, *hold],
    }


def measure_step(loaded: Loaded, loss: Callable[[], Tensor], settings: TrainingSettings) -> Cost:
    """The cost of a forward and a backward pass, without the gradients that it leaves.

    The model is as in training; afterwards it and all generators are as before.
    """
    model, device, lower = loaded.model, loaded.model.device, settings.precision == "bfloat16"
    before = held_bytes(device) if loaded.bits else 0
    dropout, checkpointing = loaded.family != "causal-lm", settings.gradient_checkpointing
    room = room_on(device)
    try:
        with _undisturbed(model) as behind:
            names = adapters.linear_layers(model)
            if loaded.bits:
                layers = quantise(model, names, loaded.bits, device)
                behind.callback(restore_layers, model, layers)
                before = held_bytes(device) - before  # less than none where layers left the device
            if settings.lora_rank:
                adapters.attach(model, settings.lora_rank, settings.lora_alpha, names)
            if checkpointing:
                recompute_activations(model)
            if checkpointing and not dropout:
                switch_dropout_off(model)
            model.train(dropout or checkpointing)
            trained = [weight for weight in model.parameters() if weight.requires_grad]
            for weight in trained if sharding.wanted() else ():  # no process will hold them whole
                hook = weight.register_post_accumulate_grad_hook(_drop_gradient)
                behind.callback(hook.remove)
            if settings.gradients == "bfloat16":
                keep_gradients_in(torch.bfloat16, trained)
                behind.callback(give_format_back, trained)
            arithmetic = torch.autocast(
                device.type, torch.bfloat16, enabled=lower, cache_enabled=not checkpointing
            )
            with measuring(device, room) as cost, arithmetic:
                loss().backward()
            held = sum(weight.grad.nbytes for weight in trained if weight.grad is not None)
            return Cost(max(0, before + cost.bytes - held), cost.seconds)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not OUT_OF_MEMORY.search(str(error)):
            raise
        return Cost(room, math.nan)


@contextmanager
def _undisturbed(model: PreTrainedModel) -> Iterator[ExitStack]:
    """Behind the block the model and all generators are as before; more can be put back first."""
    with ExitStack() as behind:
        on_cuda = model.device.type == "cuda"
        behind.enter_context(torch.random.fork_rng([model.device] if on_cuda else []))
        behind.callback(np.random.set_state, np.random.get_state())
        behind.callback(random.setstate, random.getstate())
        for module in model.modules():  # parts, hooks, training mode, rates of dropout
            own = vars(module)
            for some in (*(value for value in own.values() if isinstance(value, dict)), own):
                behind.callback(some.update, dict(some))
                behind.callback(some.clear)
        for weight in model.parameters():
            behind.callback(setattr, weight, "grad", weight.grad)
            behind.callback(weight.requires_grad_, weight.requires_grad)
            weight.grad = None
        yield behind


def _drop_gradient(weight: Tensor) -> None:
    weight.grad = None


def held_bytes(device: torch.device) -> int:
    """What torch has allocated on a CUDA device; elsewhere what the process holds resident.

    What was freed goes back to the system first: a step that is given such memory would seem to
    take none.
    """
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    give_memory_back()
    return psutil.Process().memory_info().rss


@contextmanager
def measuring(device: torch.device, room: int | None = None) -> Iterator[Cost]:
    """Gives what the block costs, once it has ended.

    CUDA counts them. Elsewhere a thread looks at the resident size every few milliseconds, and what
    the system counts as the peak of the whole run, as a report has it, is left alone.

    Args:
        room: On Linux more bytes are refused: the system would end the process without a word.
    """
    cost, before, started = Cost(), held_bytes(device), time.perf_counter()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield cost
        cost.bytes = torch.cuda.max_memory_allocated(device) - before
        cost.seconds = time.perf_counter() - started
        return
    done, memory = threading.Event(), psutil.Process().memory_info

    def watch() -> None:
        while not done.wait(0.004):
            cost.bytes = max(cost.bytes, memory().rss - before)

    watcher, limits = threading.Thread(target=watch), resource.getrlimit(resource.RLIMIT_DATA)
    watcher.start()
    try:
        if room is not None and sys.platform == "linux":
            resource.setrlimit(resource.RLIMIT_DATA, (memory().data + room, limits[1]))
        yield cost
        cost.bytes = max(cost.bytes, memory().rss - before)
        cost.seconds = time.perf_counter() - started
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, limits)
        done.set()
        watcher.join()


def announce(plan: ResourcePlan, say: Callable[[str], None], *, checkpoints: bool = True) -> None:
    """Say what the run will take, or refuse it where that is more than there is.

    Args:
        checkpoints: Whether the run has a place for them.

    Raises:
        UserError: The expected peak is above the memory that is available; it names the largest
            parts, and settings that would lower the peak.
    """
    if not checkpoints:
        plan = replace(plan, parts=plan.parts | {CHECKPOINT: 0})
    say(plan.sentence())
    lack = processes.from_main(_lack(plan))  # or some would go on without the others
    if lack and not plan.ignored:
        raise UserError(lack)
    if lack:
        say("this is more memory than is available; training.ignore_memory_plan is set")


def _lack(plan: ResourcePlan) -> str:
    """The refusal; empty where the run fits."""
    peak, unknown = plan.peak, math.isnan(plan.seconds_per_epoch)
    needed, there = sum(peak.values()), plan.parts["held already"] + room_on(plan.device)
    if needed <= there and not unknown:
        return ""
    largest = sorted(peak.items(), key=lambda part: -part[1])[:3]
    parts = ", ".join(f"{name} {size(number)}" for name, number in largest)
    ways = ", ".join(plan.ways_out[plan.moment])
    return (
        f"training: the run is expected to need {'more than ' if unknown else ''}{size(needed)} of "
        f"the {'accelerator' if plan.device.type == 'cuda' else 'machine'}'s memory when "
        f"{WHEN[plan.moment]} ({parts}), and {size(there)} is there for it; "
        f"{f'set {ways}; or ' if ways else ''}set training.ignore_memory_plan=true to go on anyway"
    )


def room_on(device: torch.device) -> int:
    """Bytes that this process may take there; the processes of a run share a machine's."""
    if device.type == "cuda":
        return free_on_cuda(device)
    return available_bytes() // processes.count()


# Where a control group says its limit, its use, and what of that is a cache of files; by version.
GROUPS = {
    "": ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    "memory": (
        "sys/fs/cgroup/memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_inactive_file",
    ),
}


def available_bytes(root: Path = Path("/")) -> int:
    """What the processes of this machine, and of this process's control groups, may still take."""
    found = [psutil.virtual_memory().available]
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text(encoding="ascii").splitlines():
            _, controllers, path = line.split(":", 2)
            for version in GROUPS.keys() & set(controllers.split(",")):
                found += _left_of_groups(root / GROUPS[version][0], path, *GROUPS[version][1:])
    return min(found)


def _left_of_groups(top: Path, path: str, limit: str, used: str, cache: str) -> Iterator[int]:
    """What is left of the limits of a group and of those above it."""
    folder = top / path.strip("/")
    for group in (folder, *folder.parents):
        with suppress(OSError, ValueError):  # no group any more, or "max": without a limit
            texts = [(group / name).read_text("ascii") for name in (limit, used, "memory.stat")]
            cached = dict(map(str.split, texts[2].splitlines())).get(cache, 0)
            yield max(0, int(texts[0]) - int(texts[1]) + int(cached))


def result_bytes(model: PreTrainedModel) -> int:
    """Of the weights that a run saves."""
    return FLOAT_BYTES * num_parameters(model)


def check_disk(
    model: PreTrainedModel, settings: TrainingSettings, folder: Path, say: Callable[[str], None]
) -> None:
    """Refuse a run whose result has no room, and say where its checkpoints have none.

    Args:
        folder: On the disk that is written to.

    Raises:
        UserError: The result is larger than what is free; it names both and the way out.
    """
    result, free = result_bytes(model), processes.from_main(free_bytes(folder))
    if result > free and not settings.ignore_memory_plan:
        raise UserError(
            f"--output: the result takes {size(result)} and {size(free)} are free on that disk; "
            "make room, give a folder on another disk, or set training.ignore_memory_plan=true"
        )
    # Of adapters there is little to save.
    saves = settings.checkpoint_every != "never" and not settings.lora_rank
    checkpoints = CHECKPOINTS_OF_WEIGHTS * result * saves
    if result + checkpoints > free:
        say(
            f"the disk has {size(free)} free, the result takes {size(result)} and checkpoints up "
            f"to {size(checkpoints)}: those without room are left out; "
            "training.checkpoint_every=never saves none, training.lora_rank=16 small ones"
        )
