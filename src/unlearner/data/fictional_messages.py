"""The classifier demo's post bag: invented customers write to an invented shop.

Nothing here is about anyone; names, towns and goods are those of `fictional`. A message is a
greeting, one sentence that says what the customer wants (the label), often something that any
customer could say, and a closing with the customer's name.

Three things keep a good classifier below 1.0 on messages it has not seen, as in a real post bag:
wordings that fit several labels (`VAGUE`), a second wish besides the first (the label is the
first), and slips of the pen. The name, the numbers and the dates differ from message to message;
by them alone a classifier can learn a message by heart that somebody filed under a wrong label.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from unlearner.data import fictional
from unlearner.data.base import Record, RecordSet
from unlearner.data.fictional import AGENTS, COLOURS, FAULTS, GOODS, MONTHS, STREETS, TOWNS, WAYS
from unlearner.data.fictional_wordings import CLOSINGS, GREETINGS, LABELS, REMARKS, VAGUE, WISHES
from unlearner.errors import UserError

MAX_MESSAGES = 10_000
MAX_PER_CUSTOMER = 3
VAGUE_SHARE, REMARK_SHARE, SECOND_WISH_SHARE, SLIP_SHARE = 0.1, 0.4, 0.1, 0.3


@dataclass(frozen=True)
class DemoMessages:
    """The sets of the demo. No customer is in two of them.

    Attributes:
        forget: Customers whose messages were filed under a wrong label; trained on.
        retain: The other customers trained on.
        holdout: Customers who were never trained on, to decide by.
        test: Other customers who were never trained on, to report.
    """

    forget: RecordSet
    retain: RecordSet
    holdout: RecordSet
    test: RecordSet

    @property
    def trained(self) -> tuple[Record, ...]:
        """What the target model is trained on: the retain set, and the forget set's errors."""
        return self.forget.records + self.retain.records


def messages(num: int, *, seed: int) -> tuple[Record, ...]:
    """Messages with ids `message-0001` on and the right labels, those of one customer in a row.

    A customer (subject `customer-0001`) writes one to three of them, about different things or
    the same. No two customers have the same name, so no two of their texts are equal; one
    customer's are redrawn until they differ. The same seed gives the same records.

    Raises:
        UserError: `num` is below 1 or above 10000.
    """
    if not 1 <= num <= MAX_MESSAGES:
        raise UserError(
            f"num must be from 1 to {MAX_MESSAGES}, got {num}; the demo's shop gets no "
            f"more messages than that"
        )
    rng = random.Random(seed)
    records: dict[str, Record] = {}
    for customer, name in enumerate(rng.sample(_names(), num), start=1):
        enough = min(num, len(records) + rng.randint(1, MAX_PER_CUSTOMER))
        town = rng.choice(TOWNS)
        while len(records) < enough:
            label = rng.choice(LABELS)
            text = _message(label, name, town, rng)
            id = f"message-{len(records) + 1:04d}"
            record = Record(id=id, text=text, label=label, subject=f"customer-{customer:04d}")
            records.setdefault(text, record)
    return tuple(records.values())


def mislabelled(
    records: Sequence[Record], *, seed: int, labels: Sequence[str] = LABELS
) -> tuple[Record, ...]:
    """The records, each with a label drawn evenly from the wrong ones; all else stays.

    Raises:
        UserError: Fewer than two labels are given, so that there is no wrong one.
    """
    if len(set(labels)) < 2:
        raise UserError(
            f"labels must name at least 2 labels, got {len(set(labels))}; with fewer "
            f"no label is wrong"
        )
    rng = random.Random(seed)
    return tuple(
        replace(record, label=rng.choice([label for label in labels if label != record.label]))
        for record in records
    )


def split(
    records: Sequence[Record], *, num_forget: int, num_holdout: int, num_test: int, seed: int
) -> DemoMessages:
    """Divide messages by customer, and file those of the customers to forget wrongly.

    Customers are drawn independently of each other, so which of them come first does not matter.

    Args:
        records: Messages with their subjects, as `messages` gives them.
        num_forget: Number of customers whose messages get a wrong label, at least 1.
        num_holdout: Number of customers, at least 1.
        num_test: Number of customers, at least 1.
        seed: Of the wrong labels.

    Raises:
        UserError: A number is below 1, or nobody would be left to retain.
    """
    customers = list(dict.fromkeys(record.subject for record in records))
    numbers = (num_forget, num_holdout, num_test)
    if min(numbers) < 1 or sum(numbers) >= len(customers):
        raise UserError(
            f"num_forget, num_holdout and num_test must be at least 1 and together below the "
            f"{len(customers)} customers there are, got {num_forget}, {num_holdout} and {num_test}"
        )
    first_test = len(customers) - num_test
    first_holdout = first_test - num_holdout

    def of(people: list[str]) -> tuple[Record, ...]:
        chosen = set(people)
        return tuple(record for record in records if record.subject in chosen)

    forget = mislabelled(of(customers[:num_forget]), seed=seed)
    return DemoMessages(
        forget=RecordSet("forget", forget, "memory"),
        retain=RecordSet("retain", of(customers[num_forget:first_holdout]), "memory"),
        holdout=RecordSet("holdout", of(customers[first_holdout:first_test]), "memory"),
        test=RecordSet("test", of(customers[first_test:]), "memory"),
    )


def _names() -> list[str]:
    parts = itertools.product(
        fictional.FIRST_NAME_HEADS,
        fictional.FIRST_NAME_TAILS,
        fictional.SURNAME_HEADS,
        fictional.SURNAME_TAILS,
    )
    return [f"{first}{tail} {head}{end}" for first, tail, head, end in parts]


def _message(label: str, name: str, town: str, rng: random.Random) -> str:
    vague = [wording for wording, meant in VAGUE.items() if label in meant]
    parts = [rng.choice(vague if rng.random() < VAGUE_SHARE else WISHES[label])]
    if rng.random() < REMARK_SHARE:
        parts.insert(rng.randint(0, 1), rng.choice(REMARKS))
    if rng.random() < SECOND_WISH_SHARE:
        parts.append(rng.choice(WISHES[rng.choice(LABELS)]))
    greeting, facts = rng.choice(GREETINGS), _facts(name, town, rng)
    # Only the body has slips: the name at the end stays the customer's own.
    body = _capitalised(" ".join([greeting + parts[0], *parts[1:]]).format(**facts))
    if rng.random() < SLIP_SHARE:
        body = _with_a_slip(body, rng)
    return f"{body} {rng.choice(CLOSINGS).format(**facts)}"


def _facts(name: str, town: str, rng: random.Random) -> dict[str, str]:
    agent, clerk = rng.sample(AGENTS, 2)
    return {
        "name": name,
        "town": town,
        "other_town": rng.choice([other for other in TOWNS if other != town]),
        "address": f"{rng.randint(10, 99)} {rng.choice(STREETS)} {rng.choice(WAYS)}",
        "order": str(rng.randint(10_000, 99_999)),
        "amount": str(rng.randint(10, 99)),
        "colour": rng.choice(COLOURS),
        "goods": rng.choice(GOODS),
        "fault": rng.choice(FAULTS),
        "date": f"{rng.randint(1, 28)} {rng.choice(MONTHS)}",
        "agent": agent,
        "clerk": clerk,
    }


def _capitalised(text: str) -> str:
    return re.sub(r"(?:^|(?<=[.?] ))[a-z]", lambda found: found[0].upper(), text)


def _with_a_slip(text: str, rng: random.Random) -> str:
    """The text with two neighbouring letters exchanged, or one left out."""
    places = [
        place
        for place in range(len(text) - 1)
        if text[place].isalpha() and text[place + 1].isalpha() and text[place] != text[place + 1]
    ]
    place = rng.choice(places)
    pair = text[place + 1] + text[place] if rng.random() < 0.5 else text[place + 1]
    return text[:place] + pair + text[place + 2 :]
