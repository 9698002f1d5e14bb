"""Processor time of every unit of a standing tier of containers over a while, in thousandths of a core.

    python molecule/support/idle.py local 300     of ENV=local, over 300 seconds; nobody may ask the tier meanwhile

Sums leave out ssh.service, in which verbs work. Units that have ended meanwhile (timers' work) are told as one line, and what systemd's journal
says that each of them took as further lines; those are parts of that one.
"""

import collections
import concurrent.futures
import re
import subprocess
import sys
import time

# {unit: microseconds since its cgroup was made} of a host, as lines; a unit's cgroup goes with it, its slice's sum stays.
READ = "cd /sys/fs/cgroup && for unit in . init.scope system.slice system.slice/*/; do read -r _ used <$unit/cpu.stat && echo $unit $used; done"
ENDED = "journalctl --quiet --since=@{since:.0f} --output=cat --grep='Consumed .* CPU time' _PID=1 || true"
LEAST = 0.2  # thousandths of a core that are worth a line
SECONDS = {"ms": 0.001, "s": 1, "min": 60}


def used(text: str) -> dict[str, int]:
    """{unit: microseconds} from what READ prints; the host as a whole is '.'."""
    lines = (line.split() for line in text.splitlines())
    return {unit.removeprefix("system.slice/").strip("/"): int(microseconds) for unit, microseconds in lines}


def ended(text: str) -> dict[str, float]:
    """{unit: seconds of a processor} that systemd says units took that have ended."""
    found: dict[str, float] = collections.defaultdict(float)
    for unit, took in re.findall(r"(?m)^(\S+): Consumed (.+?) CPU time", text):
        found[unit] += sum(
            float(figure) * SECONDS[unit_of] for figure, unit_of in re.findall(r"([\d.]+)(ms|min|s)", took)
        )
    return found


def spent(before: dict[str, int], after: dict[str, int], seconds: float) -> dict[str, float]:
    """{unit: thousandths of a core} between two looks at a host. '(ended)' is what its slice has beyond the units that are still there."""
    took = {unit: (after[unit] - before[unit]) / 1000 / seconds for unit in after if unit in before}
    units = {unit: figure for unit, figure in took.items() if unit not in (".", "system.slice")}
    ended_too = took["system.slice"] - sum(figure for unit, figure in units.items() if unit != "init.scope")
    return units | {"(ended)": ended_too}


def table(figures: dict[str, dict[str, float]]) -> str:
    """Units by hosts, the dearest first, from {host: {unit: thousandths of a core}}."""
    hosts = sorted(figures)
    sums: dict[str, float] = collections.defaultdict(float)
    for units in figures.values():
        for unit, figure in units.items():
            sums[unit] += figure
    lines = [f"{'unit':30}" + "".join(f"{host:>9}" for host in hosts) + f"{'sum':>9}"]
    for unit in sorted(sums, key=lambda one: -sums[one]):
        if sums[unit] >= LEAST:
            cells = "".join(f"{figures[host][unit]:9.1f}" if unit in figures[host] else " " * 9 for host in hosts)
            lines.append(f"{unit[:29]:30}{cells}{sums[unit]:9.1f}")
    parts = {
        host: sum(figure for unit, figure in units.items() if unit != "ssh.service" and not unit.startswith("  "))
        for host, units in figures.items()
    }
    lines.append(
        f"{'all but ssh.service':30}" + "".join(f"{parts[host]:9.1f}" for host in hosts) + f"{sum(parts.values()):9.1f}"
    )
    return "\n".join(lines)


def main() -> None:
    """Look twice, and print what is between. Raises subprocess.CalledProcessError where a container does not answer."""
    environment, seconds = sys.argv[1], float(sys.argv[2])

    def run(*words: str) -> str:
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout

    names = sorted(run("docker", "ps", "--filter", f"label=realworld={environment}", "--format", "{{.Names}}").split())

    def look(command: str) -> dict[str, tuple[float, str]]:
        with concurrent.futures.ThreadPoolExecutor(len(names)) as at_once:
            return dict(
                zip(
                    names,
                    at_once.map(
                        lambda name: (time.monotonic(), run("docker", "exec", name, "bash", "-c", command)), names
                    ),
                )
            )

    since, before = time.time(), look(READ)
    time.sleep(seconds)  # the tier is left alone: there is nothing to await
    after, journal = look(READ), look(ENDED.format(since=since))
    figures = {}
    for name in names:
        between = after[name][0] - before[name][0]
        told = {f"  {unit}": figure * 1000 / between for unit, figure in ended(journal[name][1]).items()}
        figures[name.removeprefix(f"{environment}-")] = (
            spent(used(before[name][1]), used(after[name][1]), between) | told
        )
    print(table(figures))


if __name__ == "__main__":
    main()
