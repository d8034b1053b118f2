"""The resolved configuration of one run."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import yaml

from unlearner.datasets.base import options_of
from unlearner.errors import UserError
from unlearner.methods.base import Method, load_method
from unlearner.settings import (
    FURTHER_SETS,
    SECTIONS,
    CriteriaSettings,
    DataSettings,
    EvaluationSettings,
    JudgeSettings,
    ModelSettings,
    SearchSettings,
    TrainingSettings,
    build,
    check_bits,
    check_names,
    training_values,
    values_of,
)

DEFAULT_METHODS = {
    "causal-lm": "icu",
    "sequence-classification": "deepcut",
    "token-classification": "deepcut",
}


# Settings of `evaluation` that few runs have.
RARE = (
    *("dialogue_tokens", "judge"),
    *("harness", "harness_include_path", "harness_limit", "harness_batch_size", "harness_chat"),
)


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run: the same configuration repeats it."""

    model: ModelSettings
    data: DataSettings
    method: Method
    training: TrainingSettings
    evaluation: EvaluationSettings
    criteria: CriteriaSettings
    search: SearchSettings = field(default_factory=SearchSettings)

    @classmethod
    def from_sections(
        cls, sections: Mapping[str, Any], *, family: str = "causal-lm"
    ) -> "RunConfig":
        """Check every section; the method's name decides which keys its section may hold.

        Raises:
            UserError: A section, key or value is not allowed.
        """
        allowed = [*SECTIONS, "method"]
        check_names(sections, allowed, what="section", where="settings")
        given = {name: dict(section) for name, section in sections.items()}
        chosen = given.get("method", {})
        name = str(chosen.pop("name", DEFAULT_METHODS[family]))
        built: dict[str, Any] = {
            section: build(kind, given.get(section, {}), where=section)
            for section, kind in SECTIONS.items()
        }
        if built["data"].name:
            options_of(built["data"])
        method = build(load_method(name), chosen, where="method")
        if method.begins_anew and built["training"].lora_rank:
            raise UserError(
                f"training.lora_rank: method {name} makes the model anew from the pretrained one; "
                "leave it out"
            )
        check_bits(built["model"], built["training"])
        return cls(method=method, **built)

    def sections(self) -> dict[str, Any]:
        """Plain values, as a run file holds them."""
        return {
            "model": values_of(self.model, "original", "load_in_4bit", "load_in_8bit"),
            "data": values_of(self.data, *FURTHER_SETS),
            "method": method_values(self.method),
            "training": training_values(self.training),
            "evaluation": values_of(self.evaluation, *RARE),
            "criteria": values_of(self.criteria, "neutral_ratio"),
            "search": self.search.model_dump(),
        }

    def of_sets_alone(self) -> "RunConfig":
        """The same without tasks and a judge."""
        none = {"harness": (), "judge": JudgeSettings()}
        return replace(self, evaluation=self.evaluation.model_copy(update=none))

    def of_request_alone(self) -> "RunConfig":
        """The same without what is measured beside the sets of the request."""
        return replace(
            self.of_sets_alone(),
            data=self.data.model_copy(update={kind: {} for kind in FURTHER_SETS}),
            criteria=self.criteria.model_copy(update={"neutral_ratio": None}),
        )

    def to_yaml(self) -> str:
        """A run file; reading it gives this configuration."""
        return yaml.safe_dump(self.sections(), sort_keys=False, allow_unicode=True)


def method_values(method: Method) -> dict[str, Any]:
    """A method's name and hyper-parameters."""
    return {"name": method.name, **method.model_dump()}
