"""Clones of clones: chains of layers, and their flattening in the background."""

import json
import os
import signal
import subprocess

import pytest

from conftest import open_files, until
from forkpinlib import img, off, pins_in, snapshots, told, vms  # noqa: F401 (vms is a fixture)


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
