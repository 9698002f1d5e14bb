"""Networks that interfaces are in."""

import ipaddress
from collections.abc import Callable
from typing import Any


def networks_with(addresses: list[str], address: str) -> list[str]:
    """Of an interface's IPv4 addresses, each with the length of its prefix (192.0.2.7/24), those in whose network another address is."""
    interfaces = [ipaddress.ip_interface(interface) for interface in addresses]
    wanted = ipaddress.ip_address(address)
    return [str(interface) for interface in interfaces if wanted in interface.network and interface.ip != wanted]


class FilterModule:
    """What templates may call."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """{name: function}"""
        return {"networks_with": networks_with}
