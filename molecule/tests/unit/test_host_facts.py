"""plugins/modules/host_facts.py: what settings are computed from moves with the machine, and not with its boots."""

import pathlib
import shutil

import jinja2
import pytest
import yaml
from repository import ROOT

from plugins.modules import host_facts


def test_the_disk_of_a_missing_directory_is_that_of_the_nearest_parent(tmp_path: pathlib.Path) -> None:
    assert (
        host_facts.disk(tmp_path / "none/at/all")
        == host_facts.disk(tmp_path)
        == shutil.disk_usage(tmp_path).total // 2**20
    )


def test_an_interface_without_an_address_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_facts.socket, "if_nameindex", lambda: [(1, "eth0"), (2, "eth1")])
    links = [
        {
            "ifname": "eth0",
            "addr_info": [{"local": "192.0.2.7", "prefixlen": 24}, {"local": "192.0.2.9", "prefixlen": 32}],
        },
        {},
    ]
    assert host_facts.networks(links) == {"eth0": ["192.0.2.7/24", "192.0.2.9/32"], "eth1": []}


@pytest.mark.parametrize(("memory_gib", "disk_gb"), [(1, 10), (16, 40), (64, 100), (256, 2000)])
def test_wal_that_waits_fits_on_the_disk(memory_gib: int, disk_gb: int) -> None:
    """For the backup host, for a standby that is away, and between two checkpoints: together less than half of it."""
    values = {
        "host_memory_mb": memory_gib * 1024,
        "host_disk_mb": disk_gb * 1000,
        "db_max_connections": 100,
        "host_cores": 4,
    }
    queue = yaml.safe_load((ROOT / "roles/pgbackrest/defaults/main.yml").read_text())["pgbackrest_queue_max"]
    settings = yaml.safe_load((ROOT / "roles/patroni/defaults/main.yml").read_text())["patroni_parameters"]
    texts = [queue, settings["max_slot_wal_keep_size"], settings["max_wal_size"]]
    sizes = [jinja2.Template(text).render(values) for text in texts]
    mebibytes = [
        int(size.removesuffix("GiB").removesuffix("MB")) * (1024 if size.endswith("GiB") else 1) for size in sizes
    ]
    assert all(mebibytes) and sum(mebibytes) < disk_gb * 1000 / 2


# What machines of 1 to 64 GiB have, less what kernels keep for themselves.
@pytest.mark.parametrize("mebibytes", [975, 1967, 2998, 3915, 5930, 7941, 11960, 15990, 32100, 64300])
def test_some_mebibytes_more_or_less_are_the_same_memory(mebibytes: int) -> None:
    assert host_facts.steady(mebibytes - 6) == host_facts.steady(mebibytes) == host_facts.steady(mebibytes + 6)
    assert mebibytes * 7 / 8 <= host_facts.steady(mebibytes) <= mebibytes
