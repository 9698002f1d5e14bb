"""The page of `make releases`."""

import json
import pathlib

from ansible.module_utils import release_log

from controller.commands import releases


def answer(release: str, *entries: dict[str, str]) -> dict[str, str]:
    """What a host answers: what it serves, and its ledger."""
    return {"stdout": "\n".join([f"releases/{release}", *(json.dumps(e) for e in entries)])}


def entry(when: int, release: str, result: str, verb: str = "deploy") -> dict[str, str]:
    return {
        "when": f"2026-01-01T00:00:{when:02}Z",
        "who": "ann@desk",
        "verb": verb,
        "release": release,
        "result": result,
    }


def test_entries_are_merged_in_order_of_time_without_duplicates() -> None:
    first, second = entry(1, "a", "live"), entry(2, "b", "live", "rollback")
    text, agreed = releases.page({"app1": answer("b", first, second), "app2": answer("b", first, second)})
    assert agreed
    assert [line.split()[2:] for line in text.splitlines() if "ann@desk" in line] == [
        ["deploy", "a", "live"],
        ["rollback", "b", "live"],
    ]


def test_a_begun_rollout_is_shown_until_the_end() -> None:
    begun, live = entry(1, "a", "begun"), entry(2, "a", "live")
    assert "begun" not in releases.page({"app1": answer("a", begun, live)})[0]
    assert "cut off, or under way: make deploy finishes it" in releases.page({"app1": answer("a", begun)})[0]
    assert releases.rows([begun, entry(2, "b", "live")])[1][-1] == "cut off"


def test_different_releases_and_silent_hosts_fail() -> None:
    assert not releases.page({"app1": answer("a"), "app2": answer("b")})[1]
    text, agreed = releases.page({"app1": answer("a"), "app2": {"unreachable": True}})
    assert not agreed and "app2 does not answer" in text


def test_a_host_reports_the_current_release_and_the_log(tmp_path: pathlib.Path) -> None:
    log = tmp_path / "releases.jsonl"
    assert release_log.read(tmp_path, log)["stdout"].split() == ["none"]
    (tmp_path / "current").symlink_to("releases/a")
    log.write_text(json.dumps(entry(1, "a", "live")) + "\n")
    assert releases.entries({"app1": release_log.read(tmp_path, log)}) == ([entry(1, "a", "live")], {"app1": "a"})
