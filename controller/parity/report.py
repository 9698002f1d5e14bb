"""The report of a comparison: for a terminal, and as a page."""

import datetime
import os
import pathlib
from collections.abc import Sequence

import jinja2

from controller.inventory import ROOT
from controller.parity.comparison import several
from controller.parity.masks import masked, secret_masks
from controller.parity.model import Difference, Side

PAGE = ROOT / "controller/templates/parity.html.j2"
SHOWN_LETTERS = 300  # of a value


def short(value: object) -> str:
    """A value as one line."""
    line = " ".join(str(value).split())
    return line if len(line) <= SHOWN_LETTERS else f"{line[:SHOWN_LETTERS]} …"


def page(title: str, differences: Sequence[Difference]) -> str:
    """The lines that are printed."""
    undeclared = [difference for difference in differences if not difference.why]
    lines = ["", f"  {title}   {counted(len(undeclared), 'difference')}, {len(differences) - len(undeclared)} declared"]
    tier = None
    for difference in undeclared:
        if difference.tier != tier:
            tier = difference.tier
            lines += ["", f"  {tier}"]
        lines.append(f"    {difference.kind} {difference.name}")
        if difference.kind != "fault" or len(difference.values) > 1:
            lines += [f"      {several(hosts)}: {short(value)}" for value, hosts in difference.values]
        else:
            lines.append(f"      {several(difference.values[0][1])}")
        lines += [f"      | {line}" for line in difference.diff]
        if difference.where:
            lines.append(f"      {difference.where}")
    declared = sorted(
        {f"{difference.kind} {difference.name}: {difference.why}" for difference in differences if difference.why}
    )
    if declared:
        lines += ["", "  declared (group_vars/all/parity.yml)", *(f"    {line}" for line in declared)]
    return "\n".join([*lines, ""])


def counted(number: int, word: str) -> str:
    """ "1 difference", "2 differences"."""
    return f"{number} {word}{'' if number == 1 else 's'}"


def html(title: str, sides: Sequence[Side], differences: Sequence[Difference]) -> str:
    """The page to read: one file, without anything from elsewhere."""
    template = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(PAGE.read_text())
    tiers: dict[str, list[Difference]] = {}
    undeclared = [difference for difference in differences if not difference.why]
    for difference in undeclared:
        tiers.setdefault(difference.tier, []).append(difference)
    return template.render(
        title=title,
        tiers=tiers,
        short=short,
        several=several,
        differences=undeclared,
        declared=[difference for difference in differences if difference.why],
        counted=counted,
        when=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        sides=[(side.name, len(side.hosts)) for side in sides],
    )


def scrub(text: str, sides: Sequence[Side]) -> str:
    """A text in which no secret is left, whatever way it came."""
    for side in sides:
        text = masked(text, secret_masks(side.secrets))
    return text


def publish(title: str, name: str, sides: Sequence[Side], differences: Sequence[Difference], path: pathlib.Path) -> int:
    """Print and write the report; the exit code."""
    print(scrub(page(title, differences), sides))
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(scrub(html(title, sides, differences), sides))
    print(f"  to read   {os.path.relpath(path)}\n")
    if any(difference.kind == "host" for difference in differences):
        return 2
    return 1 if any(not difference.why for difference in differences) else 0
