"""What a comparison is to compare: the methods, their settings, the seeds."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import yaml

from unlearner import registry
from unlearner.config import RunConfig
from unlearner.errors import UserError
from unlearner.methods.base import load_method
from unlearner.models.folders import family_named
from unlearner.settings import SECTIONS, TrainingSettings, build

# In messages.
MODELS = {
    "causal-lm": "causal language models",
    "sequence-classification": "sequence classifiers",
    "token-classification": "token classifiers",
}


@dataclass(frozen=True)
class Plan:
    """What is to be compared.

    Attributes:
        sections: The sections of a run file; those of "method" hold for each method that has them.
        own: Further fields of single methods, by their names.
        methods: Names of methods.
        seeds: Seeds of the runs of each; the search has the first.
        retrained: A model trained without the forget set, by name: the yardstick.
        keep_models: Leave the unlearned models in the runs' folders.
        family: Of the model.
    """

    sections: Mapping[str, Any]
    own: Mapping[str, Mapping[str, Any]]
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    retrained: str = ""
    keep_models: bool = False
    family: str = "causal-lm"

    def config(self, method: str) -> RunConfig:
        """The configuration of a method's first run.

        Raises:
            UserError: There is no such method, or a field of one is wrong.
        """
        kind = load_method(method)
        shared = self.sections.get("method", {})
        fields = {name: value for name, value in shared.items() if name in kind.model_fields}
        fields |= self.own.get(method, {})
        sections = {**self.sections, "method": {"name": method, **fields}}
        config = RunConfig.from_sections(sections, family=self.family)
        config = replace(config, method=config.method.for_family(self.family))
        training = config.training.model_copy(update={"seed": self.seeds[0]})
        return replace(config, training=training)

    def on(self, date: str) -> "Plan":
        """The plan on a day, for chat templates that ask for it; itself where none is given."""
        if not date:
            return self
        data = {**self.sections.get("data", {}), "date": date}
        return replace(self, sections={**self.sections, "data": data})

    def to_yaml(self) -> str:
        """What must be the same when a comparison goes on."""
        settings = {
            "sections": dict(self.sections),
            "own": dict(self.own),
            "seeds": list(self.seeds),
            "retrained": self.retrained,
        }
        return yaml.safe_dump(json.loads(json.dumps(settings)), sort_keys=True)

    def goes_on(self, begun_as: str, begun: Collection[str]) -> bool:
        """Whether this is a comparison with nothing but methods added, and settings of those.

        Args:
            begun_as: What `to_yaml` gave when it began.
            begun: The methods of which something was run.
        """
        try:
            before = yaml.safe_load(begun_as)
        except yaml.YAMLError:
            return False
        now = yaml.safe_load(self.to_yaml())
        kept = set(begun).union(before.get("own") or {}) if isinstance(before, dict) else ()
        now["own"] = {name: fields for name, fields in now["own"].items() if name in kept}
        return bool(now == before)


def make_plan(
    sections: Mapping[str, Any],
    methods: str,
    seeds: int,
    *,
    retrained: str,
    keep_models: bool,
    family: str = "",
) -> Plan:
    """The plan of a command line.

    Args:
        methods: Names with commas between them, or "all".
        family: Of the model; empty for that of the model that is named.

    Raises:
        UserError: There is no such method, or none at all.
    """
    model = sections.get("model", {})
    family = family or family_named(str(model.get("name", "")), str(model.get("revision", "main")))
    names = (
        _all_methods(family)
        if methods == "all"
        else [name.strip() for name in methods.split(",") if name.strip()]
    )
    if not names:
        raise UserError("--methods: none given; name some, such as icu,npo, or all")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(f"--methods: {twice[0]} is given twice; leave one out")
    if seeds < 1:
        raise UserError(f"--seeds: at least 1, got {seeds}")
    known = (*SECTIONS, "method")
    shared = {name: section for name, section in sections.items() if name in known}
    own = {name: section for name, section in sections.items() if name not in known}
    if named := shared.get("model", {}).get("retrained"):  # measured once, not beside every run
        shared["model"] = {**shared["model"], "retrained": ""}
        retrained = retrained or named
    first = build(TrainingSettings, shared.get("training", {}), where="training").seed
    return Plan(
        shared,
        own,
        tuple(names),
        tuple(range(first, first + seeds)),
        retrained,
        keep_models,
        family,
    )


def _all_methods(family: str) -> list[str]:
    """Every method for models of the family that needs no other model than the target."""
    kinds = {name: load_method(name) for name in registry.names("methods")}
    return [
        name for name, kind in kinds.items() if family in kind.families and not kind.begins_anew
    ]


def check_plan(plan: Plan) -> None:
    """Refuse what is wrong with any method before anything is read.

    Raises:
        UserError: A method does not exist, is for another family, or a field is wrong.
    """
    fields = {name for method in plan.methods for name in load_method(method).model_fields}
    for name in plan.sections.get("method", {}):
        if name not in fields:
            raise UserError(
                f"method.{name}: no method of this comparison has it; leave it out, or write "
                "NAME.key=value for one of them"
            )
    for name in plan.own:
        if name not in plan.methods:
            raise UserError(
                f"{name}: neither a section nor a method of this comparison; its methods: "
                + ", ".join(plan.methods)
            )
    for method in plan.methods:
        if plan.family not in load_method(method).families:
            raise UserError(f"--methods: {method} is not for {MODELS[plan.family]}")
        plan.config(method)
