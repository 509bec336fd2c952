"""The space that images of running VMs take, how it grows, and file systems that fill below them."""

import json
import os
import time
from pathlib import Path

import pytest

from conftest import Daemon, until
from test_disk_errors import MIB, Small, entered
from test_hooks import Hooks, log_of
from test_hotplug import image, machine

pytestmark = pytest.mark.usefixtures("kvm")


@pytest.fixture
def small(tmp_path):
    s = Small(tmp_path / "small", "48m")
    yield s
    s.close()


class Beside(Daemon):
    """A daemon that has the small file system among its mounts."""

    def __init__(self, tmp, small):
        self.wrapper = entered(small.process.pid)
        super().__init__(tmp)

    def command(self):
        return [*self.wrapper, *super().command()]


@pytest.fixture
def beside(tmp_path, small):
    d = Beside(tmp_path, small)
    yield d
    d.close()


def told(d):
    q = d.qmp()
    events = [e["data"] for e in q.run("query-events")["events"] if e["event"] == "DISK_SPACE"]
    q.close()
    return events


def test_low_space_is_told_before_a_vm_pauses(daemon, guest, small):
    """Without any threshold, an event and the hooks report each change once, and the VM continues."""
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


def test_vm_that_writes_nothing_is_told_what_others_take(beside, guest, small, tmp_path):
    """A program or another VM takes the space. The daemon does not ask the VM's process, which therefore needs no
    thread to answer."""
    def begin(name):
        image(small.path / f"{name}.raw")
        return machine(beside, guest, name, disks=[{"path": str(tmp_path / "small" / f"{name}.raw"), "format": "raw"}])

    def states(name="a"):
        return [e["state"] for e in told(beside) if e["vm"] == name]

    def threads():
        pid = beside.info("a")["pid"]
        return [Path(f"/proc/{pid}/task/{t}/comm").read_text() for t in os.listdir(f"/proc/{pid}/task")]

    small.fill(keep=2 * MIB)
    a = begin("a")
    until(lambda: states() == ["low"])
    event, = told(beside)
    assert event["device"] == "vda" and event["free"] <= 2 * MIB < event["total"] // 20
    b = begin("b")
    b.run("open 0")

    def write(want):
        b.run("write 0 8 2")
        return states() == want

    # An error in b's process makes the daemon measure at once, and not only each minute.
    until(lambda: write(["low"]) and "allocation" in beside.info("b")["disks"][0])
    small.empty()
    until(lambda: write(["low", "enough"]) and states("b") == ["low", "enough"])
    small.fill(keep=2 * MIB)
    until(lambda: write(["low", "enough", "low"]))
    assert "worker\n" not in threads()
    # The next daemon has not opened the image, and asks once.
    beside.stop()
    beside.start()
    until(lambda: states() == ["low", "enough", "low", "low"])
    assert "worker\n" in threads()
    a.close()
    b.close()


def test_growth_of_a_vm_comes_from_what_is_kept(fake):
    """The growth of a VM that is off is zero: nothing has changed since the last point."""
    fake.define("vm1")
    assert "Growth:" not in fake.cairn("dominfo", "vm1").stdout
    fake.stop()
    now, hour, gib = int(time.time()), 3600, 1 << 30
    points = [[now - i * hour, 10 * gib - i * gib // 24, 20 * gib] for i in range(72, 0, -1)]
    (fake.state / "vms/vm1/space.json").write_text(json.dumps({"version": 1, "points": points}))
    fake.start()
    info = fake.info("vm1")
    assert info["growth"] == pytest.approx(gib, rel=0.05) and info["days-left"] in (9, 10)
    for verb in ("dominfo", "domblkinfo"):
        out = fake.cairn(verb, "vm1").stdout
        assert "Growth: " in out and "iB a day\n" in out and f"{info['days-left']} days\n" in out
    fake.cairn("domrename", "vm1", "vm2")
    assert fake.info("vm2")["growth"] == pytest.approx(info["growth"], rel=0.001)  # it depends on the time, too
    fake.cairn("clone", "vm2", "--name", "vm3")
    assert "growth" not in fake.info("vm3")
    fake.cairn("undefine", "vm2")
    assert not (fake.state / "vms/vm2").exists()


def test_damaged_history_is_left_out(fake):
    fake.define("vm1")
    fake.stop()
    path = fake.state / "vms/vm1/space.json"
    path.write_text(json.dumps({"version": 1, "points": [[-1, 2, 3], "x", [1, 2], [5, 2**70, 1]]}))
    fake.start()
    assert "growth" not in fake.info("vm1")


def test_run_leaves_what_its_images_took(daemon, guest, tmp_path):
    disks = [{"path": image(tmp_path / f"{n}.raw"), "format": "raw"} for n in "ab"]
    g = machine(daemon, guest, disks=[*disks, {"path": image(tmp_path / "c.raw"), "format": "raw", "readonly": True}])
    g.run("open 0")
    g.run("write 0 128 1")
    g.run("flush")
    want = [sum((tmp_path / f"{n}.raw").stat().st_blocks * 512 for n in "ab"), 2 * 4 * MIB]
    until(lambda: daemon.info("a")["disks"][0].get("allocation") == want[0])
    g.close()
    daemon.cairn("destroy", "a")
    path = daemon.state / "vms/a/space.json"
    until(path.exists)
    assert [p[1:] for p in json.loads(path.read_text())["points"]][-1] == want
