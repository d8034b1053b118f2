"""Recall and precision of `unlearner requests find` for people of LUME, with spelling noise.

    python benchmarks/find_people.py [--people 50] [--encoder tf-idf] [--output FILE]

The corpus is the 1,500 rows about invented people in LUME's forget set, six a person: a short
biography and five questions, whose answers are a date or a number. What is asked for is a person's
name, alone and with the e-mail address and phone number of the biography. What is meant are the six
rows. Each search is given what the stricter ones find as well, as `requests find` does.

Noise is in the corpus: in a share of the rows every mention of the name is misspelt by one letter
(left out, doubled, replaced, or swapped with the next), written in capitals, with a zero-width
space in it, or as "surname, first name"; each is as likely. The query is right.
"""

import argparse
import json
import os
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from unlearner.data.record import Record, RecordSet
from unlearner.requests.find import EXACT, KINDS, NEAR, find
from unlearner.retrieval.neighbours import TF_IDF

DATA = Path(os.environ.get("UNLEARNER_DATA", Path(__file__).parents[2] / "shared" / "data"))
LETTERS = "abcdefghijklmnopqrstuvwxyz"
PERSON = re.compile(r"(.+?)(?:sc|qa)\d+")
NAME = re.compile(r"birth date of (.+?)\?|(.+?)'s birth date|was (.+?) born")
EMAIL, PHONE = re.compile(r"mailto:([^)]+)\)"), re.compile(r"\d{3}-\d{3}-\d{4}")
NOISES = (0.0, 0.3, 1.0)
SEARCHES = {"exact": (EXACT,), "exact, near": (EXACT, NEAR), "exact, near, semantic": KINDS}


@dataclass(frozen=True)
class Person:
    """Somebody whose rows are looked for."""

    subject: str
    name: str
    numbers: tuple[str, ...]


def read_people(folder: Path) -> tuple[list[Record], list[Person]]:
    """The rows about people, and the people whose name a question tells."""
    lines = (folder / "forget.jsonl").read_text(encoding="utf-8").splitlines()
    records, names, numbers = [], {}, {}
    for row in map(json.loads, lines):
        match = PERSON.fullmatch(row["id"])
        if row["task"] != "Task2" or match is None:
            continue
        subject = match[1]
        records.append(Record(row["id"], prompt=row["input"], response=row["output"], subject=""))
        told = NAME.search(row["input"]) if row["id"].endswith("qa0") else None
        if told:
            names[subject] = next(filter(None, told.groups())).strip()
        if "sc" in row["id"][len(subject) :]:
            text = f"{row['input']} {row['output']}"
            numbers[subject] = (*EMAIL.findall(text)[:1], *PHONE.findall(text)[:1])
    people = [Person(one, name, numbers.get(one, ())) for one, name in names.items()]
    return records, people


def misspelt(name: str, draw: random.Random) -> str:
    """One of the ways in which a name is written otherwise."""
    place = draw.choice([i for i, letter in enumerate(name[:-1]) if letter.isalpha()])
    before, letter, behind = name[:place], name[place], name[place + 1 :]
    first, _, last = name.rpartition(" ")
    return draw.choice(
        [
            before + behind,
            before + 2 * letter + behind,
            before + draw.choice(LETTERS) + behind,
            before + behind[:1] + letter + behind[1:],
            name.upper(),
            f"{before}{letter}\u200b{behind}",
            f"{last}, {first}" if first else name.upper(),
        ]
    )


def noisy(
    records: Sequence[Record], people: Sequence[Person], share: float, seed: int
) -> list[Record]:
    """The records, with the name misspelt in a share of them."""
    draw, names, found = random.Random(seed), {one.subject: one.name for one in people}, []
    for record in records:
        match = PERSON.fullmatch(record.id)
        name = names.get(match[1]) if match else None
        if name and draw.random() < share:
            other = misspelt(name, draw)
            record = replace(
                record,
                prompt=record.prompt.replace(name, other),
                response=record.response.replace(name, other),
            )
        found.append(record)
    return found


def rates(
    corpus: RecordSet, people: Sequence[Person], kinds: Sequence[str], encoder: str, *, full: bool
) -> tuple[float, float]:
    """Recall and precision over all records that are meant, and all that are found.

    Args:
        full: With e-mail address and phone number.
    """
    right = meant = found = 0
    for person in people:
        queries = [person.name, *(person.numbers if full else ())]
        places = [one.place for one in find(queries, corpus, kinds=kinds, encoder=encoder)]
        own = {i for i, one in enumerate(corpus) if one.id.startswith(person.subject)}
        right += len(own.intersection(places))
        meant, found = meant + len(own), found + len(places)
    return right / meant, right / found if found else float("nan")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--people", type=int, default=50)
    parser.add_argument("--encoder", default=TF_IDF)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    asked = parser.parse_args(arguments)
    records, people = read_people(DATA / "lume")
    chosen = random.Random(asked.seed).sample(people, min(asked.people, len(people)))
    lines = [
        "# Finding a person",
        "",
        f"`python benchmarks/find_people.py --people {len(chosen)}`: {len(chosen)} people, six "
        f"rows each, among {len(records):,} rows of LUME (task 2); `{asked.encoder}`, "
        f"seed {asked.seed}. Noise is the share of rows in which the name is written otherwise. "
        "Recall, precision.",
        "",
        "| noise | query | " + " | ".join(SEARCHES) + " |",
        "| --- | --- |" + " --- |" * len(SEARCHES),
    ]
    for share in NOISES:
        some = tuple(noisy(records, people, share, asked.seed))
        corpus = RecordSet("corpus", some, "memory")
        for full in (False, True):
            cells = []
            for kinds in SEARCHES.values():
                recall, precision = rates(corpus, chosen, kinds, asked.encoder, full=full)
                cells.append(f"{recall:.3f}, {precision:.3f}")
            query = "name, address, number" if full else "name"
            lines.append(f"| {share:.0%} | {query} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    text = "\n".join(lines) + "\n"
    print(text)
    if asked.output:
        asked.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
