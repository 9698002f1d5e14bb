"""Print lines of all hosts' logs in the order of time.

    logs.py INVENTORY REQUEST HOST UNIT SINCE [-e VARIABLES]

What is not asked for is empty. Exits with 1 where no line was found or a host did not tell, with 2 where none could be asked.
"""

import datetime
import re
import sys

from controller import environment, query

SEARCH_S = 120.0  # seconds a host has to search what it keeps: a month of everybody's lines
SECONDS = {"m": 60, "h": 3600, "d": 86400}


def moment(words, now):
    """Seconds since 1970 of "30m", "2h", "1d" ago or of "2026-11-25 18:00" (UTC); 0 for nothing. Raises ValueError."""
    if not words:
        return 0
    if ago := re.fullmatch(r"(\d+)([mhd])", words):
        return now.timestamp() - int(ago[1]) * SECONDS[ago[2]]
    return datetime.datetime.fromisoformat(words).replace(tzinfo=datetime.UTC).timestamp()


def asked(request, host, unit, since, now):
    """What log_search.search is asked for. Raises ValueError with a sentence."""
    if not any((request, host, unit, since)):
        raise ValueError("What for? make logs REQUEST=id, HOST=app1, UNIT=apache2, SINCE=30m, or several of them.")
    for name, words in (("REQUEST", request), ("HOST", host), ("UNIT", unit)):
        if not re.fullmatch(r"[\w.*@-]*", words):
            raise ValueError(f"{name}={words} is none: letters, digits and . - _ @ only.")
    try:
        found = moment(since, now)
    except ValueError:
        raise ValueError(
            f'SINCE={since} is no moment: SINCE=30m, 2h or 1d ago, or SINCE="2026-11-25 18:00" (UTC).'
        ) from None
    return {"request": request, "host": host, "unit": unit, "since": found}


def page(hosts):
    """(lines of all hosts that were asked, sentences about what is missing). hosts: {host: what log_lines returned, or why it did not}."""
    told = {name: said for name, said in hosts.items() if "lines" in said}
    # Several monitors have the same lines.
    lines = sorted(
        dict.fromkeys(line for said in told.values() for line in said["lines"]),
        key=lambda line: datetime.datetime.fromisoformat(line.partition(" ")[0]),
    )
    missing = [
        f"{said['left_off']} older lines are left off: ask for less" for said in told.values() if said["left_off"]
    ]
    missing += [f"{name} {query.silence(said)}" for name, said in sorted(hosts.items()) if name not in told]
    return lines, missing


def main():
    """Print the lines."""
    if len(sys.argv) < 6:
        sys.exit(__doc__)
    inventory, *words = sys.argv[1:6]
    try:
        asked_for = asked(*words, datetime.datetime.now(datetime.UTC))
        tier = environment.load(inventory, environment.laid_over(sys.argv[6:]))
    except (ValueError, environment.Unusable) as reason:
        print(reason, file=sys.stderr)
        return 2
    # The monitors keep the lines of all; where there is none, each host keeps its own.
    arguments = {
        name: asked_for | {"directory": tier.hosts[name].values["log_dir"]}
        for name in tier.groups.get("monitor") or tier.hosts
    }
    lines, missing = page(query.ask(tier, query.modules("log_search"), "result", arguments, SEARCH_S))
    print(*lines, sep="\n", end="\n" if lines else "")
    if not lines:
        missing.append("no such line")
    print(*missing, sep="\n", end="\n" if missing else "", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
