"""The runner of `make test`: its plan, what it does with a step that fails or hangs, and what it measures and says."""

import itertools
import json
import pathlib
import random
import sys
import threading
import time
from collections.abc import Callable, Collection
from typing import Any

import execution
import plan
import pytest
import steps
import summary
import usage
from repository import ROOT

DECLARED = steps.load()
PROCESSORS = 2.0


def step(
    name: str,
    seconds: float = 10.0,
    cores: float = 1.0,
    after: Collection[str] = (),
    quiet: bool = False,
    **environments: str,
) -> plan.Step:
    """A step that uses some environments."""
    return plan.Step(name, environments, frozenset(after), quiet, seconds, cores)


def invented(seed: int) -> list[plan.Step]:
    """Some steps of all kinds, drawn by a seed."""
    draw = random.Random(seed)
    drawn: list[plan.Step] = []
    for number in range(draw.randint(1, 9)):
        environments = {name: draw.choice(plan.USES) for name in draw.sample(["red", "green"], draw.randint(0, 2))}
        after = [other.name for other in drawn if draw.random() < 0.2]
        drawn.append(
            step(
                f"s{number}",
                draw.randint(1, 90),
                draw.choice([0.1, 0.5, 1.0, 1.6, 3.0]),
                after,
                draw.random() < 0.2,
                **environments,
            )
        )
    return drawn


def together(slots: list[plan.Slot]) -> list[tuple[plan.Slot, plan.Slot]]:
    """Pairs of slots that overlap."""
    return [
        (first, second)
        for first, second in itertools.combinations(slots, 2)
        if min(first.end, second.end) - max(first.start, second.start) > 1e-6
    ]


@pytest.mark.parametrize(
    "some", [list(DECLARED.values()), *map(invented, range(20))], ids=lambda some: f"{len(some)}-steps"
)
def test_a_plan_runs_every_step_and_respects_dependencies(some: list[plan.Step]) -> None:
    slots = plan.simulated(plan.ordered(some, PROCESSORS), PROCESSORS)
    by_name, ends = {wanted.name: wanted for wanted in some}, {slot.name: slot.end for slot in slots}
    assert sorted(slot.name for slot in slots) == sorted(by_name)
    assert all(slot.end - slot.start >= by_name[slot.name].seconds - 1e-6 for slot in slots)
    assert all(ends[before] <= slot.start for slot in slots for before in by_name[slot.name].after)
    for pair in together(slots):
        first, second = (by_name[slot.name] for slot in pair)
        assert not any(
            "alone" in (use, second.environments[name])
            for name, use in first.environments.items()
            if name in second.environments
        ), pair
        assert not (first.quiet and second.cores > plan.LIGHT or second.quiet and first.cores > plan.LIGHT), pair
    for slot in slots:
        beside = [by_name[other.name] for other in slots if other.start <= slot.start < other.end - 1e-6]
        assert len(beside) == 1 or sum(other.cores for other in beside) <= PROCESSORS * plan.OVERLAP + 1e-6
    # Something runs at every moment, and each link of the chain begins when the one before it ends.
    assert sum(slot.seconds for slot in plan.chain(slots)) == pytest.approx(plan.total(slots))
    assert plan.total(slots) >= max(plan.bounds(some, PROCESSORS).values()) - 1e-6


def test_staging_follows_all_steps_that_change_production() -> None:
    changing = {name for name, row in DECLARED.items() if row.environments.get("production") == "alone"} - {"rehearsal"}
    assert {"default", "drills", "replaced"} < changing <= DECLARED["rehearsal"].after
    assert DECLARED["parity"].after == {"rehearsal"}


def test_waiting_steps_run_beside_working_steps() -> None:
    some = [
        step("watch", 100, 0.4, red="alone"),
        step("break", 100, 1.5, red="alone"),
        step("build", 90, 1.6, green="alone"),
    ]
    slots = {slot.name: slot for slot in plan.simulated(plan.ordered(some, PROCESSORS), PROCESSORS)}
    assert slots["build"].start == slots["watch"].start and plan.total(list(slots.values())) == 200


def test_a_step_that_waits_for_processors_is_not_overtaken() -> None:
    wide, narrow, later = step("wide", cores=1.8), step("narrow", cores=0.4), step("later", after=["wide"])
    assert plan.beginning([wide, narrow], [], set(), PROCESSORS) == [wide, narrow]
    assert plan.beginning([wide, narrow], [step("busy")], set(), PROCESSORS) == []
    assert plan.beginning([narrow, wide], [step("busy")], set(), PROCESSORS) == [narrow]
    assert plan.beginning([later, narrow], [step("busy")], set(), PROCESSORS) == [narrow]


def test_a_step_waits_where_a_longer_chain_would_be_delayed() -> None:
    some = [
        step("boot", 10, 0.5, red="alone"),
        step("default", 300, 1.6, ["boot"], red="alone"),
        step("lint", 90, 1.0),
        step("watch", 200, 0.5, ["default"], red="alone"),
    ]
    assert plan.total(plan.simulated(plan.ordered(some, PROCESSORS), PROCESSORS)) == 510


def test_steps_that_want_more_processors_than_there_are_slow_down() -> None:
    slots = plan.simulated([step("one", 90, 1.0), step("other", 45, 1.2)], PROCESSORS)
    assert [round(slot.end, 1) for slot in slots] == [94.5, 49.5]


def test_the_chain_names_the_reason_of_every_wait() -> None:
    some = [step("a", 30, red="alone"), step("b", 20, red="alone"), step("c", 10, 0.1, ["b"])]
    chain = plan.chain(plan.simulated(some, PROCESSORS))
    assert [(slot.name, slot.seconds, slot.behind, slot.why) for slot in chain] == [
        ("a", 30, "", ""),
        ("b", 20, "a", "a uses red"),
        ("c", 10, "b", "after b"),
    ]
    assert plan.bounds(some, PROCESSORS) == {
        "the steps that use red alone": 50,
        "steps that come after each other": 30,
        "the work of all steps on all processors": 25.5,
    }


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"a": {"tier": {}}}, "a: unknown tier"),
        ({"a": {"environments": {"red": "mine"}}}, "a: unknown mine"),
        ({"a": {"after": ["b"]}}, "a: after b"),
    ],
)
def test_an_invalid_row_is_refused(rows: Any, message: Any) -> None:
    with pytest.raises(ValueError, match=message):
        plan.declared(rows)


def test_circular_dependencies_are_refused() -> None:
    with pytest.raises(ValueError, match="a, b"):
        plan.ordered([step("a", after=["b"]), step("b", after=["a"])], PROCESSORS)


def test_some_steps_can_be_chosen() -> None:
    assert [(row.name, set(row.after)) for row in plan.selected(DECLARED, ["parity", "drills", "rehearsal"])] == [
        ("drills", set()),
        ("rehearsal", {"drills"}),
        ("parity", {"rehearsal"}),
    ]
    with pytest.raises(ValueError, match="no such step: ladders"):
        plan.selected(DECLARED, ["ladders"])


def test_tests_of_all_steps_or_of_the_chosen_ones_are_expected() -> None:
    mine = f"static {pathlib.Path(__file__).relative_to(ROOT)}::test_some_steps_can_be_chosen"
    everything, some = steps.existing(list(DECLARED)), steps.existing(["static", "perlbal"])
    assert mine in some < everything
    assert {test.split()[0] for test in some} == {"static", "perlbal"} and {
        test.split()[0] for test in everything
    } == set(DECLARED) - {"platform", "bake"}
    assert {test.split()[0] for test in everything if "::test_only_tls_1_2_and_1_3_are_accepted" in test} == {
        "default",
        "perlbal",
    }


def test_hints_are_replaced_by_measured_values() -> None:
    text = (
        "# what steps need\nstatic: {seconds: 60, cores: 1.0}\nbuild: {environments: {local: alone}, seconds: 87, cores: 1.0}\n"
        "drills: {environments: {production: alone}, after: [default], quiet: true, seconds: 625, cores: 1.4}\n"
    )
    rewritten = steps.learned(text, {"drills": (601.4, 1.26), "static": (30.6, None), "gone": (1, 1)})
    changed = [(before, after) for before, after in zip(text.splitlines(), rewritten.splitlines()) if before != after]
    assert [after for _before, after in changed] == [
        "static: {seconds: 31, cores: 1.0}",
        "drills: {environments: {production: alone}, after: [default], quiet: true, seconds: 601, cores: 1.3}",
    ]
    declared = steps.DECLARED.read_text()
    assert steps.learned(declared, {}) == declared


# ------------------------------------------------------------------ steps that are run


@pytest.fixture(name="perform")
def perform_fixture(tmp_path: pathlib.Path) -> Callable[..., tuple[execution.Run, list[str]]]:
    """perform(steps, {name: shell command}) runs them: (the run, lines with the time)."""

    def perform(
        order: list[plan.Step],
        commands: dict[str, str],
        before: Callable[[execution.Run], object] = lambda run: None,
    ) -> tuple[execution.Run, list[str]]:
        lines: list[str] = []
        with usage.Meter(read_seconds=dict, read_environments=dict) as meter:
            run = execution.Run(
                order, lambda row: (["sh", "-c", commands[row.name]], {}), lines.append, tmp_path, PROCESSORS, meter
            )
            before(run)
            run.execute()
        return run, lines

    return perform


def test_steps_run_side_by_side_and_their_outputs_do_not_mix(
    perform: Callable[..., tuple[execution.Run, list[str]]], capfd: pytest.CaptureFixture[str]
) -> None:
    order = [step("one", 1, 0.5), step("other", 1, 0.5), step("late", 1, 0.5, ["one"])]
    run, lines = perform(
        order,
        {
            "one": "echo one begins; sleep 0.5; echo one $TEST_STEP ends >&2",
            "other": "echo other begins; sleep 1; echo other ends",
            "late": "echo late",
        },
    )
    assert [ended.slot.name for ended in run.ended] == ["one", "late", "other"] and run.failed == []
    assert capfd.readouterr().out.split("=== ")[1:] == [
        "one: sh -c echo one begins; sleep 0.5; echo one $TEST_STEP ends >&2\none begins\none one ends\n",
        "late: sh -c echo late\nlate\n",
        "other: sh -c echo other begins; sleep 1; echo other ends\nother begins\nother ends\n",
    ]
    assert [" ".join(line.split()[:2]).rstrip(":") for line in lines] == [
        "one begins",
        "other begins",
        "one ended",
        "late begins",
        "late ended",
        "other ended",
    ]
    slots = {ended.slot.name: ended.slot for ended in run.ended}
    assert (slots["late"].behind, slots["late"].why) == ("one", "after one")


def test_after_a_failure_running_steps_end_and_no_step_begins(
    perform: Callable[..., tuple[execution.Run, list[str]]],
) -> None:
    order = [step("bad", 1, 0.5), step("beside", 1, 0.5), step("next", 1, 0.5, ["bad"]), step("free", 1, 2.0)]
    run, lines = perform(order, {"bad": "exit 3", "beside": "sleep 1", "next": "true", "free": "true"})
    assert run.failed == ["bad"] and [ended.slot.name for ended in run.ended] == ["bad", "beside"]
    assert any("bad FAILED (3)" in line for line in lines) and any("beside ended well" in line for line in lines)


def test_a_hanging_step_is_killed_with_all_children_after_a_failure(
    perform: Callable[..., tuple[execution.Run, list[str]]], monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    monkeypatch.setattr(execution, "GRACE_S", 0.2)
    monkeypatch.setattr(execution, "TERMINATION_S", 0.5)
    begun, pid = time.monotonic(), tmp_path / "pid"
    hangs = f"trap '' TERM; setsid sleep 60 & echo $! > {pid}; while true; do sleep 60; done"
    run, _lines = perform([step("bad", 1, 0.5), step("hangs", 1, 0.5)], {"bad": "sleep 0.5; exit 1", "hangs": hangs})
    assert time.monotonic() - begun < 10 and [(ended.slot.name, ended.code) for ended in run.ended] == [
        ("bad", 1),
        ("hangs", -9),
    ]
    stat = pathlib.Path(f"/proc/{pid.read_text().strip()}/stat")
    while (
        stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"
    ):  # what was killed ends when it is run next
        assert time.monotonic() - begun < 20
        time.sleep(0.05)  # between two looks


def test_a_signal_ends_running_steps_and_no_step_begins(
    perform: Callable[..., tuple[execution.Run, list[str]]],
) -> None:
    begun = time.monotonic()
    run, lines = perform(
        [step("long"), step("next", after=["long"])],
        {"long": "echo as far as this; sleep 60", "next": "true"},
        before=lambda run: threading.Timer(0.5, run.interrupt, [15]).start(),
    )
    assert time.monotonic() - begun < 10 and [(ended.slot.name, ended.code) for ended in run.ended] == [("long", -15)]
    assert run.stopped == "SIGTERM" and "long was ended by SIGTERM" in lines[-1]


# ------------------------------------------------------------------ what is measured and said


def test_the_processors_of_the_machine_are_read() -> None:
    assert usage.machine("cpu  100 20 300 4000 50 6 7 8 0 0\ncpu0 1 1 1 1\n") == (4.41, 40.5)
    before, after = usage.Moment(10, 30, {"red": 5.0}), usage.Moment(40, 40, {"red": 8.0, "green": 1.0})
    assert after.share_idle(before) == 0.25 and after.used(before, ["red", "green"]) == 4.0
    assert before.used(usage.Moment(0, 0, None), ["red"]) == 5.0  # the first containers came meanwhile
    assert usage.Moment(0, 0, None).used(before, ["red"]) is None and usage.Moment(0, 0, None).used(before, []) == 0.0


def test_created_removed_and_restarted_containers_are_counted() -> None:
    readings = iter([{"a": 100.0}, {"a": 103.0, "b": 2.0}, {"b": 5.0}, {"b": 1.0}])
    meter = usage.Meter(read_seconds=lambda: next(readings), read_environments=lambda: {"a": "red", "b": "green"})
    for expected in ({"red": 3.0, "green": 2.0}, {"red": 3.0, "green": 5.0}, {"red": 3.0, "green": 6.0}):
        meter.update()
        assert meter.used == expected


def test_processor_time_of_a_local_step_is_measured(perform: Callable[..., tuple[execution.Run, list[str]]]) -> None:
    run, _lines = perform(
        [step("busy", 1, 1.0)], {"busy": f"{sys.executable} -c 'import time\nwhile time.process_time() < 0.3: pass'"}
    )
    [busy] = run.ended
    assert busy.cores is not None and busy.cores * busy.slot.seconds == pytest.approx(0.35, abs=0.2)


def test_the_summary_lists_every_step_and_the_longest_chain() -> None:
    some = [step("a", 30, 0.5, red="alone"), step("b", 20, red="alone")]
    ended = [
        execution.Ended(plan.Slot("a", 0, 75), 0, 1.5, 0.2),
        execution.Ended(plan.Slot("b", 75, 95, "a", "a uses red"), 0, None, 0.5),
    ]
    assert summary.measured(ended, some, PROCESSORS, 100, 0.3) == [
        "step    start   end   wall  cores  idle  begins",
        "a        0:00  1:15   75 s   1.50   20%  at once",
        "b        1:15  1:35   20 s      ?   50%  when a has ended (a uses red)",
        "sum                   95 s   1.12        of all steps, one after another",
        "in all               100 s          30%  with what is removed before and after",
        "longest chain: a 75 s > b 20 s: 95 s",
        "no plan is shorter than the steps that use red alone: 95 s",
        "no plan is shorter than steps that come after each other: 75 s",
        "no plan is shorter than the work of all steps on all processors: 66 s",
        "hints of molecule/steps.yml that were wrong (PYTHONPATH=. python molecule/runner/run.py --learn replaces them): a {seconds: 75, cores: 1.5}",
    ]


@pytest.mark.parametrize(
    ("lines", "broken", "last", "code"),
    [
        ([["static", "t.py::test_a", "passed", "", "test_a", 1.0]], [], "1 passed, 0 failed, 0 skipped", 0),
        ([], [], "0 passed, 1 failed, 0 skipped", 1),
        ([["static", "t.py::test_a", "passed", "", "test_a", 1.0]], ["static"], "1 passed, 1 failed, 0 skipped", 1),
        ([["static", "t.py::test_a", "failed", "why", "test_a", 1.0]], ["static"], "0 passed, 1 failed, 0 skipped", 1),
        ([["static", "t.py::test_a", "skipped", "", "test_a", 1.0]], [], "0 passed, 0 failed, 1 skipped", 1),
    ],
    ids=["well", "never ran", "a step failed", "a test failed", "skipped"],
)
def test_the_last_result_of_a_test_counts(
    lines: Any,
    broken: Any,
    last: Any,
    code: int,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import run

    monkeypatch.setattr(run, "RESULTS", tmp_path / "tests.jsonl")
    monkeypatch.setattr(run.steps, "existing", lambda names: {"static t.py::test_a"})
    run.RESULTS.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run.conclude(["static"], broken) == code
    assert capsys.readouterr().out.splitlines()[-1] == last
