"""Windows to padded tensors, and the one place where label positions are picked.

B windows, T tokens, N label positions. Padding is on the right and is ignored by position: a real
end-of-text token is a label even where the tokenizer pads with the same id.
"""

from collections.abc import Iterator, Sequence, Sized

import torch
from torch import Tensor

from unlearner import processes
from unlearner.data.windows import Window
from unlearner.functional import Tensors


def collate(windows: Sequence[Window], device: torch.device | str = "cpu") -> Tensors:
    """Padded tensors of some windows.

    Returns:
        `input_ids` and `attention_mask` (B, T); `positions` (N, 2), the window and the position
        from which each label that counts is predicted, in order; `labels` (N,), those labels;
        `owner` (B,), which of the batch's records each window is of, from 0 in order of appearance.
    """
    longest = max(len(window) for window in windows)
    input_ids = torch.zeros(len(windows), longest, dtype=torch.long)
    attention_mask = torch.zeros_like(input_ids)
    scored = torch.zeros(len(windows), longest, dtype=torch.bool)
    for row, window in enumerate(windows):
        input_ids[row, : len(window)] = torch.from_numpy(window.input_ids)
        attention_mask[row, : len(window)] = 1
        scored[row, : len(window) - 1] = torch.from_numpy(window.scored)
    positions = scored.nonzero()
    labels = input_ids[positions[:, 0], positions[:, 1] + 1]
    batch = {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "positions": positions,
        "labels": labels,
        "owner": torch.tensor(owners(windows)),
    }
    return {name: tensor.to(device) for name, tensor in batch.items()}


def share_of(windows: Sequence[Window], device: torch.device | str = "cpu") -> Tensors | None:
    """This process's share of the windows, whose owners are those among all; None without any."""
    mine = processes.share(range(len(windows)))
    if not mine:
        return None
    batch = collate([windows[place] for place in mine], device)
    owner = owners(windows)
    batch["owner"] = torch.tensor([owner[place] for place in mine], device=device)
    return batch


def owners(windows: Sequence[Window]) -> list[int]:
    """Which of the records each window is of, from 0 in order of appearance."""
    order = {record: place for place, record in enumerate(dict.fromkeys(w.record for w in windows))}
    return [order[window.record] for window in windows]


class Deck:
    """Numbers from 0, each drawn once before any is drawn again."""

    def __init__(self) -> None:
        self._cards: list[int] = []

    def draw(self, count: int, size: int, generator: torch.Generator) -> list[int]:
        """`count` different numbers below `size`, or all where there are fewer."""
        drawn: list[int] = []
        put_back: list[int] = []
        while len(drawn) < min(count, size):
            if not self._cards:
                self._cards = torch.randperm(size, generator=generator).tolist()
            card = self._cards.pop()
            (put_back if card in drawn else drawn).append(card)
        self._cards += put_back  # drawn just now from the last deck, not yet from this one
        return drawn


def length_batches(windows: Sequence[Sized], max_tokens: int) -> Iterator[list[int]]:
    """Indices of windows of similar length, padded together to at most `max_tokens` tokens."""
    order = sorted(range(len(windows)), key=lambda index: (len(windows[index]), index))
    batch: list[int] = []
    for index in order:
        if batch and (len(batch) + 1) * len(windows[index]) > max_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def length_groups(lengths: Sequence[int], pass_tokens: float) -> list[list[int]]:
    """Indices in groups of similar length: split as long as that saves more than a pass costs.

    Args:
        pass_tokens: What one more forward pass costs, in tokens.
    """
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    return _split_group(order, lengths, pass_tokens) if order else []


def _split_group(order: list[int], lengths: Sequence[int], pass_tokens: float) -> list[list[int]]:
    longest = lengths[order[-1]]
    saved = [cut * (longest - lengths[order[cut - 1]]) for cut in range(1, len(order))]
    if not saved or max(saved) <= pass_tokens:
        return [order]
    cut = saved.index(max(saved)) + 1
    return [
        *_split_group(order[:cut], lengths, pass_tokens),
        *_split_group(order[cut:], lengths, pass_tokens),
    ]


def rows_alone(batch: Tensors, chosen_B: Tensor, length: int) -> tuple[Tensor, Tensors]:
    """Places of the label positions of some rows, and the tensors of these rows alone.

    Args:
        length: To which their padding is cut.
    """
    row_N, token_N = batch["positions"].unbind(-1)
    number_B = chosen_B.cumsum(-1) - 1
    places = chosen_B[row_N].nonzero().flatten()
    names = [name for name in ("input_ids", "attention_mask", "token_type_ids") if name in batch]
    part = {name: batch[name][chosen_B, :length] for name in names}
    part["positions"] = torch.stack([number_B[row_N[places]], token_N[places]], -1)
    part["labels"] = batch["labels"][places]
    return places, part


def join(first: Tensors, second: Tensors, num_first: int | None = None) -> Tensors:
    """One batch of two: the windows and the label positions of the first come first.

    Args:
        num_first: Records that the second's are counted behind; those of the first where None.
    """
    num_first = int(first["owner"].max()) + 1 if num_first is None else num_first
    width = max(first["input_ids"].shape[1], second["input_ids"].shape[1])
    joined = {
        name: torch.cat(
            [
                torch.nn.functional.pad(batch[name], (0, width - batch[name].shape[1]))
                for batch in (first, second)
            ]
        )
        for name in ("input_ids", "attention_mask")
    }
    shift = torch.tensor([len(first["input_ids"]), 0], device=second["positions"].device)
    joined["positions"] = torch.cat([first["positions"], second["positions"] + shift])
    joined["owner"] = torch.cat([first["owner"], second["owner"] + num_first])
    joined["labels"] = torch.cat([first["labels"], second["labels"]])
    return joined
