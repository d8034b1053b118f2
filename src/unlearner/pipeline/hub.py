"""Push the model of a run to the Hugging Face hub: the files that were measured, and no others.

An adapter beside the model, an intermediate checkpoint or the target's weights would undo the
forgetting for whoever finds them, so nothing goes out that the report does not list.
"""

import re
from pathlib import Path

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id

from unlearner.errors import UserError
from unlearner.models.lineage import PROVENANCE_FILE, digest_file
from unlearner.report.files import read_report

CARD = "README.md"

# Beside the weights, and of no run's measuring; the second stays with whoever has the key.
NOT_MEASURED = (CARD, PROVENANCE_FILE)

REPORT_FILES = ("report.json", "report.html", "report.md")

WEIGHTS = re.compile(r"\.(safetensors|bin|pt|pth|ckpt|gguf|h5|msgpack|onnx|npz)$")


def file_digests(model: Path) -> dict[str, str]:
    """SHA-256 of every file below a model's folder but its card and provenance, by path."""
    return {name: digest_file(model / name) for name in _files(model) if name not in NOT_MEASURED}


def push_model(
    run_dir: Path, repo_id: str, *, private: bool, with_report: bool, even_if_not_met: bool
) -> str:
    """Upload `run_dir`/model to the hub; returns its address there.

    Args:
        repo_id: OWNER/NAME; made where it does not exist.
        with_report: Also report.json, report.html and report.md, which hold the records' ids.
        even_if_not_met: Push a model whose verdict is not "met"; its card says so.

    Raises:
        UserError: This must not be pushed, or not there, or cannot be from here.
    """
    try:
        if repo_id.count("/") != 1:
            raise ValueError("write OWNER/NAME")
        validate_repo_id(repo_id)
    except ValueError as error:
        raise UserError(f"{repo_id!r} is no repository of the hub: {error}") from None
    folders = {"Unlearned model": (run_dir / "model", _measured_files(run_dir, even_if_not_met))}
    if with_report:  # first: with weights there a second attempt would be refused
        folders = {"Report of the unlearning": (run_dir, _report_files(run_dir)), **folders}
    _check_access()
    api = HfApi(library_name="unlearner")
    try:
        _check_repository(api, repo_id, private=private)
        url = str(api.create_repo(repo_id, private=private, exist_ok=True))
        for message, (folder, names) in folders.items():
            api.upload_folder(
                repo_id=repo_id, folder_path=folder, allow_patterns=names, commit_message=message
            )
    except HfHubHTTPError as error:
        if error.response.status_code >= 500:
            raise
        raise UserError(
            f"{repo_id}: the hub refused ({error}); see `hf auth whoami` for whose token it is, "
            "and whether that may write there"
        ) from error
    return url


def _measured_files(run_dir: Path, even_if_not_met: bool) -> list[str]:
    """The names of the files of `run_dir`/model, all of them as the run has measured them."""
    model = run_dir / "model"
    if not model.is_dir():
        raise UserError(f"{model}: no such folder; give one that `unlearner forget` has written")
    report = read_report(run_dir)
    status = report["verdict"]["status"]
    if status != "met" and not even_if_not_met:
        raise UserError(
            f"{run_dir}: the verdict is {status!r}, not 'met'; see its report.html, and push all "
            "the same with --even-if-not-met"
        )
    digests = report["model"].get("files")
    if not digests:
        raise UserError(
            f"{run_dir / 'report.json'}: does not list the files of model/, as `unlearner forget` "
            "writes it; run that again"
        )
    names, found = [*digests, CARD], set(_files(model)) - {PROVENANCE_FILE}
    for name in sorted(found.difference(names)):
        raise UserError(
            f"{model / name}: the run did not write it, so nothing is pushed; take it out of the "
            "folder (an adapter or other weights would undo the forgetting)"
        )
    for name in names:
        if name not in found:
            raise UserError(f"{model / name}: missing, though the run wrote it; restore it")
        if name != CARD and digest_file(model / name) != digests[name]:  # a card may be edited
            raise UserError(
                f"{model / name}: was changed since the run measured it, so the report is not "
                "about it; restore it"
            )
    return names


def _report_files(run_dir: Path) -> list[str]:
    for name in REPORT_FILES:
        if not (run_dir / name).is_file():
            raise UserError(f"{run_dir / name}: missing; `unlearner report {run_dir}` writes it")
    return list(REPORT_FILES)


def _check_access() -> None:
    """Refuse where the hub is not to be reached, or cannot be written to."""
    if constants.HF_HUB_OFFLINE:
        raise UserError("HF_HUB_OFFLINE is set, so nothing can be pushed; unset it for this")
    if get_token() is None:
        raise UserError(
            "no token of the hub: make one with write access at https://huggingface.co/settings/"
            "tokens, then `hf auth login` or set HF_TOKEN"
        )


def _check_repository(api: HfApi, repo_id: str, *, private: bool) -> None:
    """Refuse a repository that is open to others than asked for, or holds weights already."""
    try:
        existing = api.model_info(repo_id)
    except RepositoryNotFoundError:
        return
    if bool(existing.private) != private:
        is_now, option = ("private", "--private") if existing.private else ("public", "--public")
        raise UserError(
            f"{repo_id}: exists and is {is_now}, which a push does not change; say {option}, or "
            "give another name"
        )
    for file in existing.siblings or ():
        if WEIGHTS.search(file.rfilename):
            raise UserError(
                f"{repo_id}: holds {file.rfilename} already, which would stay in its history for "
                "all who can read it; give another name, or delete the repository first"
            )


def _files(folder: Path) -> list[str]:
    """Everything below the folder that is not a folder, by path; links to folders too."""
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_symlink() or not path.is_dir()
    )
