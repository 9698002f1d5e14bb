"""What the page is about."""

import json
import pathlib
import typing

Config = dict[str, typing.Any]  # /etc/status-page.json; its hosts as {tier: [{name, address}]}
Facts = dict[str, typing.Any]  # addresses and ports, of the same file

# (width, bands of tiers) of the picture on a wide and on a narrow screen.
WIDE = (860, [["lb"], ["app", "media"], ["db", "cache"], ["quorum", "monitor", "backup"]])
NARROW = (360, [["lb"], ["app", "media"], ["db", "cache"], ["quorum", "backup"], ["monitor"]])
ORDER = [tier for band in WIDE[1] for tier in band]  # of the page's parts


def settings(path: pathlib.Path) -> Config:
    """What the page is about, from its file: hosts are written there as name=address."""
    config: Config = json.loads(path.read_text(encoding="utf-8"))
    config["tiers"] = {
        tier: [dict(zip(("name", "address"), host.split("="))) for host in hosts.split()]
        for tier, hosts in config["tiers"].items()
    }
    config["facts"] |= {name: config[name] for name in ("env_name", "make_args")}
    return config
