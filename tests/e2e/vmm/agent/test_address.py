"""The guest's addresses as reported by its agent; tests/unit/vmm/agent/test_agent_addresses.c covers the parser."""

import json
import os
import subprocess

from conftest import BUILD

MAC = "52:54:00:00:00:01"


def define(fake, name="vm1", words="agent-after=1", **more):
    more.setdefault("interfaces", [{"type": "network", "source": "default", "mac": MAC, "link": "down"}])
    fake.define(name, cmdline=words, guest_agent=True, **more)


def test_domifaddr_prints_table(fake):
    define(fake)
    fake.cairn("start", "vm1")
    fake.cairn("wait", "vm1", "--for", "agent", "--timeout", "45")
    assert fake.cairn("domifaddr", "vm1").stdout == (
        " Name       MAC address         Protocol   Address\n"
        "--------------------------------------------------------------------\n"
        " lo         00:00:00:00:00:00   ipv4       127.0.0.1/8\n"
        " docker0    02:42:01:02:03:04   ipv4       172.17.0.1/16\n"
        f" eth0       {MAC}   ipv6       fe80::5054:ff:fe00:1/64\n"
        " -          -                   ipv6       2001:db8::7/64\n"
        " -          -                   ipv4       192.0.2.7/24\n"
        " tun??[2J   N/A                 N/A        N/A\n"
        "\n")
    full = fake.cairn("domifaddr", "vm1", "eth0", "--full", "--source", "agent").stdout.splitlines()[2:-1]
    assert [line.split()[:2] for line in full] == [["eth0", MAC]] * 3
    assert fake.cairn("domifaddr", "vm1", "--interface", "eth0", "--full").stdout.splitlines()[2:-1] == full


def test_addresses_in_qmp_and_json(fake):
    define(fake)
    fake.cairn("start", "vm1")
    fake.cairn("wait", "vm1", "--for", "agent", "--timeout", "45")
    all_of_them = json.loads(fake.cairn("domifaddr", "vm1", "--format", "json").stdout)
    assert [(i["name"], i["own"]) for i in all_of_them] == [("lo", False), ("docker0", False), ("eth0", True), ("tun??[2J", False)]
    assert all_of_them[2]["addresses"][2] == {"type": "ipv4", "address": "192.0.2.7", "prefix": 24}
    assert all_of_them[3] == {"name": "tun??[2J", "own": False, "addresses": []}
    rows = fake.cairn("domifaddr", "vm1", "eth0", "--format", "csv").stdout.splitlines()
    assert rows[0] == "name,mac,type,address,prefix" and rows[3] == f"eth0,{MAC},ipv4,192.0.2.7,24" and len(rows) == 4


def test_impossible_address_queries_are_refused(fake):
    define(fake)
    r = fake.cairn("domifaddr", "vm1", ok=4)
    assert r.stderr.startswith("error: Failed to query for interfaces addresses of domain 'vm1'\n") and "cairn start vm1" in r.stderr
    fake.cairn("start", "vm1")
    assert "cairn domifaddr vm1" in fake.cairn("domifaddr", "vm1", "eth7", ok=3).stderr
    assert "--source must be agent or lease" in fake.cairn("domifaddr", "vm1", "--source", "arp", ok=2).stderr
    define(fake, "vm2", "no-agent", interfaces=[])
    fake.cairn("start", "vm2")
    assert "did not answer" in fake.cairn("domifaddr", "vm2", ok=1).stderr
    define(fake, "vm3", "ip-many", interfaces=[])
    fake.cairn("start", "vm3")
    assert fake.cairn("domifaddr", "vm3", ok=None).returncode
    assert fake.cairn("domstate", "vm2").stdout == "running\n"


def test_wait_ends_when_address_appears(fake):
    """Link-local addresses and those of a bridge inside the guest do not count."""
    define(fake, words=f"agent-after=1 ip-when={fake.tmp}/go")
    waits = subprocess.Popen([os.path.join(BUILD, "cairn"), "wait", "vm1", "--for", "ip", "--timeout", "50"], env=fake.env,
                             stdout=subprocess.PIPE, text=True)
    fake.cairn("start", "vm1")
    r = fake.cairn("wait", "vm1", "--for", "ip", "--timeout", "1", ok=None)
    assert r.returncode and r.stderr.startswith("error: Domain 'vm1' has no address\n"), r.stderr
    assert waits.poll() is None
    (fake.tmp / "go").touch()
    assert waits.communicate(timeout=50)[0] == "192.0.2.7\n" and waits.returncode == 0
    assert fake.cairn("wait", "vm1", "--for", "ip", "--timeout", "0").stdout == "192.0.2.7\n"


def test_address_of_clone_whose_guest_uses_sources_mac(fake):
    define(fake, interfaces=[])
    fake.cairn("start", "vm1")
    assert fake.cairn("wait", "vm1", "--for", "ip", "--timeout", "45").stdout == "172.17.0.1\n"


def test_wait_for_address_times_out(fake):
    fake.define("vm1")
    fake.cairn("start", "vm1")
    assert '"guest_agent": true' in fake.cairn("wait", "vm1", "--for", "ip", "--timeout", "45", ok=False).stderr
    assert fake.cairn("wait", "nope", "--for", "ip", ok=3).stderr.startswith("error: failed to get domain 'nope'\n")
