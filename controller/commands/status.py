"""Show what every host of an environment does, and what is wrong with it, as one page.

Exits with 1 where something is wrong, with 2 where the hosts could not be asked.
"""

import sys
from collections.abc import Mapping
from typing import Any

from controller import arguments, query
from controller.environment import Environment
from controller.errors import Unusable
from controller.health import outdated, problems_across_hosts
from controller.report import Row, table
from controller.tiers import GROUPS

POOLS = ["pages", "files", "databases", "caches", "uploads"]


def page(hosts: Mapping[str, Mapping[str, Any]]) -> tuple[str, list[str]]:
    """(text of the page, sentences about what is wrong).

    hosts: {name: what host_status returned, or why the host did not answer under "msg"}.
    """
    answers = {name: answer for name, answer in hosts.items() if "does" in answer}
    unknown = {"groups": {}, "facts": {"env_name": "?", "make_args": "ENV=?", "lb_vip": "?"}}
    tier = next((answer["asked"] for answer in answers.values()), unknown)
    groups, facts = tier["groups"], tier["facts"]
    roles, wrong = problems_across_hosts(answers, groups, facts)
    rows: list[Row] = [("host", "tier", "health", "does", "uses (! gets no answer)")]

    def order(host: str) -> tuple[int, str]:
        return next((number for number, group in enumerate(GROUPS) if host in groups.get(group, [])), 9), host

    for name in sorted(hosts, key=order):
        tiers = [group for group in GROUPS if name in groups.get(group, [])]
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
        answer = answers[name]
        does = answer["does"] | ({"db": roles[name]} if name in roles and "db" in answer["does"] else {})
        sees = "  ".join(
            f"{pool}: " + " ".join(peer if up else f"!{peer}" for peer, up in answer["sees"][pool].items())
            for pool in POOLS
            if pool in answer["sees"]
        )
        wrong += [f"{name}: {problem}" for problem in answer["wrong"]]
        work = "; ".join(does[tier] for tier in tiers if tier in does)
        rows.append((name, " ".join(tiers), "WRONG" if answer["wrong"] else "ok", work, sees))
    verdict = "all is well" if not wrong else "something is wrong"
    body = ["", f"  {facts['env_name']}   https://{facts['lb_vip']}/   {verdict}", "", *table(rows), ""]
    if wrong:
        body += ["  wrong:", *(f"    {problem}" for problem in wrong), ""]
    if old := outdated(answers, facts["make_args"]):
        body += ["  images:", *(f"    {sentence}" for sentence in old), ""]
    return "\n".join(body), wrong


def ask(environment: Environment) -> dict[str, dict[str, Any]]:
    """What every host of an environment returns, as {name: what host_status returns, or why it did not answer}."""
    wanted = {
        name: {
            "name": name,
            "groups": environment.groups,
            "addresses": host.values["status_addresses"],
            "facts": host.values["status_facts"],
        }
        for name, host in environment.hosts.items()
    }
    return query.ask(
        environment, query.modules("perlbal", "host_probe", "service_health", "host_health"), "check", wanted
    )


def main() -> int:
    """Print the page."""
    parser = arguments.parser_of(__doc__)
    arguments.add_extra_vars(parser)
    args = parser.parse_args()
    try:
        answers = ask(Environment(args.inventory, tuple(args.extra_vars)))
    except Unusable as reason:
        print(reason, file=sys.stderr)
        return 2
    text, wrong = page(answers)
    print(text)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
