"""The last line of a terminal, which shows what runs.

Not rich's: that hides the cursor, and a run that is suspended or killed leaves it hidden.
"""

import os
from typing import TextIO


class Live:
    """The last line of a terminal, which is written over; nothing where there is no terminal. Whoever calls has the display's lock."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.shown = stream, False
        self.terminal = stream.isatty() and os.environ.get("TERM") != "dumb"

    def draw(self, line: str) -> None:
        """Show a line in place of the one before."""
        if self.terminal:
            self.stream.write(f"\r{line}\x1b[K")
            self.stream.flush()
            self.shown = True

    def clear(self) -> None:
        """Make room for other output."""
        if self.shown:
            self.stream.write("\r\x1b[K")
            self.shown = False
