"""Limits of a disk: iops and bps of a definition."""

import json
import time

import pytest

from conftest import Console, Qmp, QmpError, until

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


def tune(d, *args, **more):
    return d.cairn("blkdeviotune", "a", *args, **more).stdout


def shown(iops=0, bps=0):
    return f"total_bytes_sec: {bps}\ntotal_iops_sec : {iops}\n"


def test_limit_changes_while_the_vm_runs(daemon, guest, tmp_path):
    image = tmp_path / "a.raw"
    with open(image, "wb") as f:
        f.truncate(8 << 20)
    daemon.define("a", debug_exit=True, boot={"kernel": guest("interp.elf")}, disks=[{"path": str(image), "format": "raw", "iops": 1}])
    daemon.cairn("start", "a")
    c = console(daemon, "a")
    # The first write takes what there is; the second one waits, and passes when the limit goes.
    c.run("write 0 8 1")
    tune(daemon, "vda", "--total-iops-sec", "0")
    for i in range(200):
        c.run(f"write {i * 8} 8 {i + 1}")
    assert tune(daemon, "vda") == shown() and tune(daemon, "vda", "--config") == shown(iops=1)
    # A new limit holds, also over a restart of the daemon, in the process that takes the VM over, and after a reset.
    assert tune(daemon, str(image), "--total-iops-sec", "20") == ""
    for again in (None, "daemon", "process"):
        if again == "daemon":
            c.close()
            daemon.stop()
            daemon.start()
            c = console(daemon, "a")
        if again == "process":
            c.close()
            daemon.cairn("restart-process", "a")
            c = console(daemon, "a")
        assert seconds_of_writes(c, 12, 8) >= least(12, 20, 1)
        assert json.loads(tune(daemon, "vda", "--format", "json")) == {"bps": 0, "iops": 20}
    q = Qmp(daemon.cairn("qmp-path", "a").stdout.rstrip("\n"))
    assert q.run("query-block")[0]["inserted"]["iops"] == 20
    q.close()
    c.close()
    # The next start has the definition's.
    tune(daemon, "vda", "--live", "--config", "--total-bytes-sec", "64K")
    assert tune(daemon, "vda") == shown(iops=20, bps=65536) and tune(daemon, "vda", "--config") == shown(iops=1, bps=65536)
    daemon.cairn("destroy", "a")
    assert tune(daemon, "vda") == shown(iops=1, bps=65536)


def test_limits_that_cannot_be_set_are_refused(fake):
    (fake.tmp / "d.raw").write_bytes(bytes(1 << 20))
    (fake.tmp / "e.raw").write_bytes(bytes(1 << 20))
    fake.define("a", disks=[{"path": "d.raw", "format": "raw"}])
    fake.define("b", cmdline="keeps-disks", disks=[{"path": "e.raw", "format": "raw"}])
    for name in "ab":
        fake.cairn("start", name)
    for args, code, text in (
            (("vda", "--total-iops-sec", "x"), 2, "--total-iops-sec must be a number"),
            (("vda", "--total-bytes-sec", "100"), 2, "disks[0].bps: must be from 4096 bytes to 1T a second"),
            (("vda", "--total-bytes-sec", "100", "--config"), 2, "must be from 4096 bytes to 1T a second"),
            (("vda", "--total-iops-sec", "5000000000"), 2, "disks[0].iops: 5000000000 is out of range"),
            (("vdz", "--total-iops-sec", "5"), 3, "has no disk 'vdz'"), (("vdz", "--total-iops-sec", "5", "--config"), 3, "has no disk 'vdz'"),
            (("vdz",), 3, "has no disk 'vdz'")):
        assert text in fake.cairn("blkdeviotune", "a", *args, ok=code).stderr, args
    q = fake.qmp()
    with pytest.raises(QmpError, match="nothing to change: give iops or bps"):
        q.run("vm-set-disk", vm="a", disk="vda")
    fake.stop()
    fake.start()
    assert "bring it up to date with: cairn restart-process b" in fake.cairn("blkdeviotune", "b", "vda", "--total-iops-sec", "5", ok=False).stderr
    fake.cairn("destroy", "a")
    assert "with --config" in fake.cairn("blkdeviotune", "a", "vda", "--live", "--total-iops-sec", "5", ok=4).stderr
    assert "use --config" in fake.cairn("blkdeviotune", "a", "vda", "--live", ok=4).stderr
