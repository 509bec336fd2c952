"""Figures of running VMs come from a page that the VM's process shares with the daemon, so that no process wakes up for
them; a process that shares none is asked."""

import contextlib
import fcntl
import json
import os
import random
import re
import subprocess
import time

import pytest

from conftest import BUILD, Qmp, until
from test_hotplug import Guest, detach, image, machine

pytestmark = pytest.mark.usefixtures("kvm")
F_GET_SEALS, SEALED_SIZE = 1034, 1 | 2 | 4


def shown(d, name="a"):
    """Return vm-info when it comes from the page."""
    found = []
    until(lambda: "vcpu-halted" in (found.append(d.info(name)) or found[-1]))
    return found[-1]


def page_of(pid):
    """Return the address of the page in the process, and the file behind it."""
    with open(f"/proc/{pid}/maps") as f:
        span, = [line.split()[0] for line in f if "memfd:figures" in line]
    return int(span.split("-")[0], 16), f"/proc/{pid}/map_files/{span}"


def switches(pid):
    """Return how often each thread of a process but the vCPUs, which the host's timers wake, went to sleep or was
    interrupted."""
    found = {}
    for tid in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{tid}/status") as f:
            text = f.read()
        if not text.split()[1].startswith("vcpu"):
            found[tid, text.split()[1]] = sum(map(int, re.findall(r"ctxt_switches:\s*(\d+)", text)))
    return found


def at_rest(pid):
    """Return switches(pid) when no thread is on its way to sleep any more: then they stay the same."""
    found = [switches(pid)]

    def same():
        time.sleep(0.1)
        found.append(switches(pid))
        return found[-1] == found[-2]

    until(same)
    return found[-1]


def asked(d, name="a"):
    """Return the counters of vda as the process answers them."""
    q = d.qmp()
    path = q.run("vm-qmp-path", vm=name)["path"]
    q.close()
    q = Qmp(path)
    stats, = [s["stats"] for s in q.run("query-blockstats") if s["device"] == "vda"]
    q.close()
    return [stats[k] for k in ("rd_bytes", "rd_operations", "rd_total_time_ns", "wr_bytes", "wr_operations", "wr_total_time_ns",
                               "flush_operations", "flush_total_time_ns")]


def told(info):
    d = info["disks"][0]
    return [d[k] for k in ("rd-bytes", "rd-reqs", "rd-ns", "wr-bytes", "wr-reqs", "wr-ns", "fl-reqs", "fl-ns")]


def test_reading_figures_wakes_no_process(daemon, guest, tmp_path):
    daemon.define("a", boot={"kernel": guest("idle.elf")}, vcpus=2, disks=[{"path": image(tmp_path / "a.raw"), "format": "raw"}])
    daemon.cairn("start", "a")
    pid = shown(daemon)["pid"]
    daemon.cairn("domstats", "a")  # the first one asks the process for the space of its images
    until(lambda: daemon.info("a")["idle"])
    before = at_rest(pid)
    for _ in range(20):
        daemon.cairn("domstats", "a")
        daemon.cairn("metrics")
        daemon.info("a")
    assert switches(pid) == before


def test_figures_are_those_of_the_process(daemon, guest, tmp_path):
    g = machine(daemon, guest, disks=[{"path": image(tmp_path / "a.raw"), "format": "raw"}])
    pid = shown(daemon)["pid"]
    g.run("open 0")
    for s in range(0, 64, 8):
        g.run(f"write {s} 8 {s}")
        g.run(f"verify {s} 8 {s}")
    g.run("flush")
    info = shown(daemon)
    assert told(info) == asked(daemon) and info["disks"][0]["wr-bytes"] == 8 * 4096
    disk = info["disks"][0]
    assert disk["in-flight"] == 0
    assert sum(disk["rd-latency"]) == disk["rd-reqs"] and sum(disk["wr-latency"]) == disk["wr-reqs"] == 8
    assert sum(disk["fl-latency"]) == disk["fl-reqs"] == 1
    assert len(info["vcpu-delays"]) == len(info["vcpu-halted"]) == info["vcpus"]
    assert info["exits"]["io"] > 0 and info["cpu-time"] > 0
    g.close()
    # The counters and the page outlive the daemon.
    daemon.stop()
    daemon.start()
    later = shown(daemon)
    assert later["pid"] == pid and told(later) == told(info) and later["cpu-time"] >= info["cpu-time"]
    assert later["exits"]["io"] >= info["exits"]["io"] and later["disks"][0]["rd-latency"] == disk["rd-latency"]
    g = Guest(daemon, "a")
    g.run("write 0 8 1")
    assert told(shown(daemon)) == asked(daemon) != told(later)
    g.close()


def test_page_follows_devices_and_handover(daemon, guest, tmp_path):
    g = machine(daemon, guest, disks=[{"path": image(tmp_path / "a.raw"), "format": "raw"}], interfaces=[{"id": "net0", "type": "user"}])
    shown(daemon)
    daemon.cairn("attach-disk", "a", image(tmp_path / "b.raw", 8 << 20), "vdb", "--live")
    g.event()
    g.run("open 1")
    g.run("write 0 8 1")
    first, second = shown(daemon)["disks"]
    assert [first["id"], second["id"]] == ["vda", "vdb"] and second["size"] == 8 << 20
    assert (first["wr-reqs"], second["wr-reqs"]) == (0, 1)
    daemon.cairn("suspend", "a")
    info = shown(daemon)
    assert info["vcpu-halted"] == [False] and not info["idle"]
    daemon.cairn("resume", "a")
    pid = info["pid"]
    daemon.cairn("restart-process", "a")
    info = shown(daemon)
    assert info["pid"] != pid and [d["wr-reqs"] for d in info["disks"]] == [0, 1]
    assert [i["id"] for i in info["interfaces"]] == ["net0"]
    g.close()
    g = Guest(daemon, "a")
    g.run("write 0 8 1")
    detach(daemon, g.release)
    info = shown(daemon)
    assert [d["id"] for d in info["disks"]] == ["vda"]
    g.close()


def test_page_has_a_fixed_size_and_one_page_of_memory(daemon, guest, tmp_path):
    if os.geteuid():
        pytest.skip("needs root to look at the process's files")
    g = machine(daemon, guest, disks=[{"path": image(tmp_path / "a.raw"), "format": "raw"}], interfaces=[{"id": "net0", "type": "user"}])
    g.run("open 0")
    g.run("write 0 8 1")
    fd = os.open(page_of(shown(daemon)["pid"])[1], os.O_RDWR)
    with contextlib.closing(os.fdopen(fd, "r+b", buffering=0)) as f:
        assert fcntl.fcntl(f, F_GET_SEALS) == SEALED_SIZE
        assert os.fstat(f.fileno()).st_blocks * 512 == os.sysconf("SC_PAGE_SIZE")
        for size in (0, 1 << 30):
            with pytest.raises(PermissionError):
                os.ftruncate(f.fileno(), size)
    g.close()


def test_daemon_survives_whatever_the_page_says(daemon, guest, tmp_path):
    """A guest that has taken over its VM's process writes to the page."""
    if os.geteuid():
        pytest.skip("needs root to write to the process's memory")
    g = machine(daemon, guest, disks=[{"path": image(tmp_path / "a.raw"), "format": "raw"}])
    pid = shown(daemon)["pid"]
    address, _ = page_of(pid)
    daemon_pid, rng = daemon.proc.pid, random.Random(18)
    with open(f"/proc/{pid}/mem", "r+b", buffering=0) as f:
        for i in range(100):
            f.seek(address)
            content = bytearray(rng.randbytes(16384) if i % 2 else rng.choice((b"\0", b"\xff", b"\x80")) * 16384)
            content[:12] = (rng.choice((0, 1, 2)) if i % 5 == 0 else 2).to_bytes(8, "little") + (1).to_bytes(4, "little")
            f.write(content)
            info = json.loads(daemon.cairn("domstats", "a", "--format", "json").stdout)[0] if i % 5 else None
            assert info is None or info["vcpu.current"] <= 64 and info["block.count"] <= 24 and info["net.count"] <= 8
    assert daemon.proc.pid == daemon_pid and daemon.proc.poll() is None
    # The process's next request writes the page anew, but for the counters, which change with the next request.
    daemon.cairn("suspend", "a")
    daemon.cairn("resume", "a")
    assert [d["id"] for d in shown(daemon)["disks"]] == ["vda"]
    g.close()


def test_domstats_and_its_relatives_have_virsh_names(daemon, guest, tmp_path):
    g = machine(daemon, guest, vcpus=2, disks=[{"path": image(tmp_path / "a.raw"), "format": "raw"}])
    shown(daemon)
    g.run("open 0")
    g.run("write 0 8 1")
    g.run("write 8 8 1")
    g.run("flush")
    info = shown(daemon)
    stats, = json.loads(daemon.cairn("domstats", "a", "--format", "json").stdout)
    for i in range(2):
        assert stats[f"vcpu.{i}.state"] == 1 and stats[f"vcpu.{i}.halted"] in ("yes", "no") and stats[f"vcpu.{i}.delay"] >= 0
    assert stats["vcpu.1.halted"] == "yes"  # nothing starts it
    assert stats["cpu.time"] >= info["cpu-time"]
    assert stats["block.0.in-flight"] == 0
    bins = [stats[f"block.0.latency_histogram.write.bin.{k}.value"] for k in range(stats["block.0.latency_histogram.write.bin.count"])]
    starts = [stats[f"block.0.latency_histogram.write.bin.{k}.start"] for k in range(len(bins))]
    assert sum(bins) == stats["block.0.wr.reqs"] == 2 and starts == sorted(starts) and starts[:3] == [0, 10000, 20000]
    lines = dict(line.split()[1:] for line in daemon.cairn("domblkstat", "a", "vda").stdout.splitlines())
    assert list(lines) == ["rd_req", "rd_bytes", "wr_req", "wr_bytes", "errs", "flush_operations", "rd_total_times", "wr_total_times",
                           "flush_total_times"]
    assert [lines[k] for k in ("wr_req", "wr_bytes", "flush_operations")] == ["2", "8192", "1"]
    assert daemon.cairn("domblkstat", "a", str(tmp_path / "a.raw")).stdout == daemon.cairn("domblkstat", "a", "vda").stdout
    assert "Device: vda\n number of read operations: " in daemon.cairn("domblkstat", "a", "vda", "--human").stdout
    assert "VM 'a' has no disk 'vdz'. Next: cairn domblklist a" in daemon.cairn("domblkstat", "a", "vdz", ok=3).stderr
    vcpus = json.loads(daemon.cairn("vcpuinfo", "a", "--format", "json").stdout)
    assert [v["vcpu"] for v in vcpus] == [0, 1] and all(0 <= v["cpu"] < os.cpu_count() for v in vcpus)
    allowed = os.sched_getaffinity(info["pid"])
    text = daemon.cairn("vcpuinfo", "a").stdout
    assert text.count("CPU Affinity:   " + "".join("y" if i in allowed else "-" for i in range(os.cpu_count()))) == 2
    assert daemon.cairn("vcpucount", "a").stdout == (
        "maximum      config         2\nmaximum      live           2\ncurrent      config         2\ncurrent      live           2\n\n")
    # The host counts these two in ticks of 10 ms for each vCPU.
    while stats["cpu.user"] + stats["cpu.system"] == 0:
        g.run("flush")
        stats, = json.loads(daemon.cairn("domstats", "a", "--format", "json").stdout)
    g.close()
    daemon.cairn("destroy", "a")
    assert daemon.cairn("vcpucount", "a").stdout == "maximum      config         2\ncurrent      config         2\n\n"
    assert "VM 'a' is off. Next: cairn vcpucount a --config" in daemon.cairn("vcpucount", "a", "--live", ok=4).stderr
    assert "State:          N/A\n" in daemon.cairn("vcpuinfo", "a").stdout
    assert "Next: cairn start a" in daemon.cairn("domblkstat", "a", ok=4).stderr


# Keys of domstats in virsh's manual, with N for numbers; the latency histograms are libvirt 11.9's.
VIRSH = set("""
    state.state state.reason
    cpu.time cpu.user cpu.system cpu.haltpoll.success.time cpu.haltpoll.fail.time cpu.cache.monitor.count
    balloon.current balloon.maximum balloon.swap_in balloon.swap_out balloon.major_fault balloon.minor_fault balloon.unused
    balloon.available balloon.rss balloon.usable balloon.last-update balloon.disk_caches balloon.hugetlb_pgalloc
    balloon.hugetlb_pgfail
    vcpu.current vcpu.maximum vcpu.N.state vcpu.N.time vcpu.N.wait vcpu.N.halted vcpu.N.delay
    net.count net.N.name net.N.rx.bytes net.N.rx.pkts net.N.rx.errs net.N.rx.drop net.N.tx.bytes net.N.tx.pkts net.N.tx.errs
    net.N.tx.drop
    block.count block.N.name block.N.backingIndex block.N.path block.N.rd.reqs block.N.rd.bytes block.N.rd.times
    block.N.wr.reqs block.N.wr.bytes block.N.wr.times block.N.fl.reqs block.N.fl.times block.N.errors block.N.allocation
    block.N.capacity block.N.physical block.N.threshold
    block.N.latency_histogram.read.bin.count block.N.latency_histogram.read.bin.N.start block.N.latency_histogram.read.bin.N.value
    block.N.latency_histogram.write.bin.count block.N.latency_histogram.write.bin.N.start
    block.N.latency_histogram.write.bin.N.value
    block.N.latency_histogram.flush.bin.count block.N.latency_histogram.flush.bin.N.start
    block.N.latency_histogram.flush.bin.N.value
    iothread.count memory.bandwidth.monitor.count
    dirtyrate.calc_status dirtyrate.calc_start_time dirtyrate.calc_period dirtyrate.megabytes_per_second dirtyrate.calc_mode
    dirtyrate.vcpu.N.megabytes_per_second
""".split())
# cairn(1) has the reasons. perf.* and KVM's own counters, which have no names in the manual, are absent, too.
ABSENT = set("""
    block.N.threshold vcpu.N.wait
    cpu.haltpoll.success.time cpu.haltpoll.fail.time cpu.cache.monitor.count iothread.count memory.bandwidth.monitor.count
    dirtyrate.vcpu.N.megabytes_per_second
""".split())
BACKING = {"block.N.backingIndex"}  # only with --backing
OWN = {"block.N.in-flight"}


def stats_of(d, *options):
    stats, = json.loads(d.cairn("domstats", "a", *options, "--format", "json").stdout)
    return stats


def overlay(folder):
    """Make a qcow2 image over a raw one of 4 MiB, and return its disk."""
    base, path = image(folder / "base.raw"), str(folder / "a.qcow2")
    subprocess.run([os.path.join(BUILD, "cairn-img"), "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base, path], check=True)
    return {"path": path, "format": "qcow2", "backing": [{"path": base, "format": "raw"}]}


def test_domstats_has_the_keys_of_virsh_but_those_that_the_manual_names(daemon, guest, tmp_path):
    g = machine(daemon, guest, vcpus=2, balloon=True, disks=[overlay(tmp_path)], interfaces=[{"id": "net0", "type": "user"}])
    for command in ("open 0", "write 0 8 1", "verify 0 8 1", "flush", "balloon open", "balloon stats 0x3000000 0x1000000 0"):
        g.run(command)
    daemon.cairn("domdirtyrate-calc", "a")
    late = {"balloon.rss", "balloon.last-update", "vcpu.0.halted", "dirtyrate.megabytes_per_second"}
    found = []
    until(lambda: late <= set(found.append(stats_of(daemon, "--backing")) or found[-1]))
    stats = found[-1]
    assert stats.pop("name") == "a"
    assert [stats.pop(f"block.1.{key}") for key in ("name", "path", "backingIndex")] == ["vda", str(tmp_path / "base.raw"), 1]
    assert not any(key.startswith("block.1.") for key in stats) and stats["block.count"] == 2
    stats = {key: value for key, value in stats_of(daemon).items() if key != "name"}
    assert {re.sub(r"\.\d+(?=\.)", ".N", key) for key in stats} == VIRSH - ABSENT - BACKING | OWN
    assert (stats["vcpu.current"], stats["block.count"], stats["net.count"]) == (2, 1, 1)
    for group, numbers in (("vcpu", {0, 1}), ("block", {0}), ("net", {0})):
        assert {int(n) for n in re.findall(rf"^{group}\.(\d+)\.", "\n".join(stats), re.M)} == numbers
    assert {key for key in stats if key.startswith("vcpu.1.")} == {key.replace(".0.", ".1.") for key in stats if key.startswith("vcpu.0.")}
    # Sizes are in KiB, the others are numbers of what the guest counts.
    assert [stats["balloon." + key] for key in ("swap_in", "swap_out", "unused", "available", "usable", "disk_caches")] == [
        1024, 2048, 5120, 0xc000, 0x4000, 8192]
    assert [stats["balloon." + key] >> 20 for key in ("major_fault", "minor_fault", "hugetlb_pgalloc", "hugetlb_pgfail")] == [3, 4, 9, 10]
    g.close()


def sizes(stats, n=0):
    return [stats.get(f"block.{n}.{key}") for key in ("capacity", "allocation", "physical")]


def test_domstats_shows_what_images_take(daemon, guest, tmp_path):
    """The first figures need no writes by the guest; later ones follow the guest's writes."""
    paths = [tmp_path / "a.qcow2", tmp_path / "b.raw"]
    disks = [overlay(tmp_path), {"path": image(paths[1]), "format": "raw", "readonly": True},
             {"id": "sda", "bus": "scsi", "device": "cdrom"}]
    g = machine(daemon, guest, disks=disks)

    def want():
        return [[4 << 20, p.stat().st_blocks * 512, p.stat().st_size] for p in paths]

    stats = stats_of(daemon, "--block")
    assert [sizes(stats, i) for i in range(2)] == want()
    assert [stats[f"block.{i}.path"] for i in range(2)] == [str(p) for p in paths]
    assert sizes(stats, 2) == [0, None, None] and "block.2.path" not in stats
    before = sizes(stats)
    g.run("open 0")
    g.run("write 0 128 1")
    g.run("flush")
    until(lambda: sizes(stats_of(daemon))[1] > before[1] and [sizes(stats_of(daemon), i) for i in range(2)] == want())
    g.close()
    # A daemon that adopts the VM does not know them, and asks when it is asked.
    daemon.stop()
    daemon.start()
    assert [sizes(stats_of(daemon), i) for i in range(2)] == want()
    daemon.cairn("destroy", "a")
    assert "disks" not in daemon.qmp().run("vm-space", vm="a")


def test_space_of_an_attached_disk_is_known_after_some_seconds(daemon, guest, tmp_path):
    g = machine(daemon, guest, disks=[{"path": image(tmp_path / "a.raw"), "format": "raw"}])
    assert sizes(stats_of(daemon))[2] == 4 << 20
    daemon.cairn("attach-disk", "a", image(tmp_path / "b.raw", 8 << 20), "vdb", "--live")
    g.event()
    until(lambda: sizes(stats_of(daemon), 1) == [8 << 20, 0, 8 << 20])
    g.close()


def test_sizes_of_one_disk_are_virshs(daemon, guest, tmp_path):
    """domblkinfo VM DISK, of a VM that runs and of one that is off."""
    subprocess.run([os.path.join(BUILD, "cairn-img"), "create", "-q", "-f", "qcow2", str(tmp_path / "b.qcow2"), "64M"], check=True)
    (tmp_path / "a.raw").write_bytes(b"x" * 8192)
    os.truncate(tmp_path / "a.raw", 4 << 20)
    disks = [{"path": str(tmp_path / "a.raw"), "format": "raw"}, {"path": str(tmp_path / "b.qcow2"), "format": "qcow2"},
             {"id": "sda", "bus": "scsi", "device": "cdrom"}]
    daemon.define("a", boot={"kernel": guest("idle.elf")}, disks=disks)
    for state in ("off", "running"):
        for disk, path, capacity in (("vda", "a.raw", 4 << 20), ("vdb", "b.qcow2", 64 << 20)):
            st = (tmp_path / path).stat()
            want = f"Capacity:       {capacity}\nAllocation:     {st.st_blocks * 512}\nPhysical:       {st.st_size}\n"
            assert daemon.cairn("domblkinfo", "a", disk).stdout == daemon.cairn("domblkinfo", "a", str(tmp_path / path)).stdout == want, state
            o = json.loads(daemon.cairn("domblkinfo", "a", disk, "--format", "json").stdout)
            assert (o["id"], o["capacity"], o["physical"], o["clones"]) == (disk, capacity, st.st_size, 0)
        if state == "off":
            daemon.cairn("start", "a")
    assert daemon.cairn("domblkinfo", "--human", "a", "vdb").stdout.startswith("Capacity:       64.00 MiB\nAllocation: ")
    assert "VM 'a' has no disk 'vdz'. Next: cairn domblklist a" in daemon.cairn("domblkinfo", "a", "vdz", ok=3).stderr
    assert "drive sda is empty. Next: cairn change-media a sda" in daemon.cairn("domblkinfo", "a", "sda", ok=3).stderr
    assert "--human is for one disk" in daemon.cairn("domblkinfo", "a", "--human", ok=2).stderr


def test_node_verbs_show_the_host(fake):
    node = json.loads(fake.cairn("nodeinfo", "--format", "json").stdout)
    assert node["cpus"] == os.sysconf("SC_NPROCESSORS_ONLN") == node["cells"] * node["sockets"] * node["cores"] * node["threads"]
    assert node["memory"] == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    before, one, after = [json.loads(fake.cairn("nodecpustats", *args, "--format", "json").stdout) for args in ([], ["0"], [])]
    assert all(before[k] <= after[k] and one[k] <= after[k] for k in ("user", "system", "idle"))
    percent = json.loads(fake.cairn("nodecpustats", "--percent", "--format", "json").stdout)
    assert abs(sum(percent[k] for k in ("user", "system", "idle", "iowait")) - 100) < 0.1 and 0 <= percent["usage"] <= 100
    assert "has no processor '4096'" in fake.cairn("nodecpustats", "4096", ok=False).stderr
