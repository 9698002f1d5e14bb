from collections.abc import Iterator


class Choices:
    """
    Easy declarative "choices" tool::

        >>> STATUSES = Choices("Live", "Draft")

        # Acts like a choices list:
        >>> list(STATUSES)
        [(1, 'Live'), (2, 'Draft')]

        # Easily convert from code to verbose:
        >>> STATUSES.verbose(1)
        'Live'

        # ... and vice versa:
        >>> STATUSES.code("Draft")
        2

        # A name nobody declared is a mistake, found where it is made:
        >>> STATUSES.code("Lost")
        Traceback (most recent call last):
            ...
        KeyError: 'Lost'
    """

    def __init__(self, *names: str) -> None:
        self.names = dict(enumerate(names, 1))
        self.codes = {name: code for code, name in self.names.items()}

    def __iter__(self) -> Iterator[tuple[int, str]]:
        return iter(self.names.items())

    def verbose(self, code: int) -> str:
        return self.names[code]

    def code(self, name: str) -> int:
        return self.codes[name]
