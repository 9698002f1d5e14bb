"""How a verb refuses, and what is printed then."""

import difflib
import sys


class Refused(Exception):
    """Why nothing is done, and what to type instead."""


def near(word, words):
    """The end of a sentence about a word: "; did you mean …?" where it resembles one of several, or a full stop."""
    found = difflib.get_close_matches(word, words, 1)
    return f"; did you mean '{found[0]}'?" if found else "."


def told(do):
    """What a function returns; 2, and why on stderr, where it raises Refused."""
    try:
        return do()
    except Refused as reason:
        print(f"Nothing was touched. {reason}", file=sys.stderr)
        return 2
