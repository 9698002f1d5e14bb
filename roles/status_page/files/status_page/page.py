"""The page as HTML."""

import base64
import datetime
import hashlib
import html
import re
import string

from status_page.judgement import Model
from status_page.picture import picture
from status_page.settings import NARROW, ORDER, WIDE, Config


def link(name: str) -> str:
    """A host's name, leading to what is known about it."""
    return f'<a href="#{html.escape(name)}">{html.escape(name)}</a>'


def verdict(model: Model) -> tuple[str, str]:
    """The page's heading, as (text, class)."""
    count = len(model["wrong"])
    if model["state"] == "blind":
        return "Blind", "blind"
    text, kind = ("All is well", "good") if not count else (f"{count} thing{'' if count == 1 else 's'} wrong", "bad")
    return f"{text} ({model['maintenance']})" if model["maintenance"] else text, kind


def card(name: str, host: Model, graphs: str) -> str:
    """A host in words; graphs is where those of it are, or nothing."""
    rows = "".join(f"<dt>{html.escape(tier)}</dt><dd>{html.escape(text)}</dd>" for tier, text in host["does"].items())
    wrong = "".join(f'<li class="bad">{html.escape(sentence)}</li>' for sentence in host["wrong"])
    marks = "".join(f" <small>{html.escape(mark)}</small>" for mark in host["marks"])
    paragraph = f'<p><a href="{html.escape(graphs)}">graphs</a></p>' if graphs else ""
    return (
        f'<article id="{html.escape(name)}" class="{host["state"]}"><h3>{html.escape(name)}{marks}</h3>'
        f"{f'<ul>{wrong}</ul>' if wrong else ''}<dl>{rows}</dl>{paragraph}</article>"
    )


def part(skeleton: str, tag: str) -> str:
    """The text between the tags of a name."""
    match = re.search(rf"<{tag}>(.*?)</{tag}>", skeleton, re.S)
    assert match, f"page.html has no {tag}"
    return match[1]


def digest(text: str) -> str:
    """How a Content-Security-Policy names a text."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def page(model: Model, config: Config, skeleton: str) -> str:
    """The page as HTML."""
    heading, kind = verdict(model)
    style, script = digest(part(skeleton, "style")), digest(part(skeleton, "script"))
    munin = next((entry["href"] for entry in config["links"] if entry["name"] == "Munin"), "")
    # Munin shows a host in the first of its tiers.
    graphs = {
        name: munin and f"{munin}{tier}/{name}/" for tier, names in reversed(model["tiers"].items()) for name in names
    }
    at = datetime.datetime.fromtimestamp(model["at"], datetime.UTC)
    ages = model["backups"].get("hours", {})
    kinds = {
        "incr": "databases, any",
        "full": "databases, full",
        "media": "uploads",
        "drill": "proven by a restore drill",
    }
    behind = model["backups"].get("wal_behind")
    tiers = [tier for tier in ORDER if model["tiers"].get(tier)]
    # A host in several tiers is shown once, in the first of them.
    shown = {
        tier: [
            name
            for name in model["tiers"][tier]
            if next(first for first in tiers if name in model["tiers"][first]) == tier
        ]
        for tier in tiers
    }
    values = {
        "policy": "default-src 'none'; connect-src 'self'; img-src data:;"
        f" style-src 'sha256-{style}'; script-src 'sha256-{script}'",
        "title": html.escape(f"{heading}: {model['environment']}"),
        "environment": html.escape(model["environment"]),
        "verdict": html.escape(heading),
        "kind": kind,
        "at": model["at"],
        "when": at.strftime("%Y-%m-%d %H:%M:%S UTC"),
        "clock": at.strftime("%H:%M:%S UTC"),
        "every": config["every_s"],
        "stale": config["blind_s"],
        "wrong": "".join(
            f"<li>{link(problem['host']) + ': ' if problem['host'] else ''}{html.escape(problem['why'])}</li>"
            for problem in model["wrong"]
        ),
        "links": "".join(
            [
                *(
                    f'<a href="{html.escape(entry["href"])}">{html.escape(entry["name"])}</a>'
                    for entry in config["links"]
                ),
                '<a href="#releases">Releases</a>',
                '<a href="#backups">Backups</a>',
                '<a href="status.json">JSON</a>',
            ]
        ),
        "wide": picture(model, config, *WIDE, "wide"),
        "narrow": picture(model, config, *NARROW, "narrow"),
        "hosts": "".join(
            f'<h2>{config["titles"][tier]}</h2><div class="cards">'
            + "".join(card(name, model["hosts"][name], graphs[name]) for name in shown[tier])
            + "</div>"
            for tier in tiers
            if shown[tier]
        ),
        "releases": "".join(
            f"<li><time>{html.escape(line['when'])}</time> {html.escape(line['verb'])}"
            f" <b>{html.escape(line['release'])}</b>: {html.escape(line['result'])}"
            f" <small>{html.escape(line['who'])}</small></li>"
            for line in model["releases"]
        )
        or "<li>none that this host was told of</li>",
        "backups": "".join(
            f"<dt>{text}</dt><dd>{ages[kind]:.1f} h ago</dd>" for kind, text in kinds.items() if kind in ages
        )
        + (f"<dt>WAL that has not come</dt><dd>{behind:.0f} segments</dd>" if behind is not None else "")
        or "<dt>nothing</dt><dd>is known of backups</dd>",
        "make_args": html.escape(config["facts"]["make_args"]),
    }
    return string.Template(skeleton).substitute(values)
