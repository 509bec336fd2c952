"""Limits and the link of an interface: domiftune, domif-setlink and domif-getlink, for running VMs and
for definitions."""

import json
import subprocess
import time

import pytest

from conftest import QmpError
from guestlib import fields
from test_net import figures, goes_through, host, lan, opened, start  # noqa: F401
from test_usernet import libexec, user  # noqa: F401
from test_usernet import host as user_host  # noqa: F401
from test_usernet import start as user_start

pytestmark = pytest.mark.usefixtures("kvm")

LIMITS = {"inbound": {"average": 1000, "peak": 2000, "burst": 64}, "outbound": {"average": 100, "burst": 10, "packets": 500}}


def tune(d, name, *args, **more):
    r = d.cairn("domiftune", name, "net0", *args, **more)
    return {k.strip(): int(v) for k, v in (line.split(":") for line in r.stdout.splitlines())}


def dumped(d, *args):
    return json.loads(d.cairn("dumpjson", "a", *args).stdout)["interfaces"][0]["bandwidth"]


def shown(**limits):
    names = [f"{d}.{k}" for d in ("inbound", "outbound") for k in ("average", "peak", "burst", "packets")]
    return {n: limits.get(n.replace(".", "_"), 0) for n in names}


def seconds_of(c, text):
    began = time.monotonic()
    c.run(text)
    return time.monotonic() - began


def test_limit_of_definition_holds(user_host):  # noqa: F811
    """60 frames of 1000 bytes at 100 KiB/s after a burst of 10 KiB need 0.47 s at least, on any host."""
    c = user_start(user_host, "a", user(bandwidth=LIMITS))
    assert figures(user_host, "a")["bandwidth"] == LIMITS
    least = (60 * 1000 - 10 * 1024 - 1000) / (100 * 1024)
    assert seconds_of(c, "net send 986 1 60") >= 0.95 * least
    assert figures(user_host, "a")["tx-drops"] == 0
    # The limit can be lifted while frames wait.
    c.sock.sendall(b"net send 986 1 2000\n")
    user_host.cairn("domiftune", "a", "net0", "--outbound", "0", "--outbound-packets", "0")
    assert c.line() == "ok"
    assert figures(user_host, "a")["bandwidth"] == {"inbound": LIMITS["inbound"]}


def test_limits_follow_the_vm(user_host):  # noqa: F811
    """A limit of the running VM stays over a revert, a handover and a restart of the daemon; a new start takes
    that of the definition."""
    d, live = user_host, {"inbound": {"packets": 7}, "outbound": {"average": 300, "peak": 400, "burst": 50}}
    image = d.tmp / "a.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "8M"], check=True)
    c = user_start(d, "a", user(bandwidth=LIMITS), disks=[{"path": str(image), "format": "qcow2"}])
    d.cairn("snapshot-create-as", "a", "before")
    d.cairn("domiftune", "a", "net0", "--live", "--outbound", "300,400,50", "--outbound-packets", "0", "--inbound", "0",
            "--inbound-packets", "7")
    assert figures(d, "a")["bandwidth"] == live
    # dumpjson shows the running VM; --inactive, and the next start, the definition.
    assert dumped(d) == live
    assert dumped(d, "--inactive") == LIMITS
    d.cairn("snapshot-revert", "a", "before")
    assert figures(d, "a")["bandwidth"] == live
    assert json.loads(d.cairn("restart-process", "a", "--format", "json").stdout)[0]["way"] == "handover"
    assert figures(d, "a")["bandwidth"] == live
    d.stop()
    d.start()
    assert figures(d, "a")["bandwidth"] == dumped(d) == live
    assert dumped(d, "--inactive") == LIMITS
    assert tune(d, "a") == shown(outbound_average=300, outbound_peak=400, outbound_burst=50, inbound_packets=7)
    c.close()
    d.cairn("destroy", "a")
    d.cairn("start", "a")
    assert figures(d, "a")["bandwidth"] == LIMITS


def test_config_changes_next_start(user_host):  # noqa: F811
    d = user_host
    user_start(d, "a", user())
    assert tune(d, "a") == shown()
    r = d.cairn("domiftune", "a", "net0", "--config", "--inbound", "1000,2000")
    assert "applies to its next start" in r.stderr
    assert tune(d, "a") == shown()
    assert tune(d, "a", "--config") == shown(inbound_average=1000, inbound_peak=2000)
    # Both at once: nothing is pending.
    d.cairn("domiftune", "a", "net0", "--live", "--config", "--inbound", "500", "--outbound-packets", "9")
    want = shown(inbound_average=500, outbound_packets=9)
    assert tune(d, "a") == tune(d, "a", "--config") == want
    assert not d.qmp().run("vm-dump-definition", vm="a")["pending"]
    d.cairn("destroy", "a")
    assert tune(d, "a") == want
    assert json.loads(d.cairn("domiftune", "a", "net0", "--format", "json").stdout) == {
        "inbound": {"average": 500}, "outbound": {"packets": 9}}
    d.cairn("domiftune", "a", "net0", "--inbound", "0")
    assert tune(d, "a") == shown(outbound_packets=9)


def test_bad_limits_are_refused(user_host):  # noqa: F811
    d = user_host
    user_start(d, "a", user())
    for args, code, text in (
            (("--inbound", "x"), 2, "--inbound must be AVERAGE[,PEAK[,BURST]]"),
            (("--inbound", "1,2,3,4"), 2, "--inbound must be"),
            (("--outbound-packets", "-1"), 2, "--outbound-packets must be a number"),
            (("--outbound", "1000,500"), 2, "peak (500) is less than average (1000)"),
            (("--outbound", "1000,500", "--config"), 2, "peak (500) is less than average (1000)"),
            (("--live", "--current"), 2, "give either --current, or --live and --config")):
        assert text in d.cairn("domiftune", "a", "net0", *args, ok=code).stderr
    assert "has no interface 'net7'" in d.cairn("domiftune", "a", "net7", "--inbound", "1", ok=3).stderr
    assert "has no interface 'net7'" in d.cairn("domiftune", "a", "net7", "--config", "--inbound", "1", ok=3).stderr
    assert tune(d, "a") == shown()
    q = d.qmp()
    for args, text in (({}, "nothing to change"), ({"link": "on"}, "link: give up or down"),
                       ({"inbound": {"burst": 5}}, "peak and burst need average"),
                       ({"inbound": {"rate": 5}}, "known here: average"), ({"outbound": {"average": 1 << 32}}, "out of range")):
        with pytest.raises(QmpError, match=text):
            q.run("vm-set-interface", vm="a", interface="net0", **args)
    d.cairn("destroy", "a")
    assert "use --config" in d.cairn("domiftune", "a", "net0", "--live", "--inbound", "1", ok=4).stderr


def test_link_goes_down_and_up(host, lan):  # noqa: F811
    c = start(host, "a")
    opened(c)
    s = lan.socket()
    goes_through(c, s, 300, 1)
    assert host.cairn("domif-getlink", "a", "net0").stdout == "net0 up\n"
    assert host.cairn("domif-setlink", "a", lan.taps()[0], "down").stdout == "Device updated successfully\n"
    assert host.cairn("domif-getlink", "a", "net0").stdout == "net0 down\n"
    assert host.cairn("domif-getlink", "a", "net0", "--config").stdout == "net0 up\n"
    drops = figures(host, "a")["tx-drops"]
    c.run("net send 100 9 3")
    assert figures(host, "a")["tx-drops"] == drops + 3
    host.cairn("restart-process", "a")
    assert host.cairn("domif-getlink", "a", "net0").stdout == "net0 down\n"
    host.cairn("domif-setlink", "a", "net0", "up")
    # None of the frames that were sent meanwhile arrives.
    goes_through(c, s, 300, 3)
    assert fields(c.run("net open 0")[-1])["link"] == 1
    assert "is up or down" in host.cairn("domif-setlink", "a", "net0", "off", ok=2).stderr


def test_process_of_older_cairn_refuses_changes(fake):
    fake.define("a", interfaces=[{"type": "network", "source": "lan", "link": "down"}],
                boot={"kernel": "kernel", "cmdline": "keeps-interfaces"})
    fake.cairn("start", "a")
    fake.stop()
    fake.start()
    assert "bring it up to date with: cairn restart-process a" in fake.cairn("domiftune", "a", "net0", "--inbound", "5", ok=False).stderr


def test_link_that_was_down_at_start_stays_down(user_host):  # noqa: F811
    d = user_host
    user_start(d, "a", user(link="down"))
    r = d.cairn("domif-setlink", "a", "net0", "up", ok=4)
    assert "has had no network since the VM's start" in r.stderr and "--config" in r.stderr
    d.cairn("domif-setlink", "a", "net0", "up", "--config")
    assert d.cairn("domif-getlink", "a", "net0").stdout == "net0 down\n"
    d.cairn("destroy", "a")
    d.cairn("start", "a")
    assert d.cairn("domif-getlink", "a", "net0").stdout == "net0 up\n"
