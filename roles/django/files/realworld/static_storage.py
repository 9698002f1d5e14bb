"""Static files: named as the tier or the project wants it.

A name of no file fails the build where the project is strict, and no page.
"""

import logging
import typing

from django.conf import settings
from django.utils.module_loading import import_string

logger = logging.getLogger(__name__)


def strict(own: str, options: dict[str, typing.Any]) -> bool:
    """Whether a project refuses a name of no static file, by the OPTIONS or class of its storage, own."""
    try:
        default = getattr(import_string(own), "manifest_strict", True)
    except ImportError:  # of a package that only its developers have
        default = True
    default = getattr(settings, "WHITENOISE_MANIFEST_STRICT", None) is not False and default
    return bool(options.get("manifest_strict", default))


def own_class(own: str, kind: typing.Any) -> typing.Any:
    """The project's own class where it names files as the tier's does, and is of its kind; else the tier's."""
    try:
        candidate: typing.Any = import_string(own) if own else kind
    except ImportError:
        return kind
    return candidate if isinstance(candidate, type) and issubclass(candidate, kind) else kind


def patient(kind: typing.Any, log: bool) -> typing.Any:
    """A class of storage that leaves a name of no file as it is."""

    class Patient(kind):
        """Logs each of these names once, where the project is strict."""

        manifest_strict = False

        def stored_name(self, name: str) -> str:
            try:
                return str(super().stored_name(name))
            except ValueError:  # also where manifest_strict is False, whatever Django's documentation says of it
                if log and name not in missing:
                    missing.add(name)
                    logger.error("no static file %s: a page names it", name)
                return name

    missing: set[str] = set()
    return Patient


def storage(tier: str, own: str, options: dict[str, typing.Any], serving: bool = False) -> typing.Any:
    """A storage of the tier's class, or of the project's own where that is a kind of it, with its OPTIONS."""
    base: typing.Any = import_string(tier)
    kind, is_strict = own_class(own, base), not own or strict(own, options)
    kept = {
        name: value
        for name, value in options.items()
        if own == tier or kind is not base
        if name not in ("manifest_strict", "location", "base_url")
    }

    def create(kind: typing.Any, **arguments: typing.Any) -> typing.Any:
        return (patient(kind, is_strict) if serving or not is_strict else kind)(**arguments)

    made = create(kind, **kept)
    # A release that was built by the tier's class has no manifest where the project's own looks for it.
    return create(base) if serving and kind is not base and not getattr(made, "hashed_files", True) else made
