"""What a site may declare of its database, and what is refused before a host is touched."""

from typing import Any

import pytest
import yaml
from repository import ROOT

from plugins.filter import site_database

DECLARED = yaml.safe_load((ROOT / "group_vars/all/databases.yml").read_text())
KNOWN: dict[str, str] = DECLARED["db_extensions"]
REFUSED: list[str] = DECLARED["db_extensions_refused"]


def problems(extensions: Any) -> list[str]:
    return site_database.extension_problems(extensions, KNOWN, REFUSED, "17")


def test_extensions_are_names_or_names_with_their_package() -> None:
    extensions = ["pg_trgm", {"name": "numeral", "package": "postgresql-17-numeral"}, "uuid-ossp"]
    assert problems(extensions) == [] and problems([]) == []
    assert site_database.extension_names(extensions) == ["pg_trgm", "numeral", "uuid-ossp"]


def test_extensions_bring_their_packages_once() -> None:
    known = {"citext": "", "postgis": "gis", "postgis_raster": "gis"}
    extensions = ["citext", "postgis_raster", "postgis", {"name": "numeral", "package": "a-package"}]
    assert site_database.extension_packages(extensions, known) == ["a-package", "gis"]


@pytest.mark.parametrize(
    ("extensions", "message"),
    [
        ("pg_trgm", "must be a list"),
        (["pg_trigram"], "package: postgresql-17-pg-trigram}"),
        (["timescaledb"], "shared_preload_libraries"),
        ([{"name": "pg_cron", "package": "postgresql-17-cron"}], "shared_preload_libraries"),
        ([{"name": "numeral"}], "name and package"),
        ([17], "name and package"),
        (["postgis; drop"], "no name of an extension"),
        ([{"name": "numeral", "package": "a b"}], "no name of a Debian package"),
    ],
)
def test_wrong_extensions_are_refused_and_bring_no_package(extensions: Any, message: str) -> None:
    [problem] = problems(extensions)
    assert message in problem
    site_database.extension_packages(extensions, KNOWN)  # packages are read before the refusal


def test_no_extension_is_both_known_and_refused() -> None:
    assert not set(KNOWN) & set(REFUSED)
    assert list(KNOWN) == sorted(KNOWN) and REFUSED == sorted(REFUSED)


RULE = {"table": "django_session", "column": "expire_date", "keep": "0 days"}
SITE = yaml.safe_load((ROOT / "group_vars/all/site.yml").read_text())


@pytest.mark.parametrize(
    "rules",
    [
        [],
        SITE["site_retention"],
        [RULE | {"table": "archive.Visits", "keep": "1 month", "batch": 5, "if_exists": False}],
    ],
)
def test_good_rules_of_retention_have_no_problem(rules: Any) -> None:
    assert site_database.retention_problems(rules) == []


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (RULE, "must be a list"),
        (["django_session"], "must have column, keep, table"),
        ([{"table": "visits"}], "must have column, keep, table"),
        ([RULE | {"where": "true"}], "may have batch, if_exists"),
        ([RULE | {"table": 'visits"; drop table "visits'}], "no name of a table"),
        ([RULE | {"table": "a.b.c"}], "no name of a table"),
        ([RULE | {"column": "day\n"}], "no name of a column"),
        ([RULE | {"keep": 14}], "keep 14 is no time"),
        ([RULE | {"keep": "-1 days"}], "is no time"),
        ([RULE | {"batch": 0}], "batch 0 must be"),
        ([RULE | {"batch": True}], "batch True must be"),
        ([RULE | {"if_exists": "yes"}], "if_exists must be"),
    ],
)
def test_wrong_rules_of_retention_are_refused(rules: Any, message: str) -> None:
    [problem] = site_database.retention_problems(rules)
    assert message in problem
