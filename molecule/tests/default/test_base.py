"""Every host, whatever its tier."""

testinfra_hosts = ["ansible://all"]


def test_every_host_knows_every_other_by_name(host, tier):
    for name in tier.hosts("all"):
        assert tier.address(name) in host.check_output("getent hosts %s", name)
