"""Whether a password is the one that PostgreSQL keeps a verifier of."""

import pytest

from plugins.filter import scram

# What PostgreSQL 17 made of "pencil".
VERIFIER = "SCRAM-SHA-256$4096:HYymnB8y8yTcs/TWtB03WQ==$nlEbRLbpNuLIcWLpjoEV3cTWIFKtSayrZwWxldQPzbA=:egI4iuwx164Pagm683Sm8FMd145Q2uOUBjhne5cuxlA="


def test_the_password_fits_and_no_other() -> None:
    assert scram.scram_fits(VERIFIER, "pencil") and not scram.scram_fits(VERIFIER, "pencils")
    passwords = {"site": "pencil", "monitor": "ink"}
    assert [scram.scram_differs({"rolname": name, "rolpassword": VERIFIER}, passwords) for name in passwords] == [
        "",
        "monitor",
    ]


@pytest.mark.parametrize("verifier", ["md5d41d8cd98f00b204e9800998ecf8427e", "SCRAM-SHA-512$4096:c2FsdA==$a:b"])
def test_other_verifiers_are_refused(verifier: str) -> None:
    with pytest.raises(ValueError):
        scram.scram_fits(verifier, "pencil")
