"""The classifier demo's post bag: invented customers write to an invented shop.

Nothing here is about anyone; names, towns and goods are those of `customers`. A message is a
greeting, one sentence that says what the customer wants (the label), often something that any
customer could say, and a closing with the customer's name.

Three things keep a good classifier below 1.0 on messages it has not seen, as in a real post bag:
wordings that fit several labels (`VAGUE`), a second wish besides the first (the label is the
first), and slips of the pen. The name, the numbers and the dates differ from message to message;
by them alone a classifier can memorise a message that somebody filed under a wrong label.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from unlearner.data.record import Record, RecordSet
from unlearner.demo import customers
from unlearner.demo.customers import AGENTS, COLOURS, FAULTS, GOODS, MONTHS, STREETS, TOWNS, WAYS

WISHES = {
    "refund": (
        "please pay back the {amount} crowns for the {goods}.",
        "I sent the {goods} back on {date} and want my money.",
        "when do I get my {amount} crowns back?",
        "the {goods} {fault}, I would like a refund.",
        "you charged me {amount} crowns twice, please return one payment.",
        "order {order} is back with you but no money has come.",
        "is the {goods} money-back promise still good after {date}?",
        "I paid {amount} crowns too much for order {order}.",
    ),
    "delivery": (
        "where is my {goods}?",
        "order {order} has not come yet.",
        "when will the {colour} {goods} arrive in {town}?",
        "the parcel was due on {date} and is not here.",
        "has order {order} been sent?",
        "can you bring the {goods} after {date}?",
        "the driver never found {address}.",
        "only half of order {order} came.",
    ),
    "invoice": (
        "please send me the bill for order {order}.",
        "I need a receipt for {amount} crowns.",
        "the bill for the {goods} says {amount} crowns, is that right?",
        "the invoice of {date} has the wrong address.",
        "may I pay the {amount} crowns in two parts?",
        "I cannot find the invoice for the {colour} {goods}.",
        "why do I owe {amount} crowns?",
        "can the bill name my company in {town}?",
    ),
    "cancel": (
        "please cancel order {order}.",
        "I no longer want the {colour} {goods}.",
        "do not send the {goods}, I found another.",
        "I changed my mind about order {order}.",
        "please stop the order of {date}.",
        "can I still call off the {goods}?",
        "forget about the {goods} I wanted.",
        "order {order} was a mistake, drop it.",
    ),
    "password": (
        "I cannot log in.",
        "please reset my password.",
        "your site says that my password is wrong.",
        "the code for the log in never came.",
        "my account has been locked since {date}.",
        "how do I choose a new password for my account?",
        "somebody else uses my log in.",
        "the link to sign in does nothing.",
    ),
    "address": (
        "I have moved to {address}, {town}.",
        "please send order {order} to {address} instead.",
        "my new address is {address}.",
        "you have the wrong street for me, it is {address}.",
        "from {date} on I live in {other_town}.",
        "change the town in my account to {other_town}, please.",
        "we are leaving {town} for {other_town}.",
        "write to {address} in future, please.",
    ),
    "opening_hours": (
        "when are you open in {town}?",
        "is the shop in {other_town} open on {date}?",
        "until when can I collect the {goods}?",
        "what time does the {town} shop close?",
        "are you there on {date}?",
        "do you open before nine?",
        "which days is the {town} shop shut?",
        "can I drop in on {agent} in the evening?",
    ),
    "complaint": (
        "your people in {town} were rude to me.",
        "the {colour} {goods} {fault} after one day.",
        "I waited an hour and {agent} did not help.",
        "this is the third time I write about order {order}.",
        "I am very unhappy with the {goods}.",
        "{agent} promised an answer by {date} and nothing came.",
        "{agent} would not listen when the {goods} {fault}.",
        "the {town} shop is dirty and slow.",
    ),
}

LABELS = tuple(WISHES)

VAGUE = {
    "what happened to my {amount} crowns?": ("refund", "invoice"),
    "please look into order {order}.": ("delivery", "cancel", "refund"),
    "the {goods} is not what I ordered.": ("refund", "complaint", "cancel"),
    "I have been waiting since {date}.": ("delivery", "complaint", "refund"),
    "something is wrong with my account.": ("password", "address", "invoice"),
    "can I come to {town} for the {goods} on {date}?": ("opening_hours", "delivery"),
    "the address on my order is wrong.": ("address", "delivery", "invoice"),
    "nobody answers in {town}.": ("complaint", "opening_hours"),
}

GREETINGS = ("", "Hello, ", "Hi, ", "Good day, ", "Dear {clerk}, ")

REMARKS = (
    "I ordered the {colour} {goods} on {date}.",
    "it is about order {order}.",
    "I paid {amount} crowns.",
    "I have spoken to {agent}.",
    "my account is with {town}.",
)

CLOSINGS = ("{name}", "Thanks, {name}", "Yours, {name}, {town}", "Regards, {name}")

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
    """
    rng = random.Random(seed)
    records: dict[str, Record] = {}
    for customer, name in enumerate(rng.sample(customers.all_names(), num), start=1):
        enough = min(num, len(records) + rng.randint(1, MAX_PER_CUSTOMER))
        town = rng.choice(TOWNS)
        while len(records) < enough:
            label = rng.choice(LABELS)
            text = _customer_message(label, name, town, rng)
            id = f"message-{len(records) + 1:04d}"
            record = Record(id=id, text=text, label=label, subject=f"customer-{customer:04d}")
            records.setdefault(text, record)
    return tuple(records.values())


def mislabelled(
    records: Sequence[Record], *, seed: int, labels: Sequence[str] = LABELS
) -> tuple[Record, ...]:
    """The records, each with a label drawn evenly from the wrong ones; all else stays."""
    rng = random.Random(seed)
    return tuple(
        replace(record, label=rng.choice([label for label in labels if label != record.label]))
        for record in records
    )


def split_messages(
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
    """
    people = list(dict.fromkeys(record.subject for record in records))
    assert min(num_forget, num_holdout, num_test) > 0
    assert num_forget + num_holdout + num_test < len(people)
    first_test = len(people) - num_test
    first_holdout = first_test - num_holdout
    forget = customers.records_about("forget", records, people[:num_forget])
    return DemoMessages(
        forget=replace(forget, records=mislabelled(forget.records, seed=seed)),
        retain=customers.records_about("retain", records, people[num_forget:first_holdout]),
        holdout=customers.records_about("holdout", records, people[first_holdout:first_test]),
        test=customers.records_about("test", records, people[first_test:]),
    )


def _customer_message(label: str, name: str, town: str, rng: random.Random) -> str:
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
