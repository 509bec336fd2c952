"""Limits of a disk: iops and bps of a definition."""

import json
import time

import pytest

from conftest import Console, Qmp, until

pytestmark = pytest.mark.usefixtures("kvm")


def console(d, name):
    q = d.qmp()
    q.run("vm-console", vm=name, history=False)
    c = Console(d, name, q.fds.pop())
    c.sock.sendall(b"\necho here\n")
    until(lambda: c.line() == "here")
    until(lambda: c.line() == "ok")
    c.run("open 0")
    return c


def seconds_of_writes(c, count, sectors):
    began = time.monotonic()
    for i in range(count):
        c.run(f"write {i * sectors} {sectors} {i + 1}")
    return time.monotonic() - began


def least(total, rate, one):
    """Seconds that the requests need on any host, after a burst of a tenth of a second; the last one may exceed it."""
    return 0.95 * (total - rate / 10 - one) / rate


def test_limit_of_definition_holds(daemon, guest, tmp_path):
    image = tmp_path / "a.raw"
    with open(image, "wb") as f:
        f.truncate(8 << 20)
    for limits, total, rate, one in (({"iops": 20}, 12, 20, 1), ({"bps": "64K"}, 12 * 4096, 65536, 4096)):
        daemon.define("a", debug_exit=True, boot={"kernel": guest("interp.elf")},
                      disks=[{"path": str(image), "format": "raw", **limits}])
        shown = json.loads(daemon.cairn("dumpjson", "a").stdout)["disks"][0]
        assert (shown.get("iops", 0), shown.get("bps", 0)) == (limits.get("iops", 0), 65536 if "bps" in limits else 0)
        daemon.cairn("start", "a")
        c = console(daemon, "a")
        assert seconds_of_writes(c, 12, 8) >= least(total, rate, one)
        # Nothing fails, and the process that takes the VM over has the limit, too.
        for i in range(12):
            c.run(f"verify {i * 8} 8 {i + 1}")
        c.close()
        daemon.cairn("restart-process", "a")
        c = console(daemon, "a")
        assert seconds_of_writes(c, 12, 8) >= least(total, rate, one)
        c.close()
        daemon.cairn("destroy", "a")


def test_query_block_shows_limits(daemon, guest, tmp_path):
    image = tmp_path / "a.raw"
    with open(image, "wb") as f:
        f.truncate(1 << 20)
    daemon.define("a", boot={"kernel": guest("idle.elf")}, disks=[{"path": str(image), "format": "raw", "iops": 7, "bps": 5000}])
    daemon.cairn("start", "a")
    q = Qmp(daemon.cairn("qmp-path", "a").stdout.rstrip("\n"))
    inserted = q.run("query-block")[0]["inserted"]
    q.close()
    assert (inserted["iops"], inserted["bps"], inserted["iops_rd"]) == (7, 5000, 0)
