"""Jobs: the program that runs a command, what a host tells of its jobs, and what make manage and make jobs print of them."""

import datetime
import io
import json
import pathlib
import re
import signal
import subprocess
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ansible.module_utils import site_jobs, snapshot_services
from repository import program

from controller import lock, query
from controller.commands import jobs, manage
from controller.environment import Environment, Host, Rendered
from controller.environment.login import Login
from controller.errors import Refused

site_job = program("roles/site_jobs/files/site-job")
TEST = Environment(pathlib.Path("inventories/test.yml"))
JOB = "20260101-000000-00ff"
DESCRIBED = {
    "id": JOB,
    "argv": ["stock", "a b"],
    "who": "ann@desk",
    "release": "/srv/shop/releases/v1",
    "started": 100.0,
}


def job_with(**changes: Any) -> dict[str, Any]:
    """A job as a host tells it."""
    return DESCRIBED | {"state": "succeeded", "seconds": 3, "exit": 0, "signal": None} | changes


# ---------------------------------------------------------------- the program on the host


@pytest.fixture(name="run")
def run_fixture(tmp_path: pathlib.Path) -> Iterator[Callable[[str], tuple[int, bytes, bytes]]]:
    """run(script) is (exit status, output, journal) of a job whose manage is that script."""
    handler = signal.getsignal(signal.SIGTERM)

    def run(script: str) -> tuple[int, bytes, bytes]:
        (tmp_path / "job.json").write_text(json.dumps(DESCRIBED))
        (tmp_path / "manage").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "manage").chmod(0o755)
        output, journal = io.BytesIO(), io.BytesIO()
        code = site_job.run(tmp_path, output, journal, str(tmp_path / "manage"))
        return code, output.getvalue(), journal.getvalue()

    yield run
    signal.signal(signal.SIGTERM, handler)


def test_a_command_gets_arguments_and_release_without_a_shell(
    run: Callable[[str], tuple[int, bytes, bytes]],
) -> None:
    code, output, journal = run('printf "%s|" "$@" "$RELEASE"; echo error >&2; exit 3')
    assert (code, output) == (3, b"stock|a b|/srv/shop/releases/v1|error\n")
    assert journal.decode().splitlines() == [
        f"{JOB} ann@desk runs stock 'a b'",
        f"{JOB} stock|a b|/srv/shop/releases/v1|error",
    ]


def test_the_signal_that_ended_a_command_is_returned(run: Callable[[str], tuple[int, bytes, bytes]]) -> None:
    assert run("kill -KILL $$")[0] == -signal.SIGKILL


def test_a_command_has_no_standard_input(run: Callable[[str], tuple[int, bytes, bytes]]) -> None:
    assert run("cat; echo end")[1] == b"end\n"


@pytest.mark.parametrize(
    ("chunks", "lines"),
    [
        ([b"a\nb", b"c\n\nd"], [b"a", b"bc", b"", b"d"]),
        ([b"x" * 5000 + b"\n"], [b"x" * 2048, b"x" * 2048, b"x" * 904]),
        ([b"x" * 3000, b"y\n"], [b"x" * 2048, b"x" * 952 + b"y"]),
        ([], []),
    ],
)
def test_output_is_split_into_lines(chunks: list[bytes], lines: list[bytes]) -> None:
    assert list(site_job.lines(iter(chunks))) == lines


def test_output_is_kept_up_to_a_limit(tmp_path: pathlib.Path) -> None:
    (tmp_path / "source").write_bytes(b"1234\n5678\n")
    output, journal = io.BytesIO(), io.BytesIO()
    with open(tmp_path / "source", "rb") as source:
        site_job.copy(source, output, journal, JOB, most=6)
    assert output.getvalue().startswith(b"1234\n5\n[the rest")
    assert journal.getvalue() == f"{JOB} 1234\n{JOB} 5678\n".encode()


@pytest.mark.parametrize(
    ("service", "code", "status", "state"),
    [
        ("success", "exited", "0", "succeeded"),
        ("exit-code", "exited", "3", "failed"),
        ("signal", "killed", "KILL", "killed"),
        ("success", "killed", "TERM", "stopped"),
        ("timeout", "killed", "TERM", "timed-out"),
        ("oom-kill", "killed", "KILL", "out-of-memory"),
        ("resources", "", "", "failed"),
    ],
)
def test_the_end_that_systemd_reports_is_a_state(
    tmp_path: pathlib.Path, service: str, code: str, status: str, state: str
) -> None:
    words = {"SERVICE_RESULT": service, "EXIT_CODE": code, "EXIT_STATUS": status}
    site_job.end(tmp_path, site_job.result(words, 103.0))
    (tmp_path / "job.json").write_text(json.dumps(DESCRIBED))
    described = site_jobs.described(tmp_path, set())
    assert described == job_with(
        state=state,
        exit=int(status) if code == "exited" else None,
        signal=status if code == "killed" else None,
    )


# ---------------------------------------------------------------- a host and its jobs


@pytest.fixture(name="systemctl")
def systemctl_fixture(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """What systemctl was called with (calls), the ids of the units it lists (units), and its exit status (code)."""
    stand_in = types.SimpleNamespace(calls=[], units=[], code=0)

    def systemctl(*arguments: str) -> subprocess.CompletedProcess[str]:
        stand_in.calls.append(arguments)
        rows = "".join(f"site-job@{job}.service loaded active running Job\n" for job in stand_in.units)
        return subprocess.CompletedProcess(arguments, stand_in.code, rows, "Unit is masked.\n")

    monkeypatch.setattr(site_jobs, "systemctl", systemctl)
    return stand_in


@pytest.fixture(name="begin")
def begin_fixture(tmp_path: pathlib.Path, systemctl: types.SimpleNamespace) -> Callable[[], dict[str, Any]]:
    """begin() starts a job in tmp_path/jobs, of the site in tmp_path."""
    (tmp_path / "current").symlink_to("releases/v1")
    (tmp_path / "jobs").mkdir()
    return lambda: site_jobs.start(str(tmp_path / "jobs"), str(tmp_path), JOB, ["stock"], "ann@desk")


def test_a_started_job_is_listed_as_running_with_the_release_in_use(
    tmp_path: pathlib.Path, systemctl: types.SimpleNamespace, begin: Callable[[], dict[str, Any]]
) -> None:
    assert begin() == {"started": True, "msg": ""}
    assert systemctl.calls == [("start", f"site-job@{JOB}.service")]
    systemctl.units = [JOB]
    listed = site_jobs.listing(str(tmp_path / "jobs"))
    assert listed["ready"] and [(job["id"], job["state"]) for job in listed["jobs"]] == [(JOB, "running")]
    assert site_jobs.releases_in_use(str(tmp_path / "jobs")) == {"v1"}
    systemctl.units = []
    assert site_jobs.find(str(tmp_path / "jobs"), JOB)["job"]["state"] == "lost"


def test_a_running_job_is_no_difference_between_hosts() -> None:
    shown = f"Id=site-job@{JOB}.service\nLoadState=loaded\nActiveState=active\nUnitFileState=static\n"
    assert snapshot_services.units("site-job@.service static -", shown) == {"site-job@.service": "static"}


def test_a_job_that_systemd_refuses_leaves_nothing(
    tmp_path: pathlib.Path, systemctl: types.SimpleNamespace, begin: Callable[[], dict[str, Any]]
) -> None:
    systemctl.code = 1
    assert begin() == {"started": False, "msg": "Unit is masked."}
    assert list((tmp_path / "jobs").iterdir()) == []


def test_a_job_needs_a_release(tmp_path: pathlib.Path, begin: Callable[[], dict[str, Any]]) -> None:
    (tmp_path / "current").unlink()
    assert begin() == {"started": False, "msg": "there is no release yet: make deploy"}


def test_a_host_without_the_directory_of_jobs_is_not_ready(
    tmp_path: pathlib.Path, systemctl: types.SimpleNamespace
) -> None:
    assert site_jobs.listing(str(tmp_path / "none")) == {"ready": False, "jobs": []}
    assert site_jobs.releases_in_use(str(tmp_path / "none")) == set()


def test_output_is_followed_in_bytes_until_the_end(
    tmp_path: pathlib.Path, systemctl: types.SimpleNamespace, begin: Callable[[], dict[str, Any]]
) -> None:
    begin()
    directory, systemctl.units = str(tmp_path / "jobs"), [JOB]
    output = tmp_path / "jobs" / JOB / "output"
    written = "1 €".encode()
    output.write_bytes(written[:3])  # half a character
    first = site_jobs.follow(directory, JOB, 0, 5)
    assert first["offset"] == 3 and first["job"]["state"] == "running"
    assert site_jobs.follow(directory, JOB, 3, 0)["text"] == ""
    output.write_bytes(written)
    site_job.end(tmp_path / "jobs" / JOB, {"result": "success", "exit": 0, "signal": None, "ended": 1.0})
    last = site_jobs.follow(directory, JOB, 3, 5)
    assert last["job"]["state"] == "succeeded"
    assert (first["text"] + last["text"]).encode("utf-8", "surrogateescape") == written
    assert site_jobs.follow(directory, "20260101-000000-0000", 0, 5)["job"] is None


def test_only_a_running_job_is_stopped(
    tmp_path: pathlib.Path, systemctl: types.SimpleNamespace, begin: Callable[[], dict[str, Any]]
) -> None:
    begin()
    assert site_jobs.stop(str(tmp_path / "jobs"), JOB)["job"]["state"] == "lost"
    systemctl.units = [JOB]
    assert site_jobs.stop(str(tmp_path / "jobs"), JOB)["job"]["state"] == "running"
    assert [call for call in systemctl.calls if call[0] == "stop"] == [
        ("stop", "--no-block", f"site-job@{JOB}.service")
    ]


# ---------------------------------------------------------------- make manage, make jobs


@pytest.fixture(name="hosts")
def hosts_fixture(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[str, str, dict[str, Any]]]]:
    """hosts(function=[results, one after the other], …) are two app hosts that return these; the list of (function, host, arguments) that were asked."""

    def described(**results: list[dict[str, Any]]) -> list[tuple[str, str, dict[str, Any]]]:
        asked: list[tuple[str, str, dict[str, Any]]] = []

        def ask(
            _environment: Environment, _modules: dict[str, str], function: str, wanted: dict[str, dict[str, Any]]
        ) -> dict[str, dict[str, Any]]:
            asked.extend((function, host, given) for host, given in wanted.items())
            return {host: results[function].pop(0) for host in wanted}

        facts = {"status_facts": {"site_jobs_dir": "/jobs", "site_root": "/srv/shop"}}
        known = {name: Host(name, Login(address=name), facts) for name in ("app1", "app2")}
        monkeypatch.setattr(Environment, "rendered", Rendered(known, {"app": ["app1", "app2"]}))
        monkeypatch.setattr(query, "ask", ask)
        monkeypatch.setattr(lock, "take", lambda *_given: ({}, ""))
        monkeypatch.setattr(signal, "signal", lambda *_given: None)
        return asked

    return described


SILENT = {"failed": True, "unreachable": True, "msg": "off"}


def test_a_command_is_split_as_a_shell_does() -> None:
    assert manage.split_command("""loaddata 'a b.json' --database="x y" $HOME""") == [
        "loaddata",
        "a b.json",
        "--database=x y",
        "$HOME",
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("shell -c 'print(1)", "No closing quotation"),
        ("", "Which command"),
        ("python manage.py migrate", "without python"),
        ("./manage.py migrate", "without ./manage.py"),
    ],
)
def test_a_command_that_cannot_be_run_is_refused(text: str, reason: str) -> None:
    with pytest.raises(Refused, match=re.escape(reason)):
        manage.split_command(text)


def test_ids_are_in_the_order_of_time() -> None:
    first = manage.new_id(datetime.datetime(2026, 1, 1, 9, tzinfo=datetime.UTC))
    assert first < manage.new_id(datetime.datetime(2026, 1, 1, 10, tzinfo=datetime.UTC))
    assert jobs.number(first) == first


def test_the_first_host_that_answers_runs_the_command(hosts: Callable[..., Any]) -> None:
    hosts(listing=[SILENT, {"ready": True, "jobs": []}])
    assert manage.host_for(TEST, "") == "app2"


@pytest.mark.parametrize(
    ("wanted", "answer", "reason"),
    [
        ("app9", {}, "HOST=app9 is no app host: app1, app2; did you mean 'app2'?"),
        ("app1", SILENT, "app1 does not answer over SSH"),
        ("app1", {"ready": False, "jobs": []}, "app1 has no jobs yet: make converge ENV=test"),
    ],
)
def test_a_host_that_runs_no_jobs_is_refused(
    hosts: Callable[..., Any], wanted: str, answer: dict[str, Any], reason: str
) -> None:
    hosts(listing=[answer])
    with pytest.raises(Refused, match=re.escape(reason)):
        manage.host_for(TEST, wanted)


def test_a_job_is_started_under_the_lock(hosts: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = hosts(start=[{"started": True, "msg": ""}])
    job = manage.start(TEST, "app2", ["stock", "a b"])
    ((function, host, given),) = asked
    assert (function, host, given["job"], given["argv"], given["root"]) == (
        "start",
        "app2",
        job,
        ["stock", "a b"],
        "/srv/shop",
    )
    monkeypatch.setattr(lock, "take", lambda *_given: ({}, "bob@desk (make reboot) is changing this environment"))
    with pytest.raises(Refused, match="bob@desk"):
        manage.start(TEST, "app2", ["stock"])
    assert len(asked) == 1


def test_a_job_that_did_not_start_or_may_have_is_reported(hosts: Callable[..., Any]) -> None:
    hosts(start=[{"started": False, "msg": "there is no release yet: make deploy"}, SILENT])
    with pytest.raises(Refused, match="there is no release yet"):
        manage.start(TEST, "app1", ["stock"])
    with pytest.raises(SystemExit, match="Whether the job began: make jobs ENV=test ID="):
        manage.start(TEST, "app1", ["stock"])


def test_a_job_is_followed_until_the_end_also_after_a_silence(
    hosts: Callable[..., Any], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    answers = [
        {"job": job_with(state="running", exit=None), "text": "a\udce2", "offset": 2},
        SILENT,
        {"job": job_with(state="failed", exit=4), "text": "\udc82\udcac\n", "offset": 5},
        {"job": job_with(state="failed", exit=4), "text": "", "offset": 5},
    ]
    asked = hosts(follow=answers)
    assert jobs.follow(TEST, "app1", JOB) == 4
    printed = capfdbinary.readouterr()
    assert printed.out.decode() == "a€\n"
    assert printed.err.decode() == f"{JOB} on app1: failed after 3 s (exit status 4)\n"
    assert [given["offset"] for _function, _host, given in asked] == [0, 2, 2, 5]


def test_a_host_that_stays_silent_ends_the_following(
    hosts: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    hosts(follow=[SILENT] * jobs.TRIES)
    assert jobs.follow(TEST, "app1", JOB) == 1
    assert f"make jobs ENV=test ID={JOB}" in capsys.readouterr().err


def test_a_job_is_searched_on_every_app_host(hosts: Callable[..., Any]) -> None:
    hosts(find=[{"job": None}, {"job": job_with()}, {"job": None}, SILENT])
    assert jobs.find(TEST, JOB) == ("app2", job_with())
    with pytest.raises(Refused, match=f"No app host has a job {JOB}; app2 does not answer over SSH"):
        jobs.find(TEST, JOB)
    with pytest.raises(Refused, match="x is no id of a job"):
        jobs.find(TEST, "x")


def test_jobs_are_listed_in_the_order_of_time_with_silent_hosts() -> None:
    later = job_with(id="20260102-000000-0001", state="out-of-memory", exit=None, signal="KILL")
    text, silent = jobs.page({"app1": {"jobs": [later]}, "app2": {"jobs": [job_with()]}, "app3": SILENT})
    assert [line.split() for line in text] == [
        ["id", "host", "state", "started", "(UTC)", "seconds", "exit", "who", "command"],
        [JOB, "app2", "succeeded", "1970-01-01", "00:01:40", "3", "0", "ann@desk", "stock", "'a", "b'"],
        [later["id"], "app1", "out-of-memory", "1970-01-01", "00:01:40", "3", "KILL", "ann@desk", "stock", "'a", "b'"],
    ]
    assert silent == ["app3 does not answer over SSH"]
    assert jobs.page({"app1": {"jobs": []}}) == (["  no job yet: make manage CMD='…' runs one"], [])
