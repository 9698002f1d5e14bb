"""What nginx does for visitors and operators beyond what is asked of every engine (lb/test_lb.py)."""

import socket
import ssl

import pytest
from balancer import Balancer, Site
from testinfra.host import Host

testinfra_hosts = ["ansible://lb"]


def test_http_2_is_negotiated(lb: Balancer) -> None:
    context = ssl.create_default_context(cafile=lb.authority)
    context.set_alpn_protocols(["h2", "http/1.1"])
    with lb.tls(context) as connection:
        assert connection.selected_alpn_protocol() == "h2"


def test_stub_status_is_allowed_to_localhost_only(host: Host, lb: Balancer, site: Site) -> None:
    assert host.check_output(f"curl -fsS http://127.0.0.1:{site['status_port']}/nginx_status").startswith(
        "Active connections"
    )
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((lb.address, site["status_port"]), timeout=5)
