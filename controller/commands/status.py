"""Show what every host of a tier does, and what is wrong with it, as one page.

    status.py INVENTORY [-e VARIABLES]

Exits with 1 where something is wrong, with 2 where the hosts could not be asked.
"""

import sys

from controller import environment, query
from controller.health import ORDER, between, outdated
from controller.report import table

POOLS = ["pages", "files", "databases", "caches", "uploads"]


def page(hosts):
    """(text of the page, sentences about what is wrong).

    hosts: {name: what host_status returned, or why the host did not answer under "msg"}.
    """
    answers = {name: said for name, said in hosts.items() if "does" in said}
    asked = next(
        (said["asked"] for said in answers.values()),
        {"groups": {}, "facts": {"env_name": "?", "env_typed": "ENV=?", "lb_vip": "?"}},
    )
    groups, facts = asked["groups"], asked["facts"]
    roles, wrong = between(answers, groups, facts)
    rows = [("host", "tier", "health", "does", "uses (! gets no answer)")]
    for name in sorted(
        hosts, key=lambda host: [next((n for n, g in enumerate(ORDER) if host in groups.get(g, [])), 9), host]
    ):
        tiers = [group for group in ORDER if name in groups.get(group, [])]
        if name not in answers:
            not_asked = hosts[name].get("not_asked")
            reason = (
                "over SSH" if hosts[name].get("unreachable") else f"as it should: {hosts[name].get('msg', '')[:200]}"
            )
            wrong.append(
                f"{name} was not asked in time: {hosts[name]['msg']}"
                if not_asked
                else f"{name} does not answer {reason}"
            )
            rows.append((name, " ".join(tiers), "NOT ASKED" if not_asked else "SILENT", "", ""))
            continue
        said = answers[name]
        does = said["does"] | ({"db": roles[name]} if name in roles and "db" in said["does"] else {})
        sees = "  ".join(
            f"{pool}: " + " ".join(one if up else f"!{one}" for one, up in said["sees"][pool].items())
            for pool in POOLS
            if pool in said["sees"]
        )
        wrong += [f"{name}: {sentence}" for sentence in said["wrong"]]
        rows.append(
            (
                name,
                " ".join(tiers),
                "WRONG" if said["wrong"] else "ok",
                "; ".join(does[tier] for tier in tiers if tier in does),
                sees,
            )
        )
    head = (
        f"  {facts['env_name']}   https://{facts['lb_vip']}/   {'all is well' if not wrong else 'something is wrong'}"
    )
    body = ["", head, "", *table(rows), ""]
    if wrong:
        body += ["  wrong:", *(f"    {sentence}" for sentence in wrong), ""]
    if old := outdated(answers, facts["env_typed"]):
        body += ["  images:", *(f"    {sentence}" for sentence in old), ""]
    return "\n".join(body), wrong


def asked(environment):
    """What every host of an environment says of itself, as {name: what host_status returns, or why it did not answer}."""
    arguments = {
        name: {
            "name": name,
            "groups": environment.groups,
            "addresses": host.values["status_addresses"],
            "facts": host.values["status_facts"],
        }
        for name, host in environment.hosts.items()
    }
    return query.ask(environment, query.modules("perlbal", "host_probe", "host_health"), "check", arguments)


def main():
    """Print the page."""
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    try:
        tier = environment.load(sys.argv[1], environment.laid_over(sys.argv[2:]))
    except environment.Unusable as reason:
        print(reason, file=sys.stderr)
        return 2
    text, wrong = page(asked(tier))
    print(text)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
