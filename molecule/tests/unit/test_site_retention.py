"""Old rows are removed batch by batch, on the primary alone; wrong rules are errors with their reason."""

import json
import pathlib
import types
from typing import Any
from unittest import mock

import pytest
from repository import program

RULE = {"table": "visits", "column": "day", "keep": "14 days", "batch": 100}


class Error(Exception):
    """psycopg2.Error, without the driver."""


class OperationalError(Error):
    """The connection, a lock or the server."""


class QueryCanceled(OperationalError):
    """The limit of a statement."""


def driver() -> dict[str, Any]:
    """{name: module} in place of psycopg2."""
    errors, sql = types.ModuleType("psycopg2.errors"), types.ModuleType("psycopg2.sql")
    vars(errors).update(QueryCanceled=QueryCanceled)
    vars(sql).update(Identifier=mock.MagicMock(), SQL=mock.MagicMock())
    whole = types.ModuleType("psycopg2")
    vars(whole).update(
        errors=errors,
        sql=sql,
        Error=Error,
        OperationalError=OperationalError,
        InterfaceError=type("Gone", (Error,), {}),
    )
    return {"psycopg2": whole, "psycopg2.errors": errors, "psycopg2.sql": sql}


retention = program("roles/retention/files/site-retention", **driver())


class Database:
    """A connection and its cursor. described: the table; removed: rows of each batch, or the error that it raises."""

    def __init__(self, described: Any = ("r", "date"), removed: Any = (), standby: bool = False) -> None:
        self.answers, self.removed, self.rowcount, self.batches = [described, ("then",)], list(removed), 0, 0
        self.standby, self.autocommit = standby, False

    def cursor(self) -> "Database":
        return self

    def __enter__(self) -> "Database":
        return self

    def __exit__(self, *_error: object) -> None:
        """Nothing is kept open."""

    def close(self) -> None:
        """Nothing is kept open."""

    def execute(self, statement: Any, values: Any = None) -> None:
        if statement == "select pg_is_in_recovery()":
            self.answers.insert(0, (self.standby,))
        elif values and values[0] == "then":
            self.batches += 1
            assert values[1] == RULE["batch"] and self.autocommit
            removed = self.removed.pop(0)
            if isinstance(removed, Exception):
                raise removed
            self.rowcount = removed

    def fetchone(self) -> Any:
        return self.answers.pop(0)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between batches, which take no time."""
    pauses: list[float] = []
    monkeypatch.setattr(retention.time, "sleep", pauses.append)
    return pauses


def run(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, database: Any, **changes: Any) -> int:
    """The exit code of a run with one rule. An error in place of the database is the answer to the connection."""
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"database": "shop", "port": 5432, "rules": [RULE | changes]}))
    monkeypatch.setattr(retention, "CONFIG", config)
    monkeypatch.setattr(retention.psycopg2, "connect", mock.Mock(side_effect=[database]), raising=False)
    code: int = retention.main()
    return code


def test_the_last_batch_is_smaller(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, no_pause: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    database = Database(removed=[100, 100, 7])
    assert run(monkeypatch, tmp_path, database) == 0
    assert database.batches == 3 and len(no_pause) == 2 and min(no_pause) >= retention.PAUSE_S
    assert capsys.readouterr().out.startswith("visits: 207 rows removed in 0.0 s\n")


def test_a_standby_removes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    database = Database(standby=True)
    assert run(monkeypatch, tmp_path, database) == 0 and database.batches == 0


@pytest.mark.parametrize(
    ("described", "message"),
    [
        (None, "no such table"),
        (("p", "date"), "no ordinary table"),
        (("r", None), "no column day"),
        (("r", "integer"), "type integer"),
    ],
)
def test_rules_of_other_tables_and_columns_fail_with_a_reason(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    described: Any,
    message: str,
) -> None:
    database = Database(described)
    assert run(monkeypatch, tmp_path, database) == 1 and database.batches == 0
    assert message in capsys.readouterr().out


def test_a_missing_table_is_no_failure_with_if_exists(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    assert run(monkeypatch, tmp_path, Database(None), if_exists=True) == 0


@pytest.mark.parametrize(
    ("error", "code"), [(OperationalError("a lock"), 75), (QueryCanceled("a limit"), 1), (Error("a key"), 1)]
)
def test_errors_say_whether_another_run_may_succeed(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    code: int,
) -> None:
    assert run(monkeypatch, tmp_path, Database(removed=[100, error])) == code
    assert f"visits: 100 rows removed in 0.0 s; error: {error}\n" == capsys.readouterr().out


def test_a_database_that_is_down_is_tried_again(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    assert run(monkeypatch, tmp_path, OperationalError("no server")) == 75
