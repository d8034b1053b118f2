"""Responses to dialogues: the last turn, as the model itself would say it.

A continuation that is compared with a record is as long as the record's own. Here the model says
where it ends.
"""

from collections.abc import Sequence
from dataclasses import replace

from transformers import PreTrainedTokenizerBase

from unlearner.data.windows import Window
from unlearner.inference.answers import Answer
from unlearner.inference.language_model import beam_continuations
from unlearner.models.loading import Loaded


def last_turns(windows: Sequence[Window]) -> dict[int, int]:
    """Of each record the place of the window in which its last response begins.

    A record without one is left out.
    """
    return {window.record: at for at, window in enumerate(windows) if window.begins_response}


def with_responses(
    answers: Sequence[Answer], windows: Sequence[Window], loaded: Loaded, num_tokens: int
) -> list[Answer]:
    """The answers with the model's greedy response to each dialogue beside the dialogue's own.

    Where the dialogue and the response are longer than the context, the dialogue's beginning is
    left out. A window without a last turn has neither text.

    Args:
        num_tokens: Of a response at most.
    """
    found, turns = list(answers), list(last_turns(windows).values())
    given = beam_continuations(
        loaded.model,
        loaded.tokenizer,
        [windows[at] for at in turns],
        num_beams=1,
        num_tokens=[num_tokens] * len(turns),
        prompt_tokens=max(1, loaded.context - num_tokens),
    )
    for at, text in zip(turns, given, strict=True):
        own = _last_response(windows[at], loaded.tokenizer)
        found[at] = replace(found[at], reference_text=own, continuation_text=text)
    return found


def _last_response(window: Window, tokenizer: PreTrainedTokenizerBase) -> str:
    tokens = window.input_ids[window.prefix : window.stop]
    return str(tokenizer.decode(tokens, skip_special_tokens=True))
