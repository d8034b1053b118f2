"""A second request on a model that was unlearned before: damage is counted from the first model on.

Every request may cost a little of the model's quality. Measured against the model of the last
request, five losses of a tenth each pass one by one.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path

from unlearner.config import RunConfig
from unlearner.errors import UserError
from unlearner.evaluation.measure import Scores
from unlearner.families.base import AnyMeasured, AnyPrepared
from unlearner.report.page import is_unlearned
from unlearner.settings import further_kind

ORIGINAL = "original"


def measure_original(
    config: RunConfig,
    prepared: AnyPrepared,
    measured_sets: Mapping[str, object],
    say: Callable[[str], None],
) -> dict[str, Scores]:
    """The figures of `model.original` on the sets to be kept, by the name of the model, if any.

    Raises:
        UserError: It cannot be loaded or compared, or there is nothing to compare on.
    """
    name, family = config.model.original, prepared.family
    if not name:
        return {}
    sets = {
        role: some
        for role, some in measured_sets.items()
        if role in family.kept_roles or further_kind(role) == "neutral"
    }
    if sets.keys().isdisjoint(family.kept_roles):
        raise UserError(
            "--original: --retain is needed too: the records on which the models are compared"
        )
    original = family.load_like(name, ORIGINAL, prepared, config.model.base)
    say("measuring the original model")
    answers = family.infer(original, sets, config.evaluation)
    return {ORIGINAL: family.score(ORIGINAL, {ORIGINAL: answers}, sets, config)}


def notice(name: str, original: str, say: Callable[[str], None]) -> None:
    """Say where a model was unlearned before, and nothing says from which one."""
    if name and not original and is_unlearned(Path(name)):
        say(
            f"{name} was unlearned before, and its quality is taken as it is: give the model from "
            "before the first request as --original, or small losses add up unseen"
        )


def utility_notes(measured: AnyMeasured) -> tuple[str, ...]:
    """What is kept of the original model's quality, beside what is kept of the last model's."""
    if ORIGINAL not in measured.scores:
        return ()
    found = []
    for criterion in measured.criteria:
        values = [
            measured.scores.get(model, {}).get(criterion.set, {}).get(criterion.metric)
            for model in (ORIGINAL, "target", "unlearned")
        ]
        first, before, after = (math.nan if one is None else one.value for one in values)
        if criterion.claim != "utility" or criterion.metric == "degenerate" or math.isnan(after):
            continue
        text = f"{criterion.metric} of the {criterion.set} set: {after:.4g} after this request"
        text += "" if math.isnan(before) else f", {before:.4g} before it{_times(after, before)}"
        text += f", {first:.4g} under the original model{_times(after, first)}"
        found.append(f"{text}; the floor is measured against the original model.")
    return tuple(found)


def _times(after: float, before: float) -> str:
    return f" ({after / before:.4g} times)" if before else ""


def already_lost(scores: Mapping[str, Scores], metric: str) -> str:
    """How the target model stands beside the original one, in words; empty without an original."""
    first = scores.get(ORIGINAL, {}).get("retain", {}).get(metric)
    now = scores.get("target", {}).get("retain", {}).get(metric)
    if first is None or now is None:
        return ""
    return (
        f"{metric} of the retain set is {now.value:.4g}, and {first.value:.4g} under the original "
        f"model{_times(now.value, first.value)}"
    )
