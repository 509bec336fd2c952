"""cairn domstats: the statistics that it prints, and the VMs that it chooses."""

import json
import re

from conftest import Console


def domstats(daemon, name):
    """Return all statistics of a VM; a process that stands still gives none of its own."""
    while "cpu.time" not in (stats := json.loads(daemon.cairn("domstats", name, "--format", "json").stdout)[0]):
        pass
    return stats


def test_domstats_prints_statistics(fake, tmp_path):
    (tmp_path / "d.raw").write_bytes(bytes(4096))
    fake.define("vm1", cmdline="idle", vcpus=2, disks=[{"id": "vda", "format": "raw", "path": str(tmp_path / "d.raw")}])
    fake.define("vm2")
    fake.cairn("start", "vm1")
    out = fake.cairn("domstats", "--state", "--balloon").stdout
    rss = int(out.split("balloon.rss=")[1].split()[0])
    assert 0 < rss < 1 << 20
    assert out == (
        "Domain: 'vm1'\n  state.state=1\n  state.reason=1\n"
        f"  balloon.current=32768\n  balloon.maximum=32768\n  balloon.rss={rss}\n\n"
        "Domain: 'vm2'\n  state.state=5\n  state.reason=0\n"
        "  balloon.current=32768\n  balloon.maximum=32768\n\n")
    assert "Domain: 'vm1'" not in fake.cairn("domstats", "vm[2-9]").stdout
    info, stats = fake.figures("vm1"), domstats(fake, "vm1")
    assert (stats["name"], stats["cpu.time"]) == ("vm1", info["cpu-time"])
    assert [stats[f"vcpu.{i}.time"] for i in range(2)] == info["vcpu-times"]
    assert stats["vcpu.maximum"] == 2
    assert stats["block.count"] == len(info["disks"])
    fake.cairn("destroy", "vm1")
    out = fake.cairn("domstats", "vm1").stdout
    assert "state.reason=2\n" in out and "cpu.time" not in out
    assert out.endswith("  balloon.current=32768\n  balloon.maximum=32768\n  vcpu.current=2\n  vcpu.maximum=2\n  net.count=0\n"
                        f"  block.count=1\n  block.0.name=vda\n  block.0.path={tmp_path}/d.raw\n\n"), out
    fake.define("vm3", memory="64M", balloon=True, current_memory="48M", disks=[{"id": "sda", "bus": "scsi", "device": "cdrom"}])
    out = fake.cairn("domstats", "vm3").stdout
    assert "  balloon.current=49152\n  balloon.maximum=65536\n" in out and "  block.count=1\n  block.0.name=sda\n\n" in out
    assert "\nMax memory:     65536 KiB\nUsed memory:    49152 KiB\n" in fake.cairn("dominfo", "vm3").stdout
    assert json.loads(fake.cairn("dominfo", "vm3", "--format", "json").stdout)["used-memory"] == 0
    assert fake.cairn("domstats", "none", ok=3).stdout == ""


def test_domstats_prints_disk_statistics(daemon, kvm, guest, tmp_path):
    (tmp_path / "d.raw").write_bytes(bytes(1 << 20))
    daemon.define("vm1", boot={"kernel": guest("interp.elf")},
                  disks=[{"id": "vda", "format": "raw", "path": str(tmp_path / "d.raw")}])
    daemon.cairn("start", "vm1")
    console = Console(daemon, "vm1")
    while console.line() != "interp":
        pass
    console.run("open 0")
    console.run("write 0 8 1")
    console.close()
    d, = daemon.figures("vm1")["disks"]
    stats = domstats(daemon, "vm1")
    assert stats["block.count"] == 1 and d["wr-bytes"] == 4096
    assert stats["block.0.name"] == d["id"] and stats["block.0.capacity"] == d["size"]
    for key in ("rd", "wr"):
        assert [stats[f"block.0.{key}.{k}"] for k in ("reqs", "bytes", "times")] == [
            d[f"{key}-reqs"], d[f"{key}-bytes"], d[f"{key}-ns"]]


def test_domstats_filters_vms_by_state(fake):
    def listed(*filters):
        return re.findall("Domain: '(.*)'", fake.cairn("domstats", "--state", *filters).stdout)
    for name in "abc":
        fake.define(name, cmdline="idle")
    fake.cairn("start", "a", "b")
    fake.cairn("suspend", "b")
    assert [listed(f"--list-{x}") for x in ("active", "inactive", "running", "paused", "shutoff", "other")] == [
        ["a", "b"], ["c"], ["a"], ["b"], ["c"], []]
    assert listed("--list-running", "--list-shutoff") == ["a", "c"] and listed("--list-active", "--list-paused") == ["b"]
    assert listed("--raw", "--enforce", "--nowait") == ["a", "b", "c"]
    assert "exclude each other" in fake.cairn("domstats", "a", "--list-running", ok=2).stderr
