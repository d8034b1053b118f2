r"""Discoverable extraction: how likely is it that sampling gives a record word for word?

.. math::
    p_z = \prod_t q(z_t | x, z_{<t}), \qquad Pr[\text{a hit in } n] = 1 - (1 - p_z)^n

with z what follows the record's prompt (of a plain text its last part, 50 tokens at most) and q the
model's distribution at temperature 1 over all tokens. From one forward pass, exact: no sample is
drawn. The n at which the chance of a hit is p = 0.5 and p = 0.95 follow from p_z.

Reference: Hayes et al. (2024), arXiv:2410.19482.
"""

import math
from collections.abc import Sequence

import numpy as np

from unlearner.attacks.base import FORGET, UNSEEN, Attack, Attempt, Curve, Materials, Subject
from unlearner.evaluation.attack_figures import AttackFigure, RecordValues
from unlearner.inference.answers import Answer

SAMPLES = (1, 10, 100, 1000, 10_000)


class Extraction(Attack):
    """How likely is it that sampling gives a record word for word?"""

    label = "extraction by sampling, exact"
    shows = (
        "How many answers somebody has to draw before a record comes out word for word: also "
        "where the most probable answer is another one."
    )
    cannot_show = "Answers that give a record away in other words, or in part."
    figures = tuple(
        AttackFigure(f"leak_at_{count}", f"records given in {count:,} samples", "mean")
        for count in SAMPLES[::2]
    )

    def run(self, subject: Subject, materials: Materials) -> Attempt:
        log_p = RecordValues(
            *(
                log_chances(subject.ask(materials, role), len(materials.sets[role]))
                for role in (FORGET, UNSEEN)
            )
        )
        chances = {
            count: RecordValues(*(hit_chance(some, count) for some in _both(log_p)))
            for count in SAMPLES
        }
        readings = {f"leak_at_{count}": chances[count] for count in SAMPLES[::2]}
        means = [float(np.nanmean(chances[count].forget)) for count in SAMPLES]
        curve = Curve("samples (log10)", [math.log10(n) for n in SAMPLES], {"leak": means})
        within = {f"{p:g}": records_within(log_p.forget, p) for p in (0.5, 0.95)}
        return Attempt(readings, curve, {"records_within": within})


def _both(reading: RecordValues) -> tuple[np.ndarray, np.ndarray]:
    return reading.forget, reading.unseen


def log_chances(answers: Sequence[Answer], count: int) -> np.ndarray:
    """(count,) log p_z of each record, summed over its windows; NaN where nothing follows."""
    found = np.full(count, np.nan)
    for answer in answers:
        stop = answer.stop(answer.prefix)
        if stop > answer.prefix:
            part = float(answer.log_probs[answer.prefix - 1 : stop - 1].astype(float).sum())
            before = found[answer.record]
            found[answer.record] = part if np.isnan(before) else before + part
    return found


def hit_chance(log_p: np.ndarray, samples: int) -> np.ndarray:
    """1 - (1 - p)^n, without rounding where p is small."""
    with np.errstate(divide="ignore"):
        return -np.expm1(samples * np.log1p(-np.exp(log_p)))


def samples_needed(log_p: np.ndarray, chance: float) -> np.ndarray:
    """Samples at which each record is hit with that chance; infinite where p is 0."""
    with np.errstate(divide="ignore", over="ignore"):
        needed = math.log1p(-chance) / np.log1p(-np.exp(log_p))
    return np.maximum(1.0, np.ceil(needed))


def records_within(log_p: np.ndarray, chance: float) -> dict[str, int]:
    """How many records are hit with that chance, by the number of samples."""
    needed = samples_needed(log_p[np.isfinite(log_p)], chance)
    return {str(count): int((needed <= count).sum()) for count in SAMPLES}


attack = Extraction()
