#!/bin/sh
# Build the node image and the builder image. Cached: seconds the first time, none afterwards.
#
# The base comes from a Debian mirror, checked against the Debian archive keys, so no image
# registry is needed and every machine builds the same thing.
#
#   image.sh          build what is missing
#   image.sh remove   remove the images, golden ones too, and what builds have downloaded, unless a container still uses them
set -eu

here=$(dirname "$(readlink -f "$0")")
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
log=/var/log/realworld-image.log

say() { printf 'image: %s\n' "$*"; }
die() { printf 'image: %s\n' "$*" >&2; exit 1; }

[ "$(id -u)" = 0 ] || exec sudo DEBIAN_MIRROR="$mirror" "$0" "$@"

if [ "${1:-}" = remove ]; then
  if [ -z "$(docker ps --all --quiet --filter label=realworld)" ]; then
    docker image ls --quiet --filter 'reference=realworld/golden-*' | xargs --no-run-if-empty docker image rm --force >/dev/null 2>&1 || true
    docker image rm --force realworld/builder:13 realworld/node:13 realworld/debian:13 >/dev/null 2>&1 || true
    docker volume ls --quiet | grep '^realworld-build-cache' | xargs --no-run-if-empty docker volume rm --force >/dev/null 2>&1 || true
  fi
  exit 0
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if ! docker image inspect realworld/debian:13 >/dev/null 2>&1; then
  if ! command -v mmdebstrap >/dev/null; then
    say "installing mmdebstrap"
    "$(dirname "$0")/../controller/apt.sh" mmdebstrap >"$log" 2>&1 ||
      die "apt-get could not install mmdebstrap: see $log"
  fi
  say "fetching a Debian 13 base from $mirror"
  mmdebstrap --quiet --variant=minbase --include=ca-certificates trixie "$work/base.tar" "$mirror" >"$log" 2>&1 ||
    die "no Debian 13 from $mirror: see $log, or name another mirror with DEBIAN_MIRROR=http://…"
  docker import "$work/base.tar" realworld/debian:13 >/dev/null
  rm "$work/base.tar"
fi

# Machines behind a TLS-inspecting proxy: what this host trusts, the nodes trust.
mkdir "$work/ca-certificates"
find /usr/local/share/ca-certificates -name '*.crt' -exec cp {} "$work/ca-certificates/" \; 2>/dev/null || true
cp "$here/Dockerfile" "$here/boot" "$work/"

for target in node builder; do
  docker image inspect "realworld/$target:13" >/dev/null 2>&1 || say "building realworld/$target:13"
  DOCKER_BUILDKIT=0 docker build --quiet --target "$target" --tag "realworld/$target:13" "$work" >"$log" 2>&1 ||
    die "the image did not build: see $log"
done
