"""Thresholds: events and actions when a figure of a VM is too high for a time."""

import json
import os
import threading
import time

import pytest

from conftest import until
from fuselib import Op, fuse
from plainlib import qcow2
from test_disk_errors import MIB, Small
from test_hooks import Hooks, log_of
from test_hotplug import image, machine
from test_trends import recorded, started

pytestmark = pytest.mark.usefixtures("kvm")


def told(d, vm="a"):
    """Return what the events say: name, state and value."""
    q = d.qmp()
    events = [e["data"] for e in q.run("query-events")["events"] if e["event"] == "THRESHOLD" and e["data"]["vm"] == vm]
    q.close()
    return [(e["threshold"], e["state"], e.get("value")) for e in events]


def shown(d):
    return {t["name"]: t for t in json.loads(d.cairn("threshold-list", "--format", "json").stdout)}


def test_threshold_is_raised_suspends_the_vm_and_is_cleared(daemon, guest, tmp_path):
    g = machine(daemon, guest, vcpus=2, disks=[{"path": image(tmp_path / "a.raw"), "format": "raw"}])
    daemon.cairn("threshold", "a", "cpu", "--above", "2", "--below", "1", "--for", "2s", "--then", "suspend")
    daemon.cairn("threshold", "a", "io-errors", "--above", "0", "--for", "0")
    g.run("storm start 1 0x1000000 0x400000")
    until(lambda: daemon.cairn("domstate", "a").stdout.strip() == "paused")
    name, state, value = told(daemon)[0]
    assert (name, state) == ("cpu", "raised") and float(value.rstrip("%")) > 2
    until(lambda: [t[1] for t in told(daemon)] == ["raised", "cleared"])
    line, = [x for x in json.loads(daemon.cairn("audit", "--format", "json").stdout) if x["command"] == "vm-suspend"]
    assert line["schedule"] == "threshold cpu" and line["outcome"] == "ok"
    # The action has a rate limit, the event has not reached its own.
    daemon.cairn("resume", "a")
    until(lambda: [t[1] for t in told(daemon)] == ["raised", "cleared", "raised"])
    assert shown(daemon)["cpu"]["raised"]
    until(lambda: "VM 'a': threshold cpu: no second action within ten minutes" in daemon.log.read_text())
    assert daemon.cairn("domstate", "a").stdout.strip() == "running"
    assert len([x for x in json.loads(daemon.cairn("audit", "--format", "json").stdout) if x["command"] == "vm-suspend"]) == 1


def test_disk_space_is_reported_by_the_vms_process(daemon, guest, tmp_path):
    machine(daemon, guest, disks=[{"path": image(tmp_path / "a.raw"), "format": "raw"}])
    daemon.cairn("threshold", "a", "disk-space", "--above", "0", "--for", "0")
    until(lambda: [t[:2] for t in told(daemon)] == [("disk-space", "raised")])
    assert 0 < float(told(daemon)[0][2].rstrip("%")) <= 100
    daemon.cairn("destroy", "a")
    until(lambda: told(daemon)[-1] == ("disk-space", "cleared", None))


def watched(d, measure, *options):
    """Set a threshold and wait until the daemon knows the figure, so that it counts what comes from now on."""
    recorded(d, "a", 1)
    d.cairn("threshold", "a", measure, "--for", "0", *options)
    if measure != "latency":  # it is unknown without requests
        until(lambda: "value" in shown(d)[measure])
    assert told(d) == []


def number(d, unit):
    """Return the figure of the first event."""
    return float(told(d)[0][2].removesuffix(unit))


def test_failing_disk_raises_io_errors(daemon, guest, tmp_path):
    g = machine(daemon, guest, disks=[{"path": image(tmp_path / "a.raw"), "format": "raw", "errors": "report"}])
    g.run("open 0")
    g.run("write 4096 8 1")
    watched(daemon, "io-errors", "--above", "0")
    os.truncate(tmp_path / "a.raw", MIB)
    g.sock.sendall(b"verify 4096 8 1\n")
    until(lambda: g.line() == "err I/O error")
    until(lambda: [t[:2] for t in told(daemon)] == [("io-errors", "raised"), ("io-errors", "cleared")])
    assert 0 < number(daemon, "/s") and told(daemon)[1][2] == "0/s"
    g.close()


def test_traffic_raises_net(daemon, guest):
    g = machine(daemon, guest, interfaces=[{"id": "net0", "type": "user"}])
    g.run("net open 0")
    watched(daemon, "net", "--above", "4K")

    def sends():
        g.run("net send 1400 1 100")
        return told(daemon)
    until(sends)
    assert told(daemon)[0][:2] == ("net", "raised") and number(daemon, "B/s") > 4096
    until(lambda: told(daemon)[-1][:2] == ("net", "cleared"))
    g.close()


def test_slow_disk_raises_latency(daemon, guest, tmp_path):
    with fuse(tmp_path / "fuse", disk=bytes(MIB)) as f:
        g = machine(daemon, guest, disks=[{"path": f["disk"], "format": "raw"}])
        g.run("open 0")
        watched(daemon, "latency", "--above", "500ms")
        f.hang(Op.WRITE)
        g.sock.sendall(b"write 0 8 1\n")
        until(lambda: Op.WRITE in f.hanging())
        time.sleep(0.6)  # the least latency of this request
        f.release()
        until(lambda: g.line() == "ok")
        until(lambda: told(daemon))
        assert told(daemon)[0][:2] == ("latency", "raised") and number(daemon, "ms") > 500

        def is_fast():
            g.run("write 0 8 1")
            return told(daemon)[-1][:2] == ("latency", "cleared")
        until(is_fast)
        g.close()


@pytest.fixture
def small(tmp_path):
    s = Small(tmp_path / "small", "24m")
    yield s
    s.close()


def test_vm_pauses_before_its_file_system_is_full(daemon, guest, small):
    """Nothing fails, and its disk continues with the same image. While the VM writes, the daemon does not
    wait a minute."""
    g = machine(daemon, guest, disks=[{"path": image(small.path / "a.raw", 16 * MIB), "format": "raw"}])
    g.run("open 0")
    watched(daemon, "disk-space", "--above", "50", "--then", "suspend")
    until(lambda: "value" in shown(daemon)["disk-space"])  # asked for the threshold; the next time is in a minute
    writer = threading.Thread(target=lambda: [g.run(f"write {i * 2048} 2048 {i}") for i in range(15)])
    writer.start()
    until(lambda: daemon.info("a")["state"] == "paused")
    assert daemon.info("a")["reason"] == "user" and [t[:2] for t in told(daemon)] == [("disk-space", "raised")]
    assert 50 < number(daemon, "%") < 70
    space = os.statvfs(small.path)
    assert space.f_bavail * space.f_bsize >= 8 * MIB
    assert daemon.cairn("domblkerror", "a").stdout == "No errors found\n"
    daemon.cairn("resume", "a")
    writer.join()
    for i in range(15):
        g.run(f"verify {i * 2048} 2048 {i}")
    g.close()


def test_threshold_takes_a_snapshot_and_runs_hooks(daemon, guest, tmp_path):
    hooks = Hooks(daemon.state / "hooks")
    hooks.write("threshold", "a", "cat")
    machine(daemon, guest, disks=[qcow2(tmp_path / "a.qcow2", "16M")])
    daemon.cairn("threshold", "a", "disk-space", "--above", "0", "--for", "0", "--then", "snapshot")
    until(lambda: daemon.cairn("snapshot-list", "a", "--name").stdout.strip())
    assert daemon.cairn("domstate", "a").stdout.strip() == "running"
    until(lambda: log_of(daemon, "threshold"))
    event = json.loads(log_of(daemon, "threshold")[0])
    assert (event["event"], event["data"]["threshold"], event["data"]["state"]) == ("THRESHOLD", "disk-space", "raised")


def test_thresholds_outlive_the_daemon_and_are_not_raised_twice(daemon, guest):
    started(daemon, guest)
    daemon.cairn("threshold", "a", "memory", "--above", "1", "--for", "0")
    daemon.cairn("threshold", "a", "net", "--above", "100M", "--name", "traffic")
    until(lambda: [t[:2] for t in told(daemon)] == [("memory", "raised")])
    daemon.stop()
    daemon.start()
    assert set(shown(daemon)) == {"memory", "traffic"} and shown(daemon)["memory"]["raised"]
    until(lambda: "value" in shown(daemon)["traffic"])
    assert len(told(daemon)) == 1
    # Another limit in its place clears it.
    daemon.cairn("threshold", "a", "memory", "--above", "99")
    until(lambda: [t[1] for t in told(daemon)] == ["raised", "cleared"])
    assert not shown(daemon)["memory"]["raised"]
    daemon.cairn("threshold-remove", "a", "memory")
    daemon.stop()
    daemon.start()
    assert set(shown(daemon)) == {"traffic"}


@pytest.mark.parametrize("args, sentence", [
    (["cpu", "--above", "120"], "no figure is above 100 %; give less than 100, not 120"),
    (["cpu", "--above", "50", "--below", "60"], "below: must not be more than"),
    (["latency", "--above", "20"], "give a time such as 500us, 20ms or 1s"),
    (["cpu", "--above", "90", "--for", "8d"], "--for must be a time"),
    (["cpu", "--above", "90", "--name", "a b"], "is no name of a threshold"),
    (["cpu"], "threshold needs --above"),
    (["wind", "--above", "90"], "is not one of the choices"),
])
def test_bad_thresholds_get_a_sentence(fake, args, sentence):
    fake.define("a")
    assert sentence in fake.cairn("threshold", "a", *args, ok=False).stderr
    assert "has no threshold 'cpu'" in fake.cairn("threshold-remove", "a", "cpu", ok=False).stderr


def test_a_vm_has_at_most_32_thresholds(fake):
    fake.define("a")
    for i in range(32):
        fake.cairn("threshold", "a", "cpu", "--above", "90", "--name", f"t{i}")
    assert "has 32 thresholds, which is the most" in fake.cairn("threshold", "a", "net", "--above", "1", ok=False).stderr
    fake.cairn("threshold", "a", "net", "--above", "1", "--name", "t3")
    assert shown(fake)["t3"]["measure"] == "net"
