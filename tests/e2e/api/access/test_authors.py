"""Each file of a VM is opened with the rights of the user who added it, also after another user edits the VM."""

import json
import os
import pathlib
import signal
import socket
import subprocess

import pytest

from conftest import Qmp, QmpError, until
from daemonlib import NOBODY, as_nobody, shared  # noqa: F401
from test_rights import define, definition, files  # noqa: F401


def kept(shared, name):  # noqa: F811
    """Return the user ids of the definer and of the authors of a stored VM; 0 stands for the daemon itself."""
    d = json.loads((shared.state / f"vms/{name}/definition.json").read_text())
    uid = lambda o: o.get("definer", {"user": 0})["user"]  # noqa: E731
    return uid(d), {a["of"]: uid(a) for a in d.get("authors", [])}


def dumped(shared, name):  # noqa: F811
    return json.loads(shared.cairn("dumpjson", name).stdout)


def test_edit_by_root_lends_no_rights(shared, files):  # noqa: F811
    link = files / "link.raw"
    os.symlink(files / "mine.raw", link)
    assert "return" in define(shared, "v", link)
    link.unlink()
    os.symlink(files / "roots.raw", link)
    d = dumped(shared, "v")
    d["disks"][0]["readonly"] = True
    for edit in ({**d, "title": "by root"}, d):
        with pytest.raises(QmpError, match=r"Permission denied.*\(for user 65534, who defined the VM\)"):
            shared.qmp().run("vm-define", definition=edit)
    link.unlink()
    os.symlink(files / "mine.raw", link)
    shared.cairn("desc", "v", "a description by root")
    shared.qmp().run("vm-define", definition=d)
    assert kept(shared, "v") == (NOBODY, {})
    link.unlink()
    os.symlink(files / "roots.raw", link)
    for restart in (False, True):
        if restart:
            shared.stop(signal.SIGKILL)
            shared.start()
        assert f"{link}: Permission denied" in shared.cairn("start", "v", ok=5).stderr
        out = files / f"out{restart}.tar"
        e, = as_nobody_exports(shared, "v", out)
        assert "Permission denied" in e and b"\0" not in out.read_bytes()


def as_nobody_exports(shared, vm, path):  # noqa: F811
    """Export with a file that the user made; returns the job's error, in a list, which is empty without one."""
    path.touch()
    os.chown(path, NOBODY, NOBODY)
    q = shared.qmp()
    with open(path, "r+b") as f:
        socket.send_fds(q.sock, [json.dumps({"execute": "vm-export", "arguments": {
            "vm": vm, "compress": "none"}}).encode()], [f.fileno()])
        job = q.answer()["return"]["job"]
    q.event("JOB_STATUS_CHANGE", id=job, status="concluded")
    return [j["error"] for j in q.jobs() if j["id"] == job and "error" in j]


def test_file_that_root_adds_is_opened_as_root(shared, files):  # noqa: F811
    assert "return" in define(shared, "v", files / "mine.raw")
    d = dumped(shared, "v")
    d["disks"].append({"path": str(files / "roots.raw"), "format": "raw"})
    shared.qmp().run("vm-define", definition=d)
    assert kept(shared, "v") == (NOBODY, {str(files / "roots.raw"): 0})
    shared.cairn("start", "v")
    shared.cairn("destroy", "v")
    # The definer may still edit the VM, and neither gains root's rights nor loses the disk.
    d = dumped(shared, "v")
    a, = as_nobody(shared, ["vm-define", {"definition": {**d, "title": "by nobody"}}])
    assert "return" in a, a
    assert kept(shared, "v") == (NOBODY, {str(files / "roots.raw"): 0})
    shared.stop()
    shared.start()
    shared.cairn("start", "v")
    shared.cairn("destroy", "v")
    # The removal would need the rights of two users.
    assert "is not the one who added the disks before it" in shared.cairn("undefine", "v", "--remove-all-storage", ok=5).stderr
    assert (files / "roots.raw").exists() and (files / "mine.raw").exists()
    # Removing the file and adding it again makes it the file of the user who adds it.
    gone = {**d, "disks": d["disks"][:1]}
    a, b = as_nobody(shared, ["vm-define", {"definition": gone}], ["vm-define", {"definition": d}])
    assert "return" in a, a
    assert b["error"]["desc"].endswith("(for user 65534, who defined the VM)"), b
    assert kept(shared, "v") == (NOBODY, {})


@pytest.mark.parametrize("live", [True, False], ids=["live", "off"])
def test_files_of_a_clone_keep_their_authors(shared, files, live):  # noqa: F811
    """A VM of the user nobody, and its clone, read a disk of root. The clone gives that user no right to the disk."""
    assert "return" in define(shared, "v", files / "mine.raw")
    roots = {"path": str(files / "roots.raw"), "format": "raw", "readonly": True}
    d = dumped(shared, "v")
    shared.qmp().run("vm-define", definition={**d, "disks": [*d["disks"], roots]})
    if live:
        shared.cairn("start", "v")
    shared.cairn("clone", "v", "w", *(["--live"] if live else []))
    assert kept(shared, "w") == (NOBODY, {str(files / "roots.raw"): 0})
    made = dumped(shared, "w")["disks"][0]["path"]
    assert os.stat(made).st_uid == NOBODY
    shared.cairn("destroy", "w", ok=None)
    shared.cairn("start", "w")
    shared.cairn("destroy", "w")
    d = dumped(shared, "w")
    del d["disks"][1]["readonly"]
    a, = as_nobody(shared, ["vm-define", {"definition": d}])
    assert a["error"]["desc"].endswith("(for user 65534, who defined the VM)"), a


@pytest.mark.parametrize("author", ["root", "nobody"])
def test_only_clones_by_the_author_of_the_disks_read_their_images(shared, files, author):  # noqa: F811
    """A clone's process can read all of an image that its overlay stands on, so other users' clones get copies."""
    image = files / "a.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "1M"], check=True)
    os.chown(image, *([0, 0] if author == "root" else [NOBODY, NOBODY]))
    d = {**definition(shared, "v", image), "disks": [{"path": str(image), "format": "qcow2"}]}
    if author == "root":
        shared.qmp().run("vm-define", definition=d)
    else:
        assert "return" in as_nobody(shared, ["vm-define", {"definition": d}])[0]
    shared.cairn("start", "v")
    a, = as_nobody(shared, ["vm-fork", {"vm": "v", "name": "c"}])
    q = shared.qmp()
    until(lambda: q.run("query-jobs", id=a["return"]["job"])[0]["status"] == "concluded")
    disk, = q.run("query-jobs", id=a["return"]["job"])[0]["result"]["disks"]
    assert (disk["made"], disk["reason"] == "isolated") == ("copy", author == "root")
    assert "backing" not in dumped(shared, "c")["disks"][0]


def test_owner_gains_nothing_from_roots_vm(shared, files):  # noqa: F811
    """The VM still reads root's file after its owner has edited the VM, and the owner cannot make the file writable."""
    d = definition(shared, "mine", files / "roots.raw", readonly=True)
    shared.qmp().run("vm-define", definition=d)
    shared.cairn("revoke", "--user", "nobody")
    shared.cairn("grant", "owner", "mine", "--user", "nobody")
    more = {**d, "disks": [*d["disks"], {"path": str(files / "mine.raw"), "format": "raw"}]}
    a, = as_nobody(shared, ["vm-define", {"definition": more}])
    assert "return" in a, a
    assert kept(shared, "mine") == (0, {str(files / "mine.raw"): NOBODY})
    shared.cairn("start", "mine")
    shared.cairn("destroy", "mine")
    del more["disks"][0]["readonly"]
    for bad in (more, {**d, "disks": [{"path": str(files / "inner/../roots.raw"), "format": "raw"}]},
                {**d, "disks": [{**d["disks"][0], "readonly": True, "data_file": "/etc/shadow", "format": "qcow2"}]}):
        a, = as_nobody(shared, ["vm-define", {"definition": bad}])
        assert a["error"]["class"] == "PermissionDenied", a
        assert a["error"]["desc"].endswith("(for user 65534, who added the file)"), a


def test_owners_link_does_not_direct_root_to_remove_a_file(shared, files):  # noqa: F811
    """The files of an owner of root's VM are removed with the owner's rights."""
    victim = shared.tmp / "victim"
    victim.mkdir()
    (victim / "disk.raw").write_bytes(b"root's")
    (files / "real").mkdir()
    (files / "real/disk.raw").write_bytes(bytes(512))
    for p in ("real", "real/disk.raw"):
        os.chown(files / p, NOBODY, NOBODY)
    os.symlink("real", files / "way")
    shared.cairn("revoke", "--user", "nobody")
    shared.cairn("grant", "owner", "mine", "--user", "nobody")
    assert "return" in define(shared, "mine", files / "way/disk.raw")
    (files / "way").unlink()
    os.symlink(victim, files / "way")
    a, = as_nobody(shared, ["vm-undefine", {"vm": "mine", "remove-all-storage": True}])
    assert "Permission denied" in a["error"]["desc"], a
    assert (victim / "disk.raw").read_bytes() == b"root's"


def test_commit_and_pull_leave_each_file_its_author(shared, files):  # noqa: F811
    """A commit makes a backing file writable, for the daemon itself, so the definer does not become its author."""
    ann = 4321
    base = files / "readable.raw"
    os.chown(base, NOBODY, NOBODY)
    os.chmod(base, 0o666)
    shared.cairn("grant", "admin", "--user", str(ann))
    shared.cairn("revoke", "--user", "nobody")
    empty, = as_nobody(shared, ["vm-define", {"definition": definition(shared, "v")}], user=ann, group=ann)
    assert "return" in empty
    shared.cairn("grant", "owner", "v", "--user", "nobody")
    for command in ("vm-blockcommit", "vm-blockpull"):
        assert "return" in define(shared, "v", files / "mine.raw", base)
        job, = as_nobody(shared, [command, {"vm": "v", "disk": "vda"}])
        done = shared.qmp().run("job-wait", id=job["return"]["job"])
        assert done["status"] == "concluded" and "error" not in done
        left = base if command == "vm-blockcommit" else files / "mine.raw"
        disk, = dumped(shared, "v")["disks"]
        definer, authors = kept(shared, "v")
        assert (disk["path"], "backing" in disk, definer, authors[str(left)]) == (str(left), False, ann, NOBODY)


def test_refused_pivot_gives_the_layers_back_to_their_authors(shared, files):  # noqa: F811
    """job-complete takes the layers out of root's definition, and puts them back when the VM's process refuses."""
    shared.cairn("revoke", "--user", "nobody")
    shared.define("v", cmdline="no-pivot")
    shared.cairn("grant", "owner", "v", "--user", "nobody")
    d = dumped(shared, "v")
    top, base = str(files / "mine.raw"), str(files / "base.raw")
    pathlib.Path(base).write_bytes(bytes(65536))
    os.chown(base, NOBODY, NOBODY)
    d["disks"] = [{"path": top, "format": "qcow2", "backing": [{"path": base, "format": "raw"}]}]
    defined, started = as_nobody(shared, ["vm-define", {"definition": d}], ["vm-start", {"vm": "v"}])
    assert "return" in defined and "return" in started, started
    assert kept(shared, "v") == (0, {top: NOBODY, base: NOBODY})
    q = Qmp(shared.qmp().run("vm-qmp-path", vm="v")["path"])
    q.run("block-commit", device="vda", job_id="c")
    until(lambda: q.run("query-jobs")[0]["status"] == "ready")
    with pytest.raises(QmpError, match="the copy is not ready"):
        q.run("job-complete", id="c")
    until(lambda: "backing" in json.loads(shared.cairn("dumpjson", "v", "--inactive").stdout)["disks"][0])
    assert kept(shared, "v") == (0, {top: NOBODY, base: NOBODY})


@pytest.mark.parametrize("authors", [7, None, {}, [7], [{}], [{"of": 5}], [{"of": "/x", "definer": {"user": 0}}],
                                     [{"of": "/x", "definer": None}]])
def test_malformed_authors_are_no_vm(shared, files, authors):  # noqa: F811
    assert "return" in define(shared, "v", files / "mine.raw")
    shared.stop()
    p = shared.state / "vms/v/definition.json"
    p.write_text(json.dumps({**json.loads(p.read_text()), "authors": authors}))
    shared.start()
    assert [v["name"] for v in shared.qmp().run("vm-list")["vms"]] == ["mine", "other"]
    assert "is malformed" in shared.log.read_text() or "names no user" in shared.log.read_text()


def test_the_screen_is_shown_with_the_rights_of_who_chose_its_address(shared, files):  # noqa: F811
    """An owner of root's VM could listen on any port with root's rights, and with root's password file."""
    password = files / "password"
    password.write_text("secret\n")
    secret = files / "inner/secret"
    secret.write_text("hidden\n")
    (files / "inner").chmod(0o755)
    secret.chmod(0o600)
    tcp = {"port": 5961, "password_file": str(password)}
    d = {**definition(shared, "v", files / "readable.raw", readonly=True), "screen": True, "vnc": tcp}
    shared.qmp().run("vm-define", definition=d)
    assert kept(shared, "v") == (0, {})
    a, = as_nobody(shared, ["vm-define", {"definition": {**dumped(shared, "v"), "title": "no gain"}}])
    assert "return" in a and kept(shared, "v") == (0, {}), a
    for change in ({"port": 81}, {"address": "0.0.0.0"}):
        shared.qmp().run("vm-define", definition=d)
        a, = as_nobody(shared, ["vm-define", {"definition": {**dumped(shared, "v"), "vnc": {**tcp, **change}}}])
        assert "return" in a and kept(shared, "v") == (0, {str(password): NOBODY}), a
        shared.cairn("undefine", "v")
    # The author of a Unix socket also reads the file of its password.
    d["vnc"] = {"path": str(files / "v.vnc")}
    shared.qmp().run("vm-define", definition=d)
    edit = {**dumped(shared, "v"), "vnc": {**d["vnc"], "password_file": str(secret)}}
    a, = as_nobody(shared, ["vm-define", {"definition": edit}])
    assert "return" in a and kept(shared, "v") == (0, {str(files / "v.vnc"): NOBODY}), a
    # A file that the guest fills is no file that says who may listen.
    disk = str(files / "roots.raw")
    shared.cairn("undefine", "v")
    shared.qmp().run("vm-define", definition=definition(shared, "v", disk))
    a, = as_nobody(shared, ["vm-define", {"definition": {**dumped(shared, "v"), "screen": True, "vnc": {"port": 83, "password_file": disk}}}])
    assert a["error"]["class"] == "PermissionDenied" and "for user 65534" in a["error"]["desc"], a
