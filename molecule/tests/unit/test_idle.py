"""The arithmetic of what a standing tier takes."""

import idle


def test_processor_time_of_units_between_two_measurements() -> None:
    before = idle.used(
        ". 1000\ninit.scope 100\nsystem.slice 500\nsystem.slice/a.service/ 200\nsystem.slice/gone.service/ 50\n"
    )
    after = idle.used(
        ". 9000\ninit.scope 1100\nsystem.slice 6500\nsystem.slice/a.service/ 2200\nsystem.slice/new.service/ 70\n"
    )
    assert idle.spent(before, after, 2.0) == {"init.scope": 0.5, "a.service": 1.0, "(ended)": 2.0}


def test_processor_time_of_ended_units_is_read_from_the_journal() -> None:
    journal = (
        "a.service: Consumed 1min 2.5s CPU time, 3M memory peak.\nStarted b.\na.service: Consumed 500ms CPU time.\n"
    )
    assert idle.ended(journal) == {"a.service": 63.0}


def test_sums_exclude_ssh_and_count_each_unit_only_once() -> None:
    drawn = idle.table(
        {"app1": {"ssh.service": 9.0, "x.service": 1.0, "(ended)": 2.0, "  y.service": 1.5}, "db1": {"x.service": 3.0}}
    )
    lines = [line.split() for line in drawn.splitlines()]
    assert lines[0] == ["unit", "app1", "db1", "sum"]
    assert lines[1] == ["ssh.service", "9.0", "9.0"] and ["x.service", "1.0", "3.0", "4.0"] in lines
    assert lines[-1] == ["all", "but", "ssh.service", "3.0", "3.0", "6.0"]
