"""The resolved configuration of one run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from unlearner.datasets.base import options_of
from unlearner.errors import UserError
from unlearner.methods.base import Method, load_method
from unlearner.settings import (
    SECTIONS,
    CriteriaSettings,
    DataSettings,
    EvaluationSettings,
    ModelSettings,
    SearchSettings,
    TrainingSettings,
    build,
    check_bits,
    check_names,
)

DEFAULT_METHODS = {
    "causal-lm": "icu",
    "sequence-classification": "deepcut",
    "token-classification": "deepcut",
}


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
        # For a second request, and for adapters, alone.
        asked = ("original", "load_in_4bit", "load_in_8bit")
        absent = {name for name in asked if not getattr(self.model, name)}
        return {
            "model": self.model.model_dump(exclude=absent),
            "data": self.data.model_dump(),
            "method": method_values(self.method),
            "training": self.training.model_dump(),
            "evaluation": self.evaluation.model_dump(),
            "criteria": self.criteria.model_dump(),
            "search": self.search.model_dump(),
        }

    def to_yaml(self) -> str:
        """A run file; reading it gives this configuration."""
        return yaml.safe_dump(self.sections(), sort_keys=False, allow_unicode=True)


def method_values(method: Method) -> dict[str, Any]:
    """A method's name and hyper-parameters."""
    return {"name": method.name, **method.model_dump()}
