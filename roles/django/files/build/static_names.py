"""Say which static files the templates of a site name that are not there: the page lacks each of them.

    static_names.py SOURCE PACKAGE

Run with the settings that static files are collected with. SOURCE is the site's directory, PACKAGE its own package,
where that is installed. The last line that is printed is JSON: [[template, name of the file, whether the template is
the site's own], …]. Only names that are written out are looked for.
"""

import collections.abc
import importlib.util
import json
import pathlib
import sys
import typing

import django
from django.apps import apps
from django.template import engines
from django.template.backends.django import DjangoTemplates
from django.template.base import Lexer, TokenType
from django.utils.module_loading import import_string


def directories(loaders: list[typing.Any]) -> collections.abc.Iterator[pathlib.Path]:
    """Those that template loaders look into."""
    for loader in loaders:
        yield from directories(getattr(loader, "loaders", []))  # of one that keeps what others have loaded
        yield from (
            pathlib.Path(directory).resolve()
            for directory in (loader.get_dirs() if hasattr(loader, "get_dirs") else [])
        )


def names(text: str) -> collections.abc.Iterator[str]:
    """The names that {% static 'name' %} has in a template."""
    hidden = 0
    for token in Lexer(text).tokenize():
        bits = token.split_contents() if token.token_type == TokenType.BLOCK else []
        if bits[:1] in (["comment"], ["endcomment"]):
            hidden += 1 if bits[0] == "comment" else -1
        elif len(bits) > 1 and bits[0] == "static" and not hidden and bits[1][0] in "'\"" and bits[1][-1] == bits[1][0]:
            yield bits[1][1:-1]


def main() -> None:
    """Print what is missing."""
    source, package = pathlib.Path(sys.argv[1]).resolve(), importlib.util.find_spec(sys.argv[2])
    own = [source, *map(pathlib.Path, (package and package.submodule_search_locations) or [])]
    django.setup()
    missing = set()
    if apps.is_installed("django.contrib.staticfiles"):
        from django.contrib.staticfiles.storage import staticfiles_storage

        django_engines = [
            engines[alias].engine
            for alias in engines.templates
            if issubclass(import_string(engines.templates[alias]["BACKEND"]), DjangoTemplates)
        ]
        for directory in {directory for engine in django_engines for directory in directories(engine.template_loaders)}:
            for path in directory.rglob("*"):
                try:
                    text = path.read_text(encoding="utf-8") if path.is_file() else ""
                except (OSError, UnicodeDecodeError):
                    continue
                for name in names(text) if "static" in text else ():
                    try:
                        staticfiles_storage.url(name)
                    except ValueError:
                        missing.add((str(path), name, any(path.is_relative_to(directory) for directory in own)))
    print(json.dumps(sorted(missing)))


if __name__ == "__main__":
    main()
