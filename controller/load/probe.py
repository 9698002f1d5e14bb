"""A probe of a host while visitors are at it, and its samples."""

import shlex
import statistics
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from typing import IO

Sample = dict[str, float]  # {name: figure} of a host at a moment
Probe = tuple[subprocess.Popen[bytes], IO[str]]  # the process, and the file that it writes

EVERY_S = 2  # seconds between two looks at a host


# A look at a host, every $1 seconds, $2 times. $3: port of Apache's server-status, $4: whether there is a pgpool, $5: port of a PostgreSQL,
# $6: its database, $7: address/port of a memcached; or nothing.
PROBE = r"""
count=$2
while [ "$count" -gt 0 ]; do
  count=$((count - 1))
  echo "at $(cut -d ' ' -f 1 /proc/uptime)"
  echo "cores $(nproc)"
  sed -n 's/^cpu /stat /p' /proc/stat
  awk '$1 == "MemTotal:" || $1 == "MemAvailable:" {print $1, $2}' /proc/meminfo
  sed -n 's/^usage_usec /usage /p' /sys/fs/cgroup/cpu.stat 2>/dev/null
  sed 's/^/used /' /sys/fs/cgroup/memory.current 2>/dev/null
  sed -n 's/^inactive_file /inactive /p' /sys/fs/cgroup/memory.stat 2>/dev/null
  for what in cpu io; do
    sed -n "s/^some .*total=/own-$what /p" /sys/fs/cgroup/$what.pressure 2>/dev/null
    sed -n "s/^some .*total=/host-$what /p" /proc/pressure/$what 2>/dev/null
  done
  ss --no-header --listening --numeric --tcp --unix 2>/dev/null | awk '$3 > 0 {print "queue", $3, $5}'
  if [ -n "$3" ]; then
    curl --silent --max-time 1 "http://127.0.0.1:$3/server-status?auto" |
      sed -n 's/^Busy\(Workers\|Servers\): /apache-busy /p; s/^Idle\(Workers\|Servers\): /apache-idle /p'
  fi
  if [ -n "$4" ]; then
    PCPPASSFILE=/etc/pgpool2/pcppass timeout 2 pcp_proc_info --host=127.0.0.1 --username=follow --no-password --all --verbose 2>/dev/null | awk -F ' +: ' '
      $1 == "PID" {pid = $2; all[pid]} $1 == "Status" && $2 != "Wait for connection" {busy[pid]}
      END {print "pool-busy", length(busy); print "pool-all", length(all)}'
  fi
  if [ -n "$5" ]; then
    timeout 2 runuser -u postgres -- psql -qAtX -F ' ' -p "$5" -d postgres 2>/dev/null -c "select 'transactions', xact_commit + xact_rollback
      from pg_stat_database where datname = '$6' union all select 'rolled-back', xact_rollback from pg_stat_database where datname = '$6'"
  fi
  if [ -n "$7" ]; then
    timeout 2 bash -c 'exec 3<>"/dev/tcp/$1" && printf "stats\r\nquit\r\n" >&3 && tr -d "\r" <&3' - "$7" 2>/dev/null |
      sed -n 's/^STAT cmd_get /lookups /p; s/^STAT get_hits /found /p'
  fi
  echo .
  sleep "$1"  # between two looks
done
"""


def start_probe(login: Sequence[str], count: int, *of_tier: object) -> Probe:
    """(a process that looks at a host, or at this machine; the file it writes to). It ends by itself, sooner or later.

    login: words that log in to the host; none for this machine.
    """
    arguments = [
        "sh",
        "-c",
        PROBE,
        "load-look",
        str(EVERY_S),
        str(count),
        *map(str, of_tier),
        *[""] * (5 - len(of_tier)),
    ]
    command = [*login, shlex.join(["sudo", *arguments])] if login else arguments
    output = tempfile.TemporaryFile("w+")
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.DEVNULL), output


def probe_output(probe: Probe) -> str:
    """What a look has said so far; it is over."""
    process, output = probe
    process.terminate()
    process.wait()
    output.seek(0)
    return output.read()


def samples(text: str, doors: Mapping[str, str]) -> list[Sample]:
    """[{name: figure}] of what a host said; queues are added up by the doors they are at, as queue-DOOR. doors: {port, or address:port: DOOR}."""
    result: list[Sample] = []
    sample: Sample = {}
    for line in text.splitlines():
        fields = line.split()
        if fields == ["."]:
            result.append(sample)
            sample = {}
        elif fields[:1] == ["stat"] and len(fields) > 8:
            user, nice, system, idle, iowait, *rest = map(int, fields[1:9])
            sample |= {"busy": user + nice + system + sum(rest), "idle": idle, "iowait": iowait}
        elif fields[:1] == ["queue"] and len(fields) == 3:
            door = "wsgi" if "/wsgi." in fields[2] else doors.get(fields[2]) or doors.get(fields[2].rpartition(":")[2])
            if door:
                sample[f"queue-{door}"] = sample.get(f"queue-{door}", 0.0) + float(fields[1])
        elif len(fields) == 2:
            try:
                sample[fields[0].rstrip(":")] = float(fields[1])
            except ValueError:
                continue
    return result


def settled(samples: Sequence[Sample], ramp: float) -> list[Sample]:
    """Samples of the time after the visitors had arrived."""
    return [sample for sample in samples if sample["at"] >= samples[0]["at"] + ramp]


def rate(samples: Sequence[Sample], name: str, scale: float = 1.0) -> tuple[float, float] | tuple[None, None]:
    """What a counter grew by in a second, in the mean and at most; (None, None) where there is none."""
    steps = [
        (after[name] - before[name]) * scale / (after["at"] - before["at"])
        for before, after in zip(samples, samples[1:])
        if name in before and name in after and after["at"] > before["at"]
    ]
    return (statistics.mean(steps), max(steps)) if steps else (None, None)
