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


def shown(**limits):
    """The output of virsh."""
    words = [f"{part}_{kind}_sec{end}" for end in ("", "_max") for kind in ("bytes", "iops") for part in ("total", "read", "write")] + ["size_iops_sec"] + [
        f"{part}_{kind}_sec_max_length" for kind in ("bytes", "iops") for part in ("total", "read", "write")]
    assert limits.keys() <= set(words)
    return "".join(f"{w:15}: {limits.get(w, 0)}\n" for w in words)


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
    assert tune(daemon, "vda") == shown() and tune(daemon, "vda", "--config") == shown(total_iops_sec=1)
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
        assert {k: n for k, n in json.loads(tune(daemon, "vda", "--format", "json")).items() if n} == {"iops": 20}
    q = Qmp(daemon.cairn("qmp-path", "a").stdout.rstrip("\n"))
    assert q.run("query-block")[0]["inserted"]["iops"] == 20
    q.close()
    c.close()
    # The next start has the definition's.
    tune(daemon, "vda", "--live", "--config", "--total-bytes-sec", "64K")
    assert tune(daemon, "vda") == shown(total_iops_sec=20, total_bytes_sec=65536)
    assert tune(daemon, "vda", "--config") == shown(total_iops_sec=1, total_bytes_sec=65536)
    daemon.cairn("destroy", "a")
    assert tune(daemon, "vda") == shown(total_iops_sec=1, total_bytes_sec=65536)


ALL = {"iops_rd": 1000, "iops_wr": 200, "bps_rd": 1 << 20, "bps_wr": 2 << 20, "iops_rd_max": 2000, "iops_wr_max": 400, "bps_rd_max": 3 << 20,
       "bps_wr_max": 4 << 20, "iops_rd_max_length": 2, "iops_wr_max_length": 3, "bps_rd_max_length": 4, "bps_wr_max_length": 5, "iops_size": 4096}
LIBVIRT = {k: {"iops_size": "size_iops_sec"}.get(k) or {"rd": "read", "wr": "write"}[k[5:7] if k.startswith("iops") else k[4:6]]
           + {"i": "_iops_sec", "b": "_bytes_sec"}[k[0]] + k[(7 if k.startswith("iops") else 6):] for k in ALL}


@pytest.mark.parametrize("bus", ["virtio", "scsi"])
def test_writes_wait_and_reads_do_not(daemon, guest, tmp_path, bus):
    """All other limits: in a definition, in XML, changed while the VM runs, in a process that takes the VM over."""
    image = tmp_path / "a.raw"
    with open(image, "wb") as f:
        f.truncate(8 << 20)
    daemon.define("a", debug_exit=True, boot={"kernel": guest("interp.elf")}, disks=[{"path": str(image), "format": "raw", "bus": bus, **ALL}])
    disk = json.loads(daemon.cairn("dumpjson", "a").stdout)["disks"][0]
    assert {k: disk.get(k) for k in ALL} == ALL
    xml = daemon.cairn("dumpxml", "a").stdout
    for key, value in ALL.items():
        assert f"<{LIBVIRT[key]}>{value}</{LIBVIRT[key]}>" in xml
    (tmp_path / "a.xml").write_text(xml)
    daemon.cairn("define", str(tmp_path / "a.xml"))
    assert json.loads(daemon.cairn("dumpjson", "a").stdout)["disks"][0] == disk
    daemon.cairn("start", "a")
    target = disk["id"]
    assert tune(daemon, target) == shown(**{LIBVIRT[k]: n for k, n in ALL.items()})
    q = Qmp(daemon.cairn("qmp-path", "a").stdout.rstrip("\n"))
    inserted = q.run("query-block")[0]["inserted"]
    assert {k: inserted[k] for k in ALL if k in inserted} == {k: ALL[k] for k in ("iops_rd", "iops_wr", "bps_rd", "bps_wr")}
    tune(daemon, target, *(w for k in ALL for w in (f"--{LIBVIRT[k].replace('_', '-')}", "20" if k == "iops_wr" else "0")))
    assert tune(daemon, target) == shown(write_iops_sec=20) and tune(daemon, target, "--config") == shown(**{LIBVIRT[k]: n for k, n in ALL.items()})
    daemon.cairn("restart-process", "a")
    assert tune(daemon, target) == shown(write_iops_sec=20)
    if bus == "scsi":
        return  # the guest has no driver
    c = console(daemon, "a")
    assert seconds_of_writes(c, 12, 8) >= least(12, 20, 1)
    # Reads do not wait for a limit of writes.
    tune(daemon, target, "--write-iops-sec", "1")
    for i in range(12):
        c.run(f"verify {i * 8} 8 {i + 1}")
    c.close()


def test_burst_passes_at_once(daemon, guest, tmp_path):
    image = tmp_path / "a.raw"
    with open(image, "wb") as f:
        f.truncate(8 << 20)
    daemon.define("a", debug_exit=True, boot={"kernel": guest("interp.elf")},
                  disks=[{"path": str(image), "format": "raw", "iops": 1, "iops_max": 100000, "iops_max_length": 1}])
    daemon.cairn("start", "a")
    c = console(daemon, "a")
    # Without the burst, these would take 200 s, which no test has.
    for i in range(200):
        c.run(f"write {i * 8} 8 {i + 1}")
    c.close()


def test_attached_disk_has_its_limits(daemon, guest, tmp_path):
    for name in "ab":
        with open(tmp_path / f"{name}.raw", "wb") as f:
            f.truncate(1 << 20)
    daemon.define("a", debug_exit=True, boot={"kernel": guest("interp.elf")}, disks=[{"path": str(tmp_path / "a.raw"), "format": "raw"}])
    daemon.cairn("start", "a")
    daemon.qmp().run("vm-attach-disk", vm="a", disk={"id": "vdb", "path": str(tmp_path / "b.raw"), "format": "raw", "iops_wr": 20, "iops_wr_max": 30})
    daemon.cairn("restart-process", "a")
    assert tune(daemon, "vdb") == shown(write_iops_sec=20, write_iops_sec_max=30)


@pytest.mark.parametrize("keys,text", [
    ({"iops": 5, "iops_rd": 5}, "it cannot be combined with iops_rd and iops_wr"), ({"bps": 5000, "bps_wr": 5000}, "it cannot be combined with bps_rd and bps_wr"),
    ({"iops_max": 5}, "a burst needs the limit iops"), ({"iops_rd": 5, "iops_rd_max": 5}, "5 is not more than iops_rd (5)"),
    ({"bps_wr": 5000, "bps_wr_max_length": 5}, "needs bps_wr_max"), ({"iops": 5, "iops_max": 9, "iops_max_length": 86401}, "86401 is out of range"),
    ({"bps": 5000, "iops_size": 4096}, "needs iops, iops_rd or iops_wr"), ({"iops": 5, "iops_size": 511}, "from 512 bytes to 1T"),
    ({"iops_rd": "5"}, "must be a whole number")])
def test_contradictory_limits_are_refused(fake, keys, text):
    (fake.tmp / "d.raw").write_bytes(bytes(1 << 20))
    definition = {"name": "a", "memory": "64M", "boot": {"kernel": "/k"}, "disks": [{"path": str(fake.tmp / "d.raw"), "format": "raw", **keys}]}
    with pytest.raises(QmpError) as e:
        fake.qmp().run("vm-define", definition=definition)
    assert text in str(e.value)


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
