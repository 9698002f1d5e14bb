"""Secrets and what is an environment's own, replaced by what they stand for."""

import base64
import fnmatch
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from controller.parity.model import Side

Rule = Mapping[str, str]  # of group_vars/all/parity.yml
Mask = tuple[re.Pattern[str], str]  # what is replaced, and what stands for it
MASK = re.compile(r"<[^<>\n]+>")
TINY = 4  # characters: with fewer, it is no secret but a word of every other file
SHORT = 8  # a secret with fewer is only masked where it stands alone
LINE = 16  # a line of a key with fewer is not masked by itself


def strings(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield (name, text) of every text in a value of the vault."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from strings(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        for item in value:
            yield from strings(item, name)
    elif value is not None and not isinstance(value, bool):
        yield name, str(value)


def secret_masks(secrets: Mapping[str, str]) -> list[Mask]:
    """[(regular expression, what stands for it)] of secrets {name: text}, in every form that they take in a file; the longest first."""
    masks: dict[str, str] = {}
    for name, text in secrets.items():
        raw = text.encode()
        # The first and last line of a key are in every key.
        lines = [line for line in text.splitlines() if len(line) >= LINE and not line.startswith("-----")]
        for line in [text.strip(), *lines] if len(text.strip()) >= TINY else []:
            for form in (line, json.dumps(line)[1:-1]):
                masks.setdefault(form, f"<secret {name}>")
        if len(text) >= SHORT:
            for form in (
                hashlib.md5(raw, usedforsecurity=False).hexdigest(),
                hashlib.sha256(raw).hexdigest(),
                base64.b64encode(raw).decode(),
            ):
                masks.setdefault(form, f"<made of secret {name}>")
    return [
        (re.compile(re.escape(form) if len(form) >= SHORT else rf"(?<![\w-]){re.escape(form)}(?![\w-])"), word)
        for form, word in sorted(masks.items(), key=lambda pair: -len(pair[0]))
    ]


# Whatever is a key and not in the vault: that it is another one shows, what it is does not.
KEYS = re.compile(r"-----BEGIN ([A-Z ]*(?:PRIVATE KEY|CERTIFICATE))-----.*?-----END \1-----", re.S)


def derived_masks(rules: Sequence[Rule]) -> list[Mask]:
    """The masks of parity_derived."""
    return [(re.compile(rule["what"]), rule["as"]) for rule in rules]


def environment_masks(side: Side) -> list[Mask]:
    """Masks of where an environment is: hosts by their tier, the virtual IP, the network, the names of the site, the operator's keys."""
    known = side.known
    masks: dict[str, str] = {}
    for host in known["groups"].get("all", ()):
        tier = f"<{side.tier(host).partition('+')[0]}>"
        for name in (known["addresses"].get(host), known["reached"].get(host), host):
            masks[str(name)] = tier
            masks[str(name).replace(".", r"\.")] = tier  # in a regular expression
    masks |= {key: "<operator's key>" for keys in known.get("operator_keys", ()) for key in keys.splitlines()}
    # "localhost" is this machine's way to ask, and a word of every other file.
    masks |= {name: "<site>" for name in known.get("site_hosts", ()) if name != "localhost"}
    masks |= {known[name]: mask for name, mask in (("lb_vip", "<vip>"), ("network_cidr", "<network>")) if name in known}
    return [
        (
            re.compile(
                rf"(?<![\w.-]){re.escape(text)}(?![\w-]|\.\w)"
                + (r"(?:/\d+)?" if mask in ("<vip>", "<network>") else "")
                if not text.startswith("ssh-")
                else re.escape(text)
            ),
            mask,
        )
        for text, mask in sorted(masks.items(), key=lambda pair: -len(pair[0]))
    ]


def masked(text: str, masks: Sequence[Mask]) -> str:
    """A text with all masks applied."""
    for pattern, mask in masks:
        text = pattern.sub(mask.replace("\\", r"\\"), text)
    return KEYS.sub(
        lambda match: f"<{match[1].lower()} {hashlib.sha256(match[0].encode()).hexdigest()[:8]}, not of the vault>",
        text,
    )


REPEATED = re.compile(r"""("?[^\s",;|<>]*(?:<[^<>\n]+>[^\s",;|<>]*)+"?)(?:(?:,? +|[,|])\1)+(?![\w.:-])""")


def deduplicated(text: str) -> str:
    """A masked text in which what repeats itself for every host of a pool is there once: words of a line, and blocks of lines."""
    lines = [REPEATED.sub(r"\1", line) for line in text.splitlines()]
    # The last of a list has no comma.
    lines = [line.rstrip(",") if MASK.search(line) or line.strip() in ("},", "],") else line for line in lines]
    for size in range(1, 13):
        start = 0
        while start + 2 * size <= len(lines):
            block = lines[start : start + size]
            if block == lines[start + size : start + 2 * size] and any(MASK.search(line) for line in block):
                del lines[start : start + size]
            else:
                start += 1
    return "\n".join(lines)


# pgpool numbers its databases.
NUMBERED = re.compile(r"(?m)^(backend_[a-z_]+?)\d+ =")


class View:
    """How a side is looked at: with its secrets and places masked, and what is declared of single lines taken out."""

    def __init__(self, side: Side, declared: Sequence[Rule], derived: Sequence[Rule]) -> None:
        self.masks = [*secret_masks(side.secrets), *derived_masks(derived), *environment_masks(side)]
        self.known: dict[str, str] = {}  # what was masked already
        self.lines = [rule for rule in declared if "line" in rule]

    def mask(self, text: str) -> str:
        """A text, masked. Most hosts say the same: it is looked at once."""
        if text not in self.known:
            self.known[text] = deduplicated(NUMBERED.sub(r"\1N =", masked(str(text), self.masks)))
        return self.known[text]

    def file(self, path: str, entry: Mapping[str, Any]) -> tuple[str, str | None, dict[int, str]]:
        """(what is compared of a file, its text for a diff or None, {line rule's place: what it took out})."""
        if "link" in entry:
            return f"{entry['owner']}, a link to {self.mask(entry['link'])}", None, {}
        text, taken = entry.get("text"), {}
        if text is None:
            return f"{entry['owner']} {entry['mode']}, content {entry['sha256'][:12]}", None, {}
        text = self.mask(text)
        for number, rule in enumerate(self.lines):
            if fnmatch.fnmatchcase(f"file {path}", rule["what"]):
                pattern = re.compile(rule["line"], re.M)
                taken[number] = " ".join(
                    " ".join(line.split()) for line in (match[0] for match in pattern.finditer(text))
                )
                text = pattern.sub("<declared>", text)
        return (
            f"{entry['owner']} {entry['mode']}, content {hashlib.sha256(text.encode()).hexdigest()[:12]}",
            text if entry.get("shown") else None,
            taken,
        )
