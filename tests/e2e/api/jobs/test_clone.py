"""Clones of VMs that are off, full and linked; templates; identities."""

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import time
import uuid

import pytest

import pinlib
from conftest import BUILD, Console, QmpError, until
from daemonlib import NOBODY, as_nobody, shared  # noqa: F401
from mountlib import tmpfs
from test_rights import files  # noqa: F401
from test_undefine import disk, image, names


def fill(path, seed, fmt="qcow2", span="0 256k"):
    subprocess.run(["qemu-io", "-f", fmt, "-c", f"write -P {seed} {span}", path], check=True, stdout=subprocess.PIPE)


def same(a, b):
    return subprocess.run(["qemu-img", "compare", "-U", "-q", a, b]).returncode == 0


def checked(path):
    return subprocess.run(["qemu-img", "check", "-U", "-q", path]).returncode == 0


def info(path):
    return json.loads(subprocess.run(["qemu-img", "info", "-U", "--output", "json", path], check=True,
                                     capture_output=True).stdout)


def definition(daemon, name):
    return json.loads(daemon.cairn("dumpjson", name).stdout)


@pytest.fixture
def web(daemon, tmp_path):
    """web1: a qcow2 disk named after it, a raw one that is not, a read-only one, and an interface."""
    a, b, c = image(tmp_path, "web1.qcow2"), image(tmp_path, "data.img", "raw"), image(tmp_path, "c.iso", "raw")
    fill(a, 1)
    fill(b, 2, "raw")
    daemon.define("web1", title="the web server",
                  disks=[disk(a, serial="ROOT"), disk(b, "raw"), disk(c, "raw", readonly=True)])
    return a, b, c


def test_full_clone_has_same_content_and_new_identity(daemon, tmp_path, web):
    a, b, c = web
    r = daemon.cairn("clone", "web1", "web2", "--dry-run", "--format", "json")
    new_a, new_b = tmp_path / "web2.qcow2", tmp_path / "web2-vdb.raw"
    assert json.loads(r.stdout) == {"clones": [{"name": "web2", "disks": [
        {"id": "vda", "path": str(new_a), "from": str(a)}, {"id": "vdb", "path": str(new_b), "from": str(b)}]}]}
    assert names(daemon) == ["web1"] and not new_a.exists()
    assert daemon.cairn("clone", "web1", "web2").stdout == "Domain 'web1' cloned as 'web2'\n"
    assert same(a, new_a) and same(b, new_b) and checked(new_a)
    d = definition(daemon, "web2")
    assert [x["path"] for x in d["disks"]] == [str(new_a), str(new_b), str(c)]
    assert d["uuid"] != definition(daemon, "web1")["uuid"] and d["title"] == "the web server"
    assert d["disks"][0]["serial"] == "ROOT" and not d["disks"][0].get("backing")
    # The clones share nothing.
    daemon.cairn("undefine", "web1", "--remove-all-storage")
    assert checked(new_a) and not a.exists()


def test_virt_clones_options_mean_the_same(daemon, tmp_path, web):
    for args, name in (("-o web1 -n web2", "web2"), ("--original web1 --name web3", "web3"), ("--original web1 --auto-clone", "web1-clone"),
                       ("-o web1 --auto-clone", "web1-clone1"), ("web1-clone --auto-clone", "web1-clone2"),
                       ("web1 named --auto-clone", "named")):
        assert daemon.cairn("clone", *args.split()).stdout.endswith(f" cloned as '{name}'\n")
    daemon.cairn("clone", "-o", "web1", "-n", "web4", "-f", str(tmp_path / "x.img"), "--file", str(tmp_path / "y.img"))
    assert [x["path"] for x in definition(daemon, "web4")["disks"]][:2] == [str(tmp_path / "x.img"), str(tmp_path / "y.img")]
    assert "clone needs NAME, --name-pattern or --auto-clone" in daemon.cairn("clone", "-o", "web1", ok=2).stderr
    assert "-o needs a value" in daemon.cairn("clone", "-o", ok=2).stderr
    assert "has no option -o" in daemon.cairn("start", "-o", "web1", ok=2).stderr


def test_linked_clones_use_source_disks_as_backing_files(daemon, tmp_path, web):
    a, b, c = web
    r = daemon.cairn("clone", "web1", "--linked", "--count", "3", "--name-pattern", "web-%02d")
    assert r.stdout == "Domain 'web1' cloned 3 times, as 'web-01' to 'web-03'\n"
    for i in ("01", "02", "03"):
        x, y = tmp_path / f"web-{i}.qcow2", tmp_path / f"web-{i}-vdb.qcow2"
        assert same(a, x) and same(b, y) and x.stat().st_size < 1 << 20
        assert info(x)["full-backing-filename"] == str(a) and info(x)["backing-filename-format"] == "qcow2"
        assert info(y)["full-backing-filename"] == str(b) and info(y)["backing-filename-format"] == "raw"
        d = definition(daemon, f"web-{i}")["disks"]
        assert [(l["path"], l["format"]) for l in d[0]["backing"]] == [(str(a), "qcow2")]
        assert [(l["path"], l["format"]) for l in d[1]["backing"]] == [(str(b), "raw")]
        assert d[2]["path"] == str(c)
    # A clone of a clone.
    daemon.cairn("clone", "web-01", "deep", "--linked")
    assert [l["path"] for l in definition(daemon, "deep")["disks"][0]["backing"]] == [
        str(tmp_path / "web-01.qcow2"), str(a)]
    # A full clone of the clone needs no backing file.
    daemon.cairn("clone", "deep", "flat", "--full")
    assert same(a, tmp_path / "flat.qcow2") and "backing-filename" not in info(tmp_path / "flat.qcow2")
    assert not definition(daemon, "flat")["disks"][0].get("backing")
    # The backing file is not written to.
    clones = "web-01, web-02, web-03, deep"
    for args in (["start", "web1"], ["snapshot-create-as", "web1", "s"]):
        r = daemon.cairn(*args, ok=4)
        assert "VM 'web1': cannot " in r.stderr and "deep, web-01, web-02, web-03" in r.stderr, (r.stderr, clones)
    assert "used by VM 'deep'" in daemon.cairn("undefine", "web1", "--remove-all-storage", ok=6).stderr
    daemon.cairn("undefine", "deep", "--remove-all-storage")
    daemon.cairn("undefine", "web-01", "web-02", "web-03", "--remove-all-storage")
    daemon.cairn("undefine", "web1", "--remove-all-storage")
    assert c.exists() and not a.exists() and names(daemon) == ["flat"]


def test_image_of_another_vm_has_one_path(daemon, tmp_path):
    """image_users.c compares paths as text. By another path, a revert of the source changed its linked clones."""
    folder = tmp_path / "images"
    folder.mkdir()
    os.symlink(folder, tmp_path / "alias")
    for name in ("a", "cd"):
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", folder / name, "1M"], check=True)

    def disk(path, **keys):
        return {"path": str(path), "format": "qcow2", **keys}

    def refused(name, disks, says):
        assert says in daemon.cairn("define", daemon.write(name, disks=disks), ok=2).stderr
    daemon.define("src", disks=[disk(folder / "a"), disk(folder / "cd", readonly=True)])
    daemon.cairn("clone", "src", "clone", "--linked", "--file", str(tmp_path / "b"))
    same = f"disk vda: {tmp_path}/alias/a is the same file as {folder}/a, an image of VM "
    refused("src", [disk(tmp_path / "alias/a")], f"{same}'clone'; name it by that path")
    refused("other", [disk(tmp_path / "alias/a")], same)
    refused("other", [disk(tmp_path / "alias/a", readonly=True)], same)
    refused("other", [disk(tmp_path / "b", backing=[disk(tmp_path / "alias/a")])], same)
    os.symlink(folder / "a", tmp_path / "current")
    os.link(folder / "a", tmp_path / "hard")
    for name in ("current", "hard"):
        refused("other", [disk(tmp_path / name)], f"disk vda: {tmp_path}/{name} is the same file as {folder}/a, an image of VM ")
    os.unlink(tmp_path / "hard")
    # A VM keeps the paths that it has; two VMs may read a file by two paths; another file may have that name.
    (folder / "a").rename(folder / "c")
    os.link(folder / "c", tmp_path / "a")
    daemon.define("old", disks=[disk(tmp_path / "a")])
    os.symlink("c", folder / "a")
    daemon.define("old", disks=[disk(tmp_path / "a")], memory="64M")
    daemon.define("reader", disks=[disk(tmp_path / "alias/cd", readonly=True)])
    (folder / "other").mkdir()
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", folder / "other/a", "1M"], check=True)
    daemon.define("new", disks=[disk(folder / "other/a")])


@pytest.fixture
def removed_overlay(daemon, tmp_path):
    """src and its disk, and the path of an overlay that read the disk at a pin. Somebody has removed its file."""
    source, overlay = image(tmp_path, "src.qcow2"), tmp_path / "c.qcow2"
    daemon.define("src", disks=[disk(source)])
    pinlib.header_write(overlay, source, 32 * "a")
    daemon.define("c", disks=[disk(overlay, backing=[disk(source)])])
    daemon.cairn("undefine", "c")
    overlay.unlink()
    assert overlays(daemon) == [str(overlay)]
    return source, overlay


def overlays(daemon):
    return [row["overlay"] for row in json.loads((daemon.state / "pins.json").read_text())["used"]]


def source_is_protected(daemon):
    assert "linked clones have its disks as backing files (c)" in daemon.cairn("snapshot-create-as", "src", "s", ok=4).stderr
    assert overlays(daemon) == []


def test_linked_clone_in_place_of_a_removed_live_clone_protects_its_source(daemon, removed_overlay):
    daemon.cairn("clone", "src", "c", "--linked")
    source_is_protected(daemon)


@pytest.mark.parametrize("listed", ["removed", "of a VM"])
def test_overlay_in_place_of_a_removed_live_clone_protects_its_source(daemon, removed_overlay, listed):
    source, overlay = removed_overlay
    if listed == "of a VM":
        pinlib.header_write(overlay, source, 32 * "a")
        daemon.define("c", disks=[disk(overlay, backing=[disk(source)])])
        overlay.unlink()
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", source, "-F", "qcow2", overlay], check=True)
    daemon.define("c", disks=[disk(overlay, backing=[disk(source)])])
    source_is_protected(daemon)


def test_full_clone_in_place_of_a_removed_live_clone_is_no_overlay(daemon, removed_overlay):
    daemon.cairn("clone", "src", "c", "--full")
    assert overlays(daemon) == []


def test_overlay_that_the_list_of_pins_cannot_get_is_refused(daemon, tmp_path):
    """Its pin might be deleted."""
    source, overlay = image(tmp_path, "src.qcow2"), tmp_path / "c.qcow2"
    pinlib.header_write(overlay, source, 32 * "a")
    pins = daemon.state / "pins.json"
    pins.unlink(missing_ok=True)
    pins.mkdir()
    c = daemon.write("c", disks=[disk(overlay, backing=[disk(source)])])
    assert "pins.json: Is a directory" in daemon.cairn("define", c, ok=False).stderr
    assert names(daemon) == []
    pins.rmdir()
    daemon.cairn("define", c)
    assert overlays(daemon) == [str(overlay)]


def test_running_clones_leave_source_unchanged(daemon, tmp_path, kvm, guest):
    a = image(tmp_path, "src.qcow2")
    fill(a, 7)
    daemon.define("src", boot={"kernel": guest("interp.elf")}, disks=[disk(a)], debug_exit=True)
    daemon.cairn("template", "src")
    before = a.read_bytes()
    daemon.cairn("clone", "src", "c", "--linked", "--count", "2")
    daemon.cairn("start", "c-1", "c-2")  # at once: nobody uses the source any more
    for i in (1, 2):
        con = Console(daemon, f"c-{i}")
        while con.line() != "interp":
            pass
        con.run("open 0")
        sums = con.run("sum 0 64")
        con.run(f"write 0 8 {i}")
        assert con.run("sum 0 64") != sums
        con.close()
    daemon.cairn("clone", "src", "c3", "--linked")  # while other clones run
    daemon.cairn("clone", "src", "c4")
    assert daemon.cairn("snapshot-list", "src", "--name").stdout.strip() == ""
    daemon.cairn("snapshot-create-as", "c-1", "s1")
    daemon.cairn("destroy", "c-1", "c-2")
    assert a.read_bytes() == before and same(a, tmp_path / "c3.qcow2") and same(a, tmp_path / "c4.qcow2")
    assert not same(tmp_path / "c-1.qcow2", tmp_path / "c-2.qcow2")


def test_snapshots_are_left_out_or_taken_along(daemon, tmp_path):
    a = image(tmp_path, "web1.qcow2")
    fill(a, 1)
    daemon.define("web1", disks=[disk(a)])
    daemon.cairn("snapshot-create-as", "web1", "s1")
    fill(a, 2)
    daemon.cairn("clone", "web1", "bare")
    daemon.cairn("clone", "web1", "whole", "--snapshots")
    assert same(a, tmp_path / "bare.qcow2") and same(a, tmp_path / "whole.qcow2")
    assert checked(tmp_path / "bare.qcow2") and checked(tmp_path / "whole.qcow2")
    assert "snapshots" not in info(tmp_path / "bare.qcow2")
    assert daemon.cairn("snapshot-list", "whole", "--name").stdout.split() == ["s1"]
    daemon.cairn("snapshot-revert", "whole", "s1")
    assert not same(a, tmp_path / "whole.qcow2")
    assert "--snapshots requires --full" in daemon.cairn("clone", "web1", "x", "--linked", "--snapshots", ok=False).stderr


def test_taken_names_are_refused_before_any_work(daemon, tmp_path, web):
    a, b, c = web
    daemon.define("other", disks=[disk(image(tmp_path, "o.qcow2"))],
                  interfaces=[{"type": "user", "mac": "52:54:00:00:00:07"}])
    before = sorted(os.listdir(tmp_path))

    def refused(code, words, *args):
        r = daemon.cairn("clone", *args, ok=None)
        assert words in r.stderr and r.returncode == code, r
        assert sorted(os.listdir(tmp_path)) == before and names(daemon) == ["other", "web1"]

    taken = definition(daemon, "other")["uuid"]
    refused(4, "there is a VM 'other' already", "web1", "other")
    refused(4, "taken by VM 'other'", "web1", "n", "--uuid", taken)
    refused(4, "belongs to VM 'other'", "web1", "n", "--file", str(tmp_path / "o.qcow2"), "--file", "x")
    refused(4, "exists, so it cannot become the disk of a clone", "web1", "n", "--file", str(tmp_path / "new"), "--file",
            str(tmp_path / "kernel"))
    refused(2, "files: give one for each disk that the VM writes to", "web1", "n", "--file", "x")
    refused(2, "require a single clone", "web1", "n", "--count", "2", "--uuid", taken)
    refused(2, "count: 1001 is out of range; give 1 to 1000", "web1", "n", "--count", "1001")
    refused(2, "must have one number, as", "web1", "--name-pattern", "%s%d", "--count", "2")
    refused(2, "must have one number, as", "web1", "--name-pattern", "web", "--count", "2")
    refused(2, "to number the clones: --name-pattern web%d in place of NAME", "web1", "web%d", "--count", "2")
    refused(2, "error: name: must not have a \"/\"", "web1", "../up")
    refused(2, "clone needs NAME", "web1")
    refused(2, "exclude each other", "web1", "n", "--linked", "--full")
    refused(2, "exclude each other", "web1", "n", "--linked", "--live")
    refused(2, "--full exclude each other", "web1", "n", "--live", "--snapshotname", "s", "--full")
    for kind in ("--full", "--linked"):
        refused(2, "requires --live. For a clone that is off: cairn export web1 FILE --snapshotname s",
                "web1", "n", "--snapshotname", "s", kind)
    refused(3, "nobody", "nobody", "n")
    (tmp_path / "w-2.qcow2").write_bytes(b"mine")
    before = sorted(os.listdir(tmp_path))
    refused(4, "exists, so it cannot become the disk of a clone", "web1", "w", "--count", "3")
    r = daemon.cairn("clone", "other", "mac", "--mac", "52:54:00:00:00:07", ok=None)
    assert "is taken by VM 'other'" in r.stderr
    # The next daemon would refuse to load a definition with one of these names.
    refused(2, "multicast", "other", "n", "--mac", "01:00:5e:00:00:01")
    refused(2, "all zeros", "other", "n", "--mac", "00:00:00:00:00:00")
    refused(2, "is not a MAC address", "other", "n", "--mac", "zz")
    refused(2, "macs: has 1 addresses, but the VM has only 0 interfaces", "web1", "n", "--mac", "52:54:00:00:00:08")
    daemon.cairn("clone", "other", "mac")
    assert definition(daemon, "mac")["interfaces"][0]["mac"] not in ("52:54:00:00:00:07", None)
    (tmp_path / "sub").mkdir()
    daemon.cairn("clone", "web1", "there", "--file", "sub/a.qcow2", "--file", "sub/b.raw", cwd=tmp_path)
    assert same(a, tmp_path / "sub/a.qcow2") and same(b, tmp_path / "sub/b.raw")


def test_clone_of_running_vm_is_refused(daemon, tmp_path, kvm, guest):
    a = image(tmp_path, "v.qcow2")
    daemon.define("v", boot={"kernel": guest("idle.elf")}, disks=[disk(a)])
    daemon.cairn("start", "v")
    for args in (["--full"], ["--linked"]):
        r = daemon.cairn("clone", "v", "n", *args, ok=4)
        assert "VM 'v' is running, and its disks would change during the copy" in r.stderr and "cairn clone --live v NAME" in r.stderr
    assert "template works when it is shut off" in daemon.cairn("template", "v", ok=4).stderr
    daemon.cairn("managedsave", "v")
    assert "has a managed save" in daemon.cairn("clone", "v", "n", ok=4).stderr
    assert names(daemon) == ["v"]


def test_template_cannot_start_and_can_be_cloned(daemon, web):
    assert daemon.cairn("template", "web1").stdout == "Domain 'web1' is a template\n"
    daemon.cairn("template", "web1")
    for restart in (False, True):
        if restart:
            daemon.stop(signal.SIGKILL)
            daemon.start()
        r = daemon.cairn("start", "web1", ok=4)
        assert "VM 'web1' is a template: cannot start. Next: cairn clone --linked web1 NAME" in r.stderr
        assert daemon.cairn("list", "--template", "--name").stdout.split() == ["web1"]
        assert "Template:       yes\n" in daemon.cairn("dominfo", "web1").stdout
        daemon.cairn("snapshot-create-as", "web1", "s", ok=4)
        daemon.cairn("clone", "web1", f"c{restart}", "--linked")
    for args in (["template", "web1", "--disable"], ["undefine", "web1"], ["undefine", "web1", "--remove-all-storage"]):
        assert "is the template of linked clones (cFalse, cTrue); undefine them first" in daemon.cairn(*args, ok=4).stderr
    daemon.cairn("undefine", "cFalse", "cTrue", "--remove-all-storage")
    assert daemon.cairn("template", "web1", "--disable").stdout == "Domain 'web1' is no longer a template\n"
    assert "Template" not in daemon.cairn("dominfo", "web1").stdout
    daemon.define("web1", disks=[disk(web[0])])
    daemon.cairn("snapshot-create-as", "web1", "s")
    daemon.cairn("template", "web1")
    assert daemon.cairn("snapshot-list", "web1", "--name").stdout.split() == ["s"]
    daemon.cairn("undefine", "web1", "--snapshots-metadata")


NEXT = "Next: cairn clone --linked web1 NAME, or cairn template --disable web1"

CHANGES = [
    ["setmem", "web1", "64M"], ["setvcpus", "web1", "1"], ["desc", "web1", "another"], ["domrename", "web1", "web9"],
    ["attach-disk", "web1", "{disk}", "vdx", "--subdriver", "qcow2"], ["detach-disk", "web1", "vdb"], ["change-media", "web1", "vdc", "--eject"],
    ["attach-interface", "web1", "user"], ["detach-interface", "web1", "user"], ["autostart", "web1"],
    ["snapshot-create-as", "web1", "s2"], ["snapshot-revert", "web1", "s1"], ["snapshot-delete", "web1", "s1"],
    ["snapshot-schedule", "web1", "--every", "1h", "--keep", "3"], ["start", "web1"], ["define", "{again}"],
]


def test_changes_of_a_template_are_refused(daemon, tmp_path, monkeypatch):
    a = image(tmp_path, "web1.qcow2")
    d = dict(disks=[disk(a), disk(image(tmp_path, "b.qcow2")), disk(image(tmp_path, "c.iso", "raw"), "raw", readonly=True, device="cdrom")],
             interfaces=[{"type": "user"}])
    daemon.define("web1", **d)
    daemon.cairn("snapshot-create-as", "web1", "s1")
    daemon.cairn("template", "web1")
    before, was = definition(daemon, "web1"), a.read_bytes()
    files = {"{disk}": str(image(tmp_path, "x.qcow2")), "{again}": str(daemon.write("web1", memory="64M", **d))}
    for args in CHANGES:
        r = daemon.cairn(*[files.get(x, x) for x in args], ok=4)
        assert "VM 'web1' is a template: cannot " in r.stderr and NEXT in r.stderr, r
    monkeypatch.setitem(daemon.env, "EDITOR", "sed -i s/32M/64M/")
    assert NEXT in daemon.cairn("edit", "web1", ok=False).stderr
    assert definition(daemon, "web1") == before and a.read_bytes() == was
    assert names(daemon) == ["web1"] and daemon.cairn("snapshot-list", "web1", "--name").stdout.split() == ["s1"]
    # Another VM that uses the template's disk cannot change it either.
    daemon.define("thief", disks=[disk(a)])
    for args in (["start", "thief"], ["snapshot-create-as", "thief", "s"]):
        assert "its disk vda is also a disk of the template 'web1'" in daemon.cairn(*args, ok=4).stderr
    daemon.cairn("snapshot-list", "thief")
    assert a.read_bytes() == was
    daemon.cairn("undefine", "thief", "--snapshots-metadata")
    # Once web1 is no template any more, the changes succeed.
    daemon.cairn("template", "web1", "--disable")
    for args in CHANGES[:2]:
        daemon.cairn(*args)
    assert definition(daemon, "web1") != before


def test_imported_and_reverted_templates(daemon, tmp_path, kvm, guest):
    a = image(tmp_path, "src.qcow2")
    fill(a, 7)
    daemon.define("src", boot={"kernel": guest("interp.elf")}, disks=[disk(a)])
    daemon.cairn("start", "src")
    con = Console(daemon, "src")
    while con.line() != "interp":
        pass
    con.close()
    daemon.cairn("snapshot-create-as", "src", "s1")
    daemon.cairn("destroy", "src")
    daemon.cairn("template", "src")
    was = a.read_bytes()
    # A snapshot from before it was a template starts in a clone.
    daemon.cairn("clone", "--live", "--snapshotname", "s1", "src", "went-on")
    assert daemon.info("went-on")["state"] in ("running", "idle")
    # An imported VM is no template.
    for more in ([], ["--snapshotname", "s1"]):
        daemon.cairn("export", "src", "x.tar", "--force", *more, cwd=tmp_path)
        daemon.cairn("import", "x.tar", "--name", "again", cwd=tmp_path)
        assert daemon.cairn("list", "--template", "--name").stdout.split() == ["src"]
        daemon.cairn("start", "again")
        daemon.cairn("destroy", "again")
        daemon.cairn("undefine", "again", "--remove-all-storage", "--snapshots-metadata")
    # While a linked clone runs, no tool writes to its backing file.
    daemon.cairn("clone", "src", "linked", "--linked")
    daemon.cairn("start", "linked")
    for args in (["snapshot", "-c", "x", a], ["resize", a, "2M"], ["check", "-r", "all", a]):
        r = subprocess.run([os.path.join(BUILD, "cairn-img"), *args], capture_output=True, text=True)
        assert r.returncode == 1 and "is in use by another process" in r.stderr, r
    daemon.cairn("destroy", "linked", "went-on")
    assert a.read_bytes() == was
    # A full clone is independent: the template may be deleted.
    daemon.cairn("clone", "src", "full", "--full")
    daemon.cairn("undefine", "linked", "went-on", "--remove-all-storage")
    daemon.cairn("undefine", "src", "--remove-all-storage", "--snapshots-metadata")
    assert not a.exists() and checked(tmp_path / "full.qcow2")
    daemon.cairn("start", "full")


# ---- rights ----

def test_clone_is_made_with_rights_of_sources_definer(shared, files, kvm):  # noqa: F811
    shared.stop()
    shared.vm_program = None  # a real one: it works on images
    shared.start()
    a = image(files, "mine.qcow2")
    os.chown(a, NOBODY, NOBODY)
    d = {"name": "src", "memory": "32M", "boot": {"kernel": str(shared.tmp / "kernel")}, "disks": [disk(a)]}
    assert "return" in as_nobody(shared, ["vm-define", {"definition": d}])[0]
    shared.cairn("clone", "src", "c")  # root asks, and the VM is nobody's all the same
    shared.cairn("clone", "src", "l", "--linked")
    for n in ("c-vda.qcow2", "l-vda.qcow2"):
        assert (files / n).stat().st_uid == NOBODY and same(a, files / n)
    assert "kernel: neither" in shared.cairn("start", "l", ok=2).stderr  # its disks were opened before
    # No clone where that user may not write.
    os.chown(files, 0, 0)
    r = shared.cairn("clone", "src", "no", ok=5)
    assert f"Permission denied (for user {NOBODY}" in r.stderr and "no" not in names(shared)
    # Another admin's path is not opened with root's rights.
    shared.cairn("define", shared.write("roots", disks=[disk(shared.tmp / "disks/roots.raw", "raw")]))
    e = as_nobody(shared, ["vm-clone", {"vm": "roots", "name": "x", "files": ["/etc/cairn-was-here"]}])[0]["error"]
    assert e["class"] == "PermissionDenied" and "disks are another user's" in e["desc"]
    assert not os.path.exists("/etc/cairn-was-here")


def test_clone_by_non_admin_is_denied(shared):  # noqa: F811
    shared.cairn("grant", "owner", "mine", "--user", "nobody")
    for command in (["vm-clone", {"vm": "mine", "name": "x"}], ["vm-fork", {"vm": "mine", "name": "x"}]):
        e = as_nobody(shared, command)[0]["error"]
        assert (e["class"], e["desc"]) == ("PermissionDenied", f"{command[0]} makes VMs, which requires the role admin for all VMs, or creator "
                                           "for VMs of your own; an admin can change your role with cairn grant")


# ---- failures ----

def made(tmp_path):
    return sorted(p.name for p in tmp_path.iterdir() if p.name.startswith("n"))


def test_clone_leaves_nothing_when_disk_is_full(daemon, tmp_path):
    with tmpfs(tmp_path / "small", "6m") as small:
        a = image(small, "src.raw", "raw")
        os.truncate(a, 4 << 20)
        fill(a, 3, "raw", "0 4M")
        daemon.define("src", disks=[disk(a, "raw")])
        for args in (["n"], ["n", "--count", "3"]):
            r = daemon.cairn("clone", "src", *args, ok=None)
            assert "No space left" in r.stderr and r.returncode == 1, r
            assert os.listdir(small) == ["src.raw"] and names(daemon) == ["src"]


@pytest.fixture
def large(daemon, tmp_path):
    a = image(tmp_path, "src.qcow2")
    subprocess.run(["qemu-img", "resize", "-q", a, "96M"], check=True)
    fill(a, 5, span="0 90M")
    daemon.define("src", disks=[disk(a)])
    return a


def clone_begin(daemon, **args):
    q = daemon.qmp()
    return q, q.run("vm-clone", vm="src", name="n", **args)["job"]


def away(daemon):
    """Undefine a clone that was complete before the interruption."""
    daemon.cairn("undefine", *(n for n in names(daemon) if n != "src"), "--remove-all-storage")


def test_cancelled_clone_leaves_nothing(daemon, tmp_path, large):
    while True:
        q, job = clone_begin(daemon, count=8)
        until(lambda: made(tmp_path))
        try:
            q.run("job-cancel", id=job)
            break
        except QmpError as e:
            assert "cannot accept" in e.desc  # already complete: try again
            away(daemon)
            q.run("job-dismiss", id=job)
    q.event("JOB_STATUS_CHANGE", id=job, status="concluded")
    (j,) = q.run("query-jobs", id=job)
    assert j["error-class"] == "Cancelled" and made(tmp_path) == [] and names(daemon) == ["src"]
    daemon.cairn("clone", "src", "n")
    assert same(large, tmp_path / "n.qcow2")


def test_clone_uses_definition_from_its_request(daemon, tmp_path, large):
    """The clones match the source's definition at the time of the request."""
    q, job = clone_begin(daemon, count=6)
    until(lambda: made(tmp_path))
    daemon.define("src", disks=[disk(image(tmp_path, "other.qcow2"), readonly=True)])
    q.event("JOB_STATUS_CHANGE", id=job, status="concluded")
    (j,) = q.run("query-jobs", id=job)
    assert j["result"]["count"] == 6
    assert all(same(large, tmp_path / f"n-{i}.qcow2") for i in range(1, 7))


def test_clone_fails_when_copying_process_dies(daemon, tmp_path, large):
    while True:
        q, job = clone_begin(daemon, count=4)
        until(lambda: made(tmp_path))
        while (j := q.run("query-jobs", id=job)[0])["status"] != "concluded":  # the process may begin after its images
            for pid in daemon.children():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if "error" in j:
            break
        away(daemon)  # already complete: try again
    assert made(tmp_path) == [] and names(daemon) == ["src"]


def unfinished(daemon):
    return list(daemon.state.glob("batches/*"))


@pytest.mark.parametrize("kind", ["linked", "full"])
def test_killed_daemon_leaves_all_clones_or_none(daemon, tmp_path, large, kind):
    rnd = random.Random(8)
    for i in range(8):
        clone_begin(daemon, count=3, kind=kind)
        time.sleep(rnd.random() * (0.04 if kind == "linked" else 0.25))
        daemon.stop(signal.SIGKILL)
        daemon.start()
        until(lambda: not unfinished(daemon))
        assert (len(names(daemon)), len(made(tmp_path))) in ((1, 0), (4, 3))
        if made(tmp_path):
            assert all(same(large, tmp_path / n) for n in made(tmp_path))
            daemon.cairn("undefine", "n-1", "n-2", "n-3", "--remove-all-storage")
        until(lambda: os.listdir(daemon.state / "vms") == ["src"])  # written behind
    daemon.cairn("clone", "src", "n", "--count", "3", "--" + kind)  # another try succeeds
    assert len(made(tmp_path)) == 3


def test_next_daemon_removes_unfinished_clones_only(daemon, tmp_path):
    """The batch file ends in one last step. A daemon that starts before that step removes all clones, and a later one
    none."""
    daemon.define("src", disks=[disk(image(tmp_path, "src.qcow2"))])
    daemon.cairn("clone", "src", "n", "--count", "5")
    assert unfinished(daemon) == []
    uuids = {n: definition(daemon, n)["uuid"] for n in names(daemon)}
    daemon.stop(signal.SIGKILL)
    uuids["n-4"], uuids["n-9"] = str(uuid.uuid4()), uuids["src"]  # a name, and a uuid that belongs to another VM by now
    planned = [{"name": n, "uuid": uuids[n]} for n in ("n-1", "n-3", "n-4", "n-9", "n-2")]
    (daemon.state / "batches/x.json").write_text(json.dumps({"version": 1, "vms": planned[1:]}))
    # A file that existed before the clone belongs to somebody else. A fork may have stored the definition again since.
    (daemon.state / "batches/w.json").write_text(json.dumps({"version": 1, "vms": planned[:1], "redefines": True}))
    os.utime(daemon.state / "batches/w.json", (1.5e9, 1.5e9))
    for name in "n-1", "n-2":
        os.utime(daemon.state / f"vms/{name}/definition.json", (4e9, 4e9))
    (daemon.state / "batches/y.json.tmp").write_text("{")
    (daemon.state / "batches/z.json").write_text(json.dumps({"version": 1, "end": [{"name": "n-5", "uuid": uuids["n-5"]}]}))
    daemon.start()
    until(lambda: not unfinished(daemon))
    assert names(daemon) == ["n-4", "n-5", "src"]
    assert made(tmp_path) == ["n-2.qcow2", "n-4.qcow2", "n-5.qcow2"]
    # Older daemons marked each clone separately.
    daemon.stop(signal.SIGKILL)
    (daemon.state / "vms/n-4/clone.pending").write_text("")
    daemon.start()
    until(lambda: names(daemon) == ["n-5", "src"])
    assert made(tmp_path) == ["n-2.qcow2", "n-5.qcow2"]
    until(lambda: sorted(os.listdir(daemon.state / "vms")) == ["n-5", "src"])


def test_next_daemon_removes_unfinished_clone_whose_definition_a_power_cut_damaged(daemon, tmp_path, large):
    """Its files go with it, but no damaged definition that is not the batch's."""
    clone_begin(daemon, count=2, kind="full")
    until(lambda: made(tmp_path) and (daemon.state / "vms/n-1/definition.json").exists())
    daemon.stop(signal.SIGKILL)
    assert len(unfinished(daemon)) == 1
    (daemon.state / "vms/n-1/definition.json").write_text("")
    (daemon.state / "batches/x.json").write_text(json.dumps({"version": 1, "vms": [
        {"name": n, "uuid": str(uuid.uuid4()), "files": [str(tmp_path / f"{n}.qcow2")]} for n in ("older", "other", "gone")]}))
    # "older" was damaged before the batch began, and "other" is another VM.
    for name, text in ("older", ""), ("other", json.dumps({"version": 1, "name": "other", "uuid": str(uuid.uuid4())})), ("stray", "{"):
        (daemon.state / "vms" / name).mkdir()
        (daemon.state / "vms" / name / "definition.json").write_text(text)
        (tmp_path / f"{name}.qcow2").write_text("")
    os.utime(daemon.state / "vms/older/definition.json", (1.5e9, 1.5e9))
    daemon.start()
    until(lambda: not unfinished(daemon))
    assert names(daemon) == ["src"] and made(tmp_path) == []
    assert (tmp_path / "older.qcow2").exists() and (tmp_path / "other.qcow2").exists()
    until(lambda: sorted(os.listdir(daemon.state / "vms")) == ["older", "other", "src", "stray"])
    warned = daemon.cairn("list", "--all").stderr
    assert "n-1" not in warned and all(n in warned for n in ("older", "other", "stray")), warned
    daemon.cairn("clone", "src", "n", "--count", "2")


def test_clone_reports_progress(daemon, large):
    q, job = clone_begin(daemon, count=2)
    q.event("JOB_STATUS_CHANGE", id=job, status="concluded")
    (j,) = q.run("query-jobs", id=job)
    assert j["result"]["count"] == 2 and j["result"]["first"] == "n-1"
    assert j["current-progress"] <= j["total-progress"]


# ---- identity ----

@pytest.fixture
def sysprep(tmp_path, monkeypatch):
    """Replace virt-sysprep, which would start a machine of its own, with a script that records its arguments."""
    tools = tmp_path / "tools"
    tools.mkdir()
    script = tools / "virt-sysprep"
    script.write_text(f"#!/bin/sh\necho \"$@\" >> {tmp_path}/asked\ncat {tmp_path}/say >&2 2>/dev/null\n"
                      f"test ! -e {tmp_path}/say\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    return tmp_path


def test_reset_identity_runs_virt_sysprep(sysprep, daemon, web):
    a, b, c = web
    daemon.cairn("clone", "web1", "--linked", "--name-pattern", "web_%02d", "--count", "2", "--reset-identity")
    asked = sorted((sysprep / "asked").read_text().splitlines())
    assert len(asked) == 2
    for i, line in enumerate(asked, 1):
        assert re.search(r"--operations machine-id,ssh-hostkeys,net-hostname,udev-persistent-net\S* ", line)
        assert f"--hostname web-0{i} " in line
        assert f"--format qcow2 -a {sysprep}/web_0{i}.qcow2 --format qcow2 -a {sysprep}/web_0{i}-vdb.qcow2" in line
        assert str(c) not in line and f" {a}" not in line
    (sysprep / "say").write_text("working\nvirt-sysprep: error: no operating systems were found\n\n"
                                 "If reporting bugs, include the output of:\n\n  virt-sysprep -v -x [...]\n")
    r = daemon.cairn("clone", "web1", "bad", "--reset-identity", ok=1)
    assert "virt-sysprep failed; no clone remains: virt-sysprep: error: no operating systems were found" in r.stderr
    assert "bad" not in names(daemon) and not [n for n in os.listdir(sysprep) if n.startswith("bad")]


def test_second_clone_with_same_uuid_is_refused(sysprep, daemon, web):
    """Both are requested at once: the refused one does not remove the next daemon's record of the other."""
    daemon.cairn("clone", "web1", "web2", "--linked")
    os.mkfifo(sysprep / "say")  # so the first is not complete
    wanted = str(uuid.uuid4())
    q = daemon.qmp()
    q.send(b"".join(json.dumps({"execute": "vm-clone", "arguments": {
        "vm": source, "name": name, "uuid": wanted, "kind": "linked", "reset-identity": True}}).encode()
        for source, name in (("web1", "one"), ("web2", "other"))))
    first, second = q.answer(), q.answer()
    assert "return" in first
    if "return" in second:
        q.event("JOB_STATUS_CHANGE", status="concluded")
    else:  # the loop turned between the two, and the first has its VM already
        assert "uuid: is taken by VM 'one'" in second["error"]["desc"]
    until(lambda: (sysprep / "asked").exists())
    left, = {"one", "other"} & set(names(daemon))
    daemon.stop(signal.SIGKILL)
    daemon.start()

    def forgotten():
        os.close(os.open(sysprep / "say", os.O_RDWR))  # releases the process that waits, and any that comes later
        return left not in names(daemon)
    until(forgotten)
    assert not [n for n in os.listdir(sysprep) if n.startswith(left)]


@pytest.mark.parametrize("end", ["killed", "stopped", "cancelled"])
def test_children_of_virt_sysprep_end_with_it(sysprep, daemon, web, end):
    deep, script = sysprep / "deep", sysprep / "tools" / "virt-sysprep"
    script.write_text(f"#!/bin/sh\nsh -c \"sh -c 'echo \\$\\$ > {deep}; exec sleep 600'; true\"; true\n")
    job = daemon.qmp().run("vm-clone", vm="web1", name="copy", reset_identity=True)["job"]
    until(lambda: deep.exists() and deep.read_text())
    if end == "cancelled":
        daemon.qmp().run("job-cancel", id=job)
    else:
        daemon.stop(signal.SIGKILL if end == "killed" else signal.SIGTERM)
    until(lambda: not os.path.exists(f"/proc/{int(deep.read_text())}"))
    if end != "cancelled":
        daemon.start()
    until(lambda: names(daemon) == ["web1"])
    assert not [n for n in os.listdir(sysprep) if n.startswith("copy")]


def test_missing_virt_sysprep_is_reported(daemon, web, monkeypatch):
    daemon.stop()
    daemon.env["PATH"] = "/nowhere"
    daemon.start()
    r = daemon.cairn("clone", "web1", "x", "--reset-identity", ok=7)
    assert "install the package guestfs-tools" in r.stderr and names(daemon) == ["web1"]
