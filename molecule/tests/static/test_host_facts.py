"""playbooks/library/host_facts.py: what settings are computed from moves with the machine, and not with its boots."""

import importlib.util

import pytest

from test_repository import ROOT

spec = importlib.util.spec_from_file_location("host_facts", ROOT / "playbooks/library/host_facts.py")
host_facts = importlib.util.module_from_spec(spec)
spec.loader.exec_module(host_facts)


# What machines of 1 to 64 GiB have, less what kernels keep for themselves.
@pytest.mark.parametrize("mebibytes", [975, 1967, 2998, 3915, 5930, 7941, 11960, 15990, 32100, 64300])
def test_some_mebibytes_more_or_less_are_the_same_memory(mebibytes):
    assert host_facts.steady(mebibytes - 6) == host_facts.steady(mebibytes) == host_facts.steady(mebibytes + 6)
    assert mebibytes * 7 / 8 <= host_facts.steady(mebibytes) <= mebibytes
