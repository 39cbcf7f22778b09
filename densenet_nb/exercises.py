"""Checks that tell a reader whether an answer is right, and if not, which misconception it shows.

A check takes the reader's function (or number), prints one line and returns nothing: an exercise
not yet attempted, "Correct", or what the answer seems to assume and where that fails.
"""

import functools
from collections.abc import Callable
from typing import Any

__all__: list[str] = []

NOT_ATTEMPTED = "Not attempted yet: replace the three dots, then run this cell again."


class NotAttempted(Exception):  # noqa: N818
    """The answer is still the stub."""


class Misconception(Exception):  # noqa: N818
    """The answer is wrong in a way that has a name."""


def check(function: Callable[[Any], None]) -> Callable[[Any], None]:
    """Turn a function that raises :class:`Misconception` into a check that prints a verdict."""

    @functools.wraps(function)
    def verdict(answer: Any) -> None:
        try:
            function(answer)
        except NotAttempted:
            print(NOT_ATTEMPTED)
        except Misconception as misconception:
            print(f"Not yet. {misconception}")
        else:
            print("Correct.")

    __all__.append(function.__name__)
    return verdict


def given(answer: Any) -> Any:
    """Return `answer`, or raise :class:`NotAttempted` if it is the stub's None or ``...``."""
    if answer is None or answer is ...:
        raise NotAttempted
    return answer


def ask(answer: Callable, *arguments: Any) -> Any:
    """Return what the reader's function answers; the stub's None or ``...`` is not an attempt."""
    return given(answer(*arguments))


def refuse(wrong: bool, misconception: str) -> None:
    """Raise :class:`Misconception` with this message if `wrong`."""
    if wrong:
        raise Misconception(misconception)
