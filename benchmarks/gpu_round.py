"""One round of ICU on one device: a step beside the bare one, and asking beside its definition."""

import contextlib
import gc
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch

from gpu_shapes import COMPILED, FLASH, Combination, Load, Shape, attention_pairs, build, step_flops
from speed_asking import ours, values
from speed_cases import Case, NoText, own_text, random_ids, windows_of
from speed_definition import Definition, spread_lengths
from speed_timing import median, timed
from unlearner.data.record import Record
from unlearner.data.windows import TokenizedSet
from unlearner.inference.answers import first_prompt
from unlearner.inference.decoding import eos_ids
from unlearner.inference.reference import TargetDistribution
from unlearner.methods.icu import ICU, Ascent
from unlearner.models.loading import Loaded, num_parameters
from unlearner.provenance import forget_peak, peak_memory_bytes
from unlearner.training.log import Log
from unlearner.training.memory import CHECKPOINT, SAVED, Cost, plan_run
from unlearner.training.trainer import Trainer

PRODUCTS = 10  # in one timing of the matrix rate, so that starting it does not count
PROMPT_START = 0.75  # the library's default and the range of ICU's published code


def matrix_rate(device: str, dtype: torch.dtype, size: int, repeats: int) -> float:
    """Operations per second of a product of two square matrices; the median of the repeats."""
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))

    def run() -> None:
        for _ in range(PRODUCTS):
            torch.matmul(left, right)

    run()
    seconds = median([timed(run)[1] for _ in range(repeats)]).wall
    return PRODUCTS * 2 * size**3 / seconds


def expected(combination: Combination, load: Load, device: str) -> int:
    """Bytes that the memory plan expects of such a run's steps; a step is run for it.

    What is left out are the saved model and checkpoints, which there are none of here.
    """
    model = build(combination.shape, combination.attention, device, combination.way)
    ids = random_ids(model, load.windows, seed=0, num_tokens=load.tokens).cpu()
    sets = {}
    for role, some in (("forget", ids[load.kept :]), ("pool", ids[: load.kept])):
        records = [Record(str(i), input_ids=tuple(row.tolist())) for i, row in enumerate(some)]
        sets[role] = TokenizedSet(role, tuple(records), tuple(windows_of(some)), "random")
    plan = plan_run(
        Loaded(model, NoText(), combination.shape),
        sets,
        {"forget": sets["forget"]},
        method_of(load),
        combination.settings(device),
        Cost(),
    )
    return sum(number for name, number in plan.parts.items() if name not in (CHECKPOINT, SAVED))


def method_of(load: Load) -> ICU:
    """ICU as a step of it is measured here."""
    return ICU(forget_bound="none", batch_size=load.forget, fresh_per_step=load.kept)


def fits(run: Callable[[], Any]) -> bool:
    """Run it; whether the device's memory was enough. What it held is given back if not."""
    try:
        run()
    except torch.OutOfMemoryError:
        enough = False  # nothing more in here: the error still holds the frames with the tensors
    else:
        enough = True
    if not enough:
        release()
    return enough


def release() -> None:
    """Give the memory of everything that is gone back to the device."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


class Round:
    """ICU's step with fresh pairs, and the bare one, on the same random windows.

    The model is trained in place, by steps too small to change it.
    """

    def __init__(self, combination: Combination, load: Load, device: str) -> None:
        self.combination, self.load = combination, load
        model = build(combination.shape, combination.attention, device, combination.way)
        self.trainer = Trainer(combination.settings(device), Log())
        self.ids = random_ids(model, load.windows, seed=0, num_tokens=load.tokens)
        self.kept = windows_of(self.ids[: load.kept].cpu())
        self.forget = windows_of(self.ids[load.kept :].cpu())
        self.method = method_of(load)
        with self._around():
            self.target = TargetDistribution.of(self.trainer.prepare(model), self.kept)
            self.model = self.trainer.start(model, 1e-9, betas=(0.9, 0.98))

    def _around(self) -> AbstractContextManager[Any]:
        # The library asks the target in float32, which flash attention does not take.
        flash = self.combination.attention == FLASH
        return self.trainer.arithmetic() if flash else contextlib.nullcontext()

    def icu(self) -> dict[str, float]:
        """One step as `ICU._epoch` takes it; the values of its terms."""
        step = self.method._step
        logits = self.target.logits
        return self.trainer.step(
            partial(step, self.model, self.kept, self.forget, logits, Ascent())
        )

    def bare(self, model: Any = None) -> float:
        """Forward and backward of all the windows as one batch; their mean loss in nats.

        Args:
            model: The same, compiled.
        """
        model = self.model if model is None else model
        self.model.zero_grad(set_to_none=True)
        self.model.train(self.combination.checkpointing)  # it works in training mode only
        with self.trainer.arithmetic():
            loss = model(input_ids=self.ids, labels=self.ids, use_cache=False).loss
        loss.backward()
        return float(loss.detach())

    def measure(self, *, compiles: bool) -> dict[str, Any]:
        """Medians in seconds, None for what does not fit, and the peak of ICU's steps in bytes.

        Raises:
            torch.OutOfMemoryError: ICU's own step does not fit.
        """
        device = self.trainer.device
        forget_peak(device)
        for _ in range(2):  # the optimiser's moments appear with the first update and stay
            self.icu()
        found: dict[str, Any] = {"peak_bytes": peak_memory_bytes(device)}
        if device.type == "cuda":
            found["reserved_bytes"] = torch.cuda.max_memory_reserved(device)
        runs: dict[str, Callable[[], Any]] = {"bare": self.bare}
        if compiles:
            runs["compiled"] = partial(self.bare, torch.compile(self.model))
        found |= {f"{name}_seconds": None for name in runs}
        runs = {name: run for name, run in runs.items() if fits(run)}
        # Behind all others, so that the step's gradients are there for the update alone.
        runs |= {"step": self.icu, "update": self.trainer.optimiser.step}
        costs: dict[str, list[Any]] = {name: [] for name in runs}
        for _ in range(self.load.repeats):
            for name, run in runs.items():
                costs[name].append(timed(run)[1])
        return found | {f"{name}_seconds": median(some).wall for name, some in costs.items()}


def steps(combination: Combination, load: Load, device: str, *, compiles: bool) -> dict[str, Any]:
    """One line of the table of steps; without figures where a step does not fit."""
    model = build(combination.shape, combination.attention, "meta")
    rank, shape = combination.lora_rank, Shape.of(model)
    found: dict[str, Any] = {}
    fits(lambda: found.update(expected_bytes=expected(combination, load, device)))
    release()
    does_fit = fits(
        lambda: found.update(Round(combination, load, device).measure(compiles=compiles))
    )
    release()
    if compiles or combination.way == COMPILED:
        torch.compiler.reset()
    row = {
        "shape": combination.shape,
        "parameters": num_parameters(model),
        "attention": model.config._attn_implementation,
        "precision": combination.precision,
        "checkpointing": combination.checkpointing,
        "lora_rank": rank,
        "way": combination.way,
        "tokens": load.windows * load.tokens,
        "fits": does_fit,
        "flops": step_flops(shape, load, attention_pairs(model.config, load.tokens), rank),
        "expected_bytes": found.get("expected_bytes"),
    }
    return row | found if does_fit else row


def asking(shape: str, attention: str, load: Load, device: str) -> list[dict[str, Any]]:
    """Lines of the table of asking; one without figures where it does not fit."""
    found: list[dict[str, Any]] = []
    model = build(shape, attention, "meta")
    named = {"shape": shape, "attention": model.config._attn_implementation}

    def run() -> None:
        model = build(shape, attention, device)
        ids = {
            "memorised": own_text(model, random_ids(model, load.records, 2, load.tokens)),
            "unseen": random_ids(model, load.records, 1, load.tokens),
        }
        for kind, some in ids.items():
            case = Case(shape, kind, model, NoText(), some)
            found.append(named | {"kind": kind, "fits": True} | _asked(case, load))

    does_fit = fits(run)
    release()
    return found if does_fit else [*found, named | {"kind": "", "fits": False}]


def _asked(case: Case, load: Load) -> dict[str, Any]:
    """Both ways of asking, and in how many of the continuations they agree to the token.

    Kernels for other numbers of rows round otherwise, and a random model's most probable tokens are
    close to each other: on an accelerator not all continuations are equal.
    """
    start, device = first_prompt(PROMPT_START, load.tokens), case.model.device
    slow = Definition(case.model, case.ids, eos_ids(case.model))
    generator = torch.Generator().manual_seed(0)
    lengths = spread_lengths(load.tokens, start, load.lengths, generator)
    slow.infer(lengths[-1:])  # a warm-up, which is asked again
    slow.infer(lengths)
    forget_peak(device)
    answers = ours(case, case.windows, start)
    peak = peak_memory_bytes(device)
    costs = [timed(lambda: ours(case, case.windows, start))[1] for _ in range(load.repeats)]
    accuracy, likelihood = values(answers)
    pairs = [
        (answer.continuation(length).tolist(), slow.rest[length][0][row])
        for row, answer in enumerate(answers)
        for length in slow.rest
        if length >= start
    ]
    seconds, definition = median(costs).wall, slow.cost(start).wall
    return {
        "records": len(answers),
        "start": start,
        "ma": sum(accuracy) / len(accuracy),
        "el_10": sum(likelihood) / len(likelihood),
        "seconds": seconds,
        "definition_seconds": definition,
        "faster": definition / seconds,
        "asked_lengths": len(slow.first),
        "all_lengths": load.tokens - 1,
        "equal": sum(one == other for one, other in pairs) / len(pairs),
        "peak_bytes": peak,
    }
