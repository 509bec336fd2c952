"""advise: what trends, states and pools say about waste and about what runs out."""

import contextlib
import json
import os
import struct
import time

import pytest

import guestlib
from clonelib import own_kib
from conftest import FAKE_VM, Console, Daemon, library, until
from plainlib import qcow2
from test_cgroups import Grouped
from daemonlib import NOBODY, as_nobody, shared  # noqa: F401 (fixture)
from test_host import needs_root
from test_pressure import PRESSURE, bound
from trendlib import HOUR, busy, idle, write

MIB, DAY = 1 << 20, 24
AT, FILL = 0x1000000, 16 * MIB


def advice(d, *args, **keys):
    """Return the advice, without that about the host: {rule: advice} about one VM, {(name, rule): advice} about all."""
    found = json.loads(d.cairn("advise", *args, "--format", "json", **keys).stdout)
    return {a["rule"] if args else (a.get("vm", a.get("pool")), a["rule"]): a for a in found if a["kind"] != "lacks" and "host" not in a}


def machine(d, name, hours, ahead=0, **keys):
    keys = {"memory": "1G", "vcpus": 8, **keys}
    d.define(name, **keys)
    d.cairn("start", name)
    write(d.state / "vms" / name / "trends", hours, ahead)


def test_idle_vm_and_busy_one(fake):
    machine(fake, "quiet", [busy()] * 3 * DAY + [idle(memory=(700 * MIB, 700 * MIB))] * 5 * DAY)
    machine(fake, "worker", [busy(memory=(900 * MIB, 900 * MIB), cpu=(300, 790))] * 8 * DAY)
    all_vms = advice(fake)
    assert set(all_vms) == {("quiet", "idle")}
    a = all_vms["quiet", "idle"]
    assert a["kind"] == "waste" and a["command"] == "cairn managedsave quiet" and "apply" not in a
    assert a["figures"] == {"days": 5, "cpu": 0.4, "requests": 0, "packets": 0, "memory": 700 * MIB}
    assert fake.cairn("advise", "quiet").stdout == (
        "quiet: idle for 5 days, with 0.4 % of a processor, 0.00 disk requests and 0.00 sent packets a second, and holds 700 MiB of memory\n"
        "    cairn managedsave quiet\n")
    assert fake.cairn("advise", "worker").stdout == "No advice\n"
    assert "there is no VM 'nope'" in fake.cairn("advise", "nope", ok=3).stderr


def test_memory_and_vcpus_that_were_never_used(fake):
    machine(fake, "a", [busy(memory=(300 * MIB, 310 * MIB))] * 8 * DAY)
    found = advice(fake, "a")
    assert set(found) == {"memory", "vcpus"}
    assert found["memory"]["figures"] == {"peak": 310 * MIB, "memory": 1024 * MIB, "enough": 448 * MIB}
    assert found["vcpus"]["figures"] == {"peak": 1.8, "vcpus": 8, "enough": 3}
    # The commands are right.
    for a in found.values():
        fake.cairn(*a["command"].split()[1:])
    fake.cairn("destroy", "a")
    info = fake.info("a")
    assert info["vcpus"] == 3 and info["memory"] == 448 * MIB


def test_rule_that_lacks_data_says_so_only_if_asked(fake):
    machine(fake, "a", [idle()] * 10 + [None] * 10 + [idle()] * 20)
    assert fake.cairn("advise", "a").stdout == "No advice\n"
    said = fake.cairn("advise", "a", "--verbose").stdout
    assert "a: idle lacks data: needs 20 known hours in each of the last 3 days\n" in said
    assert "a: vcpus lacks data: needs 72 known hours of the last 7 days, and has 30\n" in said
    path = fake.state / "vms/a/trends"
    path.write_bytes(b"damaged" * 1000)
    assert fake.cairn("advise", "a").stdout == "No advice\n"
    assert "`cairn trend a` says why" in fake.cairn("advise", "a", "--verbose").stdout


@pytest.fixture
def half_past(tmp_path):
    """A daemon whose clock says half past, so that no hour ends during the test, and the seconds that it is ahead."""
    if guestlib.SANITIZED:
        pytest.skip("set_clock.so has to come behind a sanitizer")
    ahead = HOUR // 2 - int(time.time()) % HOUR
    (tmp_path / "clock").write_text(str(ahead))
    clock = {"LD_PRELOAD": library("set_clock"), "SET_CLOCK": str(tmp_path / "clock")}
    with contextlib.closing(Daemon(tmp_path, FAKE_VM, clock)) as d:
        yield d, ahead


def test_rise_and_slow_disk(half_past):
    """Five weeks as usual; in the last two hours, the disk is slow, and much is written."""
    d, ahead = half_past
    usual = busy(memory=(900 * MIB, 900 * MIB), cpu=(300, 790), wr_bytes=(MIB, 9 * MIB), wr_latency=(3e6, 9e6))
    machine(d, "a", [usual] * (35 * DAY - 2) + [{**usual, "wr-latency": (50e6, 90e6), "wr-bytes": (20 * MIB, 90 * MIB)}] * 2, ahead)
    found = advice(d, "a")
    assert set(found) == {"latency", "unusual-disk"}
    assert found["latency"]["kind"] == "short" and found["latency"]["figures"]["now"] == pytest.approx(0.05)
    assert found["latency"]["figures"]["usual"] == pytest.approx(0.003) and found["latency"]["figures"]["hours"] > 700
    assert found["unusual-disk"]["kind"] == "unusual"
    assert found["unusual-disk"]["figures"] == {"now": 20 * MIB, "low": MIB, "high": MIB}
    assert "disk: 20.0 MiB/s, in this hour of the past weeks 1.0 to 1.0" in d.cairn("advise").stdout
    for a in found.values():
        d.cairn(*a["command"].split()[1:])


@needs_root
def test_memory_pressure_of_the_host_names_the_holder(kvm, guest, tmp_path):
    if not os.path.exists(PRESSURE):
        pytest.skip("this kernel has no PSI, so there is no file to bind over")
    file = tmp_path / "memory"

    def advised(percent):
        file.write_text(f"some avg10=0.00 avg60=0.00 avg300={percent} total=1\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n")
        return [a for a in json.loads(d.cairn("advise", "--format", "json").stdout) if a["rule"] == "host-memory"]
    file.touch()
    with contextlib.closing(Grouped(tmp_path, wrapper=bound(f"mount --bind {file} {PRESSURE}"))) as d:
        d.define("a", boot={"kernel": guest("idle.elf")})
        d.cairn("start", "a")
        assert advised("9.90") == []
        until(lambda: "held" in advised("30.00")[0]["figures"])  # the daemon has sampled the VM
        a, = advised("30.00")
        assert (a["kind"], a["host"], a["figures"]["percent"], a["command"]) == ("short", "memory", 30, "cairn reclaim --all")
        assert "the host's memory: threads waited for memory in 30 % of the last five minutes; VM 'a' holds most of it, " in d.cairn("advise").stdout


def test_vms_that_are_off(fake):
    """The state's file says since when."""
    for name in ("old", "kept", "new"):
        fake.define(name)
        fake.cairn("start", name)
        fake.cairn("destroy", name)
    fake.cairn("autostart", "kept")
    fake.stop()
    for name in ("old", "kept"):
        path = fake.state / "vms" / name / "state.json"
        state = json.loads(path.read_text())
        state["since_ns"] -= 100 * 24 * 3600 * 10**9
        path.write_text(json.dumps(state))
    fake.start()
    found = advice(fake)
    assert set(found) == {("old", "off")} and found["old", "off"]["figures"] == {"days": 100}
    fake.cairn(*found["old", "off"]["command"].split()[1:])
    assert not advice(fake)


def test_overlay_that_nobody_needs(fake):
    base, top, other = (qcow2(fake.tmp / f"{n}.qcow2", "64M") for n in ("base", "top", "other"))
    layers = {**top, "backing": [base]}
    fake.define("a", disks=[layers])
    os.utime(fake.state / "vms/a/definition.json", (time.time() - 40 * 86400,) * 2)
    assert advice(fake, "a")["overlays"]["command"] == "cairn blockcommit a vda"
    fake.define("b", disks=[{**other, "backing": [base]}])
    assert not advice(fake, "a")


def test_pool_that_runs_full(fake):
    pool = fake.tmp / "pool"
    pool.mkdir()
    fake.cairn("pool-define-as", "images", "dir", "--target", str(pool))
    until(lambda: "Capacity" in fake.cairn("pool-info", "images").stdout)
    now, s = int(time.time()), os.statvfs(pool)
    total, used = s.f_blocks * s.f_frsize, (s.f_blocks - s.f_bavail) * s.f_frsize
    fake.stop()
    a_day = min((total - used) // 20, used // 3)
    points = [[now - 3600 * h, used - a_day * h // 24, total] for h in range(48, 0, -1)]
    (fake.state / "pool-space.json").write_text(json.dumps({"version": 1, "pools": [
        {"name": "images", "target": str(pool), "low": False, "points": points}]}))
    fake.start()
    if (total - used) / a_day > 55:
        pytest.skip("the file system is too empty for a history of growth")
    until(lambda: advice(fake))
    a = advice(fake)["images", "pool-space"]
    days = (total - used) / a_day
    assert a["kind"] == "run-out" and a["figures"]["days"] == pytest.approx(days, rel=0.3)
    assert a["figures"]["days-early"] <= a["figures"]["days"] <= a["figures"]["days-late"]
    assert "pool images: the file system grows by " in fake.cairn("advise").stdout
    fake.cairn(*a["command"].split()[1:])


def test_pages_and_vms_that_go_away(fake):
    for i in range(30):
        machine(fake, f"vm{i:02}", [idle()] * 4 * DAY)
    q = fake.qmp()
    found = q.run("advise", after="vm09")["advice"]
    assert [a["vm"] for a in found] == [f"vm{i:02}" for i in range(10, 30)]
    q.send(b'{"execute": "advise", "arguments": {"after": ""}}')
    fake.cairn("destroy", "vm20")
    fake.cairn("undefine", "vm20")
    answer = q.answer()
    assert len(answer["return"]["advice"]) in (29, 30)
    q.close()


def test_snapshots_that_are_old(daemon):
    """The times are in the table of the image's snapshots."""
    path = daemon.tmp / "a.qcow2"
    daemon.define("a", disks=[qcow2(path, "64M")])
    for name in ("first", "kept", "third", "now"):
        daemon.cairn("snapshot-create-as", "a", name, *(["--tag", "keep"] if name == "kept" else []))
    assert not advice(daemon, "a", "--snapshots")
    data = bytearray(path.read_bytes())
    n, at = struct.unpack_from(">IQ", data, 60)
    for _ in range(n):
        ids, names, date = struct.unpack_from(">HHI", data, at + 12)
        struct.pack_into(">I", data, at + 16, date - 40 * 86400)
        extra, = struct.unpack_from(">I", data, at + 36)
        at += -(-(40 + extra + ids + names) // 8) * 8
    path.write_bytes(data)
    assert not advice(daemon, "a")  # nobody has asked to read the images
    a = advice(daemon, "a", "--snapshots")["snapshots"]
    assert a["figures"] == {"snapshots": 2, "bytes": 0, "days": 40} and a["command"] == "cairn snapshot-delete a first"
    for left in (1, 0):
        daemon.cairn(*a["command"].split()[1:])
        a = advice(daemon, "a", "--snapshots").get("snapshots")
        assert (a["figures"]["snapshots"] if a else 0) == left
    assert "--snapshots needs a VM" in daemon.cairn("advise", "--snapshots", ok=2).stderr
    daemon.cairn("undefine", "a", "--snapshots-metadata")


@needs_root
def test_user_sees_only_vms_that_he_may_view(shared):  # noqa: F811
    shared.define("mine2")
    for name in ("mine2", "other"):
        shared.cairn("start", name)
        write(shared.state / "vms" / name / "trends", [idle()] * 4 * DAY)
    shared.cairn("grant", "--user", str(NOBODY), "viewer", "mine2")
    found, denied = as_nobody(shared, ["advise", {}], ["advise", {"vm": "other"}])
    assert [a["vm"] for a in found["return"]["advice"]] == ["mine2"]
    assert "there is no VM 'other'" in denied["error"]["desc"]


@pytest.mark.usefixtures("kvm")
def test_apply_frees_memory_of_an_idle_vm(daemon):
    daemon.define("a", memory="256M", boot={"kernel": guestlib.bare("interp")}, disks=[qcow2(daemon.tmp / "a.qcow2", "1G")])
    daemon.cairn("start", "a")
    console = Console(daemon, "a")
    console.run(f"fill {AT:#x} {FILL:#x} 1")
    write(daemon.state / "vms/a/trends", [idle(memory=(150 * MIB, 150 * MIB))] * 4 * DAY)
    assert set(advice(daemon, "a")) == {"idle"}  # no snapshot has the memory
    daemon.cairn("snapshot-create-as", "a", "s1")
    found = advice(daemon, "a")
    assert found["reclaim"]["apply"] == "vm-reclaim" and found["reclaim"]["command"] == "cairn reclaim a"
    before = own_kib(daemon, "a")
    said = daemon.cairn("advise", "a", "--apply").stdout
    assert "    done: cairn reclaim a\n" in said and "    cairn managedsave a\n" in said
    assert before - own_kib(daemon, "a") >= FILL // 1024
    assert daemon.info("a")["word"] == "running"
    console.run(f"check {AT:#x} {FILL:#x} 1")
    console.close()
