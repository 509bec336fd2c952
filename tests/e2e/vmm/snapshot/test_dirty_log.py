"""Snapshots, reverts, forks and saves without userfaultfd: KVM's dirty log and the devices' marks tell what was
written, and memory is copied in rounds while the guest runs."""

import contextlib
import itertools
import json
import os
import pathlib
import random
import re
import subprocess
import threading
import time

import pytest

import guestlib
from conftest import GUESTS, Console, QmpError, until
from netlib import frame
from test_dump import storm_of
from test_net import LanDaemon, figures, lan, opened  # noqa: F401 (lan is a fixture)
from snapshotlib import BLOCK, check, find, flip, vm  # noqa: F401 (vm is a fixture)
from test_storm import Storm

MIB = 1 << 20
REASON = "CAIRN_USERFAULTFD is refuse"
READS = 1024  # sectors
FRAMES = 48
LAST_BYTES = 500  # of a frame that marks the end
OTHERS = 8  # frames of the host's own (IPv6) that the interface may count as well
RATE = 384 * MIB
ZEROED_AT, ZEROED_BYTES, ZEROED_TIMES = 0x1000000, 16 * MIB, 10
STORM_AT, STORM_BYTES = 0x2000000, 48 * MIB  # for each of two vCPUs


@pytest.fixture(autouse=True)
def refuse(monkeypatch):
    monkeypatch.setenv("CAIRN_USERFAULTFD", "refuse")


def log(daemon, name="vm1"):
    return daemon.log_of(name)


def symbol(guest, name):
    names = subprocess.run(["nm", guest("interp.elf")], capture_output=True, text=True, check=True).stdout
    return int(re.search(rf"([0-9a-f]+) \w {name}\n", names).group(1), 16)


def redefine(vm, **keys):  # noqa: F811
    vm.daemon.cairn("undefine", "vm1")
    vm.define(**keys)


def storm_start(vm, megabytes, vcpus=2, **keys):  # noqa: F811
    redefine(vm, **{"vcpus": vcpus + 1, "memory": f"{64 + vcpus * megabytes}M", **keys})
    vm.start()
    vm.run(f"storm start {vcpus} {STORM_AT:#x} {megabytes * MIB:#x}")


def test_second_snapshot_has_only_what_was_written(vm):  # noqa: F811
    vm.start()
    vm.run("fill 0x1000000 0x2000000 5")
    one = vm.snapshot("s1")
    assert (one["memory-tracking"], one["memory-tracking-reason"]) == ("dirty-log", REASON)
    assert one["memory-rounds"] >= 1 and one["memory-stopped"] is False and one["ram-bytes-shared"] == 0
    assert log(vm.daemon).count(f"since userfaultfd is not available ({REASON})") == 1
    vm.run(f"fill 0x1800000 {4 * MIB} 6")
    two = vm.snapshot("s2")
    # The interpreter's own blocks are written as well.
    assert 4 * MIB <= two["ram-bytes-written"] <= 5 * MIB
    assert two["ram-bytes-written"] + two["ram-bytes-shared"] >= 64 * MIB
    vm.run("fill 0x1000000 0x2000000 7")
    for name, seed in (("s1", 5), ("s2", 6)):
        assert json.loads(vm.revert(name, "--format", "json").stdout)["memory-tracking"] == "dirty-log"
        vm.run("check 0x1000000 0x800000 5")
        vm.run(f"check 0x1800000 {4 * MIB} {seed}" if seed == 6 else "check 0x1000000 0x2000000 5")
    # After a revert, too. (KVM without nested paging also counts the first read of a page after a revert.)
    vm.revert("s2")
    vm.run(f"fill 0x1800000 {2 * MIB} 8")
    three = vm.snapshot("s3")
    assert 2 * MIB <= three["ram-bytes-written"] <= 3 * MIB
    out = vm.daemon.cairn("snapshot-create-as", "vm1", "s4").stdout.splitlines()[1]
    assert re.fullmatch(r"The VM ran while its memory was copied in \d rounds?, and was paused for [0-9.]+ ms, since "
                        rf"userfaultfd is not available \({REASON}\); `cairn doctor` shows how to change that", out)
    vm.stop()
    check(vm.disks[0])


def test_no_snapshot_of_a_guest_that_waits_for_its_reset(vm):  # noqa: F811
    """The guest requested the reset during the first round, and would wait for ever after a revert."""
    vm.start()
    vm.run("fill 0x1000000 0x2000000 5")
    q = vm.daemon.qmp()
    q.run("snapshot-create", vm="vm1", name="s1", rate=16 * MIB, job_id="j")
    q.event("JOB_STATUS_CHANGE", id="j", status="running")
    vm.console.sock.sendall(b"reset cf9\n")
    q.event("JOB_STATUS_CHANGE", id="j", status="concluded")
    assert "the guest is about to reset or to end; try again" in next(j for j in q.jobs() if j["id"] == "j")["error"]
    while vm.console.line() != "interp":
        pass
    vm.run("open 0")
    assert vm.names() == []
    vm.snapshot("s2")
    vm.revert("s2")
    vm.run("echo alive")


def test_data_read_from_disk_is_in_next_snapshot(vm, guest):  # noqa: F811
    """KVM does not see what the disk's thread writes into the guest's memory."""
    at = symbol(guest, "vblk_data") + 2 * MIB
    vm.start()
    first, second = 8192, 16384  # sectors
    vm.run(f"write {first} 8192 1")
    vm.run(f"write {second} 8192 2")

    def read(sector):
        vm.run(f"request 0 {sector} {4 * MIB}")
        return vm.run(f"rd64 {at:#x}")

    old, new = read(first), read(second)
    assert old != new
    vm.snapshot("s1")
    assert read(first) == old
    vm.snapshot("s2")
    assert read(second) == new
    vm.revert("s2")
    assert vm.run(f"rd64 {at:#x}") == old
    vm.revert("s1")
    assert vm.run(f"rd64 {at:#x}") == new
    vm.stop()


def revert_elsewhere(daemon, name):
    """Revert in another process, which has no memory but what the snapshot holds. Return the console."""
    daemon.cairn("destroy", "vm1")
    daemon.cairn("start", "vm1", "--paused")
    daemon.cairn("snapshot-revert", "vm1", name)
    return Console(daemon, "vm1")


def test_emulated_write_is_in_next_snapshot(vm):  # noqa: F811
    """Where KVM emulates kernel mode, it does not see that the assist carries out CMPXCHG16B."""
    vm.start()
    for at, value in ((0x2000000, 1), (0x2000008, 7), (0x2800000, 1), (0x2800008, 7)):
        vm.run(f"wr64 {at:#x} {value}")
    vm.snapshot("s1")
    # KVM writes to the second block, too.
    for text in ("cx16 0x2000000 2", "cx16 0x2800000 2", "wr64 0x2800008 8"):
        vm.run(text)
    vm.snapshot("s2")
    vm.console.close()
    if guestlib.host_kind() == "pvm":
        assert vm.daemon.figures("vm1")["assist"]["instructions"] >= 2
    for name, words in (("s2", ["0x2", "0x7", "0x2", "0x8"]), ("s1", ["0x1", "0x7", "0x1", "0x7"])):
        vm.console = revert_elsewhere(vm.daemon, name)
        assert sum((vm.run(f"rd64 {at:#x}") for at in (0x2000000, 0x2000008, 0x2800000, 0x2800008)), []) == words
        vm.console.close()
    vm.attach()
    vm.stop()


@pytest.mark.seconds(120)
def test_emulated_fill_is_in_next_snapshot(daemon, kvm, tmp_path):
    """The same for SeaBIOS' memset(), which the assist carries out at once (tests/guests/bare/rom.S)."""
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", os.path.join(GUESTS, "boot_sector.bin"),
                    tmp_path / "a.qcow2"], check=True)
    daemon.define("vm1", memory="64M", boot={"firmware": "bios", "loader": os.path.join(GUESTS, "rom.bin")}, assist="on",
                  disks=[{"path": str(tmp_path / "a.qcow2"), "format": "qcow2"}])
    daemon.cairn("start", "vm1", "--paused")
    c = Console(daemon, "vm1")
    daemon.cairn("resume", "vm1")
    assert [c.line().strip() for _ in range(3)] == ["memset ok", "step ok", "memset ok"]

    def order(text):
        c.sock.sendall(text.encode())
        return c.line().strip()

    assert order("fA") == "filled"
    daemon.cairn("snapshot-create-as", "vm1", "s1")
    before = daemon.figures("vm1")["assist"]["instructions"]
    assert order("fB") == "filled"
    if guestlib.host_kind() == "pvm":
        assert daemon.figures("vm1")["assist"]["instructions"] > before
    daemon.cairn("snapshot-create-as", "vm1", "s2")
    c.close()
    for name, byte in (("s2", "B"), ("s1", "A")):
        c = revert_elsewhere(daemon, name)
        assert order("r") == byte
        c.close()


def test_new_generation_id_is_in_next_snapshot(vm):  # noqa: F811
    """A revert writes the id (VMGenID). Each further one writes it again, so look for it in the image."""
    def generation():
        return b"".join(int(vm.run(f"rd64 {at:#x}")[0], 16).to_bytes(8, "little") for at in (0xff000, 0xff008))

    vm.start()
    first = generation()
    vm.snapshot("s1")
    assert vm.disks[0].read_bytes().count(first) == 1
    vm.revert("s1")
    s2 = vm.snapshot("s2")  # before the guest reads the id, which KVM without nested paging counts as a write
    assert s2["ram-bytes-shared"] > 32 * MIB
    second = generation()
    assert second != first
    data = vm.disks[0].read_bytes()
    assert (data.count(first), data.count(second)) == (1, 1)
    vm.stop()


@pytest.mark.seconds(120)
def test_snapshots_during_disk_reads_are_consistent(vm):  # noqa: F811
    rng = random.Random(3)
    storm_start(vm, 2)
    vm.run(f"write 0 {READS} 7")
    s = Storm(vm, rng)
    for i in range(12):
        vm.console.sock.sendall(f"verify 0 {READS} 7\n".encode() * 4)
        time.sleep(rng.random() / 100)
        s.job("snapshot-create", f"n{i}")
        s.sync()
        s.job("snapshot-revert", f"n{rng.randrange(i + 1)}")
        s.sync()  # also reads the answers of reads that were cut in two, and fails if one differs
        vm.run("storm check")
    vm.stop()
    check(vm.disks[0])


class Receiver:
    """A VM with a disk and an interface on a bridge of the test's own."""

    def __init__(self, tmp_path, lan, **keys):  # noqa: F811
        self.d = LanDaemon(tmp_path, lan)
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", tmp_path / "vda.qcow2", "1G"], check=True)
        definition = guestlib.definition("vm1", interfaces=[{"type": "bridge", "source": "br0"}],
                                         disks=[{"path": str(tmp_path / "vda.qcow2"), "format": "qcow2"}], **keys)
        (tmp_path / "vm1.json").write_text(json.dumps(definition))
        self.d.cairn("define", str(tmp_path / "vm1.json"))
        self.d.cairn("start", "vm1")
        self.console = Console(self.d, "vm1")
        assert self.console.line() == "interp"
        opened(self.console)

    def received(self):
        return figures(self.d, "vm1")["rx-packets"]

    def receive(self, seed):
        """Return the length of the guest's next frame, and "ok", or how it differs."""
        if self.console.has_history:
            self.console.history_skip()
        self.console.sock.sendall(f"net recv {seed}\n".encode())
        length = guestlib.fields(self.console.line())["bytes"]
        return length, self.console.line()

    def restored(self, name):
        """Go on from a snapshot in another process, which has no memory but what that holds."""
        self.console.close()
        self.d.cairn("destroy", "vm1")
        self.d.cairn("start", "vm1")
        self.d.cairn("snapshot-revert", "vm1", name)
        self.console = Console(self.d, "vm1")


@pytest.fixture
def receiver(lan, kvm, tmp_path):  # noqa: F811
    made = []

    def make(**keys):
        made.append(Receiver(tmp_path, lan, **keys))
        return made[0]
    yield make
    for r in made:
        r.console.close()
        r.d.close()


def test_received_frames_are_in_next_snapshot(lan, receiver):  # noqa: F811
    r = receiver()
    s = lan.socket()
    r.d.cairn("snapshot-create-as", "vm1", "s1")
    before = r.received()
    # The guest does not touch these buffers until `net recv`; they fill a block of memory and more.
    for i in range(FRAMES):
        s.send(frame(1000, i))
    until(lambda: r.received() >= before + FRAMES)
    r.d.cairn("snapshot-create-as", "vm1", "s2")
    r.restored("s2")
    for i in range(FRAMES - OTHERS):
        r.console.run(f"net recv {i}")


@pytest.mark.seconds(180)  # it tries until frames came while memory was copied
def test_frames_received_while_memory_is_copied_are_in_the_snapshot(lan, receiver):  # noqa: F811
    r = receiver(memory="256M")
    s = lan.socket()
    r.console.run("fill 0x1000000 0x8000000 1")  # so that copying takes longer than the frames
    for seed in itertools.count(0, FRAMES):  # another one each time: a buffer's old frame would be wrong
        r.console.run("net drain")
        go, sent, name = threading.Event(), [], f"s{seed}"

        def send():
            for i in range(FRAMES - OTHERS):
                s.send(frame(1000, seed + i))
                sent.append(i)
                if len(sent) == OTHERS:
                    go.set()
                time.sleep(0.001)
        sender = threading.Thread(target=send)
        sender.start()
        go.wait(60)
        at_begin = len(sent)
        told = json.loads(r.d.cairn("snapshot-create-as", "vm1", name, "--format", "json").stdout)
        assert told["memory-rounds"] >= 1
        sender.join()
        r.restored(name)
        s.send(frame(LAST_BYTES, 0))
        got = 0
        while (one := r.receive(seed + got)) == (1000, "ok"):
            got += 1
        assert one[0] == LAST_BYTES, (got, one)
        if got > at_begin:
            return
        # No frame came between the begin of the snapshot and its instant.
        r.d.cairn("snapshot-delete", "vm1", name)


def test_damaged_block_refuses_revert_and_vm_runs_on(vm):  # noqa: F811
    vm.start()
    for i in range(64):  # a block that the program does not use itself
        vm.run(f"wr64 {0x2000000 + 8 * i:#x} 0x6b6f6f6c426e7261")
    vm.run("write 0 8 1")
    vm.snapshot("s1")
    flip(vm.disks[0], find(vm.disks[0], b"arnBlook" * 8) + 8)
    vm.revert("s1")  # memory that was not written is not read
    assert vm.run("rd64 0x2000000") == ["0x6b6f6f6c426e7261"]
    vm.run("wr64 0x2000000 1")
    vm.run("wr64 0x2800000 2")
    vm.run("write 0 8 2")
    r = vm.revert("s1", ok=False)
    assert f"block {0x2000000 // BLOCK} of the saved memory" in r.stderr and "damaged" in r.stderr
    assert vm.daemon.info("vm1")["state"] == "running"
    assert vm.run("rd64 0x2000000") == ["0x1"] and vm.run("rd64 0x2800000") == ["0x2"]
    vm.run("verify 0 8 2")
    # Nothing of it is lost for the next snapshot.
    vm.snapshot("s2")
    vm.run("wr64 0x2000000 3")
    vm.revert("s2")
    assert vm.run("rd64 0x2000000") == ["0x1"]
    vm.stop()


@pytest.mark.seconds(180)
def test_guest_that_writes_too_fast_is_slowed_down(vm):  # noqa: F811
    """Two vCPUs write 96 MiB all over, much faster than the snapshot may write it."""
    storm_start(vm, STORM_BYTES // MIB)
    # On a busy machine the vCPUs may hardly run during a round, which then ends without a limit or is the last one,
    # and write a lot before the pause.
    while True:
        logged = len(log(vm.daemon))
        s = vm.snapshot("s1", "--rate", str(RATE))
        if s["memory-throttle"] >= 50 and (s["memory-rounds"] == 12 or not s["memory-stopped"]):
            break
        assert s["memory-rounds"] <= 12
        vm.daemon.cairn("snapshot-delete", "vm1", "s1")
    # As a rule 12, 95 and True.
    assert 2 <= s["memory-rounds"] <= 12
    for percent in (50, 80, 95):
        assert log(vm.daemon)[logged:].count(f"slowing it down by {percent} %") == (percent <= s["memory-throttle"])
    vm.run("storm check")
    vm.revert("s1")
    vm.run("storm check")
    vm.stop()
    check(vm.disks[0])


def vcpu_times(pid):
    times = []
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if (task / "comm").read_text().startswith("vcpu"):
                times.append((task / "stat").read_text().rsplit(")", 1)[1].split()[11:13])
    return times


@pytest.mark.seconds(180)
def test_vm_that_stands_for_its_snapshot_is_not_resumed(vm):  # noqa: F811
    """Two vCPUs write so fast that the VM stands while the last round is written. A suspend and a resume meanwhile may
    not let the guest change that memory."""
    storm_start(vm, 24)
    q, pid, busy = vm.daemon.qmp(), vm.daemon.info("vm1")["pid"], False
    q.run("snapshot-create", vm="vm1", name="s1", rate=48 * MIB, job_id="j")
    while (job := q.run("query-jobs", id="j")[0])["status"] != "concluded" and not busy:
        times = vcpu_times(pid)
        time.sleep(0.2)  # only to see whether the vCPUs stand; the test holds if this guess is wrong
        if vcpu_times(pid) != times or len(times) < 2:
            continue
        q.run("vm-suspend", vm="vm1")
        try:
            q.run("vm-resume", vm="vm1")
        except QmpError as e:
            busy = "a snapshot of this VM is under way" in str(e)
            assert busy, e
    until(lambda: (job := q.run("query-jobs", id="j")[0])["status"] == "concluded" and "error" not in job)
    if busy:
        vm.daemon.cairn("resume", "vm1")
    vm.run("storm check")
    vm.revert("s1")
    if vm.daemon.info("vm1")["state"] == "paused":  # the snapshot ended while the VM was suspended above
        vm.daemon.cairn("resume", "vm1")
    vm.run("storm check")
    vm.stop()


@pytest.mark.seconds(120)
def test_clones_and_saves_of_busy_guest_are_consistent(vm):  # noqa: F811
    storm_start(vm, 8)
    d = vm.daemon
    told = json.loads(d.cairn("clone", "--live", "vm1", "c1", "--format", "json").stdout)
    assert (told["memory-tracking"], told["memory-tracking-reason"]) == ("dirty-log", REASON)
    assert told["memory-rounds"] >= 1
    vm.run("storm check")
    c1 = Console(d, "c1")
    c1.run("storm check")
    # A clone's memory is a private view of its source's.
    d.cairn("clone", "--live", "c1", "c2")
    c2 = Console(d, "c2")
    c2.run("storm check")
    d.cairn("snapshot-create-as", "c1", "s1")
    d.cairn("snapshot-create-as", "c1", "s2")
    for name in ("s1", "s2"):
        d.cairn("snapshot-revert", "c1", name)
        c1.run("storm check")
    for c in (c1, c2, vm.console):
        c.close()
    d.cairn("managedsave", "vm1")
    d.cairn("start", "vm1")
    vm.attach()
    vm.run("storm check")
    vm.stop()


@pytest.mark.seconds(120)
def test_dumps_of_busy_guest_have_memory_of_one_instant(vm, tmp_path):  # noqa: F811
    storm_start(vm, 8, vcpus=1)
    for i in range(3):
        core = tmp_path / f"core{i}"
        out = vm.daemon.cairn("dump", "vm1", str(core)).stdout.splitlines()[1]
        assert re.match(r"The VM ran while its memory was copied in \d+ rounds?", out)
        total, numbers = storm_of(core)
        assert total <= sum(numbers) <= total + 1
    vm.run("storm check")
    vm.stop()


def kinds(core, like):
    """Return for each page of a region what a dump has: b"z"eros, b"f"illed as in the dump `like`, or b"?"."""
    pages = []
    for path in (core, like):
        with open(path, "rb") as f:
            f.seek(0x1000 + ZEROED_AT)
            pages.append([f.read(4096) for _ in range(ZEROED_BYTES // 4096)])
    return b"".join(b"z" if not any(p) else b"f" if p == full else b"?" for p, full in zip(*pages))


@pytest.mark.seconds(120)
def test_dump_has_pages_that_become_zero_between_rounds(vm, tmp_path):  # noqa: F811
    """The guest fills a region and zeroes it, page by page, all the time: at any moment it has one border."""
    redefine(vm, memory="64M")
    vm.start()
    vm.run(f"fill {ZEROED_AT:#x} {ZEROED_BYTES:#x} 1")
    full = tmp_path / "full"
    vm.daemon.cairn("dump", "vm1", str(full))
    assert kinds(full, full) == b"f" * (ZEROED_BYTES // 4096)
    region = f"{ZEROED_AT:#x} {ZEROED_BYTES:#x}"
    for i in range(12):
        vm.console.sock.sendall(f"clear {region}\nfill {region} 1\n".encode() * ZEROED_TIMES)
        vm.daemon.cairn("dump", "vm1", str(tmp_path / f"core{i}"))
        found = kinds(tmp_path / f"core{i}", full)
        assert re.fullmatch(rb"z*\??f*|f*\??z*", found), found
        assert [vm.console.line() for _ in range(2 * ZEROED_TIMES)] == ["ok"] * 2 * ZEROED_TIMES
    vm.stop()
