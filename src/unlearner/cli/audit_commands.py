"""`unlearner audit`: folders, words and exit status, between the command line and the pipeline."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from unlearner import processes
from unlearner.attacks.base import load_attack
from unlearner.cli.commands import with_method
from unlearner.cli.terminal import MET, NOT_MET, RunProgress, print_audit
from unlearner.errors import UserError
from unlearner.files import saving
from unlearner.output import Json, alone_in, check_free
from unlearner.pipeline.audit import (
    PARTIAL_FILE,
    AuditRequest,
    audit,
    chosen_attacks,
    finish,
    open_models,
    open_run,
)
from unlearner.pipeline.pipeline import read_config
from unlearner.report.audit import audit_page
from unlearner.report.files import rewrite
from unlearner.report.writing import write_files
from unlearner.training.log import quieten


def run_audit(
    output: Path,
    sections: Json,
    request: Mapping[str, Any],
    *,
    model: str = "",
    resume: bool = False,
    quiet: bool,
) -> int:
    """0 when an attack holds and none is opened, else 3.

    Args:
        output: The folder of a run; with `model` one for the audit alone.
        sections: With `model`: the target, and the records.
        request: What `AuditRequest` takes.
        model: The model to be audited, where it is not a run's.

    Raises:
        UserError: The input cannot be used.
        Interrupted: The user wants to stop; what is done is kept.
    """
    processes.begin()
    quieten()
    wanted = AuditRequest(**request)
    for name in wanted.attacks:
        load_attack(name)  # refused here, before any model is loaded
    progress = RunProgress(quiet=quiet, num_rounds=None)
    if not model:
        with one_audit(output):
            opened = open_run(output, progress.say)
            chosen_attacks(wanted, opened.prepared.family)
            found = audit(opened, wanted, output, resume=resume, say=progress.say)
            finish(found, output)
            rewrite(output)
        return _end(found, output / "report.html")
    config, family = read_config(with_method(sections, Path(model)))
    chosen_attacks(wanted, family)
    with _audit_folder(output, resume=resume):
        opened = open_models(config, family, model, progress.say)
        found = audit(opened, wanted, output, resume=resume, say=progress.say)
        page = audit_page(found)
        finish(found, output)
        write_files(output, {"audit.html": page})
    return _end(found, output / "audit.html")


def _end(found: Json, page: Path) -> int:
    print_audit(found, page)
    return MET if found["status"] == "met" else NOT_MET


@contextmanager
def one_audit(folder: Path) -> Iterator[None]:
    """While the block runs, no other command works in the folder.

    Raises:
        UserError: One does, or there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give one that `unlearner forget` has written")
    check_free(folder)
    with alone_in(folder):
        yield


@contextmanager
def _audit_folder(output: Path, *, resume: bool) -> Iterator[None]:
    """A new folder for an audit, or that of one that goes on; gone where nothing is in it."""
    check_free(output)
    if output.exists() and not output.is_dir():
        raise UserError(f"--output {output}: is a file; give a folder that does not exist yet")
    held = {path.name for path in output.iterdir()} if output.is_dir() else set()
    if held - {PARTIAL_FILE}:
        raise UserError(f"--output {output}: is not empty; give another folder or remove it")
    if resume and not held:
        raise UserError(f"--resume: {output} holds no unfinished audit; leave --resume out")
    if held and not resume:
        raise UserError(
            f"--output {output}: holds an unfinished audit; go on with --resume, give another "
            "folder or remove it"
        )
    made = [path for path in (output, *output.parents) if not path.exists()]
    try:
        with saving("the audit", output):
            output.mkdir(parents=True, exist_ok=True)
        with alone_in(output):
            yield
    except OSError as error:
        raise UserError(
            f"--output {output}: cannot be made ({error}); give another folder"
        ) from None
    finally:
        for path in made:
            with suppress(OSError):  # not empty: what is done is in it
                path.rmdir()
