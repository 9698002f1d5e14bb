#!/bin/sh
# Install the controller's pinned tools into a virtualenv: venv.sh DIRECTORY
set -eu

venv=$1
lock=$(dirname "$(readlink -f "$0")")/../.config/requirements.txt

die() { printf 'venv: %s\n' "$*" >&2; exit 1; }

# Debian's, whatever else is first in PATH: a Python that was compiled without profiles, as version managers do, is a third slower.
python=/usr/bin/python3

if ! $python -c 'import ensurepip' 2>/dev/null; then
  echo "venv: installing Debian's python3-venv"
  "$(dirname "$0")/apt.sh" python3-venv >/dev/null ||
    die "apt-get could not install python3-venv: install it, then run make again"
fi
$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die "needs Debian 12 or newer: its $python is older than 3.11"

$python -m venv --clear "$venv"

# pip fetches uv alone; uv fetches the rest, hashes checked, several times faster.
only_uv=$(mktemp)
trap 'rm -f "$only_uv"' EXIT
awk '/^[a-z]/ {ours = /^uv==/} ours && !/# via/' "$lock" >"$only_uv"
"$venv/bin/pip" install --quiet --disable-pip-version-check --require-hashes --no-deps -r "$only_uv" ||
  die "PyPI does not answer, or answers with other files than the lock names: see above"
UV_SYSTEM_CERTS=1 "$venv/bin/uv" pip sync --quiet --require-hashes --python "$venv/bin/python" "$lock" ||
  die "PyPI does not answer, or answers with other files than the lock names: see above"
