"""What the audit says of targets, of retrained models and of methods, over seeds.

    python benchmarks/audit.py --work FOLDER [--seeds 0 1 2 3 4] [--full 0] [--compared FOLDER]

TOFU on stories260k, two questions of each author: those of the last 20 authors are to be forgotten,
of 80 others kept, of the first 50 unseen. An author is a subject. With --authors 2 the 40 questions
to be forgotten are those of two authors, and whole authors are the others as well. Of each seed a
target and a retrained model are made, by ten epochs. A retrained model is the control
of its seed; those of the next two seeds are candidates, so that of five seeds every two retrained
models stand beside each other once. The target stands beside its own control and the next one. The
audit should open every target and pass every candidate.

--no-subjects leaves out whose a question is, so that each counts as a subject of its own: with two
authors that is wrong, and shows what intervals over records do not know.

With --compared, the models of the methods in a folder that `make bench-compare` has filled, beside
its retrained model. Writes `results/audit.md` and `.json`, without subjects
`results/audit-no-subjects.md`; what is finished is kept in FOLDER.
"""

import argparse
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from unlearner.cli.app import MET, NOT_MET, run

RESULTS = Path(__file__).parent / "results"

COMPARISON = Path(__file__).parent / "tofu_forget01_compare.yaml"

DATA = Path(os.environ.get("UNLEARNER_DATA", Path(__file__).parents[2] / "shared" / "data"))

COLUMNS = "question=prompt,answer=response"

METHODS = (
    *("icu", "weighted_gradient_ascent", "npo"),
    *("undial", "quantile_matching", "counterfactual"),
)

FORGET, RETAIN, UNSEEN, EPOCHS = 40, 160, 100, 10

QUESTIONS = 20  # of an author

TARGET, RETRAINED = "the target", "another retrained model"

Audit = dict[str, Any]


class Job(NamedTuple):
    """One audit: of what kind the model is, and the folders of model, target, control, result."""

    kind: str
    model: Path
    target: Path
    control: Path
    output: Path


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--full", type=int, nargs="*", default=[], help="seeds, by all attacks too")
    parser.add_argument("--authors", type=int, default=20, help="whose questions are forgotten")
    parser.add_argument("--no-subjects", action="store_true")
    parser.add_argument("--compared", type=Path, help="that of `make bench-compare`")
    parser.add_argument("--no-table", action="store_true")
    asked = parser.parse_args(arguments)
    asked.work.mkdir(parents=True, exist_ok=True)
    write_records(asked.work, asked.authors, named=not asked.no_subjects)
    for seed in asked.seeds:
        learn(asked.work / "records.jsonl", asked.work / f"seed-{seed}" / "target", seed)
        learn(asked.work / "retain.jsonl", asked.work / f"seed-{seed}" / "retrained", seed)
    options = {"quick": asked.seeds, "full": asked.full}
    for budget, seeds in options.items():
        for seed in seeds:
            for job in jobs_of(asked.work, seed, asked.seeds, budget):
                audit(job, budget, seed, *sets(asked.work))
    if asked.compared:
        config = write_config(asked.work)
        for job in compared_jobs(asked.work, asked.compared):
            audit(job, "quick", 0, "--config", config)
    if not asked.no_table:
        name = "audit-no-subjects" if asked.no_subjects else "audit"
        write_table(name, asked.work, asked.compared, options, asked.authors)


def write_records(work: Path, authors: int, *, named: bool = True) -> None:
    """The sets, as files of rows, with as many questions of each author.

    Args:
        named: Say whose a question is.
    """
    lines = (DATA / "tofu" / "full.json").read_text(encoding="utf-8").splitlines()
    each = FORGET // authors
    rows = [
        json.loads(line) | ({"subject": f"author {place // QUESTIONS}"} if named else {})
        for place, line in enumerate(lines)
        if place % QUESTIONS < each
    ]
    known = rows[-(FORGET + RETAIN) :]
    parts = {
        "records": known,
        "forget": known[-FORGET:],
        "retain": known[:-FORGET],
        "holdout": rows[:UNSEEN],
    }
    for name, some in parts.items():
        text = "".join(json.dumps(row) + "\n" for row in some)
        (work / f"{name}.jsonl").write_text(text, encoding="utf-8")


def write_config(work: Path) -> Path:
    """The data section of the comparison's file alone."""
    from unlearner.pipeline.run_file import read_run_file

    data = read_run_file(COMPARISON, []).data.model_dump(mode="json", exclude_defaults=True)
    path = work / "compared.yaml"
    path.write_text(json.dumps({"data": data}), encoding="utf-8")  # JSON is YAML
    return path


def learn(records: Path, folder: Path, seed: int) -> None:
    """A model that has learned a file."""
    if not folder.exists():
        pretrained = DATA / "models" / "stories260k"
        more = ("--map", COLUMNS, "--output", folder, f"epochs={EPOCHS}", f"seed={seed}")
        command("finetune", pretrained, "--records", records, *more)


def jobs_of(work: Path, seed: int, seeds: Sequence[int], budget: str) -> Iterator[Job]:
    """The audits of a seed whose models are there."""
    place = work / f"seed-{seed}"
    own, later = (
        place / "retrained",
        [
            work / f"seed-{seeds[(seeds.index(seed) + step) % len(seeds)]}" / "retrained"
            for step in (1, 2)
        ],
    )
    target = place / "target"
    pairs = [(TARGET, target, own), (TARGET, target, later[0])]
    pairs += [(RETRAINED, other, own) for other in dict.fromkeys(later) if other != own]
    for number, (kind, model, control) in enumerate(pairs):
        yield Job(kind, model, target, control, place / f"audit-{number}-{budget}")


def compared_jobs(work: Path, compared: Path) -> Iterator[Job]:
    """Those of the methods' models that a comparison has made by now."""
    for method in METHODS:
        for place in sorted((compared / "run" / "runs" / method).glob("seed-*")):
            models = (place / "model", compared / "target", compared / "retrained")
            yield Job(f"`{method}`", *models, work / f"audit-{method}-{place.name}")


def audit(job: Job, budget: str, seed: int, *records: object) -> None:
    """One audit, where it is missing."""
    if (job.output / "audit.json").exists() or not job.model.exists():
        return
    resume = ("--resume",) if job.output.exists() else ()
    names = ("--model", job.model, "--target", job.target, "--retrained", job.control)
    more = ("--budget", budget, "--output", job.output, f"training.seed={seed}")
    command("audit", *names, *more, *resume, *records)


def sets(work: Path) -> list[object]:
    roles = ("forget", "retain", "holdout")
    named = [part for role in roles for part in (f"--{role}", work / f"{role}.jsonl")]
    return [*named, "--map", COLUMNS]


def command(*parts: object) -> None:
    """A command of the program; what it says stays, and so does a verdict that is not met."""
    line = [*map(str, parts), "--quiet"]
    status = run(line)
    if status not in (MET, NOT_MET):
        raise SystemExit(f"{' '.join(line)}: ended with {status}")


# The table


def write_table(
    name: str,
    work: Path,
    compared: Path | None,
    options: Mapping[str, Sequence[int]],
    authors: int,
) -> None:
    """How often each attack opened each kind of model, and every audit's statuses as JSON."""
    found: dict[str, dict[str, list[Audit]]] = {}
    for budget, seeds in options.items():
        jobs = [job for s in seeds for job in jobs_of(work, s, options["quick"], budget)]
        found[budget] = audits_of(jobs)
    if compared:
        found["methods"] = audits_of(list(compared_jobs(work, compared)))
    found = {section: kinds for section, kinds in found.items() if kinds}
    whose = (
        "each question a subject of its own" if "no-subjects" in name else "an author is a subject"
    )
    lines = [
        "# What the audit says of targets, retrained models and methods",
        "",
        f"TOFU on stories260k, {FORGET} questions to forget, of {authors} authors ({whose}), "
        f"beside {UNSEEN} unseen ones; models of {EPOCHS} epochs.",
        "How often each attack opened, of how many audits in which it said anything; seconds of "
        "the slowest. Made by `benchmarks/audit.py`.",
    ]
    headings = {
        "quick": f"Budget quick, seeds {', '.join(map(str, options['quick']))}",
        "full": f"Budget full, seed {', '.join(map(str, options['full']))}",
        "methods": "Methods as `make bench-compare` has run them, two authors, budget quick",
    }
    for section, kinds in found.items():
        lines += ["", f"## {headings[section]}", "", *table(kinds)]
    (RESULTS / f"{name}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    kept = {
        section: {kind: [statuses(one) for one in some] for kind, some in kinds.items()}
        for section, kinds in found.items()
    }
    text = json.dumps(kept, indent=1) + "\n"
    (RESULTS / f"{name}.json").write_text(text, encoding="utf-8")


def audits_of(jobs: Sequence[Job]) -> dict[str, list[Audit]]:
    """Those that are finished, by kind of model."""
    found: dict[str, list[Audit]] = {}
    for job in jobs:
        path = job.output / "audit.json"
        if path.exists():
            found.setdefault(job.kind, []).append(json.loads(path.read_text(encoding="utf-8")))
    return found


def table(kinds: Mapping[str, Sequence[Audit]]) -> list[str]:
    every = [entry["name"] for some in kinds.values() for one in some for entry in one["attacks"]]
    attacks = list(dict.fromkeys(every))
    lines = [
        "| model | audits opened | " + " | ".join(f"`{name}`" for name in attacks) + " | seconds |",
        "|" + " --- |" * (len(attacks) + 3),
    ]
    for kind, audits in kinds.items():
        opened = sum(one["status"] == "not met" for one in audits)
        cells = [cell(audits, attack) for attack in attacks]
        seconds = max(one["seconds"] for one in audits)
        row = [kind, f"{opened} of {len(audits)}", *cells, f"{seconds:.0f}"]
        lines.append(f"| {' | '.join(row)} |")
    return lines


def cell(audits: Sequence[Audit], attack: str) -> str:
    """Opened of informative, such as `2 of 5`; a dash where it never said anything."""
    said = [e["status"] for audit in audits for e in audit["attacks"] if e["name"] == attack]
    informative = [status for status in said if status in ("opened", "holds")]
    opened = informative.count("opened")
    return f"{opened} of {len(informative)}" if informative else "–"


def statuses(audit: Audit) -> dict[str, Any]:
    return {
        entry["name"]: {
            "status": entry["status"],
            "figures": {
                one["name"]: [one[m]["value"] for m in ("target", "unlearned", "control")]
                for one in entry["figures"]
            },
        }
        for entry in audit["attacks"]
    }


if __name__ == "__main__":
    main()
