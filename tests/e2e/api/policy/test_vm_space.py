"""The space that images of running VMs take, and file systems that fill below them."""

import json

import pytest

from conftest import until
from test_disk_errors import MIB, Small
from test_hooks import Hooks, log_of
from test_hotplug import image, machine

pytestmark = pytest.mark.usefixtures("kvm")


@pytest.fixture
def small(tmp_path):
    s = Small(tmp_path / "small", "48m")
    yield s
    s.close()


def told(d):
    q = d.qmp()
    events = [e["data"] for e in q.run("query-events")["events"] if e["event"] == "DISK_SPACE"]
    q.close()
    return events


def test_low_space_is_told_before_a_vm_pauses(daemon, guest, small):
    """Without a threshold, by an event and hooks, once for each change, and the VM goes on."""
    hooks = Hooks(daemon.state / "hooks")
    hooks.write("disk-space", "a", "cat")
    g = machine(daemon, guest, disks=[{"path": image(small.path / "a.raw"), "format": "raw"}])
    g.run("open 0")
    g.run("write 0 8 1")
    small.fill(keep=2 * MIB)

    def write(want):
        g.run("write 0 8 2")
        return [e["state"] for e in told(daemon)] == want

    until(lambda: write(["low"]))
    event, = told(daemon)
    assert (event["vm"], event["device"]) == ("a", "vda") and event["free"] <= 2 * MIB < event["total"] // 20
    until(lambda: log_of(daemon, "disk-space"))
    assert json.loads(log_of(daemon, "disk-space")[0])["event"] == "DISK_SPACE"
    small.empty()
    until(lambda: write(["low", "enough"]))
    assert told(daemon)[1]["free"] > 40 * MIB
    assert daemon.info("a")["state"] == "running"
    g.close()
