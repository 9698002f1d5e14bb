"""Who deployed what, as an app host remembers it. It needs no Ansible on the host: `make releases` sends it to a bare Python."""

import os
import pathlib


def read(root: str, log: str) -> dict[str, str]:
    """{stdout: the release that a site's directory serves, or none, and the lines of the log}."""
    try:
        serves = os.readlink(f"{root}/current")
    except OSError:
        serves = "none"
    try:
        lines = pathlib.Path(log).read_text(encoding="utf-8")
    except FileNotFoundError:
        lines = ""  # nothing was deployed yet
    return {"stdout": f"{serves}\n{lines}"}
