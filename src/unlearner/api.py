"""The Python interface: the same line as the command line, on objects in memory."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unlearner import catalog, pipeline
from unlearner.commands import write_outcome
from unlearner.errors import UserError
from unlearner.methods.base import Method
from unlearner.models import Loaded, save
from unlearner.output import staged
from unlearner.run import RunConfig
from unlearner.training import Log
from unlearner.verdict import Verdict

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
    outcome: pipeline.Outcome
    config: RunConfig
    log: str

    def save(self, folder: str | Path) -> None:
        """Write what `unlearner forget --output` writes; the folder must not exist or be empty.

        Raises:
            UserError: The folder holds something or cannot be written.
        """
        with staged(Path(folder)) as work:
            save(self.model, self.tokenizer, work / "model")
            (work / "log.jsonl").write_text(self.log, encoding="utf-8")
            write_outcome(self.outcome, self.config, work)


def unlearn(  # noqa: PLR0913 - the sets of a run and what to do with them
    model: Any,
    *,
    forget: Any,
    retain: Any = None,
    pool: Any = None,
    holdout: Any = None,
    method: str | Method = "icu",
    tokenizer: Any = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    force: bool = False,
) -> Result:
    """Make a model forget records and measure whether it did.

    Args:
        model: Path or hub id, or a loaded causal language model, which is trained in place and in
            float32.
        forget: Records to be forgotten: texts, rows as dictionaries, a `datasets.Dataset`, or the
            path of a file.
        retain: Records whose quality must stay; likewise.
        pool: Text that may be learned meanwhile; the retain set where none is given.
        holdout: Records like the forget set that the model was never trained on.
        method: A method's name or a method with its hyper-parameters.
        tokenizer: Of a loaded model.
        settings: Sections of a run file, such as `{"training": {"seed": 1}}`.
        force: Run although the model has not memorised the records.

    Raises:
        UserError: The input cannot be used.
        pipeline.NothingToUnlearn: The records are not memorised, and `force` is not set.
    """
    loaded = _loaded(model, tokenizer)
    sections = {name: dict(section) for name, section in (settings or {}).items()}
    if loaded is None:
        sections.setdefault("model", {})["name"] = str(model)
    if not isinstance(method, Method):
        sections["method"] = _method_section(method, sections.get("method", {}))
    elif sections.get("method"):
        raise UserError("settings['method']: a method object has its own hyper-parameters")
    given = {"forget": forget, "retain": retain, "pool": pool, "holdout": holdout}
    for role, source in given.items():  # a path belongs in run.yaml, so that it repeats the run
        if isinstance(source, (str, Path)):
            sections.setdefault("data", {})[role] = str(source)
    config = RunConfig.from_sections(sections)
    if isinstance(method, Method):  # also one of the user's own, which has no name to look up
        config = replace(config, method=method)
    prepared = pipeline.start(config, given, loaded, needs=pipeline.FORGET_NEEDS)
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


def _loaded(model: Any, tokenizer: Any) -> Loaded | None:
    if isinstance(model, (str, Path)):
        return None
    if tokenizer is None:
        raise UserError("tokenizer: a loaded model needs its tokenizer as well")
    # In half precision most steps of a small learning rate would be rounded away.
    return Loaded(model.float().eval(), tokenizer, model.config.name_or_path)


def _method_section(method: str, section: Mapping[str, Any]) -> dict[str, Any]:
    catalog.load_method(method)
    if section.get("name", method) != method:
        raise UserError(
            f"method: {method!r} and settings['method']['name'] {section['name']!r} differ; "
            "give one of them"
        )
    return {**section, "name": method}
