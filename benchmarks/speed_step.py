"""One step of ICU against plain forward and backward of the same tokens; the kept distribution."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from speed_cases import windows_of
from speed_timing import Cost, median, peak_memory, timed
from unlearner.data.batches import collate
from unlearner.inference.reference import TargetDistribution
from unlearner.methods.icu import ICU
from unlearner.settings import TrainingSettings
from unlearner.training.log import Log
from unlearner.training.trainer import Trainer

FLOAT_BYTES = 4


@dataclass(frozen=True)
class StepTimes:
    """Medians of the two kinds of step and of the optimiser's update, and their peaks of memory.

    ICU's seconds hold the update, the plain ones do not; the bytes of both do.
    """

    icu: Cost
    plain: Cost
    update: Cost
    icu_bytes: int | None
    plain_bytes: int | None


class Steps:
    """ICU's step with fixed pairs and the plain one, on the same windows.

    Args:
        model: Trained in place, by steps too small to change it.
        ids: (2 B, T): B analogous records, then B forget records.
    """

    def __init__(self, model: Any, ids: Tensor, device: str) -> None:
        self.trainer = Trainer(TrainingSettings(device="cpu" if device == "cpu" else "auto"), Log())
        self.model = self.trainer.start(model, 1e-9, betas=(0.9, 0.98))
        self.ids, self.count = ids, len(ids) // 2
        self.kept, self.forget = (
            windows_of(ids[: self.count].cpu()),
            windows_of(ids[self.count :].cpu()),
        )
        self.method = ICU(pairs="fixed", forget_bound="none", batch_size=self.count)
        self.target = TargetDistribution.of(self.model, self.kept)

    def icu(self) -> dict[str, float]:
        """One step as `ICU._epoch` takes it; the values of its terms."""
        kept = collate(self.kept, self.model.device)
        batch = {"analogous": kept, "forget": collate(self.forget, self.model.device)}
        logits = self.target.logits(range(self.count), kept)
        terms = self.method._terms
        return self.trainer.step(partial(terms, self.model, batch, logits, None))

    def plain(self) -> float:
        """Forward and backward of all the windows as one batch; their mean loss."""
        self.model.zero_grad(set_to_none=True)
        loss = self.model(input_ids=self.ids, labels=self.ids, use_cache=False).loss
        loss.backward()
        return float(loss.detach())

    def update(self) -> None:
        self.trainer.optimiser.step()

    def plain_with_update(self) -> None:
        self.plain()
        self.update()

    def measure(self, repetitions: int) -> StepTimes:
        """Interleaved, behind one warm-up of each."""
        self.plain_with_update()  # the optimiser's moments appear with the first update and stay
        icu_bytes, plain_bytes = peak_memory(self.icu), peak_memory(self.plain_with_update)
        icu, plain, update = [], [], []
        for _ in range(repetitions):
            plain.append(timed(self.plain)[1])
            update.append(timed(self.update)[1])
            icu.append(timed(self.icu)[1])
        return StepTimes(median(icu), median(plain), median(update), icu_bytes, plain_bytes)


def kept_bytes(model: Any, ids: Tensor, num_records: int) -> dict[str, int]:
    """Bytes kept of the target's distribution on `num_records` such records, and of the table.

    Measured on the given records and multiplied: every record has the same number of positions.
    """
    target = TargetDistribution.of(model, windows_of(ids.cpu()))
    head = target.head
    assert head is not None  # GPT-Neo has one
    num_tokens = ids.shape[1]
    return {
        "records": num_records,
        "measured_records": len(ids),
        "tokens": num_tokens,
        "kept": target.num_bytes * num_records // len(ids),
        "head": sum(p.numel() * p.element_size() for p in head.parameters()),
        "table": num_records * num_tokens * head.num_tokens * FLOAT_BYTES,
    }
