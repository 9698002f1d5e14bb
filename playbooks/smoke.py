"""Ask a site, by its virtual IP, for what its visitors rely on: pages by what they say, a static file, an upload.

    smoke.py INVENTORY [OPTION OF ANSIBLE-PLAYBOOK …]

site_smoke of group_vars/all/site.yml has the pages. Exits with 1 where something is not as it should be, with 2 where nobody could be asked.
"""

import contextlib
import html
import http.client
import pathlib
import re
import socket
import ssl
import sys
import time

from status import ask, table

PLAYBOOK = pathlib.Path(__file__).with_name("smoke.yml")
PATIENCE = 10.0  # seconds a visitor waits for an answer
HELD = 20.0      # seconds a balancer may take to have the virtual IP


def visitor(asked):
    """fetch(path) as a browser does it, with the site's name: (status, body). Raises OSError and HTTPException."""
    context, port = ssl.create_default_context(), int(asked["port"])
    authority = pathlib.Path(asked["authority"])
    if authority.exists() and authority.stat().st_size:  # else somebody else has signed the certificate
        context.load_verify_locations(authority)

    def fetch(path):
        with contextlib.closing(http.client.HTTPSConnection(asked["name"], port, timeout=PATIENCE)) as connection:
            plain = socket.create_connection((asked["address"], port), timeout=PATIENCE)
            connection.sock = context.wrap_socket(plain, server_hostname=asked["name"])
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
    return fetch


def look(asked, fetch):
    """(rows of a table, sentences about what is wrong)."""
    rows, wrong, links = [("what", "path", "answer")], [], []

    def get(what, path):
        try:
            status, body = fetch(path)
        except (OSError, http.client.HTTPException) as error:
            status, body = repr(error), b""
        rows.append((what, path, f"{status}, {len(body)} bytes"))
        if status != 200 or not body:
            wrong.append(f"The {what} {path} is not there: {status}")
            return None
        return body.decode(errors="replace")

    for page in asked["pages"]:
        text = get("page", page["path"])
        if text is not None and not re.search(page["says"], text):
            wrong.append(f"The page {page['path']} does not say {page['says']}")
        links += [html.unescape(link) for link in re.findall(r'(?:href|src)="([^"]+)"', text or "")]
    for what, prefix in asked["files"].items():
        named = next((link for link in links if link.startswith(prefix)), None)
        if named:
            get(what, named)
        elif what == "static file":
            wrong.append("No page links to a static file")
        else:
            rows.append((what, prefix, "no page links to one"))
    return rows, wrong


def held(asked):
    """Await that somebody takes connections at the virtual IP; whether anybody does."""
    deadline = time.monotonic() + HELD
    while True:
        try:
            socket.create_connection((asked["address"], asked["port"]), timeout=1).close()
            return True
        except OSError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.2)  # between two tries with a deadline


def main():
    """Print what came."""
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    asked = next((said["msg"] for said in ask(sys.argv[1], PLAYBOOK, sys.argv[2:]).values() if isinstance(said.get("msg"), dict)), None)
    if asked is None:
        print("group_vars do not say what a visitor gets: make converge says why.", file=sys.stderr)
        return 2
    if not held(asked):
        print(f"Nobody answers at {asked['address']}: on a balancer, journalctl -u keepalived", file=sys.stderr)
        return 2
    rows, wrong = look(asked, visitor(asked))
    print("\n".join(["", *table(rows), "", *(f"  {sentence}" for sentence in wrong), *([""] if wrong else [])]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
