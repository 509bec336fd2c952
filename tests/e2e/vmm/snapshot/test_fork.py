"""Clones of running VMs: they start with their source's memory, vCPUs and devices, share its pages, and diverge.
The guest is the bare-metal interpreter."""

import fcntl
import json
import os
import re
import sys
import termios
import time

import pytest

from conftest import until
from forklib import AT, FILL, concluded, have_state, image, names, vm  # noqa: F401 (vm is a fixture)
from fuselib import Op, fuse


def test_clone_continues_with_memory_of_its_source(vm, daemon):
    vm.start()
    r = vm.clone("copy")
    assert r.stdout.splitlines()[0] == "Domain 'src' cloned as 'copy'"
    assert "(restored)" in daemon.cairn("domstate", "--reason", "copy").stdout
    assert "(booted)" in daemon.cairn("domstate", "--reason", "src").stdout
    assert daemon.info("copy")["uuid"] != daemon.info("src")["uuid"]
    vm.holds("src", AT, FILL, 1)
    vm.holds("copy", AT, FILL, 1)
    # Source and clone write independently, to shared pages and to untouched ones.
    vm.run("src", f"fill {AT} {1 << 20} 2")
    vm.run("copy", f"fill {AT} {2 << 20} 3")
    vm.run("copy", f"fill {AT + FILL} {1 << 20} 4")
    vm.holds("src", AT, 1 << 20, 2)
    vm.holds("copy", AT, 2 << 20, 3)
    vm.holds("copy", AT + FILL, 1 << 20, 4)
    # A later clone of the source starts with the source's current content.
    vm.clone("late")
    vm.holds("late", AT, 1 << 20, 2)
    vm.holds("copy", AT, 2 << 20, 3)


def test_clone_has_single_pages_and_the_zeros_between_them(vm, daemon):
    """A fork writes only the pages of a block that are not zero. The guest changes them between two forks."""
    vm.start()
    base, pages = 40 << 20, [0, 2, 3, 15, 16, 33, 47]

    def words(name):
        return [vm.run(name, f"rd64 {base + 4096 * i + off:#x}")[0] for i in range(49) for off in (0, 4088)]

    for i in pages:
        vm.run("src", f"wr64 {base + 4096 * i + (4088 if i % 2 else 0):#x} {i + 1}")
    for name in ("c1", "c2"):
        before = words("src")
        assert sum(int(w, 0) != 0 for w in before) == len(pages)
        vm.clone(name)
        assert words(name) == before
        vm.run("src", f"wr64 {base:#x} 0")
        vm.run("src", f"wr64 {base + 4096:#x} 9")


def counter(vm, name):
    return next(int(l.split("counter=")[1]) for l in vm.run(name, "smp show") if "counter=" in l)


def test_batch_of_clones_starts(vm, daemon):
    vm.start(vcpus=2)
    vm.run("src", "smp start 1")
    vm.run("src", "smp count 1")  # forever
    r = vm.clone("c", "--count", "5", "--verbose")
    assert r.stdout.startswith("Domain 'src' cloned 5 times, as 'c-1' to 'c-5'\npaused for ")
    assert names(daemon) == ["c-1", "c-2", "c-3", "c-4", "c-5", "src"]
    generations = set()
    for i, name in enumerate(["src", "c-1", "c-2", "c-3", "c-4", "c-5"]):
        vm.holds(name, AT, FILL, 1)
        vm.run(name, f"fill {AT} {FILL} {i + 10}")
        a, b = (vm.run(name, f"rd64 {at}")[0] for at in (0xff000, 0xff008))
        generations.add((a, b))
    for i, name in enumerate(["src", "c-1", "c-2", "c-3", "c-4", "c-5"]):
        vm.holds(name, AT, FILL, i + 10)
    assert len(generations) == 6
    for name in names(daemon):
        at = counter(vm, name)
        while counter(vm, name) < at + 1_000_000:
            pass
    assert len({daemon.info(n)["uuid"] for n in names(daemon)}) == 6


def test_source_runs_while_its_memory_is_copied(vm, daemon):
    """A vCPU that never stops writing; the clones have every word as of one instant."""
    vm.start(vcpus=2)
    vm.run("src", f"fill {32 << 20} {16 << 20} 5")
    vm.run("src", "smp start 1")
    vm.run("src", "smp count 1")
    for i in range(2):
        before = counter(vm, "src")
        r = json.loads(vm.clone(f"c{i}", "--paused", "--format", "json").stdout)
        while counter(vm, "src") <= before:
            pass
        assert r["ram-bytes-written"] >= 24 << 20
        daemon.cairn("resume", f"c{i}")
        assert before <= counter(vm, f"c{i}")
        vm.run("src", f"fill {32 << 20} {16 << 20} {6 + i}")
        vm.holds(f"c{i}", 32 << 20, 16 << 20, 5 + i)


def test_clones_are_of_one_instant(vm, daemon):
    """Two vCPUs write all the time and keep count of their writes; so they do in each clone."""
    vm.start(vcpus=3)
    vm.run("src", "storm start 2 0x2000000 0x400000")
    source = "src"
    for i in range(4):  # of the VM itself, then of clones
        daemon.cairn("clone", "--live", source, f"c{i}")
        vm.run(f"c{i}", "storm check")
        vm.run(source, "storm check")
        vm.consoles.pop(source).close()
        daemon.cairn("destroy", source)
        source = f"c{i}"


def test_fork_does_not_change_incremental_snapshots(vm, daemon, tmp_path):
    """A fork changes neither what the next snapshot has to write nor what a revert drops."""
    vm.start(disks=[image(tmp_path / "a.qcow2")])
    daemon.cairn("snapshot-create-as", "src", "s1")
    vm.run("src", f"fill {AT} {1 << 20} 2")
    vm.clone("c1")
    vm.run("src", f"fill {AT + (2 << 20)} {1 << 20} 3")
    r = json.loads(daemon.cairn("snapshot-create-as", "src", "s2", "--format", "json").stdout)
    assert 2 << 20 <= r["ram-bytes-written"] < 4 << 20  # only what was written since s1
    vm.run("src", f"fill {AT + (4 << 20)} {1 << 20} 4")
    vm.clone("c2")
    daemon.cairn("snapshot-revert", "src", "s2")
    vm.holds("src", AT, 1 << 20, 2)
    vm.holds("src", AT + (1 << 20), 1 << 20, 1)
    vm.holds("src", AT + (2 << 20), 1 << 20, 3)
    vm.holds("src", AT + (3 << 20), FILL - (3 << 20), 1)
    vm.clone("c3")  # right after a revert: memory is not loaded completely
    vm.holds("c3", AT + (2 << 20), 1 << 20, 3)
    daemon.cairn("snapshot-revert", "src", "s1")
    vm.holds("src", AT, FILL, 1)
    vm.holds("c2", AT + (4 << 20), 1 << 20, 4)


def test_clones_share_memory_of_source(vm, daemon):
    vm.start()
    vm.clone("c", "--count", "4", "--paused")
    assert daemon.cairn("domstate", "c-1").stdout == "paused\n"
    for i in range(1, 5):
        text = open(f"/proc/{daemon.info(f'c-{i}')['pid']}/smaps").read()
        private = sum(int(m) for part in text.split("memfd:cairn-fork")[1:]
                      for m in re.findall(r"Private_Dirty: +(\d+)", part.split("VmFlags")[0]))
        assert private <= 64  # KiB that devices and the generation id write
    for i in range(1, 5):
        daemon.cairn("resume", f"c-{i}")
        vm.holds(f"c-{i}", AT, FILL, 1)


def test_clone_can_be_cloned(vm, daemon):
    vm.start()
    vm.clone("a")
    vm.run("a", f"fill {AT + 4096} 4096 7")
    vm.run("a", f"fill {AT + FILL} 4096 8")
    daemon.cairn("clone", "--live", "a", "b")
    daemon.cairn("destroy", "a")
    for n in ("b",):
        vm.holds(n, AT, 4096, 1)
        vm.holds(n, AT + 4096, 4096, 7)
        vm.holds(n, AT + 8192, FILL - 8192, 1)
        vm.holds(n, AT + FILL, 4096, 8)


def test_clone_can_be_saved_and_restored(vm, daemon, tmp_path):
    vm.start()
    vm.clone("a")
    vm.run("a", f"fill {AT + 4096} 4096 7")
    vm.run("a", f"fill {AT + FILL} 4096 8")
    vm.consoles.pop("a").close()
    daemon.cairn("save", "a", str(tmp_path / "a.save"))
    daemon.cairn("restore", str(tmp_path / "a.save"))
    vm.holds("a", AT, 4096, 1)
    vm.holds("a", AT + 4096, 4096, 7)
    vm.holds("a", AT + 8192, FILL - 8192, 1)
    vm.holds("a", AT + FILL, 4096, 8)
    # A reset gives the clone memory of its own; the source is unchanged.
    daemon.cairn("reset", "a")
    daemon.wait("a", "running")
    vm.holds("src", AT, FILL, 1)


def test_clone_of_paused_source(vm, daemon):
    """The clone was paused for as long as its source. Its kvm-clock, which continued, shows that to the guest."""
    vm.start()
    assert "stopped=0" in vm.run("src", "clock")[0]
    daemon.cairn("suspend", "src")
    vm.clone("a")
    assert daemon.cairn("domstate", "src").stdout == "paused\n"
    vm.holds("a", AT, FILL, 1)
    assert "stopped=1" in vm.run("a", "clock")[0]


def unread(sock):
    """Return how much of what was sent its receiver has not read."""
    return int.from_bytes(fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)), sys.byteorder)


def test_input_that_the_guest_has_not_read_stays_with_the_source(vm, daemon):
    """Half a line waits at the source's serial port. The clone's next line is its own."""
    vm.start()
    source = vm.consoles["src"]
    daemon.cairn("suspend", "src")
    source.sock.sendall(b"echo of-the-")
    until(lambda: not unread(source.sock))
    assert vm.clone("copy").returncode == 0
    assert vm.run("copy", "echo of-the-clone") == ["of-the-clone"]
    daemon.cairn("resume", "src")
    assert vm.run("src", "source") == ["of-the-source"]


def test_new_console_takes_no_earlier_answer(vm, daemon):
    """A test's console reads past the output that the guest had before."""
    vm.start()
    vm.attach("src")
    with pytest.raises(AssertionError, match="differs"):
        vm.holds("src", AT, FILL, 2)


def test_refusals_change_nothing(vm, daemon, guest, tmp_path):
    vm.start()
    daemon.define("c-3", debug_exit=True, memory="32M")
    before = daemon.cairn("list", "--all").stdout
    r = vm.clone("c", "--count", "5", ok=4)
    assert r.stderr == ("error: Failed to clone domain 'src'\n"
                        "error: there is a VM 'c-3' already; choose another name\n")
    vm.clone("src", ok=4)
    vm.clone("a/b", ok=2)
    vm.clone("c", "--count", "0", ok=2)
    vm.clone("c", "--count", "1001", ok=2)
    vm.clone("c", "--count", "x", ok=2)
    daemon.cairn("clone", "src", "c", ok=4)
    daemon.cairn("clone", "--live", "none", "c", ok=3)
    assert "clone --live works when it is" in daemon.cairn("clone", "--live", "c-3", "d", ok=4).stderr
    assert daemon.cairn("list", "--all").stdout == before
    assert sorted(os.listdir(daemon.state / "vms")) == ["c-3", "src"]


def test_first_clone_begins_after_the_pause(vm, daemon, tmp_path):
    """A raw disk is copied within the pause, which lasts here until its file system answers."""
    with fuse(tmp_path / "fuse", vda=bytes(64 << 10)) as files:
        vm.start(disks=[{"path": files["vda"], "format": "raw"}])
        q = daemon.qmp()
        files.hang(Op.READ)
        job = q.run("vm-fork", vm="src", name="c")["job"]
        until(files.hanging)
        time.sleep(0.5)  # the daemon would configure a clone within milliseconds
        assert len(have_state(daemon)) == 1
        files.release()
        assert "error" not in concluded(q, job)
        assert len(have_state(daemon)) == 1 and names(daemon) == ["c", "src"]
        daemon.cairn("destroy", "c", "src")
