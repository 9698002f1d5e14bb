"""What the page is about."""

import json
import pathlib
import typing

Config = dict[str, typing.Any]  # /etc/status-page.json; its hosts as {tier: [{name, address}]}
Facts = dict[str, typing.Any]  # addresses and ports, of the same file

# In the order in which a request passes them.
TITLES = {
    "lb": "balancers",
    "app": "app hosts",
    "media": "media hosts",
    "db": "databases",
    "cache": "cache",
    "quorum": "quorum",
    "monitor": "monitor",
    "backup": "backup",
}


def settings(path: pathlib.Path) -> Config:
    """What the page is about, from its file: hosts are written there as name=address."""
    config: Config = json.loads(path.read_text(encoding="utf-8"))
    config["tiers"] = {
        tier: [dict(zip(("name", "address"), host.split("="))) for host in hosts.split()]
        for tier, hosts in config["tiers"].items()
    }
    config["facts"] |= {name: config[name] for name in ("env_name", "make_args")}
    return config
