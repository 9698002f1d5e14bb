"""Passwords as PostgreSQL keeps them."""

import base64
import hashlib
import hmac
import unicodedata
from collections.abc import Callable
from typing import Any


def scram_fits(verifier: str, password: str) -> bool:
    """Whether a password is the one of a SCRAM-SHA-256 verifier, SCRAM-SHA-256$<iterations>:<salt>$<stored key>:<server key> with salt and keys in base64.

    Raises ValueError where the verifier is of another form. Source: RFC 5802; PostgreSQL, src/common/scram-common.c.
    """
    kind, work, keys = verifier.split("$")
    if kind != "SCRAM-SHA-256":
        raise ValueError(f"a verifier of {kind}, not of SCRAM-SHA-256")
    iterations, salt = work.split(":")
    salted = hashlib.pbkdf2_hmac(
        "sha256", unicodedata.normalize("NFKC", password).encode(), base64.b64decode(salt), int(iterations)
    )
    server_key = hmac.new(salted, b"Server Key", hashlib.sha256).digest()
    return hmac.compare_digest(server_key, base64.b64decode(keys.split(":")[1]))


def scram_differs(role: dict[str, str], passwords: dict[str, str]) -> str:
    """The name of a role, {"rolname", "rolpassword": its verifier}, whose password is not the one of {name: password}; empty where it is."""
    return "" if scram_fits(role["rolpassword"], passwords[role["rolname"]]) else role["rolname"]


class FilterModule:
    """What templates may call."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """{name: function}"""
        return {"scram_differs": scram_differs}
