"""Which page may be asked for again: one that lost the database before it changed anything."""

import re

# SQLSTATE where a connection is lost: connections (08), a server that stops, crashes or starts (57P01 to 57P03), a file
# or socket that fails (58), and pgpool's own for a database that goes in the middle of an answer (XX000). A statement
# that took too long (57014), a deadlock or a lock that was not had is an answer: the same would come again, from a
# database that is busy already.
LOST = re.compile(r"08|57P0[123]|58|XX000")
# What begins a statement that changes nothing, behind comments.
READS = re.compile(
    r"\s*(?:(?:/\*.*?\*/|--[^\n]*\n)\s*)*(?:select|values|table|show|set|begin|savepoint|release|rollback|declare|fetch|close)\b",
    re.I | re.S,
)
READS_WITH = re.compile(
    r"\s*(?:(?:/\*.*?\*/|--[^\n]*\n)\s*)*with\b(?!.*\b(?:insert|update|delete|merge)\b)", re.I | re.S
)


def lost(error: BaseException | None) -> bool:
    """Whether an exception of Django's is a lost connection to the database (PEP 249; PostgreSQL, appendix A)."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if "InterfaceError" in names:
        return True
    cause = getattr(error, "__cause__", None)
    state = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
    if state is None:
        # Nobody answered: the driver says so itself.
        return "OperationalError" in names
    return bool(LOST.match(state)) and (state != "XX000" or type(cause).__name__ == "InternalError_")


def changes(statement: object) -> bool:
    """Whether a statement may change rows. What is not understood may."""
    return not (isinstance(statement, str) and (READS.match(statement) or READS_WITH.match(statement)))
