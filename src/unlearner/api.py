"""The Python interface: the same line as the command line, on objects in memory."""

import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from unlearner.config import RunConfig
from unlearner.errors import UserError
from unlearner.evaluation.verdict import Verdict
from unlearner.families.base import with_model_settings
from unlearner.methods.base import Method, load_method
from unlearner.models.adapters import has_adapters
from unlearner.models.folders import FAMILIES
from unlearner.models.loading import Loaded, freeze_other_parts
from unlearner.models.number_format import NAMED, NumberFormat
from unlearner.output import staged
from unlearner.pipeline import pipeline
from unlearner.pipeline.pipeline import Outcome, read_config, write_outcome
from unlearner.settings import HELD_WHOLE, further_role
from unlearner.training.log import Log

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """What `unlearn` returns.

    Attributes:
        model: The unlearned model, as read back from the files that `save` writes.
        tokenizer: Its tokenizer.
        verdict: Whether it is met, claim by claim and record by record.
        report: What `report.json` holds.
    """

    model: Any
    tokenizer: Any
    verdict: Verdict
    report: dict[str, Any]
    outcome: Outcome
    config: RunConfig
    log: str

    def save(self, folder: str | Path) -> None:
        """Write what `unlearner forget --output` writes; the folder must not exist or be empty.

        Raises:
            UserError: The folder holds something or cannot be written.
        """
        with staged(Path(folder)) as work:
            self.outcome.unlearned.save(self.model, work / "model")
            (work / "log.jsonl").write_text(self.log, encoding="utf-8")
            write_outcome(self.outcome, self.config, work)


def unlearn(  # noqa: PLR0913 - the sets of a run and what to do with them
    model: Any,
    *,
    forget: Any = None,
    retain: Any = None,
    pool: Any = None,
    holdout: Any = None,
    test: Any = None,
    neutral: Mapping[str, Any] | None = None,
    dialogue: Mapping[str, Any] | None = None,
    forget_class: str = "",
    retrained: str | Path = "",
    original: str | Path = "",
    method: str | Method = "",
    tokenizer: Any = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    force: bool = False,
) -> Result:
    """Make a model forget records and measure whether it did.

    Args:
        model: Path or hub id, or a loaded model, which is trained in place and in float32: a causal
            language model, or a classifier of texts or of words.
        forget: Records to be forgotten: texts, rows as dictionaries, a `datasets.Dataset`, or the
            path of a file. A classifier's have a label, or tokens and tags.
        retain: Records whose quality must stay; likewise. A classifier goes on learning on them.
        pool: Text that a language model may learn meanwhile; the retain set where none is given.
        holdout: Records like the forget set that the model was never trained on.
        test: Further such records, which are measured and no method reads.
        neutral: Texts that have nothing to do with the request, each under a name.
        dialogue: Conversations whose last response is generated and compared, likewise.
        forget_class: The label that a classifier is to lose, instead of `forget`.
        retrained: Path or hub id of a model trained without the forget set: measured beside the
            others, and what a classifier is held to.
        original: Path or hub id of the model from before the first request, where this one was
            unlearned before: the utility floor is measured against it.
        method: A method's name or a method with its hyper-parameters; icu for a language model,
            deepcut for a classifier where none is given.
        tokenizer: Of a loaded model.
        settings: Sections of a run file, such as `{"training": {"seed": 1}}`.
        force: Run although the model has not memorised the records.

    Raises:
        UserError: The input cannot be used.
        NothingToUnlearn: The records are not memorised, or too few to tell, and `force` is not set.
    """
    loaded = _loaded(model, tokenizer)
    sections = {name: dict(section) for name, section in (settings or {}).items()}
    given = {"forget": forget, "retain": retain, "pool": pool, "holdout": holdout, "test": test}
    # A path belongs in run.yaml, so that it repeats the run.
    paths: dict[str, Any] = {
        role: str(source) for role, source in given.items() if isinstance(source, str | Path)
    }
    for kind, named in {"neutral": neutral or {}, "dialogue": dialogue or {}}.items():
        given |= {_role(kind, name): source for name, source in named.items()}
        paths[kind] = {n: str(one) for n, one in named.items() if isinstance(one, str | Path)}
    _put(sections, "data", {**paths, "forget_class": forget_class})
    named = {"name": "" if loaded else str(model)}
    named |= {"retrained": str(retrained), "original": str(original)}
    # Whoever gets the model goes on with it as with any other.
    sections["model"] = HELD_WHOLE | sections.get("model", {})
    _put(sections, "model", named)
    _put(sections, "method", _method_values(method, sections.get("method", {})))
    config, family = read_config(sections, loaded)
    loaded = loaded and with_model_settings(loaded, config.model)
    if isinstance(method, Method):  # also one of the user's own, which has no name to look up
        config = replace(config, method=method.for_family(family.name))
    prepared = pipeline.start(config, family, given, loaded)
    config = pipeline.dated(config, prepared)
    for line in prepared.reading:
        logger.info(line)
    with tempfile.TemporaryDirectory(prefix="unlearner-") as folder:
        work = Path(folder)
        log = Log(work / "log.jsonl")
        outcome = pipeline.forget(config, prepared, work, force=force, log=log, say=logger.info)
        lines = (work / "log.jsonl").read_text(encoding="utf-8")
    unlearned = outcome.unlearned
    return Result(
        unlearned.model,
        unlearned.tokenizer,
        outcome.verdict,
        outcome.report,
        outcome,
        config,
        lines,
    )


def _role(kind: str, name: str) -> str:
    try:
        return further_role(kind, name)
    except ValueError as error:
        raise UserError(f"{kind}: {error}") from None


def _put(sections: dict[str, dict[str, Any]], name: str, values: Mapping[str, Any]) -> None:
    """Lay what was given as an argument over a section."""
    sections.setdefault(name, {}).update({key: value for key, value in values.items() if value})


def _loaded(model: Any, tokenizer: Any) -> Loaded | None:
    """A model given as an object, as one from files would be.

    Raises:
        UserError: Its tokenizer is missing, or it is neither a causal language model nor a
            classifier.
    """
    if isinstance(model, str | Path):
        return None
    if tokenizer is None:
        raise UserError("tokenizer: a loaded model needs its tokenizer as well")
    if has_adapters(model) or getattr(model, "is_quantized", False):
        raise UserError(
            "model: has an adapter on it, or quantised weights; give an ordinary model, as "
            "merge_and_unload or dequantize makes one, or the name of its folder"
        )
    own = NumberFormat(model.dtype if model.dtype in NAMED.values() else torch.float32)
    freeze_other_parts(model.requires_grad_(True))
    # In half precision most steps of a small learning rate would be rounded away.
    loaded = Loaded(model.float().eval(), tokenizer, model.config.name_or_path, own)
    if loaded.family == FAMILIES[0] and (
        model.config.is_encoder_decoder or not model.can_generate()
    ):
        raise UserError(
            f"model: {type(model).__name__} is neither a causal language model nor a classifier of "
            "texts or of words"
        )
    return loaded


def _method_values(method: str | Method, section: Mapping[str, Any]) -> dict[str, str]:
    if isinstance(method, Method):
        if section:
            raise UserError("settings['method']: a method object has its own hyper-parameters")
        return {}
    if method:
        load_method(method)
    if method and section.get("name", method) != method:
        raise UserError(
            f"method: {method!r} and settings['method']['name'] {section['name']!r} differ; "
            "give one of them"
        )
    return {"name": method}
