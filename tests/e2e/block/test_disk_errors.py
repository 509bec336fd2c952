"""A running VM whose disk fails: a corrupt image, a full file system, a truncated file. The guest never takes a
failed write for done, and nothing is lost."""

import json
import os
import re
import select
import subprocess
import time

import pytest

import guestlib
from conftest import BUILD, Console
from test_img import MIB, be64, poke

IMG = os.path.join(BUILD, "cairn-img")
TABLES_WAIT_S = 1  # minimum time after the first write


def run(*args, status=0):
    r = subprocess.run(args, capture_output=True, text=True, timeout=50)
    assert status in (None, r.returncode), f"{args}: {r.returncode}\n{r.stdout}{r.stderr}"
    return r.stdout + r.stderr


def entered(pid):
    """Return a command that enters the mount namespace of a process, and a plain user's user namespace before it."""
    return ["nsenter", f"--target={pid}", *(["--user", "--preserve-credentials"] if os.geteuid() else []), "--mount"]


def img(*args, **kwargs):
    """Run cairn-img. Its sandbox forbids paths below /proc/PID/root, so enter the mount namespace of such a process."""
    roots = [m for m in (re.match(r"/proc/(\d+)/root", a) for a in args) if m]
    enter = entered(roots[0][1]) if roots else []
    return run(*enter, IMG, *(re.sub(r"^/proc/\d+/root", "", a) for a in args), **kwargs)


class Vm:
    """The interpreter under a daemon, with one disk."""

    def __init__(self, daemon, guest, path, fmt="qcow2", errors="stop", more=(), backing=()):
        self.daemon = daemon
        self.path = str(path)
        layers = {"backing": [{"path": str(b), "format": "qcow2"} for b in backing]} if backing else {}
        daemon.define("vm1", boot={"kernel": guest("interp.elf")},
                      disks=[{"path": str(path), "format": fmt, "errors": errors, **layers} for path in (path, *more)])
        self.q = daemon.qmp()
        self.start()

    def start(self):
        self.daemon.cairn("start", "vm1")
        self.console = Console(self.daemon, "vm1")
        while self.console.line() != "interp":
            pass
        self.run("open 0")

    def run(self, text):
        return self.console.run(text)

    def begin(self, text):
        """Send a command whose answer comes later."""
        self.console.sock.sendall(text.encode() + b"\n")

    def answer(self):
        """Return the last line of the answer to begin()."""
        while True:
            line = self.console.line()
            if line == "ok" or line.startswith(("err ", "error: ")):
                return line

    def outcome(self, text):
        """Return a command's last line; None when an I/O error comes first."""
        assert not self.console.buffer
        self.begin(text)
        while not [e for e in self.q.events if e["event"] == "BLOCK_IO_ERROR"]:
            ready = [] if b"\r\n" in self.q.buffer else select.select([self.console.sock, self.q.sock], [], [], 30)[0]
            if self.console.sock in ready:
                return self.answer()
            self.q.events.append(self.q.read())
        return None

    def silent(self):
        """Return whether the guest is silent because it is stopped."""
        self.console.sock.setblocking(False)
        try:
            return b"\n" not in self.console.buffer + self.console.sock.recv(65536)
        except BlockingIOError:
            return b"ok" not in self.console.buffer
        finally:
            self.console.sock.settimeout(100 * guestlib.SLOW)

    def error(self, **data):
        """Return the next I/O error event, and check the stop after it if expected."""
        ev = self.q.event("BLOCK_IO_ERROR", vm="vm1")["data"]
        assert {k: ev[k] for k in data} == data and ev["device"] == ev["node-name"] == "vda"
        if ev["action"] == "stop":
            self.q.event("STOP", vm="vm1")
        return ev

    def paused(self, why):
        assert self.daemon.cairn("domstate", "--reason", "vm1").stdout == f"paused (I/O error{why})\n"

    def faults(self):
        return self.daemon.cairn("domblkerror", "vm1").stdout

    def resume(self, ok=True):
        return self.daemon.cairn("resume", "vm1", ok=ok).stderr

    def off(self):
        self.console.close()
        self.daemon.cairn("destroy", "vm1")


# ---- corrupt images ----

def write_by_qemu(path, *commands, size="64M"):
    run("qemu-img", "create", "-q", "-f", "qcow2", str(path), size)
    run("qemu-io", *[a for c in commands for a in ("-c", c)], str(path))


def l2_offset(path):
    return be64(path, be64(path, 40)) & 0x00FFFFFFFFFFFE00


@pytest.fixture
def damaged(tmp_path):
    """An image whose first cluster points at the refcount table."""
    path = tmp_path / "img"
    write_by_qemu(path, "write -P 7 0 64k", "write -P 8 1M 64k")
    poke(path, l2_offset(path), (be64(path, 48) | 1 << 63).to_bytes(8, "big"))
    return path


@pytest.mark.parametrize("errors", ["report", "stop", "ignore"])
def test_corrupt_image_pauses_vm_with_any_policy(daemon, kvm, guest, damaged, errors):
    vm = Vm(daemon, guest, damaged, errors=errors)
    table = damaged.read_bytes()[be64(damaged, 48):][:65536]
    vm.run("write 2048 8 1")
    vm.begin("write 0 8 1")
    vm.error(operation="write", action="stop", nospace=False, reason="image corrupt")
    vm.paused(": image corrupt")
    assert vm.faults() == "vda: image corrupt\n"
    assert json.loads(daemon.cairn("domblkerror", "vm1", "--format", "json").stdout) == [
        {"disk": "vda", "error": "image corrupt"}]
    assert daemon.info("vm1")["detail"].startswith("vda: a write of data would hit metadata at 0x")
    # Resuming would only show the guest missing data.
    for _ in range(2):
        r = vm.resume(ok=1)
        assert "image of vda is corrupt" in r and "cairn-img check -r all" in r
        daemon.cairn("reset", "vm1")
    assert vm.silent()
    assert damaged.read_bytes()[be64(damaged, 48):][:65536] == table
    vm.off()
    assert be64(damaged, 72) & 2
    assert "check -r all" in daemon.cairn("start", "vm1", ok=False).stderr
    img("check", "-r", "all", str(damaged))
    run("qemu-img", "check", "-q", str(damaged))
    vm.start()
    vm.run("write 0 8 1")
    vm.run("verify 0 8 1")
    vm.run("flush")
    assert vm.faults() == "No errors found\n"
    vm.off()
    r = daemon.cairn("domblkerror", "vm1", ok=4)
    assert "VM 'vm1' is shut off" in r.stderr


def test_corruption_found_by_snapshot_pauses_vm(daemon, kvm, guest, damaged):
    """A snapshot counts references of all tables; the guest has made no request."""
    vm = Vm(daemon, guest, damaged, errors="report")
    r = daemon.cairn("snapshot-create-as", "vm1", "one", ok=1)
    assert "vda" in r.stderr
    vm.error(operation="write", action="stop", reason="image corrupt")
    vm.paused(": image corrupt")
    assert "names a metadata cluster" in daemon.info("vm1")["detail"]
    assert "corrupt" in vm.resume(ok=1)
    vm.off()
    assert json.loads(run("qemu-img", "info", "--output", "json", str(damaged))).get("snapshots", []) == []


def test_corruption_found_while_paused_is_reported(daemon, kvm, guest, damaged):
    vm = Vm(daemon, guest, damaged)
    daemon.cairn("suspend", "vm1")
    daemon.cairn("snapshot-create-as", "vm1", "one", ok=1)
    vm.q.event("VM_STATE_CHANGE", state="paused", reason="I/O error: image corrupt")
    vm.paused(": image corrupt")
    assert "corrupt" in vm.resume(ok=1)


# ---- full file system ----

class Small:
    """A file system of a few MiB in a mount namespace of its own, with a ballast file. A plain user may make the
    namespace within a user namespace."""

    def __init__(self, folder, size):
        folder.mkdir()
        self.process = subprocess.Popen(
            ["unshare", "-Urm" if os.geteuid() else "-m", "sh", "-c", 'mount -t tmpfs -o size="$2" tmpfs "$1" && echo mounted && exec sleep 600',
             "sh", str(folder), size],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if self.process.stdout.readline() != "mounted\n":
            pytest.skip("no mount namespace here: " + self.process.stderr.read().strip())
        self.path = type(folder)(f"/proc/{self.process.pid}/root{folder}")
        self.ballast = self.path / "ballast"

    def fill(self, keep=0):
        """Fill the file system up to `keep` bytes."""
        with open(self.ballast, "ab") as f:
            room = os.statvfs(self.path)
            f.write(bytes(max(room.f_bavail * room.f_bsize - keep, 0)))

    def empty(self):
        self.ballast.unlink()

    def close(self):
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def small(tmp_path):
    s = Small(tmp_path / "small", "24m")
    yield s
    s.close()


def image_with(path, fmt, size="16M"):
    img("create", "-q", "-f", fmt, str(path), size)
    return path


def fill_until_paused(vm, small):
    """Let the guest, which has written the first MiB, write more until the file system is full and the VM pauses.
    Return the number of MiB that it has written."""
    small.fill(keep=MIB)
    done = 1
    while vm.outcome(f"write {done * 2048} 2048 {done + 1}") == "ok":
        done += 1
    vm.error(operation="write", action="stop", nospace=True)
    vm.paused(": no space left")
    return done


@pytest.mark.parametrize("fmt", ["qcow2", "raw"])
def test_full_file_system_pauses_vm_and_loses_nothing(daemon, kvm, guest, small, fmt):
    vm = Vm(daemon, guest, image_with(small.path / "img", fmt), fmt)
    vm.run("write 0 2048 1")
    done = fill_until_paused(vm, small)
    assert vm.faults() == "vda: no space\n" and vm.silent()
    vm.resume()  # it stops again while there is no space
    vm.error(operation="write", action="stop", nospace=True)
    small.empty()
    vm.resume()
    assert vm.answer() == "ok"
    assert vm.faults() == "No errors found\n"
    for i in range(done + 1):
        vm.run(f"verify {i * 2048} 2048 {i + 1}")
    vm.run("flush")
    vm.off()
    if fmt == "qcow2":
        run("qemu-img", "check", "-q", vm.path)
    vm.start()
    for i in range(done + 1):
        vm.run(f"verify {i * 2048} 2048 {i + 1}")


def test_unwritable_tables_pause_vm(daemon, kvm, guest, small):
    """The guest's writes are in the file, but the tables that map them cannot be written. No request waits, yet the
    VM stops, because unflushed tables are only in memory."""
    path = small.path / "img"
    while True:
        img("create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", str(path), "16M")
        vm = Vm(daemon, guest, path)
        small.fill(keep=MIB)
        begun = time.monotonic()
        for i in range(8):
            vm.run(f"write {i * 4096} 8 {i}")
        small.fill()
        if time.monotonic() - begun < TABLES_WAIT_S:
            break
        vm.off()  # they may have been written meanwhile
        small.empty()
        path.unlink()
    vm.error(operation="write", action="stop", nospace=True)
    vm.paused(": no space left")
    assert "tables" in daemon.info("vm1")["detail"]
    vm.resume()  # it runs until it flushes
    assert vm.outcome("flush") is None
    vm.error(operation="write", action="stop", nospace=True)
    # Neither a save nor a snapshot is made from data that may be lost.
    assert "No space" in daemon.cairn("managedsave", "vm1", ok=1).stderr
    assert "No space" in daemon.cairn("snapshot-create-as", "vm1", "one", ok=1).stderr
    assert daemon.cairn("snapshot-list", "--name", "vm1").stdout.strip() == ""
    vm.paused(": no space left")
    small.empty()
    vm.resume()
    assert vm.answer() == "ok"
    daemon.cairn("snapshot-create-as", "vm1", "two")
    for i in range(8):
        vm.run(f"verify {i * 4096} 8 {i}")
    vm.off()
    run("qemu-img", "check", "-q", vm.path)
    vm.start()
    for i in range(8):
        vm.run(f"verify {i * 4096} 8 {i}")


def test_snapshot_on_full_file_system_leaves_nothing(daemon, kvm, guest, small):
    """The snapshot fails with a message and leaves nothing behind. The VM continues."""
    vm = Vm(daemon, guest, image_with(small.path / "img", "qcow2"))
    vm.run("write 0 2048 1")
    vm.run("flush")
    vm.run(f"fill {8 * MIB:#x} {16 * MIB:#x} 1")
    small.fill(keep=4 * MIB)
    for _ in range(2):
        assert "No space" in daemon.cairn("snapshot-create-as", "vm1", "one", ok=1).stderr
        assert daemon.cairn("snapshot-list", "--name", "vm1").stdout.strip() == ""
        assert daemon.cairn("domstate", "vm1").stdout in ("running\n", "idle\n")
    # The first failed write ends it, whatever the rest of memory needs.
    vm.q.run("snapshot-create", vm="vm1", name="one", rate=8 * MIB, job_id="j")
    vm.q.event("JOB_STATUS_CHANGE", id="j", status="concluded")
    job, = (j for j in vm.q.jobs() if j["id"] == "j")
    assert "memory into vda: No space" in job["error"] and job["current-progress"] < job["total-progress"] / 2, job
    vm.run("verify 0 2048 1")
    vm.run("write 0 2048 2")
    vm.run("flush")
    small.empty()
    daemon.cairn("snapshot-create-as", "vm1", "one")
    vm.run("write 0 2048 3")
    vm.run("flush")
    daemon.cairn("snapshot-revert", "vm1", "one", "--running")
    vm.run("verify 0 2048 2")
    vm.run(f"check {8 * MIB:#x} {16 * MIB:#x} 1")
    vm.off()
    run("qemu-img", "check", "-q", vm.path)


@pytest.mark.parametrize("off", [False, True])
def test_snapshots_are_deleted_on_full_file_system(daemon, kvm, guest, small, off):
    """In this way a user gets space. The other snapshots stay."""
    vm = Vm(daemon, guest, image_with(small.path / "img", "qcow2"))
    names = ["s1", "s2", "s3", "s4"]
    for i, name in enumerate(names):
        vm.run(f"write 0 256 {i + 1}")
        daemon.cairn("snapshot-create-as", "vm1", name, "--disk-only")
    if off:
        vm.off()
    for name in ["s2", "s4", "s1"]:
        small.fill()
        daemon.cairn("snapshot-delete", "vm1", name)
        names.remove(name)
        assert daemon.cairn("snapshot-list", "vm1", "--name").stdout.split() == names
        assert os.statvfs(small.path).f_bavail > 0
    small.empty()
    if not off:
        vm.off()
    run("qemu-img", "check", "-q", vm.path)
    daemon.cairn("snapshot-revert", "vm1", "s3")
    vm.start()
    vm.run("verify 0 256 3")


def test_vm_that_lacks_space_goes_on_after_snapshots_are_deleted(daemon, kvm, guest, small):
    vm = Vm(daemon, guest, image_with(small.path / "img", "qcow2"))
    for name in "s1", "s2", "s3":
        vm.run("write 0 2048 1")
        daemon.cairn("snapshot-create-as", "vm1", name, "--disk-only")
    done = fill_until_paused(vm, small)
    small.fill()
    for name in "s2", "s1", "s3":
        daemon.cairn("snapshot-delete", "vm1", name)
    vm.resume()
    assert vm.answer() == "ok"
    for i in range(done + 1):
        vm.run(f"verify {i * 2048} 2048 {i + 1}")
    vm.run("flush")
    vm.off()
    run("qemu-img", "check", "-q", vm.path)


@pytest.mark.parametrize("full", ["vda", "vda and vdb", "vdb"])
def test_revert_on_full_file_system_changes_nothing(daemon, kvm, guest, small, tmp_path, full):
    """The revert fails with a message, and the VM continues with its memory and its disks."""
    more = [image_with(small.path / "img1", "qcow2")] if "vdb" in full else []
    vm = Vm(daemon, guest, image_with((small.path if "vda" in full else tmp_path) / "img", "qcow2"), more=more)
    vm.run("write 0 2048 1")
    vm.run(f"fill {8 * MIB:#x} {MIB:#x} 1")
    daemon.cairn("snapshot-create-as", "vm1", "one")
    vm.run("write 0 2048 2")
    vm.run("flush")
    vm.run(f"fill {8 * MIB:#x} {MIB:#x} 2")
    small.fill()
    for _ in range(2):
        assert f"{full[-3:]}: snapshot: No space" in daemon.cairn("snapshot-revert", "vm1", "one", ok=1).stderr
        vm.run("verify 0 2048 2")
        vm.run(f"check {8 * MIB:#x} {MIB:#x} 2")
    vm.run("write 0 2048 3")
    vm.run("flush")
    small.empty()
    vm.run("verify 0 2048 3")
    daemon.cairn("snapshot-revert", "vm1", "one", "--running")
    vm.run("verify 0 2048 1")
    vm.run(f"check {8 * MIB:#x} {MIB:#x} 1")
    vm.off()
    for path in [vm.path, *more]:
        run("qemu-img", "check", "-q", str(path))


# ---- truncated by a program that ignores the lock ----

@pytest.mark.parametrize("errors", ["report", "stop"])
def test_truncated_raw_image_yields_errors(daemon, kvm, guest, tmp_path, errors):
    vm = Vm(daemon, guest, image_with(tmp_path / "img", "raw"), "raw", errors)
    vm.run("write 0 8 1")
    vm.run("write 16384 8 2")
    os.truncate(vm.path, 4 * MIB)
    vm.run("verify 0 8 1")
    if errors == "report":
        assert vm.outcome("verify 16384 8 2") in (None, "err I/O error")
        vm.error(operation="read", action="report", reason="No data available")
        assert daemon.cairn("domstate", "vm1").stdout in ("running\n", "idle\n")
        return
    assert vm.outcome("verify 16384 8 2") is None
    vm.error(operation="read", action="stop", reason="No data available")
    vm.paused("")
    assert vm.faults() == "vda: unspecified error\n" and "read failed: No data" in daemon.info("vm1")["detail"]
    # The file gets its length back: the guest gets the answer.
    os.truncate(vm.path, 16 * MIB)
    vm.resume()
    assert vm.answer() == "err differs"


@pytest.mark.parametrize("keep", [0, 4096, 512 * 1024])
def test_truncated_qcow2_image_pauses_vm(daemon, kvm, guest, tmp_path, keep):
    """Missing data does not read as zeros, and nothing is built on it."""
    path = tmp_path / "img"
    write_by_qemu(path, "write -P 7 0 8M")
    vm = Vm(daemon, guest, path)
    os.truncate(path, keep)
    assert vm.outcome("sum 8192 8") is None
    vm.error(operation="read", action="stop", reason="No data available")
    vm.paused("")
    vm.resume()
    vm.error(operation="read", action="stop")
    vm.off()
    assert img("check", str(path), status=None)


def test_truncated_image_is_not_written(daemon, kvm, guest, tmp_path):
    path = tmp_path / "img"
    write_by_qemu(path, "write -P 7 0 8M")
    vm = Vm(daemon, guest, path, errors="report")
    vm.run("write 0 8 1")
    os.truncate(path, MIB)
    assert vm.outcome("flush") is None
    vm.error(operation="write", action="stop", reason="image corrupt")
    vm.paused(": image corrupt")
    assert "truncated its file to 1048576 bytes" in daemon.info("vm1")["detail"]
    assert "image of vda is corrupt" in vm.resume(ok=1)
    vm.off()
    assert "past the end" in img("check", str(path), status=2)


@pytest.mark.parametrize("fmt", ["qcow2", "raw"])
def test_grown_raw_image_keeps_disk_size(daemon, kvm, guest, tmp_path, fmt):
    """The disk keeps its size without the added bytes."""
    vm = Vm(daemon, guest, image_with(tmp_path / "img", fmt), fmt)
    vm.run("write 0 8 1")
    with open(vm.path, "ab") as f:
        f.write(b"\xee" * MIB)
    vm.run("flush")
    vm.run("verify 0 8 1")
    vm.run("write 16384 2048 3")
    vm.run("flush")
    vm.run("verify 16384 2048 3")
    vm.off()
    if fmt == "qcow2":
        img("check", "-r", "leaks", vm.path)
    vm.start()
    vm.run("verify 16384 2048 3")
