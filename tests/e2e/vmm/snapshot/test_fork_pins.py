"""Live clones whose disks are overlays on their source's image as of the fork's instant: nothing is copied, and
each VM keeps its own content when the others change."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import uuid

import pytest

from clonelib import thread_name
from conftest import BUILD, Console, Daemon, QmpError, open_files, until
from forklib import qemu_snapshots

MIB = 1 << 20
IMG = os.path.join(BUILD, "cairn-img")


class Vms:
    """Interpreters, by name, with the disk vda of each."""

    def __init__(self, daemon, guest, tmp):
        self.daemon, self.guest, self.tmp, self.consoles = daemon, guest, tmp, {}

    def image(self, name, size="64M", *args):
        path = self.tmp / name
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *args, path, size], check=True)
        return {"path": str(path), "format": "qcow2"}

    def start(self, *disks, name="src", **keys):
        self.daemon.define(name, memory="32M", debug_exit=True, boot={"kernel": self.guest("interp.elf")},
                           disks=list(disks), **keys)
        self.boot(name)

    def boot(self, name):
        self.daemon.cairn("start", name)
        self.attach(name)
        while self.consoles[name].line() != "interp":
            pass

    def attach(self, name):
        self.leave(name)
        self.consoles[name] = Console(self.daemon, name)

    def leave(self, name):
        if name in self.consoles:
            self.consoles.pop(name).close()

    def run(self, name, *commands):
        if name not in self.consoles:
            self.attach(name)
        for c in commands:
            self.consoles[name].run(c)

    def write(self, name, at, seed, disk=0):
        self.run(name, f"open {disk}", f"write {at} 128 {seed}", "flush")

    def holds(self, name, at, seed, disk=0):
        self.run(name, f"open {disk}", f"verify {at} 128 {seed}")

    def fork(self, name, *args, source="src"):
        r = self.daemon.cairn("clone", "--live", source, name, *args, "--format", "json")
        return json.loads(r.stdout)

    def made(self, result):
        return {d["id"]: d["made"] for d in result["disks"]}

    def end(self, name, *args):
        """Stop a VM and remove it with its images."""
        self.leave(name)
        if self.daemon.cairn("domstate", name).stdout in ("running\n", "paused\n"):
            self.daemon.cairn("destroy", name)
        self.daemon.cairn("undefine", name, "--remove-all-storage", *args)

    def path(self, name, disk="vda"):
        return self.tmp / f"{name}-{disk}.qcow2"

    def close(self):
        for name in list(self.consoles):
            self.leave(name)


@pytest.fixture
def vms(daemon, kvm, guest, tmp_path):
    v = Vms(daemon, guest, tmp_path)
    yield v
    v.close()


def snapshots(path):
    """Return a line for each of an image's snapshots, pins included."""
    return qemu_snapshots(path).splitlines()[2:]


def img(*args, ok=0):
    r = subprocess.run([IMG, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert r.returncode == ok or (ok is None and r.returncode), r
    return r


def pins_in(path):
    """Return the pins in the image of a running VM, also of an overlay on a pin, which QEMU cannot open."""
    return [s["pin"] for s in json.loads(img("info", "-U", "--output", "json", path).stdout).get("snapshots", []) if "pin" in s]


class Debugged(Daemon):
    def command(self):
        return super().command() + ["--log-level", "debug"]


def test_clones_get_tables_of_both_disks_from_their_sources_process(tmp_path, kvm, guest):
    with contextlib.closing(Debugged(tmp_path)) as daemon, contextlib.closing(Vms(daemon, guest, tmp_path)) as vms:
        vms.start(vms.image("a.qcow2"), vms.image("b.qcow2"))
        for disk in (0, 1):
            vms.write("src", 0, 1 + disk, disk)
        vms.fork("c")
        assert daemon.log_of("c").count("parts of tables from the memory of the fork's source") == 2


def test_clones_and_source_keep_their_own_content(vms, daemon, tmp_path):
    vms.start(vms.image("a.qcow2"), vms.image("b.qcow2"))
    for disk in (0, 1):
        vms.write("src", 0, 1 + disk, disk)
        vms.write("src", 100_000, 3 + disk, disk)
    r = vms.fork("c", "--count", "3")
    assert vms.made(r) == {"vda": "overlay", "vdb": "overlay"}
    assert all(vms.path(f"c-{i}").stat().st_blocks * 512 <= MIB for i in (1, 2, 3))
    # No mapping keeps the memory of the source when a reset gives the clone its own.
    maps = pathlib.Path(f"/proc/{daemon.info('c-1')['pid']}/maps").read_text()
    assert not re.search(r" r--s .* /memfd:cairn-fork", maps)
    for i, name in enumerate(("src", "c-1", "c-2")):
        vms.write(name, 0, 10 + i)
        vms.write(name, 100_100, 20 + i, 1)
    for i, name in enumerate(("src", "c-1", "c-2")):
        vms.holds(name, 0, 10 + i)
        vms.holds(name, 100_000, 3)
        vms.holds(name, 0, 2, 1)
        vms.holds(name, 100_100, 20 + i, 1)
    vms.holds("c-3", 0, 1)
    vms.holds("c-3", 100_000, 4, 1)
    # Pins are hidden from users.
    assert daemon.cairn("snapshot-list", "src", "--name").stdout.strip() == ""
    assert len(snapshots(tmp_path / "a.qcow2")) == 1
    # All of them can stop, in any order, and start again.
    for name in ("src", "c-1", "c-2", "c-3"):
        vms.leave(name)
        daemon.cairn("destroy", name)
    for name in ("c-2", "src", "c-3"):
        vms.boot(name)
    vms.holds("c-2", 0, 12)
    vms.holds("src", 0, 10)
    vms.holds("c-3", 0, 1)
    vms.write("src", 0, 30)
    vms.holds("c-3", 0, 1)


@pytest.mark.parametrize("way, by", [("faults", "reset"), ("faults", "revert"), ("log", "revert")])
def test_clone_that_lets_go_of_its_sources_memory_closes_its_file(request, monkeypatch, way, by):
    """The file holds the source's memory and the tables that the clone's disks read. With the base of the memory's
    tracking gone, a revert replaces all memory by either way."""
    monkeypatch.delenv("CAIRN_USERFAULTFD", raising=False)
    if way == "log":
        monkeypatch.setenv("CAIRN_USERFAULTFD", "refuse")
    vms, daemon = request.getfixturevalue("vms"), request.getfixturevalue("daemon")
    vms.start(vms.image("a.qcow2"), vms.image("b.qcow2"))
    for disk in (0, 1):
        vms.write("src", 0, 1 + disk, disk)
    vms.fork("c")
    pid = daemon.info("c")["pid"]
    daemon.cairn("snapshot-create-as", "c", "s1")
    daemon.cairn("snapshot-create-as", "c", "s2")
    daemon.cairn("snapshot-delete", "c", "s2")
    before = open_files(pid)
    assert before.count("/memfd:cairn-fork (deleted)") == 3  # of the memory, and of each disk
    if by == "reset":
        daemon.cairn("reset", "c")
    else:
        daemon.cairn("snapshot-revert", "c", "s1")
    after = open_files(pid)
    assert "/memfd:cairn-fork (deleted)" not in after
    assert len(after) <= len(before) - 3
    assert "/memfd:cairn-fork" not in pathlib.Path(f"/proc/{pid}/maps").read_text()
    if by == "revert":
        for disk in (0, 1):
            vms.holds("c", 0, 1 + disk, disk)  # read from the image itself


def test_later_forks_have_later_content(vms, daemon):
    vms.start(vms.image("a.qcow2"))
    for i in range(4):
        vms.write("src", 0, 100 + i)
        vms.write("src", 8192, 100 + i)
        vms.fork(f"c{i}", "--paused")
        vms.write("src", 0, 200 + i)
    for i in range(4):
        daemon.cairn("resume", f"c{i}")
        vms.holds(f"c{i}", 0, 100 + i)
        vms.holds(f"c{i}", 8192, 100 + i)


def test_pin_goes_with_the_last_clone(vms, daemon, tmp_path):
    a = tmp_path / "a.qcow2"
    vms.start(vms.image("a.qcow2"))
    vms.write("src", 0, 1)
    vms.fork("c", "--count", "2")
    vms.write("src", 8192, 1)
    vms.fork("d")
    assert len(snapshots(a)) == 2
    vms.end("c-1")
    vms.end("d")
    until(lambda: len(snapshots(a)) == 1)
    vms.holds("c-2", 0, 1)
    # A source that is off lets go at its next start.
    vms.leave("src")
    daemon.cairn("destroy", "src")
    vms.end("c-2")
    assert len(snapshots(a)) == 1
    vms.boot("src")
    until(lambda: not snapshots(a))
    vms.holds("src", 0, 1)
    vms.leave("src")
    daemon.cairn("destroy", "src")
    subprocess.run(["qemu-img", "check", "-q", a], check=True)


def test_all_pins_of_clones_that_end_at_once_are_deleted(vms, daemon, tmp_path):
    """The source's process cannot answer until all three pins are due."""
    vms.start(vms.image("a.qcow2"))
    for n in range(3):
        vms.write("src", 0, n)
        vms.fork(f"c{n}")
    pid = json.loads(daemon.cairn("dominfo", "src", "--format", "json").stdout)["pid"]
    os.kill(pid, signal.SIGSTOP)
    for n in range(3):
        vms.end(f"c{n}")
    assert len(pins_in(tmp_path / "a.qcow2")) == 3
    os.kill(pid, signal.SIGCONT)
    until(lambda: not pins_in(tmp_path / "a.qcow2"))
    until(lambda: not json.loads((daemon.state / "pins.json").read_text())["due"])


def test_clone_that_is_undefined_without_its_image_keeps_the_pin(vms, daemon, tmp_path):
    a = tmp_path / "a.qcow2"
    vms.start(vms.image("a.qcow2"))
    vms.write("src", 0, 1)
    vms.fork("c")
    definition = json.loads(daemon.cairn("dumpjson", "c").stdout)
    vms.leave("c")
    daemon.cairn("destroy", "c")
    daemon.cairn("undefine", "c")
    vms.fork("d")
    vms.end("d")
    until(lambda: len(snapshots(a)) == 1)
    (tmp_path / "c.json").write_text(json.dumps(definition))
    daemon.cairn("define", str(tmp_path / "c.json"))
    vms.boot("c")
    vms.holds("c", 0, 1)
    vms.end("c")
    until(lambda: not snapshots(a))


def test_oldest_clone_above_the_limit_without_vm_leaves_the_list_and_keeps_its_content(vms, daemon, tmp_path):
    a, stored = tmp_path / "a.qcow2", daemon.state / "pins.json"
    vms.start(vms.image("a.qcow2"))
    vms.write("src", 0, 1)
    vms.fork("c")
    pins = pins_in(a)
    (tmp_path / "c.json").write_text(daemon.cairn("dumpjson", "c").stdout)
    off(vms, daemon, "c")
    daemon.cairn("undefine", "c")
    vms.leave("src")
    daemon.stop()
    # As if the user had made and undefined 1,000 clones later.
    known = json.loads(stored.read_text())
    assert [r["owner"] for r in known["used"]] == [os.geteuid()]
    known["used"] += [{"pin": str(uuid.uuid4()), "image": str(a), "overlay": f"/zz/{i:04}", "owner": os.geteuid()}
                      for i in range(1000)]
    stored.write_text(json.dumps(known))
    daemon.start()
    vms.write("src", 0, 2)
    vms.fork("d")
    overlays = [r["overlay"] for r in json.loads(stored.read_text())["used"]]
    assert len(overlays) == 1001 and str(vms.path("d")) in overlays and str(vms.path("c")) not in overlays
    until(lambda: f"pins.json forgets {vms.path('c')}; the pin" in daemon.log.read_text())
    vms.holds("d", 0, 2)
    vms.end("d")
    until(lambda: pins_in(a) == pins)
    daemon.cairn("define", tmp_path / "c.json")
    vms.boot("c")
    vms.holds("c", 0, 1)
    vms.holds("src", 0, 2)
    vms.end("c")
    assert pins_in(a) == pins


def test_overlay_behind_a_symbolic_link_keeps_its_pin(vms, daemon, tmp_path):
    vms.start(vms.image("a.qcow2"))
    vms.write("src", 0, 1)
    vms.fork("c")
    definition = daemon.cairn("dumpjson", "c").stdout
    vms.leave("c")
    daemon.cairn("destroy", "c")
    moved = tmp_path / "moved.qcow2"
    vms.path("c").rename(moved)
    vms.path("c").symlink_to(moved)
    assert "symbolic link" in daemon.cairn("undefine", "c", "--remove-all-storage").stdout
    vms.write("src", 0, 2)
    (tmp_path / "c.json").write_text(definition)
    daemon.cairn("define", tmp_path / "c.json")
    vms.boot("c")
    vms.holds("c", 0, 1)


def off(vms, daemon, name="src"):
    vms.leave(name)
    daemon.cairn("destroy", name)


@pytest.mark.parametrize("state", ["running", "shut off"])
def test_clones_of_a_snapshot_copy_no_disk(vms, daemon, tmp_path, state):
    images = [tmp_path / f"{n}.qcow2" for n in "ab"]
    vms.start(vms.image("a.qcow2"), vms.image("b.qcow2"))
    vms.write("src", 0, 1)
    vms.write("src", 0, 2, 1)
    daemon.cairn("snapshot-create-as", "src", "s1")
    vms.write("src", 0, 3)
    vms.write("src", 0, 4, 1)
    if state == "shut off":
        off(vms, daemon)
    made = vms.fork("c", "--snapshotname", "s1", "--count", "2")
    assert vms.made(made) == {"vda": "overlay", "vdb": "overlay"}
    assert [len(snapshots(i)) for i in images] == [2, 2]
    assert all(vms.path(f"c-{i}").stat().st_blocks * 512 <= MIB for i in (1, 2))
    for i in (1, 2):
        vms.holds(f"c-{i}", 0, 1)
        vms.holds(f"c-{i}", 0, 2, 1)
    # The snapshot may go, and the source may start beside its clones, write and revert.
    daemon.cairn("snapshot-delete", "src", "s1")
    if state == "shut off":
        vms.boot("src")
    vms.write("src", 0, 5)
    vms.holds("c-1", 0, 1)
    vms.write("c-2", 0, 6)
    vms.write("src", 0, 7, 1)
    off(vms, daemon, "c-1")
    vms.boot("c-1")
    vms.holds("c-1", 0, 2, 1)
    vms.holds("c-2", 0, 6)
    assert [len(snapshots(i)) for i in images] == [1, 1]
    for i in (1, 2):
        vms.end(f"c-{i}")
    until(lambda: not snapshots(images[0]) and not snapshots(images[1]))
    vms.holds("src", 0, 5)
    off(vms, daemon)
    for i in images:
        subprocess.run(["qemu-img", "check", "-q", i], check=True)


def test_isolated_clone_of_a_snapshot_is_copied(vms, daemon, tmp_path):
    vms.start(vms.image("a.qcow2"))
    vms.write("src", 0, 1)
    daemon.cairn("snapshot-create-as", "src", "s1")
    assert vms.made(vms.fork("c", "--snapshotname", "s1", "--isolated")) == {"vda": "copy"}
    assert len(snapshots(tmp_path / "a.qcow2")) == 1
    vms.holds("c", 0, 1)
    # An image that linked clones have open is not written.
    off(vms, daemon)
    daemon.cairn("clone", "--linked", "src", "linked")
    assert vms.made(vms.fork("d", "--snapshotname", "s1")) == {"vda": "copy"}
    vms.holds("d", 0, 1)


def test_source_is_protected_while_clones_read_its_image(vms, daemon, tmp_path):
    vms.start(vms.image("a.qcow2"))
    vms.write("src", 0, 1)
    vms.fork("c")
    vms.leave("src")
    daemon.cairn("destroy", "src")
    error = daemon.cairn("undefine", "src", "--remove-all-storage", ok=6).stderr
    assert "is used by VM 'c'; undefine that VM first, or keep the images" in error
    # Without its image, the source may go.
    daemon.cairn("undefine", "src")
    vms.holds("c", 0, 1)
    vms.leave("c")
    daemon.cairn("destroy", "c")
    vms.boot("c")
    vms.holds("c", 0, 1)


def test_snapshots_of_the_source_and_its_clones_do_not_touch_pins(vms, daemon, tmp_path):
    vms.start(vms.image("a.qcow2"))
    vms.write("src", 0, 1)
    daemon.cairn("snapshot-create-as", "src", "s1")
    vms.write("src", 0, 2)
    vms.fork("c")
    vms.write("src", 0, 3)
    daemon.cairn("snapshot-create-as", "src", "s2")
    vms.write("c", 8192, 4)
    daemon.cairn("snapshot-create-as", "c", "s1")
    vms.write("c", 8192, 5)
    daemon.cairn("snapshot-revert", "src", "s1")
    vms.holds("src", 0, 1)
    vms.holds("c", 0, 2)
    daemon.cairn("snapshot-delete", "src", "s1")
    daemon.cairn("snapshot-revert", "c", "s1")
    vms.holds("c", 8192, 4)
    vms.holds("c", 0, 2)
    daemon.cairn("snapshot-revert", "src", "s2")
    vms.holds("src", 0, 3)
    daemon.cairn("snapshot-delete", "src", "s2")
    vms.holds("c", 0, 2)
    assert daemon.cairn("snapshot-list", "src", "--name").stdout.strip() == ""
    # A VM that holds nothing but pins counts as one without snapshots.
    vms.end("c", "--snapshots-metadata")
    until(lambda: not snapshots(tmp_path / "a.qcow2"))


def test_four_generations_keep_their_content(vms, daemon, tmp_path):
    vms.start(vms.image("a.qcow2"))
    source = "src"
    for i in range(1, 5):
        vms.write(source, 0, i)
        vms.write(source, 1000 * i, i)
        assert vms.made(vms.fork(f"g{i}", source=source)) == {"vda": "overlay"}
        vms.write(source, 0, 50 + i)
        source = f"g{i}"
    for name, at_0 in (("src", 51), ("g1", 52), ("g2", 53), ("g3", 54), ("g4", 4)):
        vms.holds(name, 0, at_0)
    for i in range(1, 5):
        vms.holds("g4", 1000 * i, i)
    # The middle VM may stop and start, and the youngest continues.
    vms.leave("g2")
    daemon.cairn("destroy", "g2")
    vms.boot("g2")
    vms.write("g2", 0, 99)
    vms.holds("g4", 0, 4)
    for name in ("g4", "g3", "g2", "g1"):
        vms.end(name)
    until(lambda: not snapshots(tmp_path / "a.qcow2"))
    vms.holds("src", 0, 51)


def blocks(daemon, name):
    """Return what `cairn domblkinfo` says of a VM's disks, by id."""
    return {d["id"]: d for d in json.loads(daemon.cairn("domblkinfo", name, "--format", "json").stdout)}


@pytest.mark.parametrize("state", ["running", "off"])
def test_space_of_clones_and_pins_is_shown(vms, daemon, tmp_path, state):
    vms.start(vms.image("a.qcow2"), vms.image("b.qcow2"))
    vms.write("src", 0, 1)
    vms.fork("c", "--count", "2")
    first = blocks(daemon, "src")["vda"]
    assert (first["pins"], first["clones"]) == (1, 2) and "source" not in first
    # The source's write goes to another cluster, and the old one stays for the clones.
    vms.write("src", 0, 2)
    vms.write("c-1", 65536, 3)
    if state == "off":
        off(vms, daemon)
    kept = blocks(daemon, "src")
    assert kept["vda"]["pins-own-size"] >= first["pins-own-size"] + 65536
    assert kept["vdb"]["clones"] == 2 and kept["vdb"]["pins-own-size"] < 65536 * 8
    clone = blocks(daemon, "c-1")["vda"]
    assert clone["source"] == str(tmp_path / "a.qcow2") and (clone["pins"], clone["clones"]) == (0, 0)
    assert clone["allocation"] == vms.path("c-1").stat().st_blocks * 512 > blocks(daemon, "c-2")["vda"]["allocation"]
    head, _, *rows = daemon.cairn("domblkinfo", "src").stdout.splitlines()
    assert head.split() == ["Target", "Allocation", "Reads", "Clones", "Kept", "for", "clones"]
    assert rows[0].split()[0] == "vda" and rows[0].split()[3:5] == ["-", "2"]
    for name in ("c-1", "c-2"):
        vms.end(name)
    if state == "running":
        until(lambda: blocks(daemon, "src")["vda"]["pins"] == 0)
    else:
        assert (blocks(daemon, "src")["vda"]["pins"], blocks(daemon, "src")["vda"]["clones"]) == (1, 0)


# ---- long chains ----

def chain(vms, n):
    """Make a chain of n images with data in the lowest one. Return the disk of a definition."""
    below = []
    for i in range(n):
        args = ["-F", "qcow2", "-b", below[0]["path"]] if below else []
        below.insert(0, vms.image(f"l{i}.qcow2", "64M", *args))
    subprocess.run(["qemu-io", "-c", "write -q -P 7 16M 32M", below[-1]["path"]], check=True)
    return {**below[0], "backing": below[1:]}


def layers(daemon, name):
    (disk,) = json.loads(daemon.cairn("dumpjson", name).stdout)["disks"]
    return 1 + len(disk.get("backing", []))


def pulls(q, name):
    return [j for j in q.run("query-jobs") if (j["type"], j["vm"]) == ("blockpull", name)]


def stands_alone(vms, daemon, name):
    """Check that a VM's process reads one image only, and that QEMU reads that image."""
    pid = daemon.info(name)["pid"]
    files = set(open_files(pid))
    assert [f for f in files if f.endswith(".qcow2")] == [str(vms.path(name))]
    off(vms, daemon, name)
    subprocess.run(["qemu-img", "check", "-q", vms.path(name)], check=True)
    subprocess.run(["qemu-io", "-r", "-c", "read -q -P 7 16M 32M", vms.path(name)], check=True)
    vms.boot(name)


def told(daemon, *args):
    """Return what `cairn clone --live` says, but for the way in which memory was copied."""
    return re.sub("^The VM ran while .*\n", "", daemon.cairn("clone", "--live", *args).stdout, flags=re.M)


def test_clone_with_many_layers_is_flattened_in_the_background(vms, daemon, tmp_path):
    disk = chain(vms, 11)
    vms.start(disk)
    vms.write("src", 0, 1)
    assert vms.fork("c")["disks"][0].keys() == {"id", "made", "bytes"}
    vms.write("c", 8192, 2)
    q = daemon.qmp()
    said = told(daemon, "c", "d", "--count", "2")
    assert said == ("Domain 'c' cloned 2 times, as 'd-1' to 'd-2'\n"
                    "flattened in the background: disk vda, which has 13 layers; cairn jobs shows the progress\n")
    vms.write("c", 8192, 3)
    for name in ("d-1", "d-2"):
        until(lambda: layers(daemon, name) == 1)
        until(lambda: [j["status"] for j in pulls(q, name)] == ["concluded"])
        assert "error" not in pulls(q, name)[0]
    assert layers(daemon, "c") == 12 and not pulls(q, "c")
    assert [r["overlay"] for r in json.loads((daemon.state / "pins.json").read_text())["used"]] == [str(vms.path("c"))]
    until(lambda: not pins_in(vms.path("c")))
    vms.end("c")
    vms.write("src", 0, 4)
    for name in ("d-1", "d-2"):
        vms.holds(name, 8192, 2)
        vms.holds(name, 0, 1)
        stands_alone(vms, daemon, name)
        vms.holds(name, 8192, 2)
    until(lambda: not snapshots(disk["path"]))


def test_killed_daemon_flattens_afterwards(vms, daemon, tmp_path):
    vms.start(chain(vms, 12))
    vms.write("src", 0, 1)
    vms.close()
    q = daemon.qmp()
    q.run("vm-fork", vm="src", name="c")
    while True:
        e = q.events.pop(0) if q.events else q.read()
        if e.get("data", {}).get("type") == "blockpull":
            break
    pid = daemon.info("c")["pid"]
    os.kill(pid, signal.SIGSTOP)  # before the pull ends, unless the machine is slow
    daemon.stop(signal.SIGKILL)
    os.kill(pid, signal.SIGCONT)
    daemon.start()
    until(lambda: layers(daemon, "c") == 1)
    assert daemon.info("c")["pid"] == pid
    until(lambda: pulls(daemon.qmp(), "c")[-1]["status"] == "concluded")
    assert "error" not in pulls(daemon.qmp(), "c")[-1]
    vms.holds("c", 0, 1)
    stands_alone(vms, daemon, "c")
    vms.holds("c", 0, 1)


def test_chain_of_16_layers_is_copied(vms, daemon, tmp_path):
    disk = chain(vms, 16)
    vms.start(disk)
    vms.write("src", 0, 1)
    (d,) = vms.fork("c")["disks"]
    assert (d["made"], d["reason"]) == ("copy", "too many layers")
    vms.write("src", 0, 2)
    vms.holds("c", 0, 1)
    # Cairn merges no chain that it has not made.
    assert layers(daemon, "c") == layers(daemon, "src") == 16 and not pulls(daemon.qmp(), "c")


def test_failed_flatten_is_tried_at_the_next_start(vms, daemon, tmp_path):
    """A snapshot in the clone's image needs the backing files."""
    vms.start(chain(vms, 12))
    vms.write("src", 0, 1)
    vms.close()
    q = daemon.qmp()
    # Until a pull of another VM ends, the daemon begins no other.
    slow = vms.image("slow.qcow2", "64M", "-F", "qcow2", "-b", vms.image("base.qcow2")["path"])
    daemon.define("slow", memory="32M", disks=[{**slow, "backing": [vms.image("base.qcow2")]}],
                  boot={"kernel": vms.guest("interp.elf")})
    daemon.cairn("start", "slow")
    job = daemon.cairn("blockpull", "slow", "vda", "--bandwidth", "1", "--no-wait").stdout.strip()
    vms.fork("c")
    daemon.cairn("snapshot-create-as", "c", "s1")
    assert not pulls(q, "c")
    daemon.cairn("job-cancel", job)
    until(lambda: [j["status"] for j in pulls(q, "c")] == ["concluded"])
    assert "has internal snapshots" in pulls(q, "c")[0]["error"]
    daemon.cairn("snapshot-delete", "c", "s1")
    assert len(pulls(q, "c")) == 1 and layers(daemon, "c") == 13
    daemon.cairn("destroy", "c")
    daemon.cairn("start", "c")
    until(lambda: layers(daemon, "c") == 1)
    vms.holds("c", 0, 1)


def test_copies_of_a_clone_that_is_off_outlive_it(vms, daemon, tmp_path):
    vms.start(vms.image("a.qcow2"))
    vms.write("src", 0, 1)
    vms.fork("c")
    vms.write("c", 8192, 2)
    vms.leave("c")
    daemon.cairn("destroy", "c")
    daemon.cairn("clone", "c", "full")
    daemon.cairn("clone", "c", "image", "--snapshots")
    vms.end("c")
    vms.write("src", 0, 3)
    assert len(snapshots(tmp_path / "a.qcow2")) == 1
    for name in ("full", "image"):
        vms.boot(name)
        vms.holds(name, 0, 1)
        vms.holds(name, 8192, 2)
    vms.end("image")
    until(lambda: not snapshots(tmp_path / "a.qcow2"))
    vms.holds("full", 0, 1)


def test_isolated_clones_get_copies(vms, daemon, tmp_path):
    vms.start(vms.image("a.qcow2"))
    vms.write("src", 0, 1)
    assert vms.made(vms.fork("c", "--isolated")) == {"vda": "copy"}
    assert not snapshots(tmp_path / "a.qcow2")
    (disk,) = json.loads(daemon.cairn("dumpjson", "c").stdout)["disks"]
    assert "backing" not in disk
    files = set(open_files(daemon.info("c")["pid"]))
    assert str(tmp_path / "a.qcow2") not in files and str(vms.path("c")) in files
    vms.write("src", 0, 2)
    vms.holds("c", 0, 1)


@pytest.mark.parametrize("of", ["running VM", "snapshot", "snapshot of a VM that is off"])
def test_isolated_clone_of_a_clone_reads_no_other_image(vms, daemon, tmp_path, of):
    """Its disk has the content of all layers: of a plain backing file, of two pins, and what came after them."""
    base = vms.image("base.qcow2")
    subprocess.run(["qemu-io", "-c", "write -q -P 7 8M 1M", base["path"]], check=True)
    vms.start({**vms.image("a.qcow2", "64M", "-F", "qcow2", "-b", base["path"]), "backing": [base]})
    vms.write("src", 0, 1)
    vms.fork("b")
    vms.write("src", 0, 99)
    vms.write("b", 1000, 2)
    vms.fork("c", source="b")
    vms.write("b", 1000, 99)
    vms.write("c", 0, 3)
    vms.write("c", 2000, 4)
    args = []
    if of != "running VM":
        daemon.cairn("snapshot-create-as", "c", "s1")
        vms.write("c", 2000, 99)
        args = ["--snapshotname", "s1"]
    if of == "snapshot of a VM that is off":
        off(vms, daemon, "c")
    assert vms.made(vms.fork("d", "--isolated", "--count", "2", *args, source="c")) == {"vda": "copy"}
    if of == "running VM":
        vms.write("c", 2000, 99)
    (disk,) = json.loads(daemon.cairn("dumpjson", "d-1").stdout)["disks"]
    assert "backing" not in disk
    pid = daemon.info("d-1")["pid"]
    files = set(open_files(pid))
    assert [f for f in files if f.endswith(".qcow2")] == [str(vms.path("d-1"))]
    overlays = json.loads((daemon.state / "pins.json").read_text())["used"]
    assert sorted(os.path.basename(o["overlay"]) for o in overlays) == ["b-vda.qcow2", "c-vda.qcow2"]
    for name in ("c", "b", "src"):
        if (name, of) != ("c", "snapshot of a VM that is off"):
            off(vms, daemon, name)
        daemon.cairn("undefine", name, "--remove-all-storage", "--snapshots-metadata")
    for name in ("d-1", "d-2"):
        vms.holds(name, 0, 3)
        vms.holds(name, 1000, 2)
        vms.holds(name, 2000, 4)
        off(vms, daemon, name)
        subprocess.run(["qemu-img", "check", "-q", vms.path(name)], check=True)
        subprocess.run(["qemu-io", "-r", "-c", "read -q -P 7 8M 1M", vms.path(name)], check=True)
        vms.boot(name)
        vms.holds(name, 0, 3)


def test_isolated_clone_of_an_unknown_overlay_is_refused(vms, daemon, tmp_path):
    """The daemon's list lacks the overlay, but the VM's process sees the pin."""
    vms.start(vms.image("a.qcow2"))
    vms.fork("c")
    vms.close()
    daemon.stop()
    pins = daemon.state / "pins.json"
    pins.write_text(json.dumps({**json.loads(pins.read_text()), "used": []}))
    daemon.start()
    error = daemon.cairn("clone", "--live", "c", "d", "--isolated", ok=False).stderr
    assert "disk vda reads the image of another VM, and the daemon's list of pins lacks it" in error
    assert sorted(daemon.cairn("list", "--all", "--name").stdout.split()) == ["c", "src"]


def test_reason_of_each_copy_is_told(vms, daemon, tmp_path):
    raw = tmp_path / "b.raw"
    raw.write_bytes(bytes(MIB))
    vms.start(vms.image("a.qcow2"), {"path": str(raw), "format": "raw"}, vms.image("c.qcow2", "64M", "-o", "refcount_bits=1"))
    vms.write("src", 0, 1, 1)
    narrow = "refcounts of fewer than 8 bits"
    disks = vms.fork("c")["disks"]
    files = [vms.path("c"), tmp_path / "c-vdb.raw", vms.path("c", "vdc")]
    assert all(0 < d.pop("bytes") <= f.stat().st_blocks * 512 for d, f in zip(disks, files))
    assert disks == [{"id": "vda", "made": "overlay"}, {"id": "vdb", "made": "copy", "reason": "raw image"},
                     {"id": "vdc", "made": "copy", "reason": narrow}]
    vms.holds("c", 0, 1, 1)
    said = re.sub(r"[0-9.]+ [KM]iB", "N", told(daemon, "src", "d"))
    assert said == ("Domain 'src' cloned as 'd'\ncopied: disk vdb, N for each clone (raw image)\n"
                    f"copied: disk vdc, N for each clone ({narrow})\n")
    said = re.sub(r"[0-9.]+ [KM]iB", "N", daemon.cairn("clone", "--live", "src", "e", "--isolated", "--verbose").stdout)
    assert "disks: vda copy N (isolated), vdb copy N (raw image), vdc copy N (isolated)\n" in said
    assert "copied:" not in said


def test_image_with_narrow_refcounts_is_copied(vms, daemon, tmp_path):
    """The daemon cannot know that, and stores the clones' definitions again."""
    vms.start(vms.image("a.qcow2", "64M", "-o", "refcount_bits=1"), vms.image("b.qcow2"))
    vms.write("src", 0, 1)
    vms.write("src", 0, 2, 1)
    assert vms.made(vms.fork("c")) == {"vda": "copy", "vdb": "overlay"}
    vms.write("src", 0, 3)
    vms.write("src", 0, 4, 1)
    vms.leave("c")
    daemon.cairn("destroy", "c")
    daemon.stop()
    daemon.start()
    disks = json.loads(daemon.cairn("dumpjson", "c").stdout)["disks"]
    assert "backing" not in disks[0] and [b["path"] for b in disks[1]["backing"]] == [str(tmp_path / "b.qcow2")]
    vms.boot("c")
    vms.holds("c", 0, 1)
    vms.holds("c", 0, 2, 1)


# ---- killed processes ----

def test_killed_source_and_clone_lose_nothing(vms, daemon, tmp_path):
    vms.start(vms.image("a.qcow2"))
    vms.write("src", 0, 1)
    vms.fork("c", "--count", "2")
    vms.write("src", 0, 2)
    vms.write("c-1", 0, 3)
    for name in ("src", "c-1"):
        pid = daemon.info(name)["pid"]
        vms.leave(name)
        os.kill(pid, signal.SIGKILL)
        until(lambda: daemon.cairn("domstate", name).stdout not in ("running\n", "paused\n"))
    vms.holds("c-2", 0, 1)
    vms.boot("src")
    vms.boot("c-1")
    vms.holds("src", 0, 2)
    vms.holds("c-1", 0, 3)
    vms.write("src", 8192, 4)
    vms.holds("c-2", 0, 1)
    for name in ("c-1", "c-2"):
        vms.end(name)
    until(lambda: not snapshots(tmp_path / "a.qcow2"))


def test_killed_daemon_knows_the_pins_afterwards(vms, daemon, tmp_path):
    a = tmp_path / "a.qcow2"
    vms.start(vms.image("a.qcow2"))
    vms.write("src", 0, 1)
    vms.fork("c", "--count", "2")
    vms.close()
    daemon.stop(signal.SIGKILL)
    daemon.start()
    vms.end("c-1")
    vms.holds("c-2", 0, 1)
    assert len(snapshots(a)) == 1
    vms.leave("src")
    daemon.cairn("destroy", "src")
    vms.boot("src")
    vms.holds("src", 0, 1)
    assert len(snapshots(a)) == 1
    vms.close()
    daemon.cairn("destroy", "c-2")
    daemon.cairn("undefine", "c-2", "--remove-all-storage")
    until(lambda: not snapshots(a))


def test_daemon_killed_during_forks_leaves_no_pin(vms, daemon, tmp_path):
    """A kill at any step leaves each fork complete or gone, and no pin without a clone."""
    a = tmp_path / "a.qcow2"
    vms.start(vms.image("a.qcow2"))
    vms.write("src", 0, 1)
    vms.close()
    for i in range(5):
        q = daemon.qmp()
        q.run("vm-fork", vm="src", name=f"c{i}", count=2)
        for _ in range(2 * i):
            e = q.events.pop(0) if q.events else q.read()
            if e["data"].get("status") == "concluded":
                break
        daemon.stop(signal.SIGKILL)
        daemon.start()
        until(lambda: not list(daemon.state.glob("batches/*")))
        clones = [n for n in daemon.cairn("list", "--all", "--name").stdout.split() if n != "src"]
        assert len(clones) in (0, 2)
        for name in clones:
            vms.holds(name, 0, 1)
            vms.end(name)
        until(lambda: not snapshots(a))
    vms.holds("src", 0, 1)


def test_clone_that_waits_for_its_pin_ends_with_the_daemon(vms, daemon, tmp_path):
    """The source's disk is slow, so the clone's process waits for the pin when the daemon is killed."""
    if not shutil.which("strace"):
        pytest.skip("strace, which slows the disk's thread down, is missing")
    vms.start(vms.image("a.qcow2"))
    vms.close()
    pid = daemon.info("src")["pid"]
    thread, = (t.name for t in pathlib.Path(f"/proc/{pid}/task").iterdir() if thread_name(t) == "vda")
    q = daemon.qmp()
    slow = "inject=io_uring_enter,epoll_wait:delay_exit=300000"
    with subprocess.Popen(["strace", "-o", tmp_path / "calls", "-e", slow, "-p", thread]) as strace:
        until(lambda: (tmp_path / "calls").exists() or strace.poll() is not None)
        if strace.poll() is not None:
            pytest.skip("strace may not trace the VM's process")
        q.run("vm-fork", vm="src", name="copy")
        until(lambda: "copy" in daemon.cairn("list", "--all", "--name").stdout.split() and daemon.info("copy").get("pid"))
        clone = daemon.info("copy")["pid"]
        until(lambda: str(tmp_path / "a.qcow2") in open_files(clone))  # its configuration has come
        daemon.stop(signal.SIGKILL)
        until(lambda: not os.path.exists(f"/proc/{clone}"))
        strace.terminate()
    daemon.start()
    until(lambda: not list(daemon.state.glob("batches/*")))
    assert "copy" not in daemon.cairn("list", "--all", "--name").stdout


def pins_known(daemon):
    """Return the overlays of the list of pins, without the names of their disks."""
    rows = json.loads((daemon.state / "pins.json").read_text())["used"]
    return sorted(os.path.basename(r["overlay"])[:-len("-vda.qcow2")] for r in rows)


@pytest.mark.parametrize("loss", ["damaged", "missing", "a row"])
def test_lost_list_of_pins_is_built_again(vms, daemon, tmp_path, loss):
    a, pins = tmp_path / "a.qcow2", daemon.state / "pins.json"
    vms.start(vms.image("a.qcow2"))
    vms.write("src", 0, 1)
    vms.fork("c", "--count", "2")
    vms.fork("g", source="c-1")
    vms.fork("unknown")
    vms.leave("unknown")
    daemon.cairn("destroy", "unknown", "src")
    definition = daemon.cairn("dumpjson", "unknown").stdout
    daemon.cairn("undefine", "unknown")  # its image reads its pin still
    vms.close()
    daemon.stop()
    if loss == "damaged":
        pins.write_text("{")
    elif loss == "a row":
        o = json.loads(pins.read_text())
        o["used"][0]["pin"] = "?"
        pins.write_text(json.dumps(o))
    else:
        pins.unlink()
    daemon.start()
    known = pins_known(daemon)
    assert [n for n in known if n != "unknown"] == ["c-1", "c-2", "g"]
    assert pins.with_name("pins.json.damaged").exists() == (loss in ("damaged", "a row"))
    line, *_ = [l for l in json.loads(daemon.cairn("audit", "--format", "json").stdout) if "pins.json" in l.get("error", "")]
    assert f"{1 if loss == 'a row' else 3} added, 0 cannot be read" in line["error"]
    # The source starts beside its clones, and nothing is lost.
    vms.boot("src")
    vms.write("src", 0, 2)
    for name in ("c-1", "c-2", "g"):
        vms.holds(name, 0, 1)
    # A fork from after the loss lets go of its pin; the pins from before stay, because nobody knows who reads them.
    before = len(snapshots(a))
    vms.fork("late")
    assert len(snapshots(a)) == before + 1
    for name in ("late", "g", "c-1", "c-2"):
        vms.end(name)
    until(lambda: len(snapshots(a)) == before)
    assert "the disk of an unknown clone may read the pin" in daemon.log.read_text()
    vms.close()
    daemon.cairn("destroy", "src")
    (tmp_path / "unknown.json").write_text(definition)
    daemon.cairn("define", str(tmp_path / "unknown.json"))
    vms.boot("unknown")
    vms.holds("unknown", 0, 1)


def test_image_that_cannot_be_read_is_looked_at_again(vms, daemon, tmp_path):
    vms.start(vms.image("a.qcow2"))
    vms.write("src", 0, 1)
    vms.fork("c")
    vms.close()
    daemon.cairn("destroy", "src", "c")
    daemon.stop()
    (daemon.state / "pins.json").unlink()
    overlay = vms.path("c")
    away = overlay.with_suffix(".away")
    overlay.rename(away)
    overlay.symlink_to(overlay)  # ELOOP
    daemon.start()
    assert pins_known(daemon) == []
    assert "linked clones" in daemon.cairn("start", "src", ok=False).stderr
    daemon.stop()
    overlay.unlink()
    away.rename(overlay)
    daemon.start()
    assert pins_known(daemon) == ["c"]
    vms.boot("src")
    vms.boot("c")
    vms.holds("c", 0, 1)


def test_cancelled_and_failed_forks_leave_no_pin(vms, daemon, tmp_path):
    a = tmp_path / "a.qcow2"
    vms.start(vms.image("a.qcow2"))
    vms.path("c-2").write_text("mine")
    assert "exists" in daemon.cairn("clone", "--live", "src", "c", "--count", "3", ok=4).stderr
    until(lambda: not snapshots(a))
    vms.path("c-2").unlink()
    q = daemon.qmp()
    job = q.run("vm-fork", vm="src", name="c", count=8)["job"]
    try:
        q.run("job-cancel", id=job)
    except QmpError:  # the job has concluded already
        pass
    until(lambda: q.run("query-jobs", id=job)[0]["status"] == "concluded")
    for name in daemon.cairn("list", "--all", "--name").stdout.split():
        if name != "src":
            vms.end(name)
    until(lambda: not snapshots(a))
    assert not json.loads((daemon.state / "pins.json").read_text())["used"]


# ---- images copied, moved and removed by hand ----

def copy_by_hand(vms, daemon):
    """Copy the disk of the clone c. Return the keys of a definition with the copy."""
    off(vms, daemon, "c")
    shutil.copy(vms.path("c"), vms.path("copy"))
    d = json.loads(daemon.cairn("dumpjson", "c").stdout)
    d["disks"][0]["path"] = str(vms.path("copy"))
    return {k: v for k, v in d.items() if k not in ("name", "uuid", "interfaces")}


@pytest.mark.parametrize("source", ["running", "off"])
def test_overlay_that_was_copied_by_hand_keeps_its_pin(vms, daemon, tmp_path, source):
    a = tmp_path / "a.qcow2"
    vms.start(vms.image("a.qcow2"))
    vms.write("src", 0, 1)
    vms.fork("c")
    vms.write("c", 8192, 2)
    definition = copy_by_hand(vms, daemon)
    if source == "running":
        daemon.define("copy", **definition)
        vms.end("c")
    else:
        # The pin is due for deletion at the source's next start.
        off(vms, daemon)
        vms.end("c")
        daemon.define("copy", **definition)
        vms.boot("src")
    assert pins_known(daemon) == ["copy"]
    vms.write("src", 0, 3)
    vms.boot("copy")
    vms.holds("copy", 0, 1)
    vms.holds("copy", 8192, 2)
    # The source starts beside the copy.
    off(vms, daemon)
    vms.boot("src")
    assert len(snapshots(a)) == 1
    vms.end("copy")
    until(lambda: not snapshots(a))


def test_overlay_whose_pin_is_gone_is_refused_by_name(vms, daemon, tmp_path):
    vms.start(vms.image("a.qcow2"))
    vms.write("src", 0, 1)
    vms.fork("c")
    definition = copy_by_hand(vms, daemon)
    vms.end("c")
    until(lambda: not snapshots(tmp_path / "a.qcow2"))
    daemon.define("copy", **definition)
    assert "its pin (a hidden snapshot) was deleted, so the disk cannot be read" in \
        daemon.cairn("start", "copy", ok=False).stderr


def test_source_image_that_is_removed_or_moved_is_named(vms, daemon, tmp_path):
    """A clone that runs has it open. Its next start names the image."""
    a = tmp_path / "a.qcow2"
    vms.start(vms.image("a.qcow2"))
    vms.write("src", 0, 1)
    vms.fork("c")
    off(vms, daemon)
    daemon.cairn("domrename", "src", "renamed")
    vms.boot("renamed")
    vms.write("renamed", 0, 2)
    vms.holds("c", 0, 1)
    off(vms, daemon, "renamed")
    away = a.with_name("away.qcow2")
    a.rename(away)
    vms.holds("c", 0, 1)
    off(vms, daemon, "c")
    assert f"{a}: No such file or directory" in daemon.cairn("start", "c", ok=False).stderr
    # Another image of that name is not read.
    vms.image("a.qcow2")
    assert "its pin (a hidden snapshot) was deleted" in daemon.cairn("start", "c", ok=False).stderr
    away.rename(a)
    vms.boot("c")
    vms.holds("c", 0, 1)


def test_pin_that_qemu_img_deletes_is_refused_by_name(vms, daemon, tmp_path):
    a = tmp_path / "a.qcow2"
    vms.start(vms.image("a.qcow2"))
    vms.write("src", 0, 1)
    vms.fork("c")
    off(vms, daemon, "c")
    off(vms, daemon)
    pin = json.loads((daemon.state / "pins.json").read_text())["used"][0]["pin"].replace("-", "")
    subprocess.run(["qemu-img", "snapshot", "-d", f"cairn-pin-{pin}", a], check=True)
    assert "its pin (a hidden snapshot) was deleted" in daemon.cairn("start", "c", ok=False).stderr
    vms.boot("src")
    vms.holds("src", 0, 1)


# ---- disks of other kinds ----

def test_disk_with_a_data_file_is_refused_in_words(vms, daemon, tmp_path):
    disk = vms.image("a.qcow2", "64M", "-o", f"data_file={tmp_path}/a.data")
    vms.start({**disk, "data_file": str(tmp_path / "a.data")})
    error = daemon.cairn("clone", "--live", "src", "c", ok=False).stderr
    assert "disks[0]: has an external data file; live clones cannot copy it" in error
    assert daemon.cairn("list", "--all", "--name").stdout.split() == ["src"]


@pytest.mark.parametrize("fmt", ["raw", "qcow2"])
def test_backing_files_below_the_source_are_read(vms, daemon, tmp_path, fmt):
    """The source is an overlay itself: on a raw file, and on a chain of two."""
    base = tmp_path / "base"
    subprocess.run(["qemu-img", "create", "-q", "-f", fmt, base, "64M"], check=True)
    subprocess.run(["qemu-io", "-f", fmt, "-c", "write -q -P 7 16M 1M", base], check=True)
    middle = vms.image("middle.qcow2", "64M", "-F", fmt, "-b", base)
    vms.start({**vms.image("a.qcow2", "64M", "-F", "qcow2", "-b", middle["path"]),
               "backing": [middle, {"path": str(base), "format": fmt}]})
    vms.write("src", 0, 1)
    assert vms.made(vms.fork("c")) == {"vda": "overlay"}
    vms.write("src", 0, 2)
    vms.write("src", 32768, 3)  # at 16 MiB
    vms.holds("c", 0, 1)
    off(vms, daemon, "c")
    off(vms, daemon)
    img("convert", "-O", "raw", vms.path("c"), tmp_path / "c.raw")
    subprocess.run(["qemu-io", "-r", "-f", "raw", "-c", "read -q -P 7 16M 1M", tmp_path / "c.raw"], check=True)
    vms.boot("c")
    vms.holds("c", 0, 1)


# ---- other programs ----

def test_qemu_refuses_the_overlay(vms, daemon, tmp_path):
    vms.start(vms.image("a.qcow2"))
    vms.write("src", 0, 1)
    vms.fork("c")
    vms.close()
    daemon.cairn("destroy", "src", "c")
    for command in (["qemu-img", "convert", "-O", "raw", vms.path("c"), tmp_path / "raw"],
                    ["qemu-img", "compare", vms.path("c"), tmp_path / "a.qcow2"],
                    ["qemu-io", "-r", "-c", "read 0 64k", vms.path("c")],
                    ["qemu-nbd", "-r", "-f", "qcow2", "-k", tmp_path / "nbd.sock", vms.path("c")]):
        r = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert r.returncode and "cairn-fork" in r.stdout, command
    info = img("info", vms.path("c")).stdout
    assert "cairn-fork:" in info


@pytest.mark.skipif(shutil.which("virt-cat") is None, reason="virt-cat (package guestfs-tools) is missing")
def test_libguestfs_refuses_the_overlay(vms, daemon, tmp_path):
    vms.start(vms.image("a.qcow2"))
    vms.fork("c")
    vms.close()
    daemon.cairn("destroy", "src", "c")
    env = {**os.environ, "LIBGUESTFS_BACKEND": "direct", "LIBGUESTFS_DEBUG": "1", "LIBGUESTFS_CACHEDIR": str(tmp_path),
           "TMPDIR": str(tmp_path)}
    r = subprocess.run(["virt-cat", "-a", vms.path("c"), "/etc/hostname"], env=env, text=True, stdin=subprocess.DEVNULL,
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert r.returncode and not r.stdout and "Unknown protocol 'cairn-fork'" in r.stderr
