"""A pair of its own for each of several records, out of what each may be paired with."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence


def one_to_one(
    neighbours: Sequence[Sequence[int]], scores: Sequence[Sequence[float]]
) -> dict[int, int]:
    """A neighbour of its own for as many rows as can have one, the highest score of all first."""
    pairs: dict[int, int] = {}
    owners: dict[int, int] = {}
    left: list[int] = []
    heap = [(-row_scores[0], row, 0) for row, row_scores in enumerate(scores)]
    heapq.heapify(heap)
    while heap:
        _, row, position = heapq.heappop(heap)
        if neighbours[row][position] not in owners:
            pairs[row] = neighbours[row][position]
            owners[pairs[row]] = row
        elif position + 1 < len(neighbours[row]):
            heapq.heappush(heap, (-scores[row][position + 1], row, position + 1))
        else:
            left.append(row)
    for row in left:
        _make_room(row, neighbours, pairs, owners)
    return pairs


def _make_room(
    row: int, neighbours: Sequence[Sequence[int]], pairs: dict[int, int], owners: dict[int, int]
) -> None:
    """Give the row a pair by the shortest chain of others that move on; none if there is no chain.

    One step of Berge's augmenting paths, breadth first.
    """
    wanted_by: dict[int, int] = {}
    queue = deque([row])
    while queue:
        asking = queue.popleft()
        for index in neighbours[asking]:
            if index in wanted_by:
                continue
            wanted_by[index] = asking
            if index in owners:
                queue.append(owners[index])
                continue
            free: int | None = index
            while free is not None:
                mover = wanted_by[free]
                left_behind = pairs.get(mover)
                pairs[mover], owners[free] = free, mover
                free = left_behind
            return
