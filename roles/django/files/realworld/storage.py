"""Uploads: on every media host, on no app host."""

import collections.abc
import datetime
import email.message
import email.utils
import functools
import hashlib
import io
import logging
import os
import pathlib
import posixpath
import random
import re
import shutil
import tempfile
import time
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
COPIES_KEPT = 3600  # seconds after which a copy that path() has made is removed

_used: dict[pathlib.Path, float] = {}  # {copy that path() has made: when it was last asked for (monotonic seconds)}


@functools.cache
def _copies() -> tempfile.TemporaryDirectory[str]:
    """The directory of this process for copies of files."""
    return tempfile.TemporaryDirectory(prefix="realworld-")


class StoredFile(File):
    """A copy of a stored file. What was written to it is stored when it is closed."""

    def __init__(self, storage: "TierMediaStorage", name: str, mode: str) -> None:
        self.storage = storage
        self._start(name, mode)

    def _start(self, name: str, mode: str) -> None:
        if not re.fullmatch(r"[rwxa](?:[bt]?\+?|\+[bt])", mode):
            raise ValueError(f"invalid mode: {mode!r}")
        self.writes = mode[0] in "wxa" or "+" in mode
        if mode[0] == "x" and self.storage.exists(name):
            raise FileExistsError(f"{name} exists")
        raw: typing.Any = tempfile.SpooledTemporaryFile(IN_MEMORY)
        if mode[0] in "ra":
            try:
                self.storage.fetch(name, raw)
            except FileNotFoundError:
                if mode[0] == "r":
                    raise
            raw.seek(0, io.SEEK_END if mode[0] == "a" else io.SEEK_SET)
        self.raw = raw
        opened = raw if self.writes else io.BufferedReader(raw)  # which refuses to write
        super().__init__(opened if "b" in mode else io.TextIOWrapper(opened, "utf-8"), name)
        self.mode = mode

    def open(self, mode: str | None = None, *_args: typing.Any, **_options: typing.Any) -> "StoredFile":
        """From its beginning, also after it was closed."""
        if self.closed:
            self._start(str(self.name), mode or self.mode)
        elif self.mode[0] != "a":
            self.seek(0)
        return self

    def close(self) -> None:
        try:
            if self.writes and not self.closed:
                self.file.flush()
                self.storage.upload(str(self.name), File(self.raw), replace=self.mode[0] != "x")
        finally:
            super().close()


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

    def get_available_name(self, name: str, max_length: int | None = None) -> str:
        # Media hosts refuse hidden files, and copies that editors keep.
        name = re.sub(r"(^|/)\.(?!\.?(?:/|$))", r"\1_.", str(name).replace("\\", "/"))
        return str(super().get_available_name(re.sub(r"~$", "_", name), max_length))

    def _save(self, name: str, content: File) -> str:
        seekable = getattr(content, "seekable", None)
        if seekable is None or seekable():
            self.upload(name, content)
            return name
        with tempfile.SpooledTemporaryFile(IN_MEMORY) as copy:  # it is read once for every host
            for chunk in content.chunks():
                copy.write(chunk.encode() if isinstance(chunk, str) else chunk)
            self.upload(name, File(copy))
        return name

    def upload(self, name: str, content: File, replace: bool = False) -> None:
        """Store a file on every media host. Raises webdav.Exists rather than overwrite one, unless replace."""

        def chunks() -> collections.abc.Iterator[bytes]:
            for chunk in content.chunks():
                yield chunk.encode() if isinstance(chunk, str) else chunk

        stored: list[str] = []
        for host in sorted(self.hosts, key=webdav.silent):
            if stored and webdav.silent(host):
                logger.warning("upload of %s passes over %s, which was silent", name, host)
                continue
            try:
                webdav.put(host, self._path(name), chunks, replace)
            except webdav.Exists:
                self._each(stored, webdav.delete, name)
                raise
            except OSError as error:
                logger.warning("upload of %s missed a media host: %s", name, error)
            else:
                stored.append(host)
        if not stored:
            raise OSError(f"no media host took {name}")

    def _open(self, name: str, mode: str = "rb") -> File:
        return StoredFile(self, name, mode)

    def fetch(self, name: str, file: typing.BinaryIO) -> None:
        """Write a stored file's content to an open binary file."""

        def get(host: str) -> None:
            file.seek(0)
            file.truncate()  # what one host that failed in the middle has sent
            webdav.get(host, self._path(name), file)

        self._any(get, name)

    def path(self, name: str) -> str:
        """The path of a copy of a file, which cannot be written to and stays for an hour.

        What is no file has none: libraries ask for one to know whether the storage is a directory of this host.
        """
        try:
            if not name:
                raise FileNotFoundError
            modified = email.utils.parsedate_to_datetime(self._headers(name)["Last-Modified"]).timestamp()
        except (FileNotFoundError, IsADirectoryError):
            raise NotImplementedError(f"{name or 'this storage'} is no file that could be copied") from None
        stored = self._path(name)
        copy = pathlib.Path(_copies().name, hashlib.sha256(stored.encode()).hexdigest(), posixpath.basename(stored))
        now = time.monotonic()
        _used[copy] = now
        for other, last in list(_used.items()):
            if now - last > COPIES_KEPT:
                shutil.rmtree(other.parent, ignore_errors=True)
                _used.pop(other, None)
        if not copy.exists() or copy.stat().st_mtime != modified:
            copy.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=copy.parent, delete=False) as file:
                self.fetch(name, typing.cast(typing.BinaryIO, file))
            os.utime(file.name, (modified, modified))
            os.chmod(file.name, 0o400)
            os.replace(file.name, copy)
        return str(copy)

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
        except IsADirectoryError:
            return True
        return True

    def size(self, name: str) -> int:
        return int(self._headers(name)["Content-Length"])

    def get_modified_time(self, name: str) -> datetime.datetime:
        modified = email.utils.parsedate_to_datetime(self._headers(name)["Last-Modified"])
        return modified if settings.USE_TZ else timezone.make_naive(modified)

    # Media hosts keep one time of each file.
    get_created_time = get_accessed_time = get_modified_time

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
            except IsADirectoryError:
                raise
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
