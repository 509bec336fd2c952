"""The balloon: memory that the guest gives back leaves the host, stays away over snapshots, saves, reverts, forks and
handovers, and comes back on access; and `cairn reclaim`. The guest is the bare-metal interpreter."""

import json
import os

import pytest

import guestlib
from clonelib import own_kib
from conftest import Qmp, QmpError, until
from forklib import AT, FILL, MIB, check, image, vm  # noqa: F401 (vm is a fixture)

KIB = 1024


def ready(vm, **keys):
    vm.start(balloon=True, **keys)
    vm.run("src", "balloon open")


def is_about(kib, size):
    """The guest's driver and the balloon's blocks of 64 KiB use a little."""
    return size // KIB - 128 <= kib <= size // KIB


def inflate(vm, name, at=AT, size=FILL // 2):
    vm.run(name, f"balloon inflate {at} {size}")


def state(vm, name):
    return guestlib.fields(vm.run(name, "balloon show")[-1])


def snapshot(daemon, name, snap):
    return json.loads(daemon.cairn("snapshot-create-as", name, snap, "--format", "json").stdout)


def test_memory_goes_back_and_comes_back(vm, daemon):
    ready(vm)
    before = own_kib(daemon, "src")
    inflate(vm, "src")
    assert is_about(before - own_kib(daemon, "src"), FILL // 2)
    vm.holds("src", AT + FILL // 2, FILL // 2, 1)
    vm.run("src", f"balloon deflate {AT} {MIB}")
    assert int(vm.run("src", f"rd64 {AT}")[-1], 0) == 0
    vm.run("src", f"fill {AT} {MIB} 3")
    vm.holds("src", AT, MIB, 3)
    assert state(vm, "src")["actual"] == (FILL // 2 - MIB) // 4096
    vm.run("src", f"balloon report {AT + FILL // 2} {FILL // 4}")
    assert is_about(before - own_kib(daemon, "src"), FILL // 2 - MIB + FILL // 4)
    balloon = daemon.figures("src")["balloon"]
    assert balloon["reported"] == FILL // 4 and balloon["actual"] == 64 * MIB - FILL // 2 + MIB
    assert daemon.figures("src")["used-memory"] == balloon["actual"]


def test_setmem_changes_the_target(vm, daemon):
    ready(vm)
    assert daemon.cairn("setmem", "src", "48M").stderr == ""
    assert state(vm, "src")["target"] == 16 * MIB // 4096
    inflate(vm, "src", AT, 2 * MIB)
    until(lambda: "Used memory:    63488 KiB" in daemon.cairn("dominfo", "src").stdout)
    q = Qmp(daemon.cairn("qmp-path", "src").stdout.rstrip("\n"))
    assert q.run("query-balloon") == {"actual": 62 * MIB}
    q.run("balloon", value=32 * MIB)
    assert state(vm, "src")["target"] == 32 * MIB // 4096
    vm.run("src", f"balloon deflate {AT} {2 * MIB}")
    q.event("BALLOON_CHANGE", actual=64 * MIB)
    q.close()
    for args, text in ((("setmem", "src", "65M", "--live"), "a balloon can only leave it"),
                       (("setmem", "src", "65M", "--config"), "Next: cairn setmaxmem src 65M"),
                       (("dommemstat", "src", "--period", "9", "--config"), "only a running VM")):
        assert text in daemon.cairn(*args, ok=False).stderr
    daemon.cairn("setmem", "src", "40M", "--config")
    d = json.loads(daemon.cairn("dumpjson", "src", "--inactive").stdout)
    assert (d["memory"], d["current_memory"]) == ("64M", "40M")
    daemon.cairn("setmaxmem", "src", "32M")
    d = json.loads(daemon.cairn("dumpjson", "src", "--inactive").stdout)
    assert d["memory"] == "32M" and "current_memory" not in d


def test_less_than_the_guest_uses_is_refused(vm, daemon):
    """The guest says that 30 of its 60 MiB are available, so it needs 34 of the 64 MiB."""
    ready(vm)
    vm.consoles["src"].sock.sendall(f"balloon stats {60 * MIB} {30 * MIB} 2\n".encode())
    until(lambda: "available" in daemon.figures("src")["balloon"])
    error = daemon.cairn("setmem", "src", "33M", "--live", ok=False).stderr
    assert "the guest uses 34 MiB of its memory, so 33 MiB is too little; give 34 MiB or more" in error
    daemon.cairn("setmem", "src", "34M", "--live")
    assert vm.consoles["src"].line() == "ok"
    assert state(vm, "src")["target"] == 30 * MIB // 4096
    out = dict(l.split() for l in daemon.cairn("dommemstat", "src").stdout.splitlines())
    assert (out["actual"], out["available"], out["usable"]) == ("65536", "61440", "30720") and int(out["rss"]) > 0
    stats = daemon.cairn("domstats", "src", "--balloon").stdout
    assert "balloon.current=65536\n" in stats and "balloon.usable=30720\n" in stats


def test_vm_without_balloon_or_driver_is_told(vm, daemon):
    vm.start()
    assert 'set "balloon": true' in daemon.cairn("setmem", "src", "32M", "--live", ok=False).stderr
    daemon.define("other", memory="64M", balloon=True, boot={"kernel": vm.kernel})
    daemon.cairn("start", "other")
    assert "the guest has no driver for its balloon" in daemon.cairn("setmem", "other", "32M", ok=False).stderr
    q = Qmp(daemon.cairn("qmp-path", "src").stdout.rstrip("\n"))
    with pytest.raises(QmpError) as e:
        q.run("query-balloon")
    assert e.value.cls == "DeviceNotActive"
    q.close()


@pytest.mark.parametrize("tracked", [False, True])
def test_given_back_memory_is_left_out_of_snapshots(vm, daemon, tmp_path, tracked):
    """The first snapshot and one that shares memory with another lack the returned memory. A revert does not bring it
    back."""
    ready(vm, disks=[image(tmp_path / "a.qcow2")])
    before = own_kib(daemon, "src")
    if tracked:
        assert snapshot(daemon, "src", "s0")["ram-bytes-written"] >= FILL
    inflate(vm, "src")
    first = snapshot(daemon, "src", "s1")
    assert first["ram-bytes-written"] < (MIB if tracked else FILL)
    assert before - own_kib(daemon, "src") >= FILL // 2 // KIB - 256
    vm.run("src", f"balloon deflate {AT} {FILL // 2}")
    vm.run("src", f"fill {AT} {FILL} 5")
    snapshot(daemon, "src", "s2")
    daemon.cairn("snapshot-revert", "src", "s1", "--eager")
    assert state(vm, "src")["actual"] == FILL // 2 // 4096
    vm.holds("src", AT + FILL // 2, FILL // 2, 1)
    assert before - own_kib(daemon, "src") >= FILL // 2 // KIB - 512  # the revert itself leaves some 270 KiB with the process
    daemon.cairn("snapshot-revert", "src", "s2")
    vm.holds("src", AT, FILL, 5)
    assert state(vm, "src")["actual"] == 0
    if tracked:  # s0 and s1 share clusters, and only a checksum says what was given back between them
        daemon.cairn("snapshot-revert", "src", "s1", "--eager")
        with pytest.raises(AssertionError, match="differ"):  # it reads the zeros, so there are pages, which nobody has written
            vm.run("src", f"like-zeros-check {AT} {FILL // 2} 1")
        daemon.cairn("snapshot-revert", "src", "s0")
        vm.holds("src", AT, FILL, 1)
    daemon.cairn("destroy", "src")
    check(tmp_path / "a.qcow2")


def test_inflated_balloon_is_saved_forked_and_handed_over(vm, daemon, tmp_path):
    ready(vm, disks=[image(tmp_path / "a.qcow2")])
    inflate(vm, "src")
    before = own_kib(daemon, "src")
    daemon.cairn("restart-process", "src")
    assert abs(own_kib(daemon, "src") - before) < 256 and state(vm, "src")["actual"] == FILL // 2 // 4096
    vm.clone("copy")
    assert state(vm, "copy")["actual"] == FILL // 2 // 4096
    vm.run("copy", f"fill {AT + FILL} {FILL} 7")
    vm.run("copy", f"fill {AT} {FILL} 8")
    before = own_kib(daemon, "copy")
    for snap in (None, "s1"):  # not tracked, and tracked
        if snap:
            snapshot(daemon, "copy", snap)
        vm.run("copy", f"balloon inflate {AT + FILL} {MIB}")
        vm.run("copy", f"balloon report {AT + FILL + MIB} {MIB}")
        vm.run("copy", f"balloon inflate {AT} {MIB}")
        assert before - own_kib(daemon, "copy") >= 3 * MIB // KIB - 256
        vm.holds("copy", AT + FILL + 2 * MIB, FILL - 2 * MIB, 7)
        vm.run("copy", f"fill {AT + FILL} {2 * MIB} 7")
        vm.run("copy", f"fill {AT} {MIB} 8")
    vm.holds("src", AT + FILL // 2, FILL // 2, 1)
    vm.holds("copy", AT, FILL, 8)
    vm.consoles.pop("src").close()
    before = own_kib(daemon, "src")
    daemon.cairn("managedsave", "src")
    daemon.cairn("start", "src", "--eager")
    assert state(vm, "src")["actual"] == FILL // 2 // 4096
    assert own_kib(daemon, "src") <= before + 1024
    daemon.cairn("reset", "src")
    assert daemon.figures("src")["used-memory"] == 64 * MIB


@pytest.mark.skipif(not guestlib.has_userfaultfd(), reason="memory is read on demand only with userfaultfd")
def test_reclaimed_memory_comes_back_from_the_image(vm, daemon, tmp_path):
    vm.start(disks=[image(tmp_path / "a.qcow2")])
    assert "no snapshot in the VM's image has its memory" in daemon.cairn("reclaim", "src", ok=False).stderr
    snapshot(daemon, "src", "s1")
    before = own_kib(daemon, "src")
    vm.run("src", f"fill {AT + MIB} {MIB} 2")
    disk = os.stat(tmp_path / "a.qcow2")
    freed = json.loads(daemon.cairn("reclaim", "src", "--format", "json").stdout)
    now = os.stat(tmp_path / "a.qcow2")
    assert (disk.st_mtime_ns, disk.st_blocks) == (now.st_mtime_ns, now.st_blocks)
    assert before - own_kib(daemon, "src") >= (FILL - MIB) // KIB - 512, freed
    vm.holds("src", AT, MIB, 1)
    vm.holds("src", AT + MIB, MIB, 2)
    vm.holds("src", AT + 2 * MIB, FILL - 2 * MIB, 1)
    # Again, with a snapshot of memory that is partly away; then a revert, and the end of the snapshot below.
    daemon.cairn("reclaim", "--all")
    vm.run("src", f"fill {AT} {MIB} 4")
    assert snapshot(daemon, "src", "s2")["ram-bytes-written"] < 4 * MIB
    daemon.cairn("reclaim", "src")
    vm.holds("src", AT, MIB, 4)
    vm.run("src", f"fill {AT} {2 * MIB} 9")
    daemon.cairn("snapshot-delete", "src", "s1")
    daemon.cairn("snapshot-revert", "src", "s2")
    vm.holds("src", AT, MIB, 4)
    vm.holds("src", AT + MIB, MIB, 2)
    vm.holds("src", AT + 2 * MIB, FILL - 2 * MIB, 1)
    daemon.cairn("reclaim", "src")
    vm.clone("copy")
    vm.holds("copy", AT + 2 * MIB, FILL - 2 * MIB, 1)
    assert "is a live clone" in daemon.cairn("reclaim", "copy", ok=False).stderr
    daemon.cairn("reclaim", "src")
    vm.consoles.pop("src").close()
    daemon.cairn("managedsave", "src")
    daemon.cairn("start", "src")
    vm.holds("src", AT, MIB, 4)
    vm.holds("src", AT + 2 * MIB, FILL - 2 * MIB, 1)
