"""Clones of a VM to whose disks several users have added: each copy is made with the rights of its disk's author."""

import contextlib
import os
import shutil
import signal
import subprocess

import pytest

from conftest import Console, until
from daemonlib import NOBODY, as_nobody, shared  # noqa: F401
from fuselib import Op, fuse
from test_authors import dumped, kept
from test_hung_files import asked


@pytest.fixture
def mixed(shared, guest):  # noqa: F811
    """A VM of nobody with a disk of nobody and one of root, which nobody cannot reach."""
    folders = {}
    for name, uid, mode in ("nobodys", NOBODY, 0o755), ("roots", 0, 0o700):
        folder = folders[name] = shared.tmp / name
        folder.mkdir(mode=mode)
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", folder / "a.qcow2", "8M"], check=True)
        for path in (folder, folder / "a.qcow2"):
            os.chown(path, uid, uid)
    shutil.copy(guest("interp.elf"), folders["nobodys"])
    shared.cairn("grant", "admin", "--user", "nobody")
    d = {"name": "v", "memory": "32M", "boot": {"kernel": str(folders["nobodys"] / "interp.elf")},
         "disks": [{"path": str(folders["nobodys"] / "a.qcow2"), "format": "qcow2"}]}
    assert "return" in as_nobody(shared, ["vm-define", {"definition": d}])[0]
    d["disks"].append({"path": str(folders["roots"] / "a.qcow2"), "format": "qcow2"})
    shared.qmp().run("vm-define", definition=d)
    return shared, folders


@pytest.fixture
def real(mixed, kvm):
    d, folders = mixed
    d.stop()
    d.vm_program = None
    d.start()
    d.cairn("start", "v")
    disks(d, "v", "write", boots=True)
    return d, folders


def disks(d, name, verb, boots=False):
    """Write or verify what the test keeps on both disks. boots: the guest has just been started."""
    with contextlib.closing(Console(d, name)) as c:
        while boots and c.line() != "interp":
            pass
        for i in range(2):
            c.run(f"open {i}")
            c.run(f"{verb} 0 64 {i + 7}")
            if verb == "write":
                c.run("flush")


def made_files(folders):
    return {name: sorted(p.name for p in folder.glob("c*.qcow2")) for name, folder in folders.items()}


@pytest.mark.parametrize("how", [["--live", "--count", "2"], ["--live", "--isolated"], [], ["--linked"]], ids=" ".join)
def test_each_author_makes_the_copies_of_his_disks(real, how):
    d, folders = real
    live = "--live" in how
    if not live:
        d.cairn("destroy", "v")
    d.cairn("clone", "v", "c", *how)
    for name in ["c-1", "c-2"] if "--count" in how else ["c"]:
        paths = [disk["path"] for disk in dumped(d, name)["disks"]]
        assert [os.path.dirname(p) for p in paths] == [str(folders["nobodys"]), str(folders["roots"])]
        assert [os.stat(p).st_uid for p in paths] == [NOBODY, 0]
        definer, authors = kept(d, name)
        assert definer == NOBODY and authors[paths[1]] == 0 and paths[0] not in authors
        if not live:
            d.cairn("start", name)
        disks(d, name, "verify", boots=not live)
        d.cairn("destroy", name)
        d.cairn("start", name)  # with the rights that are stored
        d.cairn("destroy", name)


@pytest.mark.parametrize("user", ["root", "nobody"])
def test_clone_of_another_user_than_root_is_isolated(real, user):
    """No single user owns both images, so only root's clones may read them."""
    d, folders = real
    if user == "root":
        d.cairn("clone", "v", "c", "--live")
    else:
        a, = as_nobody(d, ["vm-fork", {"vm": "v", "name": "c"}])
        q = d.qmp()
        until(lambda: q.run("query-jobs", id=a["return"]["job"])[0]["status"] == "concluded")
    assert all(("backing" in disk) == (user == "root") for disk in dumped(d, "c")["disks"])
    disks(d, "c", "verify")


def test_files_given_by_one_of_the_authors_are_refused(mixed):
    d, folders = mixed
    a, = as_nobody(d, ["vm-clone", {"vm": "v", "name": "c", "files": [str(folders["nobodys"] / "x"), str(folders["roots"] / "x")]}])
    assert a["error"]["class"] == "PermissionDenied" and "users 65534 and 0 added them" in a["error"]["desc"], a


@pytest.mark.parametrize("live", [True, False], ids=["live", "off"])
@pytest.mark.parametrize("whose", ["nobodys", "roots"])
def test_existing_file_of_one_author_fails_the_clone(mixed, live, whose):
    d, folders = mixed
    if live:
        d.cairn("start", "v")
    ids = {"nobodys": "vda", "roots": "vdb"}
    (folders[whose] / f"c-{ids[whose]}.qcow2").write_text("another's")
    assert "exists, so it cannot become" in d.cairn("clone", "v", "c", *["--live"] * live, ok=None).stderr
    assert made_files(folders) == {"nobodys": [], "roots": [], whose: [f"c-{ids[whose]}.qcow2"]}
    assert "c" not in [v["name"] for v in d.qmp().run("vm-list")["vms"]]


def test_file_that_appears_during_a_live_clone_stays_alone(shared, mixed):  # noqa: F811
    """The daemon makes root's copy first. When the user nobody's copy fails because its file exists, the daemon removes
    root's copy and keeps that file."""
    d, folders = mixed
    with fuse(d.tmp / "fuse", disk=bytes(65536)) as f:
        definition = {**dumped(d, "v"), "name": "w"}
        del definition["uuid"]
        definition["disks"][0] = {"path": f["disk"], "format": "raw"}
        roots = definition["disks"].pop()
        roots["path"] = str(folders["roots"] / "b.qcow2")
        shutil.copy(folders["roots"] / "a.qcow2", roots["path"])
        assert "return" in as_nobody(d, ["vm-define", {"definition": definition}])[0]
        d.qmp().run("vm-define", definition={**definition, "disks": [*definition["disks"], roots]})
        d.cairn("start", "w")
        f.hang(Op.CREATE)
        with asked(d, "vm-fork", vm="w", name="c", uid=0) as answer:
            job = answer()["return"]["job"]
            until(lambda: Op.CREATE in f.hanging())
            assert made_files(folders)["roots"] == ["c-vdb.qcow2"]
            f.ask("add", "c-vda.raw", b"another's".hex())
            f.release()
            q = d.qmp()
            until(lambda: q.run("query-jobs", id=job)[0]["status"] == "concluded")
        assert "File exists" in q.run("query-jobs", id=job)[0]["error"]
        assert made_files(folders)["roots"] == []
        with open(f["c-vda.raw"], "rb") as kept_file:
            assert kept_file.read() == b"another's"


def test_clone_of_a_killed_daemon_is_removed_with_both_rights(mixed):
    d, folders = mixed
    v = dumped(d, "v")
    v["boot"]["cmdline"] = f"work-until={d.tmp}/never"
    q = d.qmp()
    q.run("vm-define", definition=v)
    d.cairn("start", "v")
    q.run("vm-fork", vm="v", name="c")
    until(lambda: made_files(folders)["roots"])
    d.stop(signal.SIGKILL)
    d.start()
    # The daemon removes the files first, and then the VM.
    client = d.qmp()
    until(lambda: "c" not in [v["name"] for v in client.run("vm-list")["vms"]])
    assert made_files(folders) == {"nobodys": [], "roots": []}
