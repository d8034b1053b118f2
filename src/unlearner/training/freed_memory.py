"""Memory that was freed and that the C library keeps for what comes next."""

import ctypes
import sys
from contextlib import suppress


def give_back() -> None:
    """Give it to the system, where the C library can do that: glibc does.

    What measuring and steps leave in small pieces is not used again for large ones: with 10M
    parameters it was 448 of 1,242 MiB before training and 254 of 1,482 behind eight steps, and took
    30 to 60 ms to give back.
    """
    if sys.platform == "linux":
        with suppress(AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)
