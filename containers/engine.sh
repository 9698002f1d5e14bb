#!/bin/sh
# Make a Docker engine answer on this machine. Does nothing where one already does.
#
# A machine with systemd starts the distribution's service. Without systemd, or where the
# host's cgroups are version 1 or hybrid (systemd in a container refuses those), the engine
# runs in a mount namespace of its own that sees nothing but cgroup2.
#
#   engine.sh up     install what is missing, start, wait until it answers
#   engine.sh down   stop the engine that `up` started by hand, and no other
set -eu

state=/run/realworld-engine
log=/var/log/realworld-engine.log

say() { printf 'engine: %s\n' "$*"; }
die() { printf 'engine: %s\n' "$*" >&2; exit 1; }
answers() { docker info >/dev/null 2>&1; }

if [ "$(id -u)" != 0 ]; then
  command -v sudo >/dev/null || die "needs root and sudo is not installed: run make as root"
  exec sudo "$0" "$@"
fi

# systemd in every host watches files by inotify, and all hosts share root's 128 instances: enough for one environment
# only. Short of them, services of a second one fail with "Too many open files".
room() {
  limit=/proc/sys/fs/inotify/max_user_instances
  [ "$(cat $limit)" -lt 1024 ] || return 0
  say "letting root watch files 1024 times over instead of $(cat $limit) ($limit, until this machine restarts)"
  echo 1024 > $limit || die "could not write $limit: type sysctl fs.inotify.max_user_instances=1024"
}

up() {
  room
  answers && return 0
  if ! command -v dockerd >/dev/null; then
    say "no Docker engine here: installing Debian's docker.io"
    command -v apt-get >/dev/null || die "no apt-get here: install a Docker engine yourself, then run make again"
    apt="$(dirname "$0")/../controller/apt.sh"
    "$apt" docker.io iptables >"$log" 2>&1 || die "apt-get could not install docker.io and iptables: see $log"
    # Debian 13 ships the client apart from the engine.
    if [ -n "$(apt-cache search --names-only '^docker-cli$')" ]; then
      "$apt" docker-cli >>"$log" 2>&1 || die "apt-get could not install docker-cli: see $log"
    fi
    answers && return 0
  fi
  if [ -d /run/systemd/system ]; then
    say "starting docker.service"
    systemctl start docker || die "docker.service did not start: journalctl -u docker"
  else
    say "no systemd here: starting dockerd with cgroup2 alone (log: $log)"
    mkdir -p "$state" /sys/fs/cgroup
    # shellcheck disable=SC2016
    setsid unshare --mount --propagation private sh -c '
      umount --recursive /sys/fs/cgroup 2>/dev/null || true
      mount -t cgroup2 cgroup2 /sys/fs/cgroup
      exec dockerd --exec-opt native.cgroupdriver=cgroupfs --pidfile '"$state"'/pid
    ' >"$log" 2>&1 </dev/null &
  fi
  tries=0
  until answers; do
    tries=$((tries + 1))
    [ "$tries" -le 60 ] || die "the engine did not answer within 60 s: see $log"
    sleep 1
  done
  say "up"
}

down() {
  [ -s "$state/pid" ] || return 0
  if [ -n "$(docker ps -q)" ]; then
    say "left running: other containers use it"
    return 0
  fi
  pid=$(cat "$state/pid")
  kill "$pid"
  while kill -0 "$pid" 2>/dev/null; do sleep 0.2; done
  rm -rf "$state"
  say "stopped"
}

case "${1:-}" in
  up) up ;;
  down) down ;;
  *) die "usage: engine.sh up|down" ;;
esac
