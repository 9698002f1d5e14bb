#!/bin/sh
# Install Debian packages on this machine: apt.sh PACKAGE… One caller after the other: steps of `make test` run beside each other.
set -eu

sudo=$([ "$(id -u)" = 0 ] || echo sudo)
exec 9</var/lib/dpkg
flock 9
# Without the lock's descriptor: a daemon that a package starts would keep the lock.
$sudo apt-get update -qq 9<&-
$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends -o DPkg::Lock::Timeout=300 "$@" 9<&-
