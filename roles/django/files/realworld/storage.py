"""Uploads: on every media host, on no app host."""

import collections.abc
import datetime
import email.message
import email.utils
import logging
import posixpath
import random
import tempfile
import typing
import urllib.parse

from django.conf import settings
from django.core.files.base import File
from django.core.files.storage import Storage
from django.core.files.utils import validate_file_name
from django.utils import timezone
from django.utils.deconstruct import deconstructible
from django.utils.encoding import filepath_to_uri

from realworld import webdav

logger = logging.getLogger(__name__)

T = typing.TypeVar("T")

IN_MEMORY = 1024 * 1024  # bytes of a file that is read before it goes to a temporary file


@deconstructible(path="realworld.storage.TierMediaStorage")
class TierMediaStorage(Storage):
    """Writes to every media host and is content with one; reads from any that has the file.

    What a host missed while it was away, the media tier gives it later.
    """

    def __init__(self, hosts: list[str], base_url: str) -> None:
        self.hosts = hosts
        self.base_url = base_url

    def save(self, name: str | None, content: File, max_length: int | None = None) -> str:
        # Between the look for a free name and the upload, another node may take it: look again.
        for _ in range(3):
            try:
                return str(super().save(name, content, max_length))
            except webdav.Exists:
                continue
        return str(super().save(name, content, max_length))

    def _save(self, name: str, content: File) -> str:
        def chunks() -> collections.abc.Iterator[bytes]:
            for chunk in content.chunks():
                yield chunk.encode() if isinstance(chunk, str) else chunk

        stored: list[str] = []
        for host in sorted(self.hosts, key=webdav.silent):
            if stored and webdav.silent(host):
                logger.warning("upload of %s passes over %s, which was silent", name, host)
                continue
            try:
                webdav.put(host, self._path(name), chunks)
            except webdav.Exists:
                self._each(stored, webdav.delete, name)
                raise
            except OSError as error:
                logger.warning("upload of %s missed a media host: %s", name, error)
            else:
                stored.append(host)
        if not stored:
            raise OSError(f"no media host took {name}")
        return name

    def _open(self, name: str, mode: str = "rb") -> File:
        if mode != "rb":
            raise ValueError("a stored file is replaced with save(), not written to")

        def fetch(host: str) -> File:
            file = tempfile.SpooledTemporaryFile(IN_MEMORY)
            webdav.get(host, self._path(name), typing.cast(typing.BinaryIO, file))
            file.seek(0)
            return File(file, name)

        return self._any(fetch, name)

    def delete(self, name: str) -> None:
        if not name:
            raise ValueError("a file to delete has a name")
        if not self._each(self.hosts, webdav.delete, name):
            raise OSError(f"no media host deleted {name}")

    def exists(self, name: str) -> bool:
        try:
            self._headers(name)
        except FileNotFoundError:
            return False
        return True

    def size(self, name: str) -> int:
        return int(self._headers(name)["Content-Length"])

    def get_modified_time(self, name: str) -> datetime.datetime:
        modified = email.utils.parsedate_to_datetime(self._headers(name)["Last-Modified"])
        return modified if settings.USE_TZ else timezone.make_naive(modified)

    def url(self, name: str) -> str:
        return urllib.parse.urljoin(self.base_url, str(filepath_to_uri(name)).lstrip("/"))

    def listdir(self, path: str) -> tuple[list[str], list[str]]:
        answers = self._each(self.hosts, webdav.listdir, path or ".")
        if not answers:
            raise FileNotFoundError(f"no media host has a directory {path}")
        directories, files = zip(*answers)
        return sorted(set().union(*directories)), sorted(set().union(*files))

    def _path(self, name: str) -> str:
        name = str(name).replace("\\", "/")
        if name != ".":
            validate_file_name(name, allow_relative_path=True)
        return posixpath.normpath(posixpath.join(self.base_url, name))

    def _headers(self, name: str) -> email.message.Message:
        return self._any(lambda host: webdav.head(host, self._path(name)), name)

    def _any(self, ask: collections.abc.Callable[[str], T], name: str) -> T:
        """The answer of the first host that has the file, in random order to share the work."""
        missing = False
        for host in sorted(random.sample(self.hosts, len(self.hosts)), key=webdav.silent):
            if missing and webdav.silent(host):
                continue
            try:
                return ask(host)
            except FileNotFoundError:
                missing = True
            except OSError as error:
                logger.warning("%s: asking the next media host: %s", name, error)
        if missing:
            raise FileNotFoundError(f"no media host has {name}")
        raise OSError(f"no media host answers for {name}")

    def _each(
        self, hosts: list[str], act: collections.abc.Callable[[str, str], typing.Any], name: str
    ) -> list[typing.Any]:
        """The answers of the hosts at which a function of webdav went well."""
        answers = []
        for host in hosts:
            try:
                answers.append(act(host, self._path(name)) or True)
            except OSError as error:
                logger.warning("%s %s missed a media host: %s", act.__name__, name, error)
        return answers
