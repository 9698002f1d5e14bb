"""Print who deployed what, when, with what result, and which release every app host serves.

    releases.py INVENTORY

Exits with 1 where hosts serve different releases or one did not answer, with 2 where they could not be asked.
"""

import json
import sys

from controller import environment, query
from controller.report import table


def entries(hosts):
    """(lines of all ledgers as dicts, in the order of time; {host: its release, or None where it did not answer})."""
    found, serves = {}, {}
    for name, said in hosts.items():
        lines = said.get("stdout", "").splitlines()
        serves[name] = lines[0].rpartition("/")[2] if lines else None
        for line in lines[1:]:
            found[line] = json.loads(line)
    return sorted(found.values(), key=lambda entry: (entry["when"], entry["result"] != "begun")), serves


def rows(ledger):
    """Cells of the table: what ended, and what was begun and never ended."""
    shown = [("when", "who", "verb", "release", "result")]
    for place, entry in enumerate(ledger):
        later = ledger[place + 1 :]
        result = entry["result"]
        if result == "begun":
            if any(other["release"] == entry["release"] and other["result"] != "begun" for other in later):
                continue
            result = "cut off, or under way: make deploy finishes it" if not later else "cut off"
        shown.append((entry["when"], entry["who"], entry["verb"], entry["release"], result))
    return shown


def page(hosts):
    """(text of the page, whether all hosts serve one release)."""
    ledger, serves = entries(hosts)
    told = [
        f"  {name} serves {release}" if release else f"  {name} does not answer"
        for name, release in sorted(serves.items())
    ]
    return "\n".join(["", *table(rows(ledger)), "", *told, ""]), len(
        set(serves.values())
    ) == 1 and None not in serves.values()


def main():
    """Print the page."""
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        tier = environment.load(sys.argv[1])
    except environment.Unusable as reason:
        print(reason, file=sys.stderr)
        return 2
    facts = {name: tier.hosts[name].values["status_facts"] for name in tier.groups["app"]}
    arguments = {name: {"root": known["site_root"], "log": known["release_log"]} for name, known in facts.items()}
    text, one = page(query.ask(tier, query.modules("release_log"), "read", arguments))
    print(text)
    return 0 if one else 1


if __name__ == "__main__":
    sys.exit(main())
