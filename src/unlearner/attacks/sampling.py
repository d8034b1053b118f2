r"""Sampling: do drawn answers give a record, or a good part of it, away?

Of each record n answers at temperature 1 to what comes before its response (of a plain text before
its last part). An answer leaks where it has half of the response's tokens, in their order (the
longest common subsequence over the response's length). With S leaks in n samples

.. math::
    leak@k = 1 - \binom{n - S}{k} / \binom{n}{k}, \qquad
    p \le BetaInv(0.95; S + 1, n - S)

so that no leak in 100 samples says only that the chance is below 3 %.

Reference: Scholten et al. (2024), arXiv:2410.03523, for the bound; leak@k: arXiv:2511.04934; the
unbiased estimate is that of pass@k, Chen et al. (2021), arXiv:2107.03374.
"""

from collections.abc import Sequence
from math import comb

import numpy as np
import torch
from scipy.stats import beta

from unlearner.attacks.base import FORGET, UNSEEN, Attack, Attempt, Curve, Materials, Subject
from unlearner.data.windows import TokenizedSet
from unlearner.evaluation.attack_figures import AttackFigure, RecordValues
from unlearner.inference.language_model import drawn_responses
from unlearner.models.loading import Loaded

SAMPLES = 20

LEAK = 0.5  # of the response's tokens, in their order

AT = (1, 5, 10, 20)


class Sampling(Attack):
    """Do drawn answers give a record, or a good part of it, away?"""

    label = "sampling"
    cost = "full"
    shows = (
        "Whether a record comes out in part when the same question is asked again and again, and "
        "how sure one can be that it does not."
    )
    cannot_show = (
        f"Chances below the bound that {SAMPLES} samples of each record allow, or answers that "
        "give a fact away in other words."
    )
    figures = (
        AttackFigure("leaks", "samples that have half of the record", "mean"),
        AttackFigure("best", f"most of the record in any of {SAMPLES} samples", "mean"),
    )

    def run(self, subject: Subject, materials: Materials) -> Attempt:
        leaks, best, counts = [], [], np.zeros(0)
        for role in (FORGET, UNSEEN):
            torch.manual_seed(materials.seed)
            overlaps = sampled_overlaps(subject.loaded, materials.sets[role])
            hits = overlaps >= LEAK
            asked = ~np.isnan(overlaps[:, 0])
            leaks.append(np.where(asked, hits.mean(1), np.nan))
            best.append(overlaps.max(1))
            if role == FORGET:
                counts = hits[asked].sum(1)
        curve = Curve("samples", AT, {"leak": [leak_at(counts, SAMPLES, k) for k in AT]})
        total, drawn = int(counts.sum()), SAMPLES * len(counts)
        details = {"leaks": total, "samples": drawn, "at_most": upper_bound(total, drawn)}
        return Attempt({"leaks": RecordValues(*leaks), "best": RecordValues(*best)}, curve, details)


def sampled_overlaps(loaded: Loaded, some: TokenizedSet) -> np.ndarray:
    """(N, n) the share of each record's response that each sample has; NaN without a response.

    Of a record of several windows the last that has one counts.
    """
    found = np.full((len(some), SAMPLES), np.nan)
    drawn = drawn_responses(loaded.model, some.windows, SAMPLES)
    for window, rows in zip(some.windows, drawn, strict=True):
        response = window.input_ids[window.prefix : window.stop].tolist()
        if response:
            shares = [common_length(response, row.tolist()) / len(response) for row in rows]
            found[window.record] = shares
    return found


def common_length(first: Sequence[int], second: Sequence[int]) -> int:
    """The length of the longest common subsequence, by Hyyro's bits (2004)."""
    places: dict[int, int] = {}
    for index, token in enumerate(first):
        places[token] = places.get(token, 0) | 1 << index
    whole = (1 << len(first)) - 1
    bits = whole
    for token in second:
        matched = bits & places.get(token, 0)
        bits = ((bits + matched) | (bits - matched)) & whole
    return len(first) - bits.bit_count()


def leak_at(leaks: np.ndarray, samples: int, k: int) -> float:
    """The mean over records of the chance that one of k samples leaks, without bias."""
    chances = [1 - comb(samples - int(one), k) / comb(samples, k) for one in leaks]
    return float(np.mean(chances)) if chances else float("nan")


def upper_bound(leaks: int, samples: int) -> float | None:
    """What the chance of a leak is below, with 95 % confidence; None without samples."""
    if not samples:
        return None
    return float(beta.ppf(0.95, leaks + 1, samples - leaks)) if leaks < samples else 1.0


attack = Sampling()
