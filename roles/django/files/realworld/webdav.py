"""Files on one media host, over WebDAV. A host is "address:port"; errors are OSErrors."""

import collections.abc
import contextlib
import email.message
import http.client
import posixpath
import shutil
import time
import typing
import urllib.parse
import xml.etree.ElementTree

from realworld import request_id

CONNECT_TIMEOUT = 1  # seconds: it is next door
ANSWER_TIMEOUT = 5  # seconds without a byte
SILENCE = 10  # seconds for which one that kept silent is asked last: not everybody has to wait for it

Chunks = collections.abc.Callable[[], collections.abc.Iterator[bytes]]

_silent: dict[str, float] = {}  # {host: when it was last silent (monotonic seconds)}


class Exists(OSError):
    """The name is taken."""


def silent(host: str) -> bool:
    """Whether a host did not answer lately."""
    return time.monotonic() - _silent.get(host, -SILENCE) < SILENCE


@contextlib.contextmanager
def _request(
    host: str,
    method: str,
    path: str,
    body: collections.abc.Iterator[bytes] | None = None,
    headers: dict[str, str] | None = None,
) -> collections.abc.Iterator[http.client.HTTPResponse]:
    connection = http.client.HTTPConnection(host, timeout=CONNECT_TIMEOUT)
    try:
        connection.connect()
        connection.sock.settimeout(ANSWER_TIMEOUT)
        # A host that refuses a body may answer and hang up before it has read all of it.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.request(
                method, urllib.parse.quote(path), body, {"X-Request-Id": request_id.get(), **(headers or {})}
            )
        yield connection.getresponse()
    except TimeoutError:
        _silent[host] = time.monotonic()
        raise
    except http.client.HTTPException as error:
        raise OSError(f"{host}: {method} {path}: {error!r}") from error
    finally:
        connection.close()


def _expect(response: http.client.HTTPResponse, host: str, method: str, path: str, *statuses: int) -> None:
    if response.status == 404 and 404 not in statuses:
        raise FileNotFoundError(f"{host}: no {path}")
    if response.status in (301, 308):  # to its name with a slash at the end
        raise IsADirectoryError(f"{host}: {path} is a directory")
    if response.status not in statuses:
        raise OSError(f"{host}: {method} {path}: {response.status} {response.reason}")


def _make_parents(host: str, path: str) -> None:
    parent = posixpath.dirname(path.rstrip("/"))
    with _request(host, "MKCOL", parent + "/") as response:
        status = response.status
        if status != 409:
            _expect(response, host, "MKCOL", parent, 201, 405)  # 405: another was quicker
    if status == 409:  # its own parent is missing
        if posixpath.dirname(parent) == parent:
            raise OSError(f"{host}: takes no directories")
        _make_parents(host, parent)
        _make_parents(host, path)


def put(host: str, path: str, chunks: Chunks, replace: bool = False) -> None:
    """Store what chunks() yields, bytes after bytes. Raises Exists rather than overwrite a file, unless replace."""
    for attempt in (1, 2):
        with _request(host, "PUT", path, chunks(), {} if replace else {"If-None-Match": "*"}) as response:
            if response.status == 412:
                raise Exists(f"{host}: {path} exists")
            if response.status in (404, 409) and attempt == 1:
                _make_parents(host, path)
                continue
            _expect(response, host, "PUT", path, 200, 201, 204)
            return


def get(host: str, path: str, file: typing.BinaryIO) -> None:
    """Write a file's content to an open binary file."""
    with _request(host, "GET", path) as response:
        _expect(response, host, "GET", path, 200)
        shutil.copyfileobj(response, file)
        if response.length:
            raise OSError(f"{host}: {path} ended {response.length} bytes early")


def head(host: str, path: str) -> email.message.Message:
    """A file's HTTP headers."""
    with _request(host, "HEAD", path) as response:
        _expect(response, host, "HEAD", path, 200)
        return response.headers


def delete(host: str, path: str) -> None:
    """Delete a file; one that is not there is deleted."""
    with _request(host, "DELETE", path) as response:
        _expect(response, host, "DELETE", path, 200, 204, 404)


def listdir(host: str, path: str) -> tuple[set[str], set[str]]:
    """Names of the directories and of the files in a directory, as two sets."""
    path = path.rstrip("/") + "/"
    with _request(host, "PROPFIND", path, headers={"Depth": "1"}) as response:
        _expect(response, host, "PROPFIND", path, 207)
        answer = xml.etree.ElementTree.fromstring(response.read())
    directories: set[str] = set()
    files: set[str] = set()
    for entry in answer.iterfind("{DAV:}response"):
        href = urllib.parse.urlsplit(entry.findtext("{DAV:}href", "")).path
        below = urllib.parse.unquote(href).removeprefix(path)
        if below and below[0] not in "/.":  # what begins with a dot is not the site's
            (directories if below.endswith("/") else files).add(below.rstrip("/"))
    return directories, files
