"""The daemon is killed before a call that changes something outside of it, each time before a later one, and the next
daemon once more while it starts: nothing is lost, and nothing is half done. CAIRN_KILL_STEP: calls from one kill to the
next; CAIRN_KILL_SEED."""

import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import threading

import pytest

from conftest import BUILD, FAKE_VM, Console, Daemon, Qmp, QmpError, free_port, library, until
from forkpinlib import pins_in
from test_handover import console, image
from test_hotplug import ASKED, RELEASE, Guest, detach_of
from test_undefine import names

STEP = int(os.environ.get("CAIRN_KILL_STEP", 36))
SEED = int(os.environ.get("CAIRN_KILL_SEED", 1))
START_CALLS = 60  # about as many as a daemon makes while it starts
PRELOAD = library("kill_point")


class Killer:
    def __init__(self, tmp, vm_program=None, daemon=Daemon):
        if "asan" in BUILD or "tsan" in BUILD:
            pytest.skip("kill_point.so has to come behind a sanitizer")
        self.point, self.random, self.armed = tmp / "point", random.Random(SEED), 0
        # With epoll, the loop's writes are calls of the C library, too.
        self.daemon = daemon(tmp, vm_program=vm_program,
                             env={"LD_PRELOAD": PRELOAD, "KILL_POINT": str(self.point), "CAIRN_LOOP": "epoll"})

    def arm(self, at):
        new, self.armed = self.point.with_suffix(".new"), self.armed + 1
        new.write_text(f"{at} {self.armed}")
        new.rename(self.point)

    def was_killed(self):
        """Disarm, and return whether the daemon is dead."""
        self.point.unlink(missing_ok=True)
        try:
            q = Qmp(self.daemon.socket)
            q.run("query-version")
            q.close()
            return False
        except (OSError, EOFError):
            assert self.daemon.proc.wait(50) == -signal.SIGKILL, self.daemon.log.read_text()
            return True

    def next_daemon(self):
        """Start a daemon. It is killed at some moment of its start, or a moment later, and then another one starts."""
        self.arm(self.random.randint(1, START_CALLS))
        try:
            self.daemon.start()
        except AssertionError:
            pass  # it was killed before it listened
        if self.was_killed():
            self.daemon.start()

    def sweep(self, before, request, look, settled, step=STEP):
        """Make the request again and again, until the daemon survives it. request() returns whether it succeeded.
        look(done) checks the result. settled(): the daemon has no more to do. step: calls from one kill to the next."""
        at, kills = self.random.randint(1, step), 0
        while True:
            before()
            self.arm(at)
            done = request()
            until(lambda: self.daemon.proc.poll() is not None or patient(settled))
            if not self.was_killed():
                assert kills
                look(done)
                print(f"{kills} kills, the last one before call {at - step}")
                return
            kills += 1
            self.next_daemon()
            until(settled)
            try:
                look(done)
            except BaseException:
                print(f"killed before call {at}")
                raise
            at += step


def patient(settled):
    """Ask a daemon that may be killed meanwhile."""
    try:
        return settled()
    except (OSError, EOFError, QmpError, ValueError):
        return False


@pytest.fixture
def killer(tmp_path):
    k = Killer(tmp_path, FAKE_VM)
    yield k
    k.point.unlink(missing_ok=True)
    k.daemon.close()


@pytest.fixture
def real(tmp_path, kvm):
    if os.geteuid():
        pytest.skip("only root may look into a process that is not dumpable")
    k = Killer(tmp_path)
    yield k
    k.point.unlink(missing_ok=True)
    k.daemon.close()


def has_no_job(d):
    q = Qmp(d.socket)
    try:
        return all(j["status"] == "concluded" for j in q.jobs())
    finally:
        q.close()


def vms_are_stored(d):
    """No VM is half made or half removed."""
    vms = sorted(os.listdir(d.state / "vms"))
    return vms == sorted(listed(d)) and not any((d.state / "vms" / vm / mark).exists() for vm in vms
                                                for mark in ("import.pending", "undefine.json"))


def listed(d):
    q = Qmp(d.socket)
    try:
        return [vm["name"] for vm in q.run("vm-list")["vms"]]
    finally:
        q.close()


def booted(d):
    """Return a console whose guest has booted: it empties its serial port, and commands in it, before that."""
    c = Console(d, "vm1")
    while c.line() != "interp":
        pass
    return c


def processes(d):
    """Return the pids of all VM processes of this daemon and those before it."""
    found = set()
    for p in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if ((p / "comm").read_text().strip() in ("cairn-vm", "fake_vm")
                    and f"TMPDIR={d.tmp}".encode() in (p / "environ").read_bytes().split(b"\0")):
                found.add(int(p.name))
        except OSError:
            pass
    return found


@pytest.mark.seconds(600)
def test_import(killer):
    d, folder = killer.daemon, killer.daemon.tmp / "images"
    folder.mkdir()
    content = [random.Random(i).randbytes(65536) for i in range(2)]
    for i in range(2):
        (folder / f"{i}.raw").write_bytes(content[i])
    d.define("src", disks=[{"path": str(folder / f"{i}.raw"), "format": "raw"} for i in range(2)])
    d.cairn("export", "src", str(folder / "src.tar"))
    d.cairn("undefine", "src")

    def settled():
        return has_no_job(d) and vms_are_stored(d) and not list(folder.glob(".*"))

    def request():
        return d.cairn("import", "src.tar", "--name", "new", cwd=folder, ok=None).returncode == 0

    def look(done):
        there = "new" in names(d)
        assert (folder / "new").exists() == there and (there or not done)
        if there:
            assert [(folder / "new" / f"vd{'ab'[i]}.raw").read_bytes() for i in range(2)] == content
            assert (d.state / "vms/new/imported.json").exists()
            d.cairn("undefine", "new", "--remove-all-storage")
        assert not (folder / "new").exists()
    killer.sweep(lambda: None, request, look, settled)


@pytest.mark.seconds(600)
def test_import_where_its_folder_exists(killer):
    """The daemon that ends the import of a killed one must not take the files of another import for its own."""
    d, folder = killer.daemon, killer.daemon.tmp / "images"
    (folder / "new").mkdir(parents=True)
    (folder / "0.raw").write_bytes(b"1" * 65536)
    for name in ("vda.raw", "kernel"):
        (folder / "new" / name).write_bytes(b"2" * 65536)
    d.define("src", disks=[{"path": str(folder / "0.raw"), "format": "raw"}])
    d.cairn("export", "src", str(folder / "src.tar"))
    d.cairn("undefine", "src")

    def request():
        return d.cairn("import", "src.tar", "--name", "new", cwd=folder, ok=None).returncode == 0

    def look(done):
        assert not done and not names(d) and (folder / "new" / "vda.raw").read_bytes() == b"2" * 65536
    killer.sweep(lambda: None, request, look, lambda: has_no_job(d) and vms_are_stored(d))


@pytest.mark.seconds(600)
def test_undefine_with_files(killer):
    d, files = killer.daemon, [killer.daemon.tmp / f"old{i}.raw" for i in range(3)]

    def before():
        for f in files:
            f.write_bytes(bytes(4096))
        d.define("old", disks=[{"path": str(f), "format": "raw"} for f in files])
        q = d.qmp()
        q.run("permission-grant", user=1234, role="owner", vm="old")
        q.close()

    def look(done):
        there = "old" in names(d)
        assert [f.exists() for f in files] == [there] * 3 and not (there and done)
        if there:
            d.cairn("undefine", "old", "--remove-all-storage")
        assert not any(f.exists() for f in files)

    def settled():
        return vms_are_stored(d) and (listed(d) or "1234" not in (d.state / "permissions.json").read_text())
    killer.sweep(before, lambda: d.cairn("undefine", "old", "--remove-all-storage", ok=None).returncode == 0, look, settled)


def is_whole(d, name):
    """The VM runs in one process, which the daemon knows, and has no job."""
    info = d.info(name)
    return has_no_job(d) and "job" not in info and processes(d) == {info.get("pid")}


@pytest.mark.seconds(600)
def test_handover(real, guest):
    d, seed = real.daemon, 1
    d.define("vm1", boot={"kernel": guest("interp.elf")}, debug_exit=True, disks=[image(d, size="1M")])
    d.cairn("start", "vm1")
    c = booted(d)
    for command in ("fill 0x800000 0x10000 1", "open 0", "write 0 8 1"):
        c.run(command)
    c.close()

    def look(done):
        """A second process that writes would show in the next look."""
        nonlocal seed
        assert d.cairn("domstate", "--reason", "vm1").stdout == "running (booted)\n"
        c = console(d)
        for command in ("check 0x800000 0x10000 1", f"verify 0 8 {seed}", f"write 0 8 {seed + 1}", "flush"):
            c.run(command)
        c.close()
        seed += 1
    real.sweep(lambda: None, lambda: d.cairn("restart-process", "vm1", ok=None).returncode == 0, look, lambda: is_whole(d, "vm1"))


@pytest.mark.seconds(600)
def test_restart_process_by_a_save(killer):
    d = killer.daemon
    d.define("vm1")
    d.cairn("start", "vm1")

    def look(done):
        assert d.info("vm1")["state"] == "running" and d.info("vm1")["reason"] in ("booted", "restored")
        assert not [f for f in ("managed.save", "managed.save.used") if (d.state / "vms/vm1" / f).exists()]
    killer.sweep(lambda: None, lambda: d.cairn("restart-process", "vm1", ok=None).returncode == 0, look, lambda: is_whole(d, "vm1"))
    d.cairn("destroy", "vm1")
    assert not list((d.state / "vms/vm1").glob("managed*"))


# ---- further requests: part of make check-long ----

def is_settled(d):
    """Return whether each VM that runs has its process, and no work is under way."""
    if not has_no_job(d) or not vms_are_stored(d) or list((d.state / "batches").glob("*")):
        return False
    infos = [d.info(name) for name in listed(d)]
    return processes(d) == {i["pid"] for i in infos if "pid" in i} and not any("job" in i for i in infos)


def state(d, name):
    return d.info(name)["state"]


def managedsave(d):
    def before():
        if state(d, "a") != "running":
            d.cairn("start", "a")

    def look(done):
        saved = state(d, "a") == "saved"
        assert (saved or state(d, "a") == "running") and (saved or not done)
        if saved:
            d.cairn("start", "a")
            assert d.info("a")["reason"] == "restored"
    return before, ["managedsave", "a"], look


def start_of_saved(d):
    def before():
        if state(d, "a") == "running":
            d.cairn("managedsave", "a")

    def look(done):
        assert state(d, "a") in ("saved", "running") and (state(d, "a") == "running" or not done)
        d.cairn("start", "a", ok=None)
        assert state(d, "a") == "running" and d.info("a")["reason"] in ("restored", "unknown")
    d.cairn("start", "a")
    return before, ["start", "a"], look


def destroy(d):
    def look(done):
        assert state(d, "a") in ("shutoff", "running") and (state(d, "a") == "shutoff" or not done)
    return lambda: d.cairn("start", "a", ok=None), ["destroy", "a"], look


def rename(d):
    def look(done):
        name, = listed(d)
        assert name in ("a", "b") and (name == "b" or not done)
        if name == "b":
            d.cairn("domrename", "b", "a")
    return lambda: None, ["domrename", "a", "b"], look


def promote(d):
    """Either VM has the name, the uuid and the port, and it runs."""
    port = free_port()
    definition = json.loads(d.cairn("dumpjson", "a").stdout)
    definition["interfaces"] = [{"type": "user", "forwards": [{"port": port, "to": 80}]}]
    d.cairn("define", "-", input=json.dumps(definition), stdin=None)
    d.cairn("start", "a")
    uuid = d.info("a")["uuid"]
    d.cairn("autostart", "a")

    def before():
        if listed(d) == ["a"]:
            d.cairn("clone", "--live", "a", "b")

    def look(done):
        vms = sorted(listed(d))
        assert vms in (["a", "b"], ["a", "a-old"]) and (vms == ["a", "a-old"] or not done)
        assert state(d, "a") == "running" and d.info("a")["uuid"] == uuid and d.info("a")["autostart"]
        socket.create_connection(("127.0.0.1", port), 50).close()
        marks = [str(p) for p in (d.state / "vms").glob("*/promote.json")] + [str(p) for p in (d.state / "vms").glob("*/renamed.json")]
        assert not marks
        if vms == ["a", "b"]:
            assert state(d, "b") == "running"
            return
        assert state(d, "a-old") == "shutoff"
        d.cairn("start", "a-old")
        d.cairn("promote", "--undo", "a")
        assert sorted(listed(d)) == ["a", "b"] and state(d, "b") == "shutoff" and d.info("a")["uuid"] == uuid
        d.cairn("undefine", "b", "--remove-all-storage")
    return before, ["promote", "b"], look


def clone(kind):
    def row(d):
        def look(done):
            clones = [name for name in listed(d) if name != "a"]
            assert clones in ([], ["b-1", "b-2"]) and (clones or not done)
            assert sorted(p.name for p in d.tmp.glob("b-*")) == [f"{name}-vda.qcow2" for name in clones]
            for name in clones:
                assert state(d, name) == ("running" if kind == "--live" else "shutoff")
                if kind == "--live":
                    d.cairn("destroy", name)
                d.cairn("undefine", name, "--remove-all-storage")
        if kind == "--live":
            d.cairn("start", "a")
        return lambda: None, ["clone", kind, "a", "b", "--count", "2"], look
    return row


def remove(d, *names):
    for name in names:
        d.cairn("destroy", name)
        d.cairn("undefine", name, "--remove-all-storage")


def clones_have_pins(d, clones):
    """Look at the pins of clones that run, and return how many pins the image has."""
    pins = pins_in(d.tmp / "disk.qcow2")
    rows = json.loads((d.state / "pins.json").read_text())["used"]
    assert sorted(row["overlay"] for row in rows) == sorted(str(d.tmp / f"{name}-vda.qcow2") for name in clones)
    assert all({row[key].replace("-", "") for key in ("pin", "or") if key in row} & set(pins) for row in rows)
    assert all(state(d, name) == "running" for name in clones)
    return len(pins)


def clone_of_snapshot(d):
    """A fork of a snapshot of a VM that is off, and whose image has a pin that is to be deleted before."""
    def before():
        d.cairn("clone", "--live", "a", "s", "--snapshotname", "s1")
        remove(d, "s")

    def look(done):
        clones = [name for name in listed(d) if name != "a"]
        assert clones in ([], ["b"]) and (clones or not done)
        assert clones_have_pins(d, clones) <= 2
        remove(d, *clones)
    d.cairn("start", "a")
    d.cairn("snapshot-create-as", "a", "s1")
    d.cairn("destroy", "a")
    return before, ["clone", "--live", "a", "b", "--snapshotname", "s1"], look


def clone_with_shared_pin(d):
    """A fork whose clone may read the pin of the clone before."""
    def before():
        d.cairn("clone", "--live", "a", "s")

    def look(done):
        clones = [name for name in listed(d) if name != "a"]
        assert clones in (["s"], ["b", "s"]) and (len(clones) == 2 or not done)
        clones_have_pins(d, clones)
        remove(d, "s")
        clones.remove("s")
        clones_have_pins(d, clones)
        remove(d, *clones)
        until(lambda: not pins_in(d.tmp / "disk.qcow2"))
    d.cairn("start", "a")
    return before, ["clone", "--live", "a", "b"], look


def clone_with_spare(d):
    """A fork of one clone, for which the daemon has made a process ahead."""
    spares = set()

    def before():
        d.cairn("clone", "--live", "a", "s")
        d.cairn("destroy", "s")
        d.cairn("undefine", "s", "--remove-all-storage")
        until(d.spares)
        spares.update(d.spares())

    def look(done):
        clones = [name for name in listed(d) if name != "a"]
        assert clones in ([], ["b"]) and (clones or not done)
        assert sorted(p.name for p in d.tmp.glob("b-*")) == [f"{name}-vda.qcow2" for name in clones]
        # A spare ends with its daemon, or is the clone's process.
        pids = {d.info(name)["pid"] for name in clones} | set(d.spares())
        until(lambda: not [pid for pid in spares - pids if os.path.exists(f"/proc/{pid}")])
        for name in clones:
            assert state(d, name) == "running"
            d.cairn("destroy", name)
            d.cairn("undefine", name, "--remove-all-storage")
    d.cairn("start", "a")
    return before, ["clone", "--live", "a", "b"], look


def snapshot(d):
    def look(done):
        found = d.cairn("snapshot-list", "a", "--name").stdout.split()
        assert found in ([], ["s"]) and (found or not done)
        if found:
            d.cairn("snapshot-delete", "a", "s")
    d.cairn("start", "a")
    return lambda: None, ["snapshot-create-as", "a", "s"], look


def revert(d):
    def before():
        if state(d, "a") == "running":
            d.cairn("destroy", "a")

    def look(done):
        assert state(d, "a") in ("shutoff", "running") and (state(d, "a") == "running" or not done)
    d.cairn("start", "a")
    d.cairn("snapshot-create-as", "a", "s")
    return before, ["snapshot-revert", "a", "s"], look


def export(d):
    def look(done):
        assert (d.tmp / "a.tar").exists() or not done
        if (d.tmp / "a.tar").exists():
            d.cairn("import", "--dry-run", str(d.tmp / "a.tar"))
            (d.tmp / "a.tar").unlink()
    return lambda: None, ["export", "a", str(d.tmp / "a.tar")], look


def has_attached(d, g):
    """Return whether the VM has a second disk: a daemon says what its guest says, however far the daemon before it
    came."""
    there = ["vda", "vdb"] == [disk["id"] for disk in json.loads(d.cairn("domblklist", "a", "--format", "json").stdout)]
    assert sum("device=0x1042" in line for line in g.run("pci")) == 1 + there
    return there


def attach_args(d):
    (d.tmp / "b.raw").write_bytes(bytes(1 << 20))
    return ["attach-disk", "a", str(d.tmp / "b.raw"), "vdb", "--live"]


def attach(d):
    def look(done):
        g = Guest(d, "a")
        there = has_attached(d, g)
        assert there or not done
        if there:
            detach_of(d, g, "vdb")
        assert not has_attached(d, g)
        g.close()
    d.cairn("start", "a")
    return lambda: None, attach_args(d), look


def detach(d):
    args, g = attach_args(d), None

    def before():
        nonlocal g
        g = Guest(d, "a")
        if not has_attached(d, g):
            d.cairn(*args)

    def request():
        stop = threading.Event()

        def release():
            while not stop.is_set():
                slots = g.inl(ASKED)
                if slots:
                    g.run(f"outl {RELEASE} {slots}")
        t = threading.Thread(target=release)
        t.start()
        try:
            return d.cairn("detach-disk", "a", "vdb", "--timeout", "60", ok=None).returncode == 0
        finally:
            stop.set()
            t.join()
            g.close()

    def look(done):
        g = Guest(d, "a")
        assert not (has_attached(d, g) and done)
        g.close()
    d.cairn("start", "a")
    return before, request, look


def revert_devices(d):
    """The VM lacks a disk of the snapshot, which a new process brings back."""
    def before():
        d.cairn("start", "a", ok=None)
        g = Guest(d, "a")
        if has_attached(d, g):
            detach_of(d, g, "vdb")
        g.close()

    def look(done):
        assert state(d, "a") in ("shutoff", "running") and (state(d, "a") == "running" or not done)
        if state(d, "a") == "running":
            g = Guest(d, "a")
            assert has_attached(d, g) or not done
            g.close()
    d.cairn("start", "a")
    image(d, "b", size="1M")
    d.cairn("attach-disk", "a", str(d.tmp / "b"), "vdb", "--live", "--subdriver", "qcow2")
    d.cairn("snapshot-create-as", "a", "s")
    return before, ["snapshot-revert", "a", "s"], look


FURTHER = {"managedsave": managedsave, "start": start_of_saved, "destroy": destroy, "rename": rename, "full": clone("--full"),
           "linked": clone("--linked"), "live": clone("--live"), "shared": clone_with_shared_pin, "off": clone_of_snapshot,
           "spare": clone_with_spare, "snapshot": snapshot, "revert": revert, "export": export,
           "attach": attach, "detach": detach, "revert-devices": revert_devices}


@pytest.mark.parametrize("kind", FURTHER)
@pytest.mark.seconds(900)
def test_further_request(real, guest, kind):
    if "CAIRN_KILL_STEP" not in os.environ:
        pytest.skip("part of make check-long: CAIRN_KILL_STEP is not set")
    d = real.daemon
    d.define("a", boot={"kernel": guest("interp.elf")}, debug_exit=True, disks=[image(d, size="1M")])
    before, args, look = FURTHER[kind](d)
    request = args if callable(args) else lambda: d.cairn(*args, ok=None).returncode == 0
    real.sweep(before, request, look, lambda: is_settled(d))


@pytest.mark.seconds(600)
def test_promotion(real, guest):
    d = real.daemon
    d.define("a", boot={"kernel": guest("interp.elf")}, debug_exit=True, disks=[image(d, size="1M")])
    before, args, look = promote(d)
    real.sweep(before, lambda: d.cairn(*args, ok=None).returncode == 0, look, lambda: is_settled(d))


@pytest.mark.seconds(600)
@pytest.mark.parametrize("refused", [False, True], ids=["pivot", "refused"])
def test_pivot_to_a_copy(real, guest, refused):
    """The definition names an image that has all that the guest has flushed, and its snapshots."""
    d, n = real.daemon, 0
    d.define("vm1", boot={"kernel": guest("interp.elf")}, debug_exit=True, disks=[image(d, size="4M")])
    d.cairn("start", "vm1")
    booted(d).close()
    first = json.loads(d.cairn("dumpjson", "vm1").stdout)["disks"][0]["path"]
    if refused:
        d.cairn("snapshot-create-as", "vm1", "s1", "--disk-only")

    def before():
        nonlocal n
        n += 1
        c = console(d)
        for command in ("open 0", f"write 0 8 {n}", "flush"):
            c.run(command)
        c.close()

    def request():
        return d.cairn("blockcopy", "vm1", "vda", "--dest", str(d.tmp / f"copy{n}.qcow2"), "--pivot", ok=None).returncode == 0

    def disks():
        return [json.loads(d.cairn("dumpjson", "vm1", *args).stdout)["disks"][0]["path"] for args in ([], ["--inactive"])]

    def look(done):
        now, later = disks()
        copy = str(d.tmp / f"copy{n}.qcow2")
        assert not done or now == later == copy
        if refused:
            assert now == later == first
        if now != later:  # killed between the definition and the pivot: both images are equal, and the pivot is repeated
            assert later == copy
            d.cairn("blockjob", "vm1", "vda", "--pivot", "--dest", copy)
        elif not done:
            d.cairn("blockjob", "vm1", "vda", "--abort", ok=None)
        now, later = disks()
        assert now == later
        subprocess.run(["qemu-io", "-r", "-U", "-f", "qcow2", "-c", "read 0 4k", later], check=True, stdout=subprocess.DEVNULL)
        d.cairn("destroy", "vm1")
        d.cairn("start", "vm1")
        c = booted(d)
        for command in ("open 0", f"verify 0 8 {n}"):
            c.run(command)
        c.close()
        if refused:
            assert " s1 " in d.cairn("snapshot-list", "vm1").stdout
    real.sweep(before, request, look, lambda: is_whole(d, "vm1"))


@pytest.mark.seconds(900)
@pytest.mark.parametrize("kind", ["external", "middle", "active"])
def test_layers(real, guest, kind):
    """An external snapshot and commits: a start finds what the guest has flushed."""
    if "CAIRN_KILL_STEP" not in os.environ:
        pytest.skip("part of make check-long: CAIRN_KILL_STEP is not set")
    d, n = real.daemon, 0
    d.define("vm1", boot={"kernel": guest("interp.elf")}, debug_exit=True, disks=[image(d, size="4M")])
    d.cairn("start", "vm1")
    c = Console(d, "vm1")  # a client of the VM's process, so it outlives the daemon
    while c.line() != "interp":
        pass
    requests = {"external": lambda: ("snapshot-create-as", "vm1", f"s{n}", "--disk-only", "--external"),
                "middle": lambda: ("blockcommit", "vm1", "vda", "--top", "vda[1]", "--base", "vda[2]"),
                "active": lambda: ("blockcommit", "vm1", "vda", "--pivot")}

    def layers(*args):
        disk, = json.loads(d.cairn("dumpjson", "vm1", *args).stdout)["disks"]
        return [disk["path"], *(x["path"] for x in disk.get("backing", []))]

    def before():
        nonlocal n
        n += 1
        c.run("open 0")
        for i in range({"external": 1, "middle": 3, "active": 2}[kind]):
            if i:
                d.cairn("snapshot-create-as", "vm1", f"k{n}-{i}", "--disk-only", "--external")
            c.run(f"write {128 * i} 8 {n}")
            c.run("flush")

    def look(done):
        nonlocal c
        now, later = layers(), layers("--inactive")
        assert not done or now == later
        c.close()
        d.cairn("destroy", "vm1")
        for path in later:
            r = subprocess.run(["qemu-img", "check", path], check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            assert r.returncode in (0, 3), r.stdout
        d.cairn("start", "vm1")
        c = Console(d, "vm1")
        while c.line() != "interp":
            pass
        c.run("open 0")
        for i in range({"external": 1, "middle": 3, "active": 2}[kind]):
            c.run(f"verify {128 * i} 8 {n}")
        if len(layers()) > 1:
            d.cairn("blockcommit", "vm1", "vda", "--pivot", "--delete")

    real.sweep(before, lambda: d.cairn(*requests[kind](), ok=None).returncode == 0, look, lambda: is_whole(d, "vm1"))
    c.close()


@pytest.mark.seconds(900)
@pytest.mark.parametrize("runs", [True, False], ids=["running", "off"])
def test_pull(real, guest, runs):
    """After a pull's success no definition has the backing file; no kill loses the guest's data."""
    d, n, c = real.daemon, 0, None
    (d.tmp / "base.raw").write_bytes(random.Random(1).randbytes(2 << 20))

    def console_of():
        c = Console(d, "vm1")
        while c.line() != "interp":
            pass
        c.run("open 0")
        return c

    def layers(*args):
        disk, = json.loads(d.cairn("dumpjson", "vm1", *args).stdout)["disks"]
        return [os.path.basename(p["path"]) for p in [disk, *disk.get("backing", [])]]

    def header():
        done = subprocess.run(["qemu-img", "info", "-U", "--output", "json", f"disk{n}.qcow2"], cwd=d.tmp, check=True, stdout=subprocess.PIPE)
        return [f"disk{n}.qcow2", *(["base.raw"] if "backing-filename" in json.loads(done.stdout) else [])]

    def before():
        nonlocal n, c
        n += 1
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", f"disk{n}.qcow2"], cwd=d.tmp, check=True)
        d.define("vm1", boot={"kernel": guest("interp.elf")}, debug_exit=True, disks=[
            {"id": "vda", "path": str(d.tmp / f"disk{n}.qcow2"), "format": "qcow2", "backing": [{"path": str(d.tmp / "base.raw"), "format": "raw"}]}])
        d.cairn("start", "vm1")
        c = console_of()
        for command in (f"write 128 8 {n}", "flush"):
            c.run(command)
        if not runs:
            c.close()
            d.cairn("destroy", "vm1")

    def look(done):
        now, later = layers(), layers("--inactive")
        assert now == later and (len(later) == 1 or not done)
        if runs:
            assert now == header()
            c.close()
            d.cairn("destroy", "vm1")
        d.cairn("start", "vm1")
        g = console_of()
        g.run(f"verify 128 8 {n}")
        g.close()
        d.cairn("destroy", "vm1")
        if len(later) > 1:
            d.cairn("blockpull", "vm1", "vda")
        assert layers() == layers("--inactive") == header() == [f"disk{n}.qcow2"]
        subprocess.run(["qemu-img", "check", "-q", f"disk{n}.qcow2"], cwd=d.tmp, check=True)
        os.unlink(d.tmp / f"disk{n}.qcow2")

    def settled():
        return is_whole(d, "vm1") if runs else has_no_job(d) and "job" not in d.info("vm1") and not processes(d)
    real.sweep(before, lambda: d.cairn("blockpull", "vm1", "vda", ok=None).returncode == 0, look, settled)
