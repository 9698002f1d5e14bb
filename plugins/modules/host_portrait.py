#!/usr/bin/python
"""Describe a host as plain data: what it is, in everything that another host of its tier has to be as well."""

import fnmatch
import grp
import hashlib
import http.client
import json
import os
import pathlib
import pwd
import re
import socket
import stat
import subprocess

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: host_portrait
short_description: Describe a host as plain data
description:
  - Nothing is changed; databases are asked in transactions that cannot write.
  - What only this host has (its keys, its machine-id) and what changes by itself (counters, caches) is left out.
options:
  tiers: {type: list, elements: str, required: true, description: Groups of the tier that the host is in.}
  facts: {type: dict, required: true, description: "Settings of the tier: address, ports, site_name, site_root."}
  known: {type: dict, required: true, description: What the environment is told by. Returned as it is.}
"""

RETURN = """
portrait:
  type: dict
  returned: always
  description: "{kind: {name: value}}. The value of a file is a dict: owner, mode, and link, or sha256 and (of a small text) text and shown."
faults: {type: list, returned: always, description: "Sentences: what the host itself declares and is not."}
known: {type: dict, returned: always, description: As it was given.}
"""

PLACES = ["/etc", "/usr/local", "/opt", "/usr/lib/systemd/system", "/var/spool/cron", "/root/.ssh"]
TEXT_BYTES = 1 << 16  # a larger file is compared, but not shown
MARK = "Managed by Ansible"
ANSWER_S = 5  # seconds anybody has to answer
SLOW_S = 60  # seconds for what reads a lot

LEFT_OUT = [
    # Told as users and groups, as units and as kernel settings.
    "/etc/passwd*",
    "/etc/group*",
    "/etc/shadow*",
    "/etc/gshadow*",
    "/etc/subuid*",
    "/etc/subgid*",
    "/etc/systemd/system/*.wants/*",
    "/etc/systemd/system/*.requires/*",
    "/etc/rc?.d/*",
    # A host's own.
    "/etc/machine-id",
    "/etc/ssh/ssh_host_*",
    "/etc/ssl/private/ssl-cert-snakeoil.key",
    "/etc/ssl/certs/ssl-cert-snakeoil.pem",
    # Written by programs from what is compared.
    "/etc/ld.so.cache",
    "/etc/mtab",
    "/etc/.pwd.lock",
    "/etc/.updated",
    "/etc/ssl/certs/*",
    "/etc/adjtime",
    "/etc/udev/hwdb.bin",
    "*/__pycache__/*",
    "*.pyc",
]
VOLATILE = [  # kernel settings that are none: counters, random numbers, one for each neighbour
    "kernel.random.*",
    "kernel.ns_last_pid",
    "kernel.pty.nr",
    "kernel.tainted",
    "kernel.hostname",
    "fs.dentry-state",
    "fs.inode-*",
    "fs.file-nr",
    "fs.aio-nr",
    "fs.quota.*",
    "fs.binfmt_misc.*",
    "net.ipv?.neigh.*",
    "net.netfilter.nf_conntrack_count",
    "net.ipv4.tcp_fastopen_key",
    "net.ipv6.conf.*.stable_secret",
    "dev.cdrom.*",
    "kernel.sched_domain.*",
    "kernel.usermodehelper.*",
    "kernel.firmware_config.*",
    "kernel.perf_event_max_sample_rate",
    "vm.stat_refresh",
    "vm.drop_caches",
    "vm.compact_memory",
]
PASSING = [
    "user@*",
    "user-runtime-dir@*",
    "sshd@*",
    "ssh@*",
    "run-*",
    "session-*",
]  # units that come and go with who logs in


def output(*command, within=ANSWER_S, **environment):
    """What a command prints; empty where there is no such command. Raises subprocess.SubprocessError where it fails or takes too long."""
    try:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=True,
            timeout=within,
            errors="replace",
            env={**os.environ, "LC_ALL": "C.UTF-8", **environment},
        ).stdout
    except FileNotFoundError:
        return ""


def reason(error):
    """What went wrong, in a few words."""
    if isinstance(error, subprocess.CalledProcessError):
        return f"{' '.join(error.cmd[:3])}: {' '.join((error.stderr or '').split()[-20:])}"
    return f"{type(error).__name__}: {str(error)[:200]}"


def any_of(name, patterns):
    """Whether a name matches one of several patterns."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def packages(listing):
    """{package: version}, from lines of state, name and version."""
    found = {}
    for line in listing.splitlines():
        state, name, version = line.split("\t")
        if state[1] == "i":
            found[name.partition(":")[0]] = version + (" (held)" if state[0] == "h" else "")
    return found


def packaged(root="/"):
    """({path: md5 that its package gives it}, paths that belong to a package)."""
    info, sums, owned = pathlib.Path(root, "var/lib/dpkg"), {}, set()
    for path in info.glob("info/*.md5sums"):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            digest, _space, name = line.partition("  ")
            sums[f"/{name}"] = digest
    for path in info.glob("info/*.list"):
        owned.update(path.read_text(encoding="utf-8", errors="replace").splitlines())
    for line in (info / "status").read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith(" /"):
            name, _space, digest = line[1:].removesuffix(" obsolete").removesuffix(" remove-on-upgrade").rpartition(" ")
            sums[name] = digest
    return sums, owned


def name_of(number, table):
    """Name of a user or a group; its number where it has none."""
    try:
        return table(number)[0]
    except KeyError:
        return str(number)


def described(path):
    """What a file is, and its content."""
    found = path.lstat()
    said = {"owner": f"{name_of(found.st_uid, pwd.getpwuid)}:{name_of(found.st_gid, grp.getgrgid)}"}
    if stat.S_ISLNK(found.st_mode):
        return said | {"link": os.readlink(path)}
    content = path.read_bytes()
    said |= {"mode": f"{stat.S_IMODE(found.st_mode):04o}", "sha256": hashlib.sha256(content).hexdigest()}
    if len(content) <= TEXT_BYTES and b"\0" not in content:
        try:
            said["text"] = content.decode()
        except UnicodeDecodeError:
            return said
        # What others may read is no secret, and the secrets of what is managed are known.
        said["shown"] = bool(found.st_mode & stat.S_IROTH) or MARK in said["text"]
    return said


def files(places, root="/"):
    """{path: what it is} of every file below some places that no package has put there as it is."""
    sums, owned = packaged(root)
    found = {}
    for place in places:
        for parent, directories, names in os.walk(os.path.join(root, place.lstrip("/"))):
            links = [name for name in directories if os.path.islink(os.path.join(parent, name))]
            for name in names + links:
                path = pathlib.Path(parent, name)
                known = "/" + os.path.relpath(path, root)
                if any_of(known, LEFT_OUT) or not (path.is_symlink() or path.is_file()):
                    continue
                if path.is_symlink():
                    if known in owned:
                        continue
                elif known in sums and hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() == sums[known]:
                    continue
                found[known] = described(path)
    return found


def blocks(shown):
    """Dicts of what `systemctl show` prints, one for each unit. A property that it prints several times is joined into one."""
    found = []
    for block in filter(str.strip, shown.split("\n\n")):
        values = {}
        for name, value in (line.split("=", 1) for line in block.splitlines() if "=" in line):
            values.setdefault(name, []).append(value)
        found.append({name: ", ".join(several) for name, several in values.items()})
    return found


def units(listing, shown):
    """{unit: whether it is enabled, and runs}. What runs only when something asks for it is told when it failed."""
    found = {}
    for line in listing.splitlines():
        name, state = line.split()[:2]
        if (
            state != "transient"
            and not any_of(name, PASSING)
            and name.rpartition(".")[2] in ("service", "socket", "timer", "path")
        ):
            found[name] = state
    for unit in blocks(shown):
        name = unit.get("Id", "")
        if (
            any_of(name, PASSING)
            or unit.get("LoadState") in ("not-found", None)
            or unit.get("UnitFileState") == "transient"
        ):
            continue
        # Started by a timer, by a socket, or by a question over D-Bus.
        asked_for = (
            unit.get("Type") == "oneshot"
            or unit.get("TriggeredBy")
            or unit.get("BusName")
            and unit.get("UnitFileState") == "static"
        )
        state = unit.get("ActiveState")
        said = (
            ", failed"
            if state == "failed"
            else ", running"
            if state in ("active", "reloading") and not asked_for
            else ""
        )
        if said or name in found:
            found[name] = (found.get(name) or unit.get("UnitFileState") or "no file") + said
    return found


def timers(shown):
    """{timer: when}."""
    found = {}
    for unit in blocks(shown):
        words = [
            re.sub(r" ; next_elapse=[^}]*", " ", value).strip("{ }")
            for name, value in sorted(unit.items())
            if name != "Id" and value not in ("", "0")
        ]
        found[unit["Id"]] = "; ".join(words)
    return found


def ports(listing):
    """{"tcp address:port": programs that listen there}. Ports that are lent to who asks are none."""
    found = {}
    for line in listing.splitlines():
        words = line.split()
        protocol, local = words[0], re.sub(r"%[^:\]]+", "", words[4])
        address, _colon, port = local.rpartition(":")
        # Docker's own resolver, which is in every container.
        if address.startswith("127.0.0.11") or protocol == "udp" and int(port) >= 32768:
            continue
        # A child that serves somebody just now may call itself by a path and what it does: munin-node's do.
        names = set(re.findall(r'\("([^"]+)"', line))
        programs = {name for name in names if not name.startswith("/")} or names
        found.setdefault(f"{protocol} {local}", set()).update(programs)
    return {name: " ".join(sorted(programs)) or "the kernel" for name, programs in found.items()}


def access(shown, ruleset):
    """{what: who may reach it}: the addresses that units take packets from, and the rules of the packet filter."""
    found = {}
    for unit in blocks(shown):
        for name in ("IPAddressAllow", "IPAddressDeny"):
            if unit.get(name):
                found[f"{unit['Id']} {name}"] = " ".join(sorted(set(unit[name].split())))
    rules = [
        re.sub(r"counter packets \d+ bytes \d+ ?", "", line)
        for line in ruleset.splitlines()
        if "127.0.0.11" not in line
    ]
    if any(line.strip() for line in rules):
        found["packet filter"] = "\n".join(rules)
    return found


def users(passwd, group, shadow):
    """({user: what it may}, {group: members}), from the texts of the three files. Numbers below 1000 are given out in the order of installation."""
    members = {line.split(":")[0]: line.split(":")[3] for line in group.splitlines() if line.count(":") == 3}
    locked = {line.split(":")[0]: line.split(":")[1] for line in shadow.splitlines() if line.count(":") > 2}
    found = {}
    for line in passwd.splitlines():
        name, _x, number, _group, _gecos, home, shell = line.split(":")
        word = locked.get(name, "")
        secret = "no password needed" if word == "" else "no password" if word[0] in "!*" else "has a password"
        among = sorted(one for one, who in members.items() if name in who.split(","))
        found[name] = "; ".join(
            [
                *([f"number {number}"] if int(number) in (0, *range(1000, 60000)) else []),
                home,
                shell,
                secret,
                *(["also in " + " ".join(among)] if among else []),
            ]
        )
    return found, {name: ",".join(sorted(who.split(","))) for name, who in members.items()}


def kernel(root="/proc/sys"):
    """{setting: value} of every kernel setting that can be read."""
    found = {"release": os.uname().release}
    for parent, _directories, names in os.walk(root):
        for name in names:
            path = os.path.join(parent, name)
            setting = os.path.relpath(path, root).replace("/", ".")
            if any_of(setting, VOLATILE):
                continue
            try:
                with open(path, encoding="utf-8") as file:
                    found[setting] = " ".join(file.read().split())
            except (OSError, UnicodeDecodeError):
                continue  # to be written only
    return found


def release(site_root):
    """({what: value} of the current release, sentences about files that are not what its manifest says)."""
    current = pathlib.Path(site_root, "current")
    if not current.is_symlink():
        return {"current": "none"}, []
    place = current.resolve()
    manifest = (place / "manifest.json").read_bytes()
    wrong = []
    for name, known in json.loads(manifest)["files"].items():
        path = place / name
        try:
            now = f"-> {os.readlink(path)}" if path.is_symlink() else hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError:
            now = None
        if now != known:
            wrong.append(
                f"{name} of release {place.name} is {'missing' if now is None else 'not what was built'}: make deploy builds and brings a new one"
            )
    return {"current": place.name, "manifest": hashlib.sha256(manifest).hexdigest()}, wrong


# What the release's models and migrations declare, and the database has not.
DECLARED = """
import json
from django.apps import apps
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
executor = MigrationExecutor(connection)
said = [f"migration {m.app_label}.{m.name} is not applied" for m, _b in executor.migration_plan(executor.loader.graph.leaf_nodes())]
with connection.cursor() as cursor:
    tables = set(connection.introspection.table_names(cursor))
    for model in apps.get_models(include_auto_created=True):
        o = model._meta
        if not o.managed or o.proxy or o.swapped:
            continue
        if o.db_table not in tables:
            said.append(f"table {o.db_table} is missing")
            continue
        has = connection.introspection.get_constraints(cursor, o.db_table)
        names = set(has)
        first = {c["columns"][0] for c in has.values() if c["columns"] and (c["index"] or c["unique"] or c["primary_key"])}
        said += [f"index {i.name} of {o.db_table} is missing" for i in o.indexes if i.name not in names]
        said += [f"constraint {c.name} of {o.db_table} is missing" for c in o.constraints if c.name not in names]
        said += [f"the index of {o.db_table}.{f.column} is missing" for f in o.local_fields
                 if (f.unique or f.db_index) and f.column and f.column not in first]
print("portrait:" + json.dumps(said))
"""

SETTINGS = """
select coalesce(json_object_agg(name, setting || coalesce(' ' || unit, '')), '{}') from pg_settings
where source not in ('default', 'client', 'override', 'session') or name in ('data_checksums', 'server_encoding', 'lc_collate')
"""
CLUSTER = """
select json_build_object(
  'roles', (select json_object_agg(rolname, concat_ws(' ', case when rolsuper then 'superuser' end, case when rolcanlogin then 'login' end,
      case when rolcreatedb then 'createdb' end, case when rolcreaterole then 'createrole' end, case when rolreplication then 'replication' end,
      case when rolbypassrls then 'bypassrls' end, 'in ' || (select string_agg(roleid::regrole::text, ',' order by roleid::regrole::text)
      from pg_auth_members where member = r.oid), rolconfig::text)) from pg_roles r where rolname !~ '^pg_'),
  'databases', (select json_object_agg(datname, concat_ws(' ', pg_encoding_to_char(encoding), datcollate, datctype, datlocprovider::text, datdba::regrole::text,
      datacl::text)) from pg_database where not datistemplate))
"""
SCHEMA = """
select coalesce(json_object_agg(name, value), '{}') from (
  select 'extension ' || extname as name, extversion as value from pg_extension
  union all select 'schema ' || nspname, concat_ws(' ', nspowner::regrole::text, nspacl::text) from pg_namespace where nspname !~ '^pg_|^information_schema$'
  union all select case c.relkind when 'r' then 'table ' when 'p' then 'table ' when 'v' then 'view ' when 'm' then 'view ' else 'sequence ' end
    || c.oid::regclass::text, concat_ws(' ', relowner::regrole::text, relacl::text, reloptions::text,
    case when relkind in ('v', 'm') then pg_get_viewdef(c.oid) end,
    (select string_agg(concat_ws(' ', attname, format_type(atttypid, atttypmod), case when attnotnull then 'not null' end, attidentity::text,
      (select pg_get_expr(adbin, adrelid) from pg_attrdef where adrelid = attrelid and adnum = attnum)), ', ' order by attname)
      from pg_attribute where attrelid = c.oid and attnum > 0 and not attisdropped and c.relkind <> 'S'))
    from pg_class c join pg_namespace n on n.oid = relnamespace
    where relkind in ('r', 'p', 'v', 'm', 'S') and nspname !~ '^pg_|^information_schema$'
      and not exists (select from pg_depend where objid = c.oid and deptype = 'e')
  union all select 'index ' || indexrelid::regclass::text, pg_get_indexdef(indexrelid) || case when indisvalid then '' else ' INVALID' end
    from pg_index join pg_class c on c.oid = indexrelid join pg_namespace n on n.oid = c.relnamespace where nspname !~ '^pg_|^information_schema$'
  union all select 'constraint ' || conrelid::regclass::text || ' ' || conname, pg_get_constraintdef(oid) from pg_constraint
    where conrelid <> 0 and connamespace::regnamespace::text !~ '^pg_|^information_schema$'
  union all select 'function ' || p.oid::regprocedure::text, md5(pg_get_functiondef(p.oid)) from pg_proc p join pg_namespace n on n.oid = pronamespace
    where nspname !~ '^pg_|^information_schema$' and prokind <> 'a' and not exists (select from pg_depend where objid = p.oid and deptype = 'e')
  union all select 'trigger ' || tgrelid::regclass::text || ' ' || tgname, pg_get_triggerdef(oid) from pg_trigger where not tgisinternal
) as everything
"""


def sql(port, database, query):
    """What a query comes to, as JSON, in a session that cannot write, of a role that is no superuser and finds no function of the site."""
    return json.loads(
        output(
            "psql",
            "-XqAt",
            "-v",
            "ON_ERROR_STOP=1",
            "-h",
            "/var/run/postgresql",
            "-p",
            str(port),
            "-U",
            "monitor",
            "-d",
            database,
            "-c",
            query,
            within=SLOW_S,
            PGOPTIONS=f"-c search_path=pg_catalog -c default_transaction_read_only=on -c statement_timeout={SLOW_S}s",
        )
    )


def flat(value, name=""):
    """{"a.b": value} of nested dicts."""
    if not isinstance(value, dict):
        return {name: json.dumps(value)}
    return {
        key: one
        for part, content in value.items()
        for key, one in flat(content, f"{name}.{part}" if name else part).items()
    }


def pool_status(said):
    """{setting: value}, from what pcp_pool_status prints."""
    return dict(re.findall(r"^name\s*:\s*(\S+)\s*\nvalue\s*:\s*(.*?)\s*$", said, re.M))


class Portrait:
    """This host, part by part."""

    def __init__(self, tiers, facts):
        self.tiers, self.facts, self.found, self.faults = tiers, facts, {}, []

    def system(self):
        """What every host has."""
        place = f"{self.facts['site_root']}/tier"
        self.found["package"] = packages(
            output("dpkg-query", "-W", "-f", r"${db:Status-Abbrev}\t${binary:Package}\t${Version}\n", within=SLOW_S)
        )
        homes = [f"{entry.pw_dir}/.ssh" for entry in pwd.getpwall() if 1000 <= entry.pw_uid < 60000]
        self.found["file"] = files([*PLACES, *homes, place])
        self.found["user"], self.found["group"] = users(
            *(pathlib.Path("/etc", name).read_text(encoding="utf-8") for name in ("passwd", "group", "shadow"))
        )
        self.found["kernel"] = kernel()

    def services(self):
        """What runs, when, and who may reach it."""
        listed = output("systemctl", "list-unit-files", "--plain", "--no-legend", within=SLOW_S)
        self.found["unit"] = units(
            listed,
            output(
                "systemctl",
                "show",
                "--all",
                "-p",
                "Id,Type,BusName,LoadState,ActiveState,UnitFileState,TriggeredBy",
                "*.service",
                "*.socket",
                "*.timer",
                "*.path",
                within=SLOW_S,
            ),
        )
        self.found["timer"] = timers(
            output(
                "systemctl",
                "show",
                "--all",
                "-p",
                "Id,TimersCalendar,TimersMonotonic,RandomizedDelayUSec",
                "*.timer",
                within=SLOW_S,
            )
        )
        self.found["port"] = ports(output("ss", "-Hltunp", within=SLOW_S))
        # By name: a pattern finds only units that systemd has in memory, and one that a timer starts is there now and then.
        services = [
            name
            for name in (line.split()[0] for line in listed.splitlines())
            if name.endswith(".service") and "@." not in name
        ]
        self.found["access"] = access(
            output("systemctl", "show", "-p", "Id,IPAddressAllow,IPAddressDeny", *services, within=SLOW_S),
            output("nft", "list", "ruleset", within=SLOW_S),
        )

    def app(self):
        """An app host: its release, what that declares of the database, and its pool of connections."""
        self.found["release"], wrong = release(self.facts["site_root"])
        self.faults += wrong
        if self.found["release"]["current"] != "none":
            said = output("/usr/local/bin/manage", "shell", "-v", "0", "-c", DECLARED, within=SLOW_S)
            [declared] = [line.removeprefix("portrait:") for line in said.splitlines() if line.startswith("portrait:")]
            self.faults += [
                f"{sentence} in the database: release {self.found['release']['current']} declares it"
                for sentence in json.loads(declared)
            ]
        status = pool_status(
            output("pcp_pool_status", "-h", "127.0.0.1", "-U", "follow", "-w", PCPPASSFILE="/etc/pgpool2/pcppass")
        )
        self.found["pool"] = {
            f"pgpool {name}": status[name]
            for name in ("num_init_children", "max_pool", "child_life_time", "load_balance_mode")
            if name in status
        }

    def cache(self):
        """A cache host: the shape of its memcached."""
        with socket.create_connection(
            (self.facts["address"], self.facts["cache_port"]), timeout=ANSWER_S
        ) as connection:
            connection.sendall(b"stats settings\r\n")
            said = b""
            while not said.endswith(b"END\r\n") and (more := connection.recv(65536)):
                said += more
        settings = dict(
            line.split(" ", 2)[1:]
            for line in said.decode().splitlines()
            if line.startswith("STAT ") and line.count(" ") >= 2
        )
        self.found["pool"] = {
            f"memcached {name}": settings[name]
            for name in ("maxbytes", "maxconns", "item_size_max", "num_threads", "evictions")
            if name in settings
        }

    def db(self):
        """A database: its settings, its roles, and the schema of every database of it."""
        port = self.facts["db_port"]
        self.found["setting"] = sql(port, "postgres", SETTINGS)
        cluster = sql(port, "postgres", CLUSTER)
        self.found["role"], self.found["database"] = cluster["roles"], cluster["databases"]
        self.found["schema"] = {
            f"{name}: {what}": value for name in cluster["databases"] for what, value in sql(port, name, SCHEMA).items()
        }
        connection = http.client.HTTPConnection(self.facts["address"], self.facts["patroni_port"], timeout=ANSWER_S)
        connection.request("GET", "/config")
        self.found["pool"] = {
            f"patroni {name}": value for name, value in flat(json.loads(connection.getresponse().read())).items()
        }
        connection.close()


def main():
    """Run as an Ansible module."""
    module = AnsibleModule(
        supports_check_mode=True,
        argument_spec={
            "tiers": {"type": "list", "elements": "str", "required": True},
            "facts": {"type": "dict", "required": True},
            "known": {"type": "dict", "required": True, "no_log": False},
        },
    )
    given = module.params
    host = Portrait(given["tiers"], given["facts"])
    for part in ("system", "services", *(tier for tier in given["tiers"] if hasattr(Portrait, tier))):
        try:
            getattr(host, part)()
        except (OSError, KeyError, ValueError, IndexError, subprocess.SubprocessError) as error:
            host.faults.append(f"its {part} cannot be told ({reason(error)}): make status")
    module.exit_json(changed=False, portrait=host.found, faults=host.faults, known=given["known"])


if __name__ == "__main__":
    main()
