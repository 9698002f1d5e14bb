"""What a rebuild refuses, names and scrubs, by its parts that need no host."""

import ast
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
from repository import ROOT, load

from controller.commands import rebuild

SITE = load(ROOT / "group_vars/all/site.yml")
# The tables that Django's own applications of the demo bring. Those that may hold something personal have all their columns here.
DJANGO = {
    "auth_user": {
        "id",
        "password",
        "last_login",
        "is_superuser",
        "username",
        "first_name",
        "last_name",
        "email",
        "is_staff",
        "is_active",
        "date_joined",
    },
    "django_admin_log": {
        "id",
        "action_time",
        "object_id",
        "object_repr",
        "action_flag",
        "change_message",
        "content_type_id",
        "user_id",
    },
    "django_session": {"session_key", "session_data", "expire_date"},
}


def environment(name: str = "staging", containers: bool = True, **more: pathlib.Path) -> types.SimpleNamespace:
    """An environment, as far as the pure parts look at it."""
    return types.SimpleNamespace(
        **{
            "name": name,
            "containers": containers,
            "make_args": f"ENV={name}",
            "backup": "backup1",
            "groups": {"app": ["app1", "app2"], "backup": ["backup1"]},
            **more,
        }
    )


def models() -> dict[str, set[str]]:
    """{table: its columns} of the demo, read off its models."""
    tables = dict(DJANGO)
    for path in (ROOT / "demo").glob("*/models.py"):
        for model in ast.parse(path.read_text()).body:
            if isinstance(model, ast.ClassDef) and any(ast.unparse(base) == "models.Model" for base in model.bases):
                fields = [
                    (ast.unparse(part.targets[0]), ast.unparse(part.value.func))
                    for part in model.body
                    if isinstance(part, ast.Assign)
                    and isinstance(part.value, ast.Call)
                    and ast.unparse(part.value.func).startswith("models.")
                ]
                tables[f"{path.parent.name}_{model.name.lower()}"] = {
                    "id",
                    *(name + "_id" * kind.endswith("ForeignKey") for name, kind in fields),
                }
    return tables


def test_every_rule_names_a_table_and_column_of_the_demo() -> None:
    known = models()
    assert "picture_width" in known["budget_story"] and "author_id" in known["budget_story"]
    rebuild.check_rules(SITE["site_scrub"])
    for rule in SITE["site_scrub"]:
        assert rule.get("column", "id") in known[rule["table"]] | {"id"}, rule


def test_every_text_about_a_user_is_scrubbed() -> None:
    scrubbed = {rule.get("column") for rule in SITE["site_scrub"] if rule["table"] == "auth_user"}
    assert {"username", "first_name", "last_name", "email", "password"} <= scrubbed


@pytest.mark.parametrize(
    "rules",
    [
        [],
        ["auth_user"],
        [{"table": "auth_user", "column": "email"}],
        [{"table": "auth_user", "value": "''"}],
        [{"column": "email", "value": "''"}],
        [{"table": "auth_user", "column": "email", "value": None}],
    ],
)
def test_invalid_rules_are_refused(rules: Any) -> None:
    with pytest.raises(rebuild.Refused, match="site_scrub"):
        rebuild.check_rules(rules)


@pytest.mark.parametrize(
    ("env", "other", "reason"),
    [
        (environment("production", containers=False), None, "never destroyed"),
        (environment("production", containers=False), environment("staging"), "never destroyed"),
        (environment("production"), environment("staging"), "from nobody but itself"),
        (environment("staging"), environment("staging"), "what would be destroyed"),
    ],
)
def test_environments_that_cannot_be_rebuilt_are_refused(
    env: types.SimpleNamespace, other: types.SimpleNamespace | None, reason: str
) -> None:
    with pytest.raises(rebuild.Refused, match=reason):
        rebuild.check_environments(env, other)


@pytest.mark.parametrize(
    ("env", "other"),
    [
        (environment("production"), None),
        (environment("staging"), environment("production")),
        (environment("local"), None),
    ],
)
def test_environments_that_can_be_rebuilt_are_accepted(
    env: types.SimpleNamespace, other: types.SimpleNamespace | None
) -> None:
    rebuild.check_environments(env, other)


def test_the_program_refuses_production() -> None:
    command = [
        sys.executable,
        "-m",
        "controller.commands.rebuild",
        "--inventory",
        ROOT / "inventories/production.yml",
        "--yes",
    ]
    done = subprocess.run(
        command, env=dict(os.environ, PYTHONPATH=str(ROOT)), capture_output=True, text=True, check=False
    )
    assert (
        done.returncode == 2
        and done.stderr.startswith("Nothing was touched. production is never destroyed.")
        and not done.stdout
    )


def test_a_rehearsal_is_rebuilt_from_a_rehearsal() -> None:
    command = [
        "make",
        "--no-print-directory",
        "--dry-run",
        "rebuild",
        "ENV=staging",
        "FROM=production",
        "REHEARSE=1",
        "YES=1",
    ]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert (
        "controller.commands.rebuild --inventory .state/staging-rehearsal/inventory/staging.yml --from .state/production-rehearsal/inventory/production.yml --yes"
        in output
    )


def test_real_hosts_have_to_be_bare() -> None:
    env = environment(containers=False)
    with pytest.raises(rebuild.Refused, match="app2, db1 of staging are not bare"):
        rebuild.check_bare(env, [], ["db1", "app2"])
    rebuild.check_bare(env, [], [])
    rebuild.check_bare(env, ["app2", "db1"], ["db1"])  # a rebuild that was cut off


def test_backups_need_the_vault(tmp_path: pathlib.Path) -> None:
    with pytest.raises(rebuild.Refused, match="nothing else opens its backups"):
        rebuild.check_vault(environment(vault=tmp_path / "vault.yml"))


def test_a_release_is_identified_by_the_manifest(tmp_path: pathlib.Path) -> None:
    other = environment("production")

    def answers(**hosts: tuple[str, str]) -> dict[str, Any]:
        return {name: {"rc": 0, "stdout": f"{version}\n{manifest}  -"} for name, (version, manifest) in hosts.items()}

    good = ("abc", hashlib.sha256(b"{}").hexdigest())
    with pytest.raises(rebuild.Refused, match="app2 of production did not tell"):
        rebuild.release_of(other, answers(app1=good), tmp_path, "shop")
    with pytest.raises(rebuild.Refused, match="different releases: make deploy ENV=production"):
        rebuild.release_of(other, answers(app1=good, app2=("def", "0")), tmp_path, "shop")
    with pytest.raises(
        rebuild.Refused, match="abc of production is not in .state/releases.* make deploy ENV=production"
    ):
        rebuild.release_of(other, answers(app1=good, app2=good), tmp_path, "shop")
    for part in rebuild.PARTS:
        (tmp_path / f"shop-abc{part}").write_text("{}")
    assert rebuild.release_of(other, answers(app1=good, app2=good), tmp_path, "shop") == "abc"
    with pytest.raises(rebuild.Refused, match="their manifests differ"):
        rebuild.release_of(other, answers(app1=("abc", "0"), app2=("abc", "0")), tmp_path, "shop")


@pytest.mark.parametrize(
    ("queried", "reason"),
    [
        ({"unreachable": True, "msg": "no route"}, "does not answer over SSH: docker start local-backup1"),
        ({"rc": 1, "stdout": "", "stderr": "plan: there is no backup"}, "backup1: plan: there is no backup"),
    ],
)
def test_a_rebuild_without_a_usable_backup_is_refused(queried: Any, reason: str) -> None:
    with pytest.raises(rebuild.Refused, match=reason):
        rebuild.plan_of(environment("local"), queried)


def test_the_announcement_names_hosts_and_lost_data() -> None:
    plan = {"backup": "2026-11-24 01:30:00+00", "uploads": 0, "archived": 1795500000, "gap": ""}
    text = "\n".join(rebuild.announcement(environment("local"), None, ["local-app1", "local-db1"], plan, (60, 15)))
    assert "local: local-app1, local-db1." in text and "backup1 stays" in text and "2026-11-24 01:30:00" in text
    assert (
        "at most 60 s" in text and "last 15 min" in text and rebuild.moment(1795500000) in text and "Beware" not in text
    )
    assert (
        "Beware: the archive lacks X"
        in rebuild.announcement(environment("local"), None, [], plan | {"gap": "X"}, (60, 15))[-1]
    )
    text = "\n".join(
        rebuild.announcement(environment(), environment("production"), ["staging-backup1"], None, (60, 15))
    )
    assert "staging-backup1" in text and "production's" in text and "scrubbed" in text


def test_every_rule_is_reported() -> None:
    rules = [{"table": "django_session"}, {"table": "auth_user", "column": "email", "value": "''"}]
    assert rebuild.scrubbed(rules, [3, 12]) == ["django_session emptied: 3 rows", "auth_user.email: 12 rows"]


def test_the_last_change_is_read_off_the_log() -> None:
    line = "123 LOG:  last completed transaction was at log time 2026-11-25 09:00:01.123456+00"
    assert rebuild.last_change({"stdout": line}) == "2026-11-25 09:00:01.123456+00"
    assert rebuild.last_change({"stdout": ""}) == ""


@pytest.fixture(name="staged")
def staged_fixture(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> Callable[..., Any]:
    """staged(scrub=…) rebuilds an environment whose every step is only written down; (exit code, the steps, Subject)."""

    def run(other: str | None = None, answers: dict[str, Any] | None = None, broken: str = "", **given: bool) -> Any:
        env = rebuild.Subject(ROOT / "inventories/local.yml")
        steps: list[tuple[str, tuple[str, ...]]] = []
        monkeypatch.setattr(rebuild.Subject, "note", tmp_path / "rebuild.json")
        monkeypatch.setattr(rebuild.Subject, "vault", ROOT / "README.md")
        plan = {"rc": 0, "stdout": '{"label": "1F", "backup": "then", "uploads": 1, "archived": 2, "gap": ""}'}
        scrub = {"backup": "then", "gap": "segment 1", "rows": [1] * len(SITE["site_scrub"])}
        results = {
            "plan": {"backup1": plan},
            "release": {},
            "came": {"db1": {"stdout": ""}},
            "scrub": {"backup1": {"rc": 0, "stdout": json.dumps(scrub)}},
        } | (answers or {})

        def ask(_self: Any, tag: str) -> Any:
            steps.append((tag, ()))
            return results[tag]

        def step(what: str, *args: str, **_how: bool) -> int | None:
            steps.append((what, args))
            if what == broken:
                raise rebuild.Failed(what)
            return 0

        monkeypatch.setattr(rebuild.Subject, "ask", ask)
        monkeypatch.setattr(rebuild.Subject, "tier_backup", "ssh there tier-backup")
        monkeypatch.setattr(rebuild, "step", step)
        monkeypatch.setattr(rebuild, "standing", lambda env, kept: ["test-app1"] + ["test-backup1"] * (not kept))
        monkeypatch.setattr(rebuild, "release_of", lambda *_what, **_more: "v1")
        monkeypatch.setattr(rebuild.lock, "take", lambda *_what: ({}, ""))
        monkeypatch.setattr("builtins.input", lambda _prompt: "no")
        arguments = types.SimpleNamespace(**{"yes": True, "check": False, "extra_vars": []} | given)
        code: int | rebuild.Refused | rebuild.Failed
        try:
            code = rebuild.rebuild(
                env, other and rebuild.Subject(ROOT / f"inventories/{other}.yml", other=True), arguments
            )
        except (rebuild.Refused, rebuild.Failed) as reason:
            code = reason
        return code, steps, env

    return run


def variables(steps: list[Any]) -> Any:
    """What the converge is told."""
    args = dict(steps)["converge"]
    return json.loads(args[args.index("-e") + 1])


def test_steps_of_a_rebuild_from_own_backups(staged: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    code, steps, env = staged()
    assert code == 0 and [what for what, _args in steps] == ["plan", "destroy", "boot", "converge", "came", "smoke"]
    assert json.loads(dict(steps)["destroy"][-1]) == {"platform_kept": ["backup1"]}
    assert variables(steps) == {"backup_bootstrap": ["--set=1F", "--type=default"]}
    assert not env.note.exists() and "lost      what was written after the last WAL" in capsys.readouterr().out


def test_steps_of_a_rebuild_from_another_environment(
    staged: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    code, steps, _env = staged(other="staging")
    assert code == 0 and [what for what, _args in steps] == [
        "release",
        "scrub",
        "destroy",
        "boot",
        "converge",
        "smoke",
        "parity",
    ]
    assert json.loads(dict(steps)["destroy"][-1]) == {"platform_kept": []}
    assert variables(steps) == {"backup_taken_from": "ssh there tier-backup", "django_version": "v1"}
    output = capsys.readouterr().out
    assert "auth_user.email: 1 rows" in output and "the archive lacks segment 1" in output


@pytest.mark.parametrize(
    "given",
    [
        {"yes": False},
        {"check": True},
        {"other": "staging", "answers": {"scrub": {"backup1": {"rc": 1, "stderr": "no auth_user.emial"}}}},
    ],
    ids=["no yes", "a dry run", "a rule that names nothing"],
)
def test_a_dry_run_or_refusal_destroys_no_hosts(staged: Callable[..., Any], given: Any) -> None:
    code, steps, env = staged(**given)
    assert code == 0 if "check" in given else "no " in str(code)
    assert not {"destroy", "boot", "converge"} & {what for what, _args in steps} and not env.note.exists()


def test_an_interrupted_rebuild_is_recorded(staged: Callable[..., Any]) -> None:
    code, _steps, env = staged(broken="converge")
    assert isinstance(code, rebuild.Failed) and json.loads(env.note.read_text()) == list(env.listed.lines)
