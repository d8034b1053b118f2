"""The resolved configuration of one run."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import Any

import yaml

from unlearner.datasets.base import options_of
from unlearner.errors import UserError
from unlearner.methods.base import Method, load_method
from unlearner.settings import (
    FURTHER_SETS,
    HELD_WHOLE,
    SECTIONS,
    CriteriaSettings,
    DataSettings,
    EvaluationSettings,
    JudgeSettings,
    ModelSettings,
    SearchSettings,
    TrainingSettings,
    build,
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
        return {
            "model": self.model.values(),
            "data": self.data.values(),
            "method": method_values(self.method),
            "training": self.training.values(),
            "evaluation": self.evaluation.values(),
            "criteria": self.criteria.values(),
            "search": self.search.values(),
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

    def with_whole_weights(self) -> "RunConfig":
        """The same for who changes the weights of loaded models: float32, on their device."""
        model = self.model.model_copy(update=HELD_WHOLE)
        return replace(self, model=model)

    def to_yaml(self) -> str:
        """A run file; reading it gives this configuration."""
        return yaml.safe_dump(self.sections(), sort_keys=False, allow_unicode=True)


def check_bits(model: ModelSettings, training: TrainingSettings) -> None:
    """Refuse numbers of few bits where nothing can make them, or no adapter is trained on them.

    Raises:
        UserError: One of both.
    """
    of_model = f"model.load_in_{model.bits}bit" if model.bits else ""
    of_states = "training.optimiser=adamw_8bit" if training.optimiser == "adamw_8bit" else ""
    if of_model and not training.lora_rank:
        raise UserError(
            f"{of_model}: quantised weights are not trained, only adapters on them are; set "
            "training.lora_rank, such as training.lora_rank=16, or leave it out"
        )
    if training.gradients == "bfloat16" and not of_states:
        raise UserError(
            "training.gradients=bfloat16: is for training.optimiser=adamw_8bit; set that as well, "
            "or leave it out"
        )
    name = of_model or of_states
    if name and find_spec("bitsandbytes") is None:
        raise UserError(
            f"{name}: needs the package bitsandbytes; pip install 'unlearner[quantised]', or leave "
            "it out"
        )


def method_values(method: Method) -> dict[str, Any]:
    """A method's name and hyper-parameters."""
    return {"name": method.name, **method.model_dump()}
