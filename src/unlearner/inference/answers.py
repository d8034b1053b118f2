"""What a model gives for one window or example of a record: a value, read by every metric.

Nothing here touches a model or torch, so metrics can be tested and repeated without either.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from unlearner.data.windows import end_of_span, spans


@dataclass(frozen=True)
class Answer:
    """What one model gives for one window (T tokens) of one record.

    Position t counts from 0, so the prompt of length t is tokens 0..t-1 and is followed by token t.
    Arrays over labels have T-1 entries; entry t-1 is about token t.

    Attributes:
        record: Index of the record in its set.
        id: The record's id.
        input_ids: (T,) the window's tokens.
        scored: (T-1,) bool, which labels count: of prompt and response, or of the response only.
        log_probs: (T-1,) float32, log p(x_t | x_<t) in nats.
        argmax: (T-1,) the most probable token after each prompt x_<t.
        eos_ids: Tokens that end a continuation.
        decoded: Greedy continuations of the prompts at which the model breaks from the text, by
            prompt length; each runs to the end of its span (see `spans`) or to the first
            end-of-text token, which it includes. Empty when no continuations were wanted.
        prompt_start: From which prompt of a span on every continuation is known; see
            `first_prompt`.
        prefix: Length of the prompt that `continuation_text` continues.
        reference_text: The record's own text from `prefix` on, to the end of its span.
        continuation_text: The model's greedy continuation of the first `prefix` tokens.
        kl: (T-1,) float32, KL(target || model) in nats of each next-token distribution, or None.
        bertscore: BERTScore F1 of the continuation, NaN when there is no encoder.
        judged: The rating of the continuation by a judge, 0 to 10; NaN when there is none.
        first_counts: Whether token 0, which is no label, is of the same text as token 1.
        expected: (T-1,) float32, the mean of log p(v | x_<t) over v of that distribution, in nats;
            minus its entropy. None where it was not asked for.
        deviation: (T-1,) float32, the standard deviation of the same.
        zlib_bytes: The compressed size of the text of the labels that count; 0 likewise.
    """

    record: int
    id: str
    input_ids: np.ndarray
    scored: np.ndarray
    log_probs: np.ndarray
    argmax: np.ndarray
    eos_ids: frozenset[int] = frozenset()
    decoded: Mapping[int, np.ndarray] = field(default_factory=dict)
    prompt_start: float = 1
    prefix: int = 1
    first_counts: bool = True
    reference_text: str = ""
    continuation_text: str = ""
    kl: np.ndarray | None = None
    bertscore: float = float("nan")
    judged: float = float("nan")
    expected: np.ndarray | None = None
    deviation: np.ndarray | None = None
    zlib_bytes: int = 0

    @property
    def spans(self) -> list[tuple[int, int]]:
        """The texts that the window holds: from the first token to behind the last of each.

        All T tokens of a plain text; of other records what counts between two pieces of template.
        """
        return spans(self.scored, first_counts=self.first_counts)

    def prompts(self, prompt_start: float) -> list[tuple[int, int]]:
        """Of each span the length of its shortest prompt, and its end; see `first_prompt`."""
        return [
            (start + first_prompt(prompt_start, stop - start), stop) for start, stop in self.spans
        ]

    def stop(self, prompt_length: int) -> int:
        """The end of the span in which a prompt is continued; the prompt's own outside of all."""
        return end_of_span(self.spans, prompt_length)

    @property
    def hits(self) -> np.ndarray:
        """(T-1,) bool: the most probable token is the text's own."""
        return self.argmax == self.input_ids[1:]

    @property
    def breaks(self) -> np.ndarray:
        """Prompt lengths at which a greedy continuation leaves the text or ends, ascending.

        Between two breaks every continuation follows the text, so the continuation of a prompt is
        the text up to the next break and then the continuation decoded there.
        """
        ends = np.isin(self.argmax, list(self.eos_ids))
        return np.flatnonzero((self.argmax != self.input_ids[1:]) | ends) + 1

    def continuation(self, prompt_length: int) -> np.ndarray:
        """The greedy continuation of the first `prompt_length` tokens, to the end of their span.

        Raises:
            KeyError: The continuation was not decoded.
        """
        stop = self.stop(prompt_length)
        after = self.breaks[(self.breaks >= prompt_length) & (self.breaks < stop)]
        if len(after) == 0:
            return self.input_ids[prompt_length:stop]
        first = int(after[0])
        return np.concatenate([self.input_ids[prompt_length:first], self.decoded[first]])


@dataclass(frozen=True)
class ClassAnswer:
    """What one classifier gives for one example of one record.

    M labelled positions (1 of a sequence, the words of an example with tags), C classes, D
    features.

    Attributes:
        record: Index of the record in its set.
        id: The record's id.
        labels: (M,) the index of each position's own label.
        class_log_probs: (M, C) float32, log p(class) in nats.
        features: (M, D) float32, the vector that the head's last linear map reads.
        label_names: The C names, in the order of the model's outputs.
        retrained: (M, C) float32, the log-probabilities of the retrained model at the same
            positions, or None where there is no such model.
        scheme: How tags are written, see `tag_schemes.TagUse`; empty: as the names suggest.
    """

    record: int
    id: str
    labels: np.ndarray
    class_log_probs: np.ndarray
    features: np.ndarray
    label_names: tuple[str, ...]
    retrained: np.ndarray | None = None
    scheme: str = ""

    @property
    def log_probs(self) -> np.ndarray:
        """(M,) float32, log p(own label) in nats."""
        return self.class_log_probs[np.arange(len(self.labels)), self.labels]

    @property
    def scored(self) -> np.ndarray:
        """(M,) bool: every labelled position counts."""
        return np.ones(len(self.labels), dtype=bool)

    @property
    def predicted(self) -> np.ndarray:
        """(M,) the index of the most probable class, the first of several."""
        return self.class_log_probs.argmax(axis=-1)


# A share of a short record would leave no prompt with ten tokens behind it.
LAST_TOKENS = 30


def first_prompt(prompt_start: int | float, num_tokens: int) -> int:
    """Tokens of a text that the shortest prompt holds: an integer >= 1, or a fraction of them.

    A fraction is rounded down: 0.75 of 200 tokens is 150, the range of ICU's published code. It
    leaves the last 30 tokens at least, so that a short record has prompts for EL_10 too: 10 of 40.

    Raises:
        ValueError: `prompt_start` is neither.
    """
    if prompt_start >= 1 and prompt_start == int(prompt_start):
        return int(prompt_start)
    if 0 < prompt_start < 1:
        # The tolerance keeps 0.29 * 100 = 28.999999999999996 at 29.
        return max(1, min(int(prompt_start * num_tokens + 1e-9), num_tokens - LAST_TOKENS))
    raise ValueError(
        f"prompt_start must be an integer >= 1 or a fraction in (0, 1), got {prompt_start}"
    )
