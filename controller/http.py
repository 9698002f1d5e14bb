"""A request to a site at its virtual IP, under its name."""

import ssl
import urllib.parse
from collections.abc import Mapping
from typing import Any

import urllib3


def request(
    site: Mapping[str, Any],
    context: ssl.SSLContext,
    seconds: float,
    method: str,
    path: str,
    headers: Mapping[str, str] | None = None,
    fields: Mapping[str, str] | None = None,
) -> urllib3.BaseHTTPResponse:
    """The response, read, over a connection of its own; no redirect is followed and nothing is tried again.

    site: its name, address and port; seconds: of patience with a connection and with each part of the answer; fields: of a form.
    Raises urllib3.exceptions.HTTPError.
    """
    name, port = site["name"], int(site["port"])
    own = {"Host": name if port == 443 else f"{name}:{port}", "User-Agent": urllib3.util.SKIP_HEADER}
    form = {"Content-Type": "application/x-www-form-urlencoded"} if fields else {}
    with urllib3.HTTPSConnectionPool(
        site["address"], port, timeout=seconds, ssl_context=context, server_hostname=name, assert_hostname=name
    ) as pool:
        return pool.urlopen(
            method,
            path,
            body=urllib.parse.urlencode(fields) if fields else None,
            headers={**own, **form, **(headers or {})},
            retries=False,
            redirect=False,
        )
