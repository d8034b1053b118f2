r"""Least-likely decoding: do the tokens that the model avoids spell the record?

.. math::
    s(x) = \frac{1}{T} \sum_t [\arg\min_v p(v | x_{<t}) = x_t]

and the same with the least likely of the ten most probable tokens. A loss that drives a record's
tokens to zero leaves them where nobody decodes, and where whoever looks finds them. Where every
token of a record is the least likely one behind the true text, decoding by the least likely token
spells it out.

Reference: none; the measures are memorization accuracy (arXiv:2205.10770) at the other end.
"""

import torch
from torch import Tensor

from unlearner.attacks._tokens import at_labels, record_means
from unlearner.attacks.base import FORGET, UNSEEN, Attack, Attempt, Materials, Subject
from unlearner.evaluation.attack_figures import AttackFigure, RecordValues

TOP = 10


class LeastLikely(Attack):
    """Do the tokens that the model avoids spell the record?"""

    label = "least-likely decoding"
    shows = (
        "Whether the records can be read off what the model takes care not to say: a sign that "
        "they were pushed down and not forgotten."
    )
    cannot_show = "That no other way of reading the model's preferences spells them."
    figures = (
        AttackFigure(
            "argmin", "words that the model holds least likely of all", "mean", scale="range"
        ),
        AttackFigure(
            "argmin_of_top",
            f"words that are the last of its {TOP} most likely",
            "mean",
            scale="range",
        ),
    )

    def run(self, subject: Subject, materials: Materials) -> Attempt:
        found: dict[str, list] = {figure.name: [] for figure in self.figures}
        spelled = []
        for role in (FORGET, UNSEEN):
            some = materials.sets[role]
            rows = at_labels(subject.model, some.windows, last_of_all_and_of_top)
            for place, name in enumerate(found):
                found[name].append(record_means(some, [row[:, place] for row in rows]))
            spelled.append(int((found["argmin"][-1] == 1).sum()))
        details = {"records_spelled": spelled[0]}
        return Attempt(
            {name: RecordValues(*values) for name, values in found.items()}, details=details
        )


def last_of_all_and_of_top(logits_NV: Tensor, labels_N: Tensor) -> Tensor:
    """(N, 2) whether each label is the least likely token, and the last of the most likely ones."""
    top = logits_NV.topk(min(TOP, logits_NV.shape[-1]), dim=-1).indices[:, -1]
    return torch.stack([logits_NV.argmin(-1) == labels_N, top == labels_N], -1).float()


attack = LeastLikely()
