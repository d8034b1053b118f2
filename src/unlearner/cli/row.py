"""`unlearner run`: one run file, for example a benchmark row, from pretrained model to report."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from unlearner import processes
from unlearner.cli.commands import MET, NOT_MET, run_compare, run_forget
from unlearner.cli.finetune import run_finetune
from unlearner.cli.terminal import RunProgress
from unlearner.data.record import Record
from unlearner.datasets.base import named_sets
from unlearner.errors import UserError
from unlearner.models.folders import family_named
from unlearner.output import CHECKPOINTS, Json, check_output
from unlearner.pipeline.run_file import BENCHMARK, RunFile, read_run_file, write_benchmark
from unlearner.settings import load_yaml, read_yaml
from unlearner.training.log import quieten

ROW = "row.yaml"  # in the output folder: what its contents were made from

# Of the `data` and `training` sections, what a target shares with the run.
SHARED_DATA = ("template", "chat", "scope", "max_length", "append_eos")

SHARED_TRAINING = ("seed", "device", "precision")


def run_run(path: Path, settings: Sequence[str], output: Path | None, *, quiet: bool) -> int:
    """`unlearner run`: 0, or 3 when the verdict is not met or a figure is not as expected."""
    processes.begin()
    quieten()
    if processes.count() > 1:
        raise UserError("unlearner run: is for one process; start it without accelerate")
    file = read_run_file(path, settings)
    output = output or Path(file.run.output or f"runs/{file.name}")
    _check_row_folder(output, file)
    models = _make_models(file, output, quiet=quiet)
    if file.run.command == "finetune":
        return MET
    sections = _with_models(file, models)
    run = output / "run"
    try:
        status = MET if _is_finished(run) else _begin_row(file, sections, models, run, quiet=quiet)
    finally:
        if run.exists():
            _remember(output, file)
    if not (run / "report.json").exists():
        return status  # a comparison, or nothing was memorised, and that was said
    if not (output / BENCHMARK).exists():
        write_benchmark(output, file, models)
    return _conclude_row(output, file, quiet=quiet)


def _is_finished(run: Path) -> bool:
    return (run / "report.json").exists() or (run / "compare.json").exists()


def _with_models(file: RunFile, models: Mapping[str, Path]) -> Json:
    """The run's sections with the models that the row has made."""
    if not models:
        return file.sections
    chosen = {"name": str(models["target"])}
    if "retrained" in models:
        chosen["retrained"] = str(models["retrained"])
    return file.sections | {"model": {**file.sections.get("model", {}), **chosen}}


def _begin_row(
    file: RunFile,
    sections: Json,
    models: Mapping[str, Path],
    run: Path,
    *,
    quiet: bool,
) -> int:
    """Begin the run, or go on with it."""
    if file.run.command == "compare":
        return run_compare(
            sections,
            file.run.methods,
            run,
            seeds=file.run.seeds,
            retrained=str(models.get("retrained", "")),
            jobs=file.run.jobs,
            resume=run.exists(),
            keep_models=False,
            quiet=quiet,
        )
    resume = (run / CHECKPOINTS).exists()
    return run_forget(sections, run, force=False, show_text=False, resume=resume, quiet=quiet)


def _conclude_row(output: Path, file: RunFile, *, quiet: bool) -> int:
    """Say how the row came out."""
    row = json.loads((output / BENCHMARK).read_text(encoding="utf-8"))
    say = RunProgress(quiet=quiet, num_rounds=0).say
    say(f"{file.name}: verdict {row['verdict']}; {output / BENCHMARK}")
    expected = row["expected"]
    if expected:
        within = "as expected" if expected["within"] else "NOT as expected"
        say(
            f"{expected['metric']} {expected['set']}: {expected['measured']:.4g}, {within} "
            f"({expected['value']:.4g} ± {expected['tolerance']:.4g}; {expected['source']})"
        )
    met = row["verdict"] == "met" and (not expected or expected["within"])
    return MET if met else NOT_MET


def _check_row_folder(output: Path, file: RunFile) -> None:
    """Refuse a folder with anything but an earlier start of the same run.

    Raises:
        UserError: It holds something else.
    """
    begun = output / ROW
    if not begun.is_file():
        check_output(output)
    elif read_yaml(begun) != load_yaml(file.text):
        raise UserError(
            f"--output {output}: holds a run of other settings ({begun}); give another folder or "
            "remove it"
        )


def _remember(output: Path, file: RunFile) -> None:
    """Once something is finished, what it was made from."""
    (output / ROW).write_text(file.text, encoding="utf-8")


def _make_models(file: RunFile, output: Path, *, quiet: bool) -> dict[str, Path]:
    """The target and the retrained model by role, trained where they are not there yet."""
    if file.target is None:
        return {}
    folders = {"target": output / "target"}
    if file.target.retrained:
        folders["retrained"] = output / "retrained"
    missing = [role for role, folder in folders.items() if not folder.exists()]
    sets = named_sets(file.data, file.family) if missing else {}
    for role in missing:
        learned = ("forget", "retain") if role == "target" else ("retain",)
        records = [record for name in learned if name in sets for record in sets[name]]
        like = str(folders["target"]) if role == "retrained" else ""
        _finetune(file, records, folders[role], like=like, quiet=quiet)
        _remember(output, file)
    return folders


def _finetune(
    file: RunFile, records: Sequence[Record], folder: Path, *, like: str, quiet: bool
) -> None:
    """Train the pretrained model on records, with the run's own layout and precision.

    Args:
        like: The target, whose labels a retrained classifier gets.
    """
    assert file.target is not None
    shared = {
        f"{section}.{key}": file.sections[section][key]
        for section, keys in (("data", SHARED_DATA), ("training", SHARED_TRAINING))
        for key in keys
        if key in file.sections.get(section, {})
    }
    # One that is cut off begins anew: its checkpoints would name a file of records that is gone.
    shared["training.checkpoint_every"] = "never"
    settings = [
        f"{key}={json.dumps(value)}" for key, value in {**shared, **file.target.finetune}.items()
    ]
    has_new_head = family_named(file.target.pretrained) != file.family
    with tempfile.TemporaryDirectory() as place:  # the records' text stays nowhere
        path = Path(place) / "records.jsonl"
        path.write_text("".join(map(_line, records)), encoding="utf-8")
        run_finetune(
            file.target.pretrained,
            str(path),
            folder,
            settings=settings,
            columns={},
            until=file.target.until,
            labels=like if has_new_head else "",
            quiet=quiet,
        )


def _line(record: Record) -> str:
    return json.dumps({key: value for key, value in asdict(record).items() if value}) + "\n"
