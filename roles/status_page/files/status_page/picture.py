"""The picture: tiers side by side, from top to bottom as a request passes them."""

import html

from status_page.judgement import Model
from status_page.settings import Config

Frame = tuple[float, int, float, int]  # left, top, width, height


def fit(text: str, width: float, letter: float) -> str:
    """A text that is no wider than so many units, of letters that are so wide."""
    most = max(3, int(width / letter))
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def box(name: str, host: Model, tier: str, corner: tuple[float, float], width: float, height: int) -> str:
    """A host as SVG."""
    left, top = corner
    middle = left + width / 2
    lines = host["brief"].get(tier, [])[:2]
    title = html.escape(f"{name}: {'; '.join([*host['does'].values(), *host['wrong']])}")
    sign = {"ok": "", "wrong": "!", "silent": "?"}[host["state"]]
    marked = " mark" if {"lb": "virtual IP", "db": "primary"}.get(tier, "-") in host["marks"] else ""
    drawn = [
        f'<a href="#{html.escape(name)}" class="box {host["state"]}{marked}"><title>{title}</title>',
        f'<rect x="{left:.0f}" y="{top:.0f}" width="{width:.0f}" height="{height}" rx="8"/>',
        f'<text x="{middle:.0f}" y="{top + 21:.0f}">{html.escape(fit(name, width - 40, 8.5))}</text>',
    ]
    for number, line in enumerate(lines):
        text = html.escape(fit(line, width - 8, 6.3))
        drawn.append(f'<text class="sub" x="{middle:.0f}" y="{top + 38 + 15 * number:.0f}">{text}</text>')
    if sign:
        drawn.append(
            f'<circle cx="{left + width - 15:.0f}" cy="{top + 15:.0f}" r="9"/>'
            f'<text class="sign" x="{left + width - 15:.0f}" y="{top + 20:.0f}">{sign}</text>'
        )
    return "".join([*drawn, "</a>"])


def picture(model: Model, config: Config, width: int, bands: list[list[str]], kind: str) -> str:
    """The environment as SVG, so many units wide.

    A tier is a frame with a box for each host; frames of the same band are beside each other.
    """
    gap, pad, box_height, least = 14, 9, 62, 104
    top = 96
    drawn: list[str] = []
    wires: list[str] = []
    frames: dict[str, Frame] = {}
    for band in bands:
        tiers = [tier for tier in band if model["tiers"].get(tier)]
        if not tiers:
            continue
        # As wide as it has hosts, and no narrower than one box.
        floor = least + 2 * pad
        room = width - 2 - gap * (len(tiers) - 1)
        hosts = sum(len(model["tiers"][tier]) for tier in tiers)
        widths = {tier: max(floor, room * len(model["tiers"][tier]) / hosts) for tier in tiers}
        excess = sum(widths.values()) - room
        spare = sum(wide - floor for wide in widths.values())
        widths = {tier: wide - (excess * (wide - floor) / spare if spare > 0 else 0) for tier, wide in widths.items()}
        left, tallest = 1.0, 0
        for tier in tiers:
            names, wide = model["tiers"][tier], widths[tier] - 2 * pad
            columns = max(1, min(len(names), int((wide + pad) // (least + pad))))
            rows = -(-len(names) // columns)
            height = 24 + rows * (box_height + pad)
            frames[tier] = (left, top, widths[tier], height)
            each = min(240, (wide - pad * (columns - 1)) / columns)
            indent = (wide - each * columns - pad * (columns - 1)) / 2
            drawn.append(
                f'<rect class="frame" x="{left:.0f}" y="{top}" width="{widths[tier]:.0f}" height="{height}" rx="10"/>'
                f'<text class="label" x="{left + widths[tier] / 2:.0f}" y="{top + 16}">{config["titles"][tier]}</text>'
            )
            for number, name in enumerate(names):
                x = left + pad + indent + (number % columns) * (each + pad)
                y = top + 24 + (number // columns) * (box_height + pad)
                drawn.append(box(name, model["hosts"][name], tier, (x, y), each, box_height))
            left, tallest = left + widths[tier] + gap, max(tallest, height)
        top += tallest + 26
    for upper, lowers in config["uses"].items():
        wires += [wire(frames[upper], frames[lower]) for lower in lowers if upper in frames and lower in frames]
    middle, site = width / 2, model["site"]
    well = site and site["status"] == 200 and site["says"]
    outcome = (
        f"answers in {site['seconds']:.2f} s" if well else f"answers {site['status']}" if site else "does not answer"
    )
    holders = (
        ", ".join(name for name, host in model["hosts"].items() if "virtual IP" in host["marks"]) or "nobody knows who"
    )
    if "lb" in frames:
        wires.insert(0, f'<path class="wire" d="M{middle:.0f} 66 L{middle:.0f} {frames["lb"][1]}"/>')
    caption = f"{outcome}, held by {holders}"
    head = (
        f'<g class="box vip {"ok" if well else "wrong"}">'
        f'<rect x="{middle - 125:.0f}" y="8" width="250" height="58" rx="8"/>'
        f'<text x="{middle:.0f}" y="31">https://{html.escape(model["vip"])}</text>'
        f'<text class="sub" x="{middle:.0f}" y="51">{html.escape(fit(caption, 246, 6.3))}</text></g>'
    )
    return (
        f'<svg class="{kind}" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {top - 12}" role="img" '
        f'aria-label="The tier and how each host is; the same in words below.">{"".join([*wires, head, *drawn])}</svg>'
    )


def wire(upper: Frame, lower: Frame) -> str:
    """A line from the lower edge of a frame to the upper edge of one below it, as upright as it can be."""
    lowest, highest = max(upper[0], lower[0]), min(upper[0] + upper[2], lower[0] + lower[2])
    below = lower[0] + lower[2] / 2
    if upper[0] < below < upper[0] + upper[2]:
        above = below
    else:
        above = (lowest + highest) / 2 if lowest < highest else upper[0] + upper[2] / 2
    return f'<path class="wire" d="M{above:.0f} {upper[1] + upper[3]} L{below:.0f} {lower[1]}"/>'
