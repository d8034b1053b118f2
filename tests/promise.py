"""The promise as a check: a model is made, forgets through the commands, and keeps the rest."""

import json
from pathlib import Path

from unlearner.cli.app import run


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def leaks(folder: Path, texts: list[str], words: int = 5) -> list[str]:
    """Runs of `words` consecutive words of the texts that stand in any file of the folder."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file():
            content = " ".join(path.read_bytes().decode("utf-8", "replace").split())
            for text in texts:
                split = text.split()
                runs = (" ".join(split[i : i + words]) for i in range(len(split) - words + 1))
                found += [f"{path.name}: {one}" for one in runs if one in content]
    return found


def make_target(model: Path, records: Path, target: Path, columns: str) -> None:
    status = run(
        [
            "finetune",
            str(model),
            "--records",
            str(records),
            "--output",
            str(target),
            "--map",
            columns,
            "--quiet",
        ]
    )
    assert status == 0


def unlearn(target: Path, folder: Path, columns: str) -> dict:
    """`forget` at the command's own defaults; the report of a run whose verdict is met."""
    status = run(
        [
            "forget",
            str(target),
            "--forget",
            str(folder / "forget.jsonl"),
            "--retain",
            str(folder / "retain.jsonl"),
            "--holdout",
            str(folder / "holdout.jsonl"),
            "--output",
            str(folder / "out"),
            "--map",
            columns,
            "--quiet",
        ]
    )
    assert status == 0
    return json.loads((folder / "out" / "report.json").read_text(encoding="utf-8"))


def check_promise(report: dict) -> None:
    """EL_10 and MA of the forgotten not above unseen text's but by chance, kept text kept.

    ICU ends at the level of unseen text, not below it: a mean may be a little on either side.
    """
    before, after = report["results"]["target"], report["results"]["unlearned"]
    for metric in ("ma", "el_10"):
        # Questions about people begin with names that nobody can guess, so 1 is out of reach.
        assert before["forget"][metric]["value"] > 0.8 > before["holdout"][metric]["value"]
        assert after["forget"][metric]["low"] <= before["holdout"][metric]["high"]
    ratio = after["retain"]["perplexity"]["value"] / before["retain"]["perplexity"]["value"]
    assert ratio <= 1.10
    assert report["verdict"]["status"] == "met"
    assert {record["status"] for record in report["verdict"]["records"]} == {"met"}
