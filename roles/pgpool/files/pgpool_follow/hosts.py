"""The databases and the pgpool that pgpool-follow asks and acts on."""

import concurrent.futures
import contextlib
import json
import os
import re
import signal
import socket
import struct
import subprocess
import time
import typing
import urllib.error
import urllib.request

from pgpool_follow.state import Cluster, View

ANSWER_WITHIN = 1.0  # seconds a Patroni may take to answer
PCP_WITHIN = 1.5  # seconds pgpool may take to answer an operator: no primary is looked for meanwhile
STARTS_WITHIN = 10.0  # seconds after its start in which pgpool need not answer: a database that is off takes long
QUIT_WITHIN = 2.0  # seconds pgpool may take to end before it is killed
UP = {"1", "2"}  # pgpool's numbers for a node it uses

Config = dict[str, typing.Any]
# (whether it holds the primary's lock, its status) of a Patroni; None where it does not answer.
Status = tuple[bool, dict[str, typing.Any]] | None


class Databases:
    """The databases of this environment."""

    def __init__(self, config: Config) -> None:
        self.names: list[str] = [database["name"] for database in config["databases"]]
        self.addresses: list[tuple[str, int]] = [
            (database["address"], config["db_port"]) for database in config["databases"]
        ]
        self.urls = [f"http://{address}:{config['patroni_port']}/primary" for address, _ in self.addresses]

    @staticmethod
    def ask(url: str) -> Status:
        """The status of one Patroni. None if it does not answer within ANSWER_WITHIN seconds."""
        try:
            with urllib.request.urlopen(url, timeout=ANSWER_WITHIN) as answer:
                return True, json.load(answer)
        except urllib.error.HTTPError as answer:  # 503: alive, not the primary
            try:
                return False, json.load(answer)
            except (OSError, ValueError):
                return None
        except (OSError, ValueError):
            return None

    def answers(self, node: int) -> bool:
        """Whether PostgreSQL itself answers within ANSWER_WITHIN seconds, whatever its Patroni says."""
        try:
            with socket.create_connection(self.addresses[node], timeout=ANSWER_WITHIN) as connection:
                connection.sendall(struct.pack(">ii", 8, 80877103))  # SSLRequest: any server says S or N
                return connection.recv(1) in (b"S", b"N")
        except OSError:
            return False

    def look(self) -> Cluster:
        """Ask all Patronis at once."""
        with concurrent.futures.ThreadPoolExecutor(len(self.urls)) as executor:
            answers = list(executor.map(self.ask, self.urls))
        running = frozenset(
            node for node, answer in enumerate(answers) if answer and answer[1].get("state") == "running"
        )
        leading = {node: answer[1] for node, answer in enumerate(answers) if answer and answer[0] and node in running}
        if len(leading) != 1:
            return Cluster(None, running)
        # The primary alone knows who follows it, and whose confirmation its commits wait for.
        [(primary, status)] = leading.items()
        standbys = status.get("replication", [])
        confirming = {
            standby.get("application_name") for standby in standbys if standby.get("sync_state") in ("sync", "quorum")
        }
        following = {standby.get("application_name") for standby in standbys if standby.get("state") == "streaming"}
        return Cluster(
            primary,
            frozenset(node for node in running if node == primary or self.names[node] in confirming),
            frozenset(node for node in running if self.names[node] in following),
        )


class Pgpool:
    """The pgpool of this host."""

    def __init__(self, config: Config) -> None:
        self.port = str(config["pcp_port"])
        self.addresses: list[str] = []  # of its nodes, at the last look
        self.busy: dict[int, str] = {}  # process of a session at work -> its line of pcp_proc_info at the last look

    def pcp(self, verb: str, *arguments: str) -> str | None:
        """Output of a pcp command, or None if it failed or took over PCP_WITHIN seconds."""
        command = [f"/usr/sbin/pcp_{verb}", "-h", "127.0.0.1", "-p", self.port, "-U", "follow", "-w", *arguments]
        try:
            return subprocess.run(command, capture_output=True, text=True, check=True, timeout=PCP_WITHIN).stdout
        except (OSError, subprocess.SubprocessError):
            return None

    def view(self) -> View | None:
        """What pgpool takes its nodes for. None if it does not answer."""
        output = self.pcp("node_info", "-a")
        if output is None:
            return None
        # address, port, status, weight, name of the status, its real one, role, …
        lines = [line.split() for line in output.splitlines()]
        self.addresses = [fields[0] for fields in lines]
        return [(fields[2] in UP, fields[6] == "primary") for fields in lines]

    def end_hung(self, node: int) -> bool:
        """End the sessions that wait for a node without getting on: a frozen host would hold them for ever.

        Returns whether any session is at work, and to be looked at again.
        """
        busy = {}
        for line in (self.pcp("proc_info", "-a") or "").splitlines():
            # …, process, node, status, whether the session reads from this node
            match = re.search(r" ([1-9]\d*) (\d+) (\D+) [01]$", line)
            if match and int(match[2]) == node and match[3] not in ("Idle", "Wait for connection"):
                busy[int(match[1])] = line
        for process, line in busy.items():
            if self.busy.get(process) == line:
                print(f"ending session {process}, which hangs", flush=True)
                # pgpool makes a new child for one that was killed, and none for one that was asked to end.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
        self.busy = busy
        return bool(busy)

    @staticmethod
    def unit(name: str) -> int:
        """A property of pgpool's unit that is a number."""
        command = ["systemctl", "show", f"--property={name}", "--value", "pgpool2"]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout or 0)

    def starting(self) -> bool:
        """Whether pgpool runs for less than STARTS_WITHIN seconds."""
        started = self.unit("ExecMainStartTimestampMonotonic") / 1e6
        return time.monotonic() - started < STARTS_WITHIN

    def restart(self) -> None:
        """End pgpool, by force if need be; systemd starts it again with a new status file."""
        # Not by its own pid file, which one that ends badly takes from the one after it.
        pid = self.unit("MainPID")
        if not pid:
            return  # it is on its way already
        try:
            os.kill(pid, signal.SIGQUIT)
            deadline = time.monotonic() + QUIT_WITHIN
            while time.monotonic() < deadline:
                os.kill(pid, 0)
                time.sleep(0.05)  # between two looks with a deadline
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it has ended
        except PermissionError:
            pass  # it is just being started, and still root's
