"""Processor time of every unit of a standing tier of containers over a while, in thousandths of a core.

    python molecule/support/idle.py local 300     of ENV=local, over 300 seconds; without requests to the tier meanwhile

Sums leave out ssh.service, in which verbs work. Units that have ended meanwhile (of timers) are one line, and what systemd's journal
says that each of them took are further lines, which are parts of that line.
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
    seconds: dict[str, float] = collections.defaultdict(float)
    for unit, figures in re.findall(r"(?m)^(\S+): Consumed (.+?) CPU time", text):
        seconds[unit] += sum(
            float(figure) * SECONDS[measure] for figure, measure in re.findall(r"([\d.]+)(ms|min|s)", figures)
        )
    return seconds


def spent(before: dict[str, int], after: dict[str, int], seconds: float) -> dict[str, float]:
    """{unit: thousandths of a core} between two readings of a host. '(ended)': what the slice has beyond the units that still exist."""
    took = {unit: (after[unit] - before[unit]) / 1000 / seconds for unit in after if unit in before}
    units = {unit: figure for unit, figure in took.items() if unit not in (".", "system.slice")}
    ended_too = took["system.slice"] - sum(figure for unit, figure in units.items() if unit != "init.scope")
    return units | {"(ended)": ended_too}


def table(figures: dict[str, dict[str, float]]) -> str:
    """Units by hosts, the largest sum first, from {host: {unit: thousandths of a core}}."""
    hosts = sorted(figures)
    sums: dict[str, float] = collections.defaultdict(float)
    for units in figures.values():
        for unit, figure in units.items():
            sums[unit] += figure
    lines = [f"{'unit':30}" + "".join(f"{host:>9}" for host in hosts) + f"{'sum':>9}"]
    for unit in sorted(sums, key=lambda unit: -sums[unit]):
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
    """Read twice, and print the difference. Raises subprocess.CalledProcessError where a container does not answer."""
    environment, seconds = sys.argv[1], float(sys.argv[2])

    def run(*command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    names = sorted(run("docker", "ps", "--filter", f"label=realworld={environment}", "--format", "{{.Names}}").split())

    def read_hosts(command: str) -> dict[str, tuple[float, str]]:
        with concurrent.futures.ThreadPoolExecutor(len(names)) as threads:
            return dict(
                zip(
                    names,
                    threads.map(
                        lambda name: (time.monotonic(), run("docker", "exec", name, "bash", "-c", command)), names
                    ),
                )
            )

    since, before = time.time(), read_hosts(READ)
    time.sleep(seconds)  # the duration of the measurement
    after, journal = read_hosts(READ), read_hosts(ENDED.format(since=since))
    figures = {}
    for name in names:
        elapsed = after[name][0] - before[name][0]
        ended_units = {f"  {unit}": figure * 1000 / elapsed for unit, figure in ended(journal[name][1]).items()}
        figures[name.removeprefix(f"{environment}-")] = (
            spent(used(before[name][1]), used(after[name][1]), elapsed) | ended_units
        )
    print(table(figures))


if __name__ == "__main__":
    main()
