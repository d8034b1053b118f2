"""Push the model of a run to the Hugging Face hub: the files that were measured, and no others.

An adapter beside the model, an intermediate checkpoint or the target's weights would undo the
forgetting for whoever finds them, so nothing goes out that the report does not list.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id

from unlearner.errors import UserError
from unlearner.report import read_report

CARD = "README.md"

REPORT_FILES = ("report.json", "report.html", "report.md")

WEIGHTS = {
    ".safetensors",
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".gguf",
    ".h5",
    ".msgpack",
    ".onnx",
    ".npz",
}


def file_digests(model: Path) -> dict[str, str]:
    """SHA-256 of every file below a model's folder but its card, by path."""
    return {name: _digest(model / name) for name in _files(model) if name != CARD}


def push(
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
    _check_repo_id(repo_id)
    names = _check_run(run_dir, even_if_not_met=even_if_not_met)
    if with_report:
        _check_report_files(run_dir)
    _check_access()
    api = HfApi(library_name="unlearner")
    try:
        _check_place(api, repo_id, private=private)
        url = str(api.create_repo(repo_id, private=private, exist_ok=True))
        if with_report:  # first: with weights there a second attempt would be refused
            _upload(api, repo_id, run_dir, REPORT_FILES, "Report of the unlearning")
        _upload(api, repo_id, run_dir / "model", names, "Unlearned model")
    except HfHubHTTPError as error:
        if error.response.status_code < 500:
            raise UserError(
                f"{repo_id}: the hub refused ({error}); see `hf auth whoami` for whose token it "
                "is, and whether that may write there"
            ) from error
        raise
    return url


def _upload(api: HfApi, repo_id: str, folder: Path, names: tuple[str, ...], message: str) -> None:
    api.upload_folder(
        repo_id=repo_id, folder_path=folder, allow_patterns=list(names), commit_message=message
    )


def _check_repo_id(repo_id: str) -> None:
    """Refuse what is no OWNER/NAME.

    Raises:
        UserError: It is not of that form, or the hub would not take it.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UserError(f"{repo_id!r} is no repository of the hub: {error}") from None
    if repo_id.count("/") != 1:
        raise UserError(f"{repo_id!r} is no repository of the hub: write OWNER/NAME")


def _check_run(run_dir: Path, *, even_if_not_met: bool) -> tuple[str, ...]:
    """The names of the files to push.

    Raises:
        UserError: It is no folder of `unlearner forget`, its verdict is not met, or the model is
            not the one that was measured.
    """
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
    wrote = report["model"].get("files")
    if not wrote:
        raise UserError(
            f"{run_dir / 'report.json'}: does not list the files of model/, as `unlearner forget` "
            "writes it; run that again"
        )
    _check_files(model, wrote)
    return (*wrote, CARD)


def _check_files(model: Path, wrote: Mapping[str, str]) -> None:
    """Refuse a model that is not what the run wrote; the card may be edited.

    Raises:
        UserError: A file is missing, was changed, or is not the run's.
    """
    found = set(_files(model))
    for name in sorted(found - {*wrote, CARD}):
        raise UserError(
            f"{model / name}: the run did not write it, so nothing is pushed; take it out of the "
            "folder (an adapter or other weights would undo the forgetting)"
        )
    for name in (*wrote, CARD):
        if name not in found:
            raise UserError(f"{model / name}: missing, though the run wrote it; restore it")
    for name, digest in wrote.items():
        if _digest(model / name) != digest:
            raise UserError(
                f"{model / name}: was changed since the run measured it, so the report is not "
                "about it; restore it"
            )


def _check_report_files(run_dir: Path) -> None:
    for name in REPORT_FILES:
        if not (run_dir / name).is_file():
            raise UserError(f"{run_dir / name}: missing; `unlearner report {run_dir}` writes it")


def _check_access() -> None:
    """Refuse where the hub cannot be reached by choice, or not written to.

    Raises:
        UserError: Offline mode is on, or there is no token.
    """
    if constants.HF_HUB_OFFLINE:
        raise UserError("HF_HUB_OFFLINE is set, so nothing can be pushed; unset it for this")
    if get_token() is None:
        raise UserError(
            "no token of the hub: make one with write access at https://huggingface.co/settings/"
            "tokens, then `hf auth login` or set HF_TOKEN"
        )


def _check_place(api: HfApi, repo_id: str, *, private: bool) -> None:
    """Refuse a repository that is open to others than asked for, or holds weights already.

    Raises:
        UserError: See above.
    """
    try:
        there: Any = api.model_info(repo_id)
    except RepositoryNotFoundError:
        return
    if bool(there.private) != private:
        is_now, option = ("private", "--private") if there.private else ("public", "--public")
        raise UserError(
            f"{repo_id}: exists and is {is_now}, which a push does not change; say {option}, or "
            "give another name"
        )
    held = [file.rfilename for file in there.siblings or ()]
    weights = [name for name in held if PurePosixPath(name).suffix in WEIGHTS]
    if weights:
        raise UserError(
            f"{repo_id}: holds {weights[0]} already, which would stay in its history for all who "
            "can read it; give another name, or delete the repository first"
        )


def _files(folder: Path) -> list[str]:
    """Everything below the folder that is not a folder, by path; links to folders too."""
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_symlink() or not path.is_dir()
    )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
