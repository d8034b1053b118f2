"""Recall and precision of `unlearner requests find` for people of LUME, with spelling noise.

    python benchmarks/find_people.py [--people 50] [--encoder tf-idf] [--output FILE]

The corpus is the 1,500 rows about invented people in LUME's forget set, six a person: a short
biography and five questions, whose answers are a date or a number. What is asked for is a person's
name, alone and with the e-mail address and phone number of the biography. What is meant are the six
rows. Each search is given what the stricter ones find as well, as `requests find` does.

Noise is in the corpus: in a share of the rows every mention of the name is misspelt by one letter
(left out, doubled, replaced, or swapped with the next), written in capitals, with a zero-width
space in it, or as "surname, first name"; each is as likely. The query is right.

A second table is of rows that name the person by the first name alone, by the surname alone, or not
at all ("the customer"), which only the semantic search can find, by the least cosine it asks for.
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
SHARE = 0.3  # of the rows of the second table that name the person otherwise
COSINES = (0.3, 0.35, 0.4, 0.45, 0.5, 0.55)
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


def named_otherwise(name: str, draw: random.Random) -> dict[str, str]:
    """What stands in the place of a name, by how it is called in the second table."""
    first, *_, last = name.split() if " " in name else (name, name)
    return {
        "misspelt": misspelt(name, draw),
        "first name": first,
        "surname": last,
        "not named": "the customer",
    }


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
    records: Sequence[Record],
    people: Sequence[Person],
    share: float,
    seed: int,
    how: str = "misspelt",
) -> list[Record]:
    """The records, with the name written otherwise in a share of them."""
    draw, names, found = random.Random(seed), {one.subject: one.name for one in people}, []
    for record in records:
        match = PERSON.fullmatch(record.id)
        name = names.get(match[1]) if match else None
        if name and draw.random() < share:
            other = named_otherwise(name, draw)[how]
            record = replace(
                record,
                prompt=record.prompt.replace(name, other),
                response=record.response.replace(name, other),
            )
        found.append(record)
    return found


def rates(
    corpus: RecordSet,
    people: Sequence[Person],
    kinds: Sequence[str],
    encoder: str,
    *,
    full: bool = False,
    cosines: Sequence[float] = (),
) -> list[tuple[float, float]]:
    """Recall and precision over all records that are meant, and all that are found.

    Args:
        full: With e-mail address and phone number.
        cosines: The least ones of the semantic search, rising; none for its own.

    Returns:
        A pair for each cosine; one where there are none.
    """
    wanted = cosines or (None,)
    right, found, meant = [0] * len(wanted), [0] * len(wanted), 0
    for person in people:
        queries = [person.name, *(person.numbers if full else ())]
        matches = find(queries, corpus, kinds=kinds, encoder=encoder, similar=wanted[0])
        own = {i for i, one in enumerate(corpus) if one.id.startswith(person.subject)}
        meant += len(own)
        for number, least in enumerate(wanted):
            some = [one.place for one in matches if least is None or one.score >= least]
            right[number] += len(own.intersection(some))
            found[number] += len(some)
    return [
        (hit / meant, hit / size if size else float("nan"))
        for hit, size in zip(right, found, strict=True)
    ]


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
                [(recall, precision)] = rates(corpus, chosen, kinds, asked.encoder, full=full)
                cells.append(f"{recall:.3f}, {precision:.3f}")
            query = "name, address, number" if full else "name"
            lines.append(f"| {share:.0%} | {query} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    lines += [
        "",
        f"By the least cosine of the semantic search, with the others; {SHARE:.0%} of the rows "
        "name the person otherwise, the query is the name. Recall, precision.",
        "",
        "| the rows have | " + " | ".join(map(str, COSINES)) + " |",
        "| --- |" + " --- |" * len(COSINES),
    ]
    for how in ("misspelt", "first name", "surname", "not named"):
        some = tuple(noisy(records, people, SHARE, asked.seed, how))
        corpus = RecordSet("corpus", some, "memory")
        pairs = rates(corpus, chosen, KINDS, asked.encoder, cosines=COSINES)
        cells = [f"{recall:.3f}, {precision:.3f}" for recall, precision in pairs]
        lines.append(f"| {how} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    text = "\n".join(lines) + "\n"
    print(text)
    if asked.output:
        asked.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
