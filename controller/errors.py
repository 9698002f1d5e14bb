"""How a verb refuses, and what is printed then."""

import difflib
import sys
from collections.abc import Callable, Iterable


class Refused(Exception):
    """Why nothing is done, and what to type instead."""


class Unusable(Refused):
    """An environment that cannot be read, with the reason as a sentence."""


def near(name: str, names: Iterable[str]) -> str:
    """The end of a sentence about a name: "; did you mean …?" where it resembles one of several, or a full stop."""
    matches = difflib.get_close_matches(name, list(names), 1)
    return f"; did you mean '{matches[0]}'?" if matches else "."


def exit_code(function: Callable[[], int]) -> int:
    """What a function returns; 2, and why on stderr, where it raises Refused."""
    try:
        return function()
    except Refused as reason:
        print(f"Nothing was touched. {reason}", file=sys.stderr)
        return 2
