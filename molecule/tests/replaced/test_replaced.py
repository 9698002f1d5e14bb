"""A host that was lost and built anew serves like the one before it."""

import socket
import ssl

import requests
from fixtures import OnHost
from tier import Tier, search

REPLACED = {"lb": "lb2", "app": "app2", "media": "media2", "cache": "cache2"}


def test_the_replaced_balancer_serves_the_site(tier: Tier) -> None:
    name = tier.value("site_hosts", "lb[0]")[0]
    trust = ssl.create_default_context(cafile=tier.authority)
    with (
        socket.create_connection((tier.address(REPLACED["lb"]), tier.value("lb_https_port")), timeout=10) as raw,
        trust.wrap_socket(raw, server_hostname=name) as tls,
    ):
        tls.sendall(f"GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
        assert tls.recv(12) == b"HTTP/1.1 200"


def test_the_replaced_app_host_serves_the_current_release(tier: Tier, visitor: requests.Session) -> None:
    about = [visitor.get(f"{tier.url}/about/?format=json", timeout=10).json() for _ in range(20)]
    assert {one["node"] for one in about} == set(tier.hosts("app"))
    assert len({one["release"] for one in about}) == 1


def test_the_replaced_media_host_has_all_files(tier: Tier, on: OnHost) -> None:
    def files(name: str) -> str:
        return on(name).check_output(
            "cd %s && find static media -type f -not -path '*/.*' -exec sha256sum {} + | sort", tier.value("site_root")
        )

    others = [name for name in tier.hosts("media") if name != REPLACED["media"]]
    assert files(REPLACED["media"]) == files(others[0]) != ""


def test_the_replaced_cache_host_stores_keys(tier: Tier, on: OnHost) -> None:
    """Keys stored by the site's own settings land on it. Only app hosts may ask it."""
    host = on(tier.hosts("app")[0])
    ask = (
        "import socket; link = socket.create_connection(('%s', %d), 5); link.sendall(b'stats\\r\\nquit\\r\\n'); "
        "print(link.makefile().read())" % (tier.address(REPLACED["cache"]), tier.value("cache_port"))
    )

    def stored() -> int:
        return int(search(r"STAT total_items (\d+)", host.check_output("python3 -c %s", ask))[1])

    before = stored()
    code = "from django.core.cache import cache; cache.set_many({f'replaced-{n}': n for n in range(100)}, 60)"
    assert host.run("/usr/local/bin/manage shell --no-imports -c %s", code).rc == 0
    assert stored() > before + 10
