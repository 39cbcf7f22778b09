"""A bar that says how far a long run is and how long it still takes.

In a terminal it is tqdm's. In a notebook it is an output that changes in place and in the end is
the line it began with, so that a saved notebook holds no times.
"""

import sys
import time
from types import TracebackType
from typing import Self

__all__ = ["Bar"]

SECONDS = 0.5
"""Between two changes of a notebook's bar."""


class Bar:
    """A bar of `total` steps, of which `done` are done; ``with Bar(…) as bar: bar.advance("…")``.

    Parameters
    ----------
    total, done : int
        In steps.
    shown : bool
        False shows nothing. Nor is anything shown where output goes to a file.
    """

    def __init__(self, total: int, done: int = 0, shown: bool = True) -> None:
        self.total, self.first, self.done = total, done, done
        self.shown = shown

    def __enter__(self) -> Self:
        self.started = self.drawn = time.monotonic()
        self.tqdm = self.display = None
        if self.shown and in_notebook():
            from IPython.display import display

            self.display = display(self._output(self._whole()), display_id=True)
        elif self.shown:
            from tqdm import tqdm

            self.tqdm = tqdm(total=self.total, initial=self.done, disable=None, unit="step")
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.tqdm is not None:
            self.tqdm.close()
        if self.display is not None:
            self.display.update(self._output(self._whole()))

    def advance(self, text: str = "") -> None:
        """Count a step; `text` stands behind the bar."""
        self.done += 1
        if self.tqdm is not None:
            self.tqdm.set_postfix_str(text, refresh=False)
            self.tqdm.update()
        if self.display is not None and time.monotonic() - self.drawn > SECONDS:
            self.drawn = time.monotonic()
            self.display.update(self._output(f"{self._bar()} {self._left()}, {text}"))

    def _whole(self) -> str:
        return f"{self.total} steps"

    def _bar(self) -> str:
        full = 30 * self.done // self.total
        return f"{'█' * full}{'░' * (30 - full)} {self.done} of {self.total} steps,"

    def _left(self) -> str:
        rate = (time.monotonic() - self.started) / (self.done - self.first)
        seconds = round(rate * (self.total - self.done))
        hours, minutes = seconds // 3600, seconds // 60 % 60
        return f"{hours}:{minutes:02}:{seconds % 60:02} left"

    @staticmethod
    def _output(text: str) -> "Text":
        return Text(text)


class Text(str):
    """A string that a notebook shows without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def in_notebook() -> bool:
    """Whether this process is a notebook's kernel."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return shell is not None and "IPKernelApp" in shell.config
