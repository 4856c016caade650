"""The names that batches of one file name get, NAME, NAME.2, NAME.3 …: which is free, without looking at all of them.

Pure: whoever asks says what is taken, and sees to it that a name has one owner.
"""

from __future__ import annotations

from collections.abc import Callable


def numbered(name: str, attempt: int) -> str:
    """Return the name to try at the `attempt`-th try (1-based): NAME, NAME.2, NAME.3 …"""
    return name if attempt == 1 else f"{name}.{attempt}"


def free(name: str, taken: Callable[[str], bool]) -> str:
    """Return the next free name: NAME itself, or the one after the last that is taken.

    Found by doubling and halving: 32 looks where 50,000 folders have the name. Where users have removed some of them,
    it may come after a gap, or fill one.
    """
    if not taken(name):
        return name
    low, high = 1, 2
    while taken(numbered(name, high)):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if taken(numbered(name, middle)) else (low, middle)
    return numbered(name, high)
