"""Static files: named as the tier wants it, and as patiently with names of no file as the project."""

import typing

from django.conf import settings
from django.utils.module_loading import import_string


def strict(own: str, options: dict[str, typing.Any]) -> bool:
    """Whether a project wants a page to fail that names no static file, by the OPTIONS or class of its storage, own."""
    try:
        default = getattr(import_string(own), "manifest_strict", True)
    except ImportError:  # of a package that only its developers have
        default = True
    default = getattr(settings, "WHITENOISE_MANIFEST_STRICT", None) is not False and default
    return bool(options.get("manifest_strict", default))


def storage(tier: str, own: str, options: dict[str, typing.Any]) -> typing.Any:
    """A storage of the tier's class, with the OPTIONS of the project's own where that is the same class."""
    kind: typing.Any = import_string(tier)
    kept = {
        name: value
        for name, value in options.items()
        if own == tier and name not in ("manifest_strict", "location", "base_url")
    }
    if strict(own, options):
        return kind(**kept)

    class Patient(kind):
        """Leaves a name that is none as it is."""

        manifest_strict = False

        def stored_name(self, name: str) -> str:
            try:
                return str(super().stored_name(name))
            except ValueError:  # also where manifest_strict is False, whatever Django's documentation says of it
                return name

    return Patient(**kept)
