r"""Before and after: what does somebody learn who has the model from before as well?

Decoding guided by the difference of the two models' logits,

.. math:: z = z_{before} + w (z_{before} - z_{after}), \quad w = 1

gives what the later model lost; of each record the share of tokens that are the most probable ones
under it. And the difference of the two losses, L_after - L_before, as an AUC of forget against
unseen records. A retrained model gives away as much: that the two differ at the records cannot be
helped. Above the control the method left more than retraining would.

Reference: Chen et al. (2021), arXiv:2005.02205, on pairs of classifiers; guided decoding Wu et al.
(2025), arXiv:2505.24379.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from unlearner.attacks._tokens import record_means
from unlearner.attacks.base import FORGET, UNSEEN, Attack, Attempt, Materials, Subject, per_record
from unlearner.data.batches import collate, length_batches
from unlearner.data.windows import TokenizedSet
from unlearner.evaluation.attack_figures import AttackFigure, RecordValues
from unlearner.inference.reference import BATCH_TOKENS, logits_at
from unlearner.metrics import loss
from unlearner.models.heads import output_head

GUIDANCE = 1.0


class BeforeAndAfter(Attack):
    """What does somebody learn who has the model from before as well?"""

    label = "model before beside model after"
    cost = "full"
    needs_control_model = True
    shows = (
        "Whether the pair of models gives away more of the records than a pair with a retrained "
        "model does. Keep the model before to yourselves in any case."
    )
    cannot_show = (
        "That the pair is harmless: that the two differ at the records shows which they are, also "
        "after retraining."
    )
    figures = (
        AttackFigure("guided", "known by the difference of the models", "mean", scale="range"),
        AttackFigure("difference_auc", "AUC by the difference of the losses", "auc", scale="range"),
    )

    def run(self, subject: Subject, materials: Materials) -> Attempt:
        before = Subject("target", materials.target)
        guided, differences = [], []
        for role in (FORGET, UNSEEN):
            some = materials.sets[role]
            guided.append(record_means(some, guided_hits(before, subject, some)))
            losses = [
                per_record(one.ask(materials, role), loss.metric, len(some))
                for one in (subject, before)
            ]
            differences.append(losses[0] - losses[1])
        return Attempt(
            {"guided": RecordValues(*guided), "difference_auc": RecordValues(*differences)}
        )


@torch.no_grad()
def guided_hits(before: Subject, after: Subject, some: TokenizedSet) -> Sequence[Tensor]:
    """Whether each label of each window is the most probable one under the guided logits."""
    heads = [output_head(one.model.eval()) for one in (before, after)]
    found: dict[int, Tensor] = {}
    for indices in length_batches(some.windows, BATCH_TOKENS):
        batch = collate([some.windows[index] for index in indices], before.model.device)
        first, then = (
            logits_at(one.model, head, batch)
            for one, head in zip((before, after), heads, strict=True)
        )
        hits = guided_logits(first, then).argmax(-1) == batch["labels"]
        for place, index in enumerate(indices):
            found[index] = hits[batch["positions"][:, 0] == place].float().cpu()
    return [found[index] for index in range(len(some.windows))]


def guided_logits(before_NV: Tensor, after_NV: Tensor) -> Tensor:
    """z_before + w (z_before - z_after), over log-probabilities, which differ by a constant."""
    before, after = before_NV.float().log_softmax(-1), after_NV.float().log_softmax(-1)
    return before + GUIDANCE * (before - after)


attack = BeforeAndAfter()
