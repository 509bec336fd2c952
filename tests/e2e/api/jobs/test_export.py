"""export and import: a VM as one file, complete or not at all."""

import fcntl
import json
import os
import random
import select
import shutil
import signal
import socket
import struct
import subprocess
import termios
import time

import pytest

import archivelib
from conftest import BUILD, Console, Daemon, FAKE_VM, until
from daemonlib import NOBODY, allowed, as_nobody, shared  # noqa: F401
from fuselib import Op, fuse

MIB = 1024 * 1024
READ_BYTES = 128 * 1024  # that the kernel asks a FUSE file system for at once
CAIRN = os.path.join(BUILD, "cairn")


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def names(daemon):
    return daemon.cairn("list", "--all", "--name").stdout.split()


def vm_dict(daemon, name):
    return json.loads(daemon.cairn("dumpjson", name).stdout)


@pytest.fixture
def chain(tmp_path, monkeypatch):
    """The disks of a VM: an overlay with a snapshot on a base image that another disk reads as well."""
    monkeypatch.chdir(tmp_path)
    with open("base.raw", "wb") as f:
        f.truncate(8 * MIB)
        f.write(os.urandom(300000))
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "a.qcow2")
    run("qemu-io", "-c", "write -P 7 0 1M", "a.qcow2")
    run("qemu-img", "snapshot", "-c", "s1", "a.qcow2")
    run("qemu-io", "-c", "write -P 9 2M 1M", "a.qcow2")
    return [{"path": "a.qcow2", "format": "qcow2", "backing": [{"path": "base.raw", "format": "raw"}]},
            {"path": "base.raw", "format": "raw", "readonly": True}, {"device": "cdrom"}]


def test_exported_vm_imports_unchanged(daemon, chain, tmp_path):
    daemon.define("vm1", disks=chain, title="a title", interfaces=[{"type": "user"}])
    assert daemon.cairn("export", "vm1", "x.tar.zst").stdout == "Domain 'vm1' exported to x.tar.zst\n"
    assert open("x.tar.zst", "rb").read(4) == b"\x28\xb5\x2f\xfd" and os.stat("x.tar.zst").st_mode & 0o777 == 0o600
    before = vm_dict(daemon, "vm1")
    daemon.cairn("undefine", "vm1", "--snapshots-metadata")
    os.mkdir("there")
    r = daemon.cairn("import", "x.tar.zst", "--folder", "there")
    assert r.stdout == "Domain 'vm1' imported from x.tar.zst\n"
    after = vm_dict(daemon, "vm1")
    there = str(tmp_path / "there/vm1")
    # uuid and MAC are free, so the VM keeps them.
    assert after["boot"] == {"kernel": f"{there}/kernel"}
    assert [d.get("path") for d in after["disks"]] == [f"{there}/vda.qcow2", f"{there}/vda-1.raw", None]
    assert after["disks"][0]["backing"][0]["path"] == f"{there}/vda-1.raw"
    for d in (before, after):
        del d["boot"], d["disks"]
    assert before == after
    assert "identical" in run("qemu-img", "compare", "a.qcow2", "there/vm1/vda.qcow2")
    assert "s1" in run("qemu-img", "snapshot", "-l", "there/vm1/vda.qcow2")
    run("cmp", "base.raw", "there/vm1/vda-1.raw")


def test_import_beyond_max_size_is_refused(daemon, chain):
    """The limit counts data, not holes."""
    with open("d.raw", "wb") as f:
        f.write(bytes(1) + b"d" * 200000)
        f.truncate(64 << 20)
    daemon.define("vm1", disks=[{"path": os.path.abspath("d.raw"), "format": "raw"}])
    daemon.cairn("export", "vm1", "x.tar")
    r = daemon.cairn("import", "x.tar", "--name", "vm2", "--max-bytes", "200000", ok=2)
    assert "bytes, more than the limit of 200000" in r.stderr
    assert names(daemon) == ["vm1"] and not os.path.exists("vm2")
    for none in ("0", "-1", "lots", ""):
        assert "--max-bytes must be a size" in daemon.cairn("import", "x.tar", "--name", "vm2", "--max-bytes", none, ok=2).stderr
    daemon.cairn("import", "x.tar", "--name", "vm2", "--max-bytes", "8M")
    assert os.path.getsize("vm2/vda.raw") == 64 << 20


def test_import_beside_its_source_gets_new_identity(daemon, chain):
    daemon.define("vm1", disks=chain[1:2], interfaces=[{"type": "user"}])
    daemon.cairn("export", "vm1", "x.tgz")
    assert open("x.tgz", "rb").read(2) == b"\x1f\x8b"
    r = daemon.cairn("import", "x.tgz", ok=4)
    assert "there is a VM 'vm1' already; give the new one another name with --name" in r.stderr
    daemon.cairn("import", "x.tgz", "--name", "vm2")
    one, two = vm_dict(daemon, "vm1"), vm_dict(daemon, "vm2")
    assert one["uuid"] != two["uuid"] and one["interfaces"][0]["mac"] != two["interfaces"][0]["mac"]
    # An existing file is not overwritten.
    daemon.cairn("undefine", "vm2")
    r = daemon.cairn("import", "x.tgz", "--name", "vm2", ok=4)
    assert "vm2 already exists in the folder; choose another folder with --folder" in r.stderr
    assert names(daemon) == ["vm1"]


def test_undefine_removes_all_imported_files(daemon, chain, tmp_path):
    """Base image and kernel are removed as well when no other VM uses them, so that the import can be repeated."""
    daemon.define("vm1", disks=chain)
    daemon.cairn("export", "vm1", "x.tar")
    undefine = "undefine", "vm2", "--remove-all-storage", "--snapshots-metadata"

    def again():
        daemon.cairn("import", "x.tar", "--name", "vm2")
        assert sorted(os.listdir("vm2")) == ["kernel", "vda-1.raw", "vda.qcow2"]

    again()
    r = daemon.cairn(*undefine, "--dry-run")
    assert f"{tmp_path}/vm2/kernel" in r.stdout and os.path.exists("vm2/kernel")
    daemon.cairn(*undefine)
    assert not os.path.exists("vm2") and os.path.exists("kernel") and os.path.exists("base.raw")
    again()
    # Under another name, after another daemon, and with a foreign file in the folder.
    daemon.cairn("domrename", "vm2", "vm3")
    daemon.stop(signal.SIGKILL)
    daemon.start()
    (tmp_path / "vm2/notes").write_text("mine")
    daemon.cairn("undefine", "vm3", *undefine[2:])
    assert os.listdir("vm2") == ["notes"]
    shutil.rmtree("vm2")
    # A kernel or base image that another VM uses stays.
    again()
    daemon.cairn("clone", "vm2", "c")
    daemon.cairn(*undefine)
    assert sorted(os.listdir("vm2")) == ["c-vda.qcow2", "kernel", "vda-1.raw"]  # the last: a read-only disk, too
    daemon.cairn("undefine", "c", "--remove-all-storage")
    shutil.rmtree("vm2")
    # When one disk is requested, only that disk is removed; nothing outside the folder is.
    again()
    daemon.cairn("undefine", "vm2", "--storage", "vda", "--snapshots-metadata")
    assert sorted(os.listdir("vm2")) == ["kernel", "vda-1.raw"]
    shutil.rmtree("vm2")
    daemon.cairn("undefine", "vm1", *undefine[2:])
    assert os.path.exists("kernel") and os.path.exists("base.raw") and not os.path.exists("a.qcow2")


@pytest.fixture
def layered(daemon, kvm, tmp_path, monkeypatch):
    """A function that imports the VM vm2, whose disk has two backing files. Arguments: keys of the definition."""
    monkeypatch.chdir(tmp_path)
    with open("base.raw", "wb") as f:
        f.write(os.urandom(MIB))
    for name, backing, fmt in ("mid.qcow2", "base.raw", "raw"), ("a.qcow2", "mid.qcow2", "qcow2"):
        run("qemu-img", "create", "-q", "-f", "qcow2", "-b", backing, "-F", fmt, name)

    def again(**keys):
        if not os.path.exists("x.tar"):
            daemon.define("vm1", **keys, disks=[{"path": "a.qcow2", "format": "qcow2", "backing": [
                {"path": "mid.qcow2", "format": "qcow2"}, {"path": "base.raw", "format": "raw"}]}])
            daemon.cairn("export", "vm1", "x.tar")
        daemon.cairn("import", "x.tar", "--name", "vm2")
        assert sorted(os.listdir("vm2")) == ["kernel", "vda-1.qcow2", "vda-2.raw", "vda.qcow2"]
    return again


@pytest.fixture
def pulled(daemon, layered):
    """A function that imports the VM, and pulls the backing files of its disk into the disk's image."""
    def again():
        layered()
        daemon.cairn("blockpull", "vm2", "vda")
    return again


UNDEFINE = "undefine", "vm2", "--remove-all-storage"


def test_undefine_removes_former_layers_of_the_import(daemon, pulled, tmp_path):
    """blockpull removes the disk's backing files from the definition. They are the VM's all the same."""
    pulled()
    said = daemon.cairn(*UNDEFINE, "--dry-run").stdout
    assert all(f"Would remove volume 'vda'({tmp_path}/vm2/{name})" in said for name in ("vda.qcow2", "vda-1.qcow2", "vda-2.raw"))
    daemon.cairn(*UNDEFINE)
    assert not os.path.exists("vm2") and os.path.exists("base.raw") and os.path.exists("mid.qcow2")
    # After a rename, and by a daemon that learns of the layers from the store.
    pulled()
    daemon.cairn("domrename", "vm2", "vm3")
    daemon.stop(signal.SIGKILL)
    daemon.start()
    daemon.cairn("undefine", "vm3", *UNDEFINE[2:])
    assert not os.path.exists("vm2")


@pytest.mark.parametrize("runs,verb,stay", [
    (False, "blockcommit vm2 vda", ["vda-2.raw"]), (False, "blockcommit vm2 vda --top vda[1]", ["vda-2.raw", "vda.qcow2"]),
    (True, "blockcommit vm2 vda --pivot", ["vda-2.raw"]), (True, "blockcommit vm2 vda --top vda[1]", ["vda-2.raw", "vda.qcow2"]),
    (True, "blockcommit vm2 vda --pivot --delete", ["vda-2.raw"]), (True, "blockcopy vm2 vda --dest copy.raw --wait --pivot", [])])
def test_undefine_removes_layers_that_were_committed_or_copied(daemon, layered, guest, runs, verb, stay):
    layered(boot={"kernel": guest("interp.elf")}, debug_exit=True)
    if runs:
        daemon.cairn("start", "vm2")
        c = Console(daemon, "vm2")
        assert c.line() == "interp"
        c.run("open 0")
        c.run("write 0 64 1")
        c.run("flush")
    daemon.cairn(*verb.split())
    if runs:
        c.run("write 64 64 1")
        c.run("flush")
        c.close()
        daemon.cairn("destroy", "vm2")
    disk, = vm_dict(daemon, "vm2")["disks"]
    assert sorted(os.path.basename(x["path"]) for x in [disk, *disk.get("backing", [])]) == (stay or ["copy.raw"])
    daemon.stop(signal.SIGKILL)
    daemon.start()
    assert "stays" not in daemon.cairn(*UNDEFINE).stdout
    assert not os.path.exists("vm2") and not os.path.exists("copy.raw") and os.path.exists("base.raw")


def test_undefine_keeps_the_medium_that_a_drive_had(daemon, kvm, guest, tmp_path, monkeypatch):
    """A layer leaves a disk only with its data; an ejected medium is the user's."""
    monkeypatch.chdir(tmp_path)
    for name in "a.iso", "b.iso":
        (tmp_path / name).write_bytes(bytes(MIB))
    daemon.define("vm1", boot={"kernel": guest("interp.elf")}, disks=[
        {"id": "sda", "bus": "scsi", "device": "cdrom", "path": "a.iso", "format": "raw", "readonly": True}])
    daemon.cairn("export", "vm1", "x.tar")
    daemon.cairn("import", "x.tar", "--name", "vm2")
    iso, = [x for x in os.listdir("vm2") if x.startswith("sda")]
    daemon.cairn("start", "vm2", "--paused")
    daemon.cairn("change-media", "vm2", "sda", "--source", "b.iso", "--force", "--live", "--config")
    daemon.cairn("destroy", "vm2")
    daemon.cairn(*UNDEFINE)
    assert os.listdir("vm2") == [iso] and os.path.exists("b.iso")


def test_undefine_keeps_former_layers_that_others_use_or_have_changed(daemon, pulled, tmp_path):
    pulled()
    daemon.define("vm3", disks=[{"path": "vm2/vda-2.raw", "format": "raw", "readonly": True}])
    shutil.copy("base.raw", "own.qcow2")
    os.rename("own.qcow2", "vm2/vda-1.qcow2")  # of the user, with the name of the former layer
    r = daemon.cairn(*UNDEFINE)
    assert f"Volume 'vda'({tmp_path}/vm2/vda-1.qcow2) stays: it was changed after the disk had stopped using it.\n" in r.stdout
    assert f"Volume 'folder'({tmp_path}/vm2) stays: it has other files than the removed ones.\n" in r.stdout
    assert sorted(os.listdir("vm2")) == ["vda-1.qcow2", "vda-2.raw"]


def test_import_warns_of_a_network_that_the_host_lacks(daemon, tmp_path):
    daemon.define("vm1", interfaces=[{"type": "user"}, {"type": "network", "source": "lan"}])
    daemon.cairn("export", "vm1", str(tmp_path / "x.tar"))
    r = daemon.cairn("import", str(tmp_path / "x.tar"), "--name", "vm2", "--folder", str(tmp_path))
    assert r.stderr.count("warning: ") == 1 and "interface net1: there is no network 'lan', so the VM cannot start; define it with" in r.stderr


def test_import_drops_access_to_host_loopback(daemon, tmp_path):
    daemon.define("vm1", interfaces=[{"type": "user", "restrict": True},
                                     {"type": "user", "host_loopback": True, "forwards": [{"port": 2222, "to": 22}]}])
    daemon.cairn("export", "vm1", str(tmp_path / "x.tar"))
    r = daemon.cairn("import", str(tmp_path / "x.tar"), "--name", "vm2", "--folder", str(tmp_path))
    assert "warning: interface net1: host_loopback is set to false, because it lets the guest reach services on" in r.stdout + r.stderr
    was, now = (json.loads(daemon.cairn("dumpjson", n).stdout)["interfaces"] for n in ("vm1", "vm2"))
    assert "net0" not in r.stdout + r.stderr and [i["host_loopback"] for i in now] == [False, False]
    for i in was + now:
        del i["host_loopback"], i["mac"]
    assert was == now


def test_import_gives_no_folder_or_socket_of_the_host(daemon, tmp_path):
    """The archive may be a stranger's, who would get the importing user's files."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "password").write_text("secret\n")
    vnc = {"port": 5999, "address": "127.0.0.1", "password_file": str(tmp_path / "password")}
    daemon.define("vm1", shares=[{"path": str(tmp_path / "mine"), "tag": "data"}, {"path": "/", "tag": "all", "readonly": True}],
                  vsock={"cid": 5, "path": str(tmp_path / "v.sock")}, screen=True, vnc=vnc)
    daemon.cairn("export", "vm1", str(tmp_path / "x.tar"))
    for folder in (tmp_path / "new", tmp_path / ("long" * 20)):
        folder.mkdir()
        r = daemon.cairn("import", str(tmp_path / "x.tar"), "--name", "vm2", "--folder", folder)
        now, short = json.loads(daemon.cairn("dumpjson", "vm2").stdout), folder.name == "new" and len(f"{folder}/vm2/vm2.vnc") <= 96
        assert "shares" not in now and now["vsock"] == {"cid": 5} and now.get("vnc") == ({"path": f"{folder}/vm2/vm2.vnc"} if short else None)
        for text in ("share data: is left out, because it gives the guest this host's folder " + str(tmp_path / "mine"), "share all: is left out",
                     f"vsock: the socket {tmp_path}/v.sock is left out", "vnc: the socket for clients is" if short else "vnc: is left out"):
            assert f"warning: {text}" in r.stderr
        daemon.cairn("undefine", "vm2")


def test_export_takes_the_snapshot_of_that_name(daemon, tmp_path, monkeypatch):
    """Another snapshot has the name as its id."""
    monkeypatch.chdir(tmp_path)
    run("qemu-img", "create", "-q", "-f", "qcow2", "a.qcow2", "1M")
    daemon.define("vm1", disks=[{"path": "a.qcow2", "format": "qcow2"}])
    for name in ("2", "1"):
        run("qemu-io", "-f", "qcow2", "-c", f"write -q -P {name} 0 64k", "a.qcow2")
        daemon.cairn("snapshot-create-as", "vm1", name)
    run("qemu-io", "-f", "qcow2", "-c", "write -q -P 9 0 64k", "a.qcow2")
    for name in ("1", "2"):
        daemon.cairn("export", "vm1", f"{name}.tar", "--snapshotname", name)
        daemon.cairn("import", f"{name}.tar", "--name", f"vm1-{name}", "--folder", str(tmp_path))
        image = json.loads(daemon.cairn("dumpjson", f"vm1-{name}").stdout)["disks"][0]["path"]
        assert "Pattern verification failed" not in run("qemu-io", "-f", "qcow2", "-c", f"read -P {name} 0 64k", image)


def test_disks_that_the_vm_lacks_now_are_named(daemon, tmp_path, monkeypatch):
    """The snapshot has two disks, the VM one."""
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        run("qemu-img", "create", "-q", "-f", "qcow2", f"{name}.qcow2", "1M")
    daemon.define("vm1", disks=[{"path": f"{name}.qcow2", "format": "qcow2"} for name in "ab"])
    daemon.cairn("snapshot-create-as", "vm1", "s1")
    assert "left out" not in daemon.cairn("export", "vm1", "both.tar", "--snapshotname", "s1").stdout
    daemon.cairn("detach-disk", "vm1", "vdb", "--config")
    daemon.cairn("snapshot-create-as", "vm1", "s2")
    assert "left out" not in daemon.cairn("export", "vm1", "s2.tar", "--snapshotname", "s2").stdout
    assert daemon.cairn("export", "vm1", "one.tar", "--snapshotname", "s1").stdout == (
        "Domain 'vm1' exported to one.tar\nleft out (disks of the snapshot that the domain lacks now): vdb\n")
    r = json.loads(daemon.cairn("snapshot-delete", "vm1", "s1", "--dry-run", "--format", "json").stdout)
    assert r["disks-left-out"] == ["vdb"]
    assert "the snapshot stays in their images): vdb" in daemon.cairn("snapshot-delete", "vm1", "s1").stdout
    assert "left out" not in daemon.cairn("snapshot-delete", "vm1", "s2").stdout


def test_export_does_not_overwrite_a_file(daemon, chain, tmp_path):
    daemon.define("vm1", disks=chain[1:2])
    (tmp_path / "x.tar").write_text("mine")
    r = daemon.cairn("export", "vm1", "x.tar", ok=4)
    assert "x.tar already exists; choose another name, or replace the file with --force" in r.stderr
    for more in ([], ["--force"]):
        r = daemon.cairn("export", "vm1", "x.tar", "--no-wait", *more, ok=4)
        assert "--no-wait does not replace files" in r.stderr
    os.symlink("nowhere", "l.tar")
    daemon.cairn("export", "vm1", "l.tar", ok=4)
    assert (tmp_path / "x.tar").read_text() == "mine"
    assert daemon.qmp().run("query-jobs") == []  # no job was started
    daemon.cairn("export", "vm1", "x.tar", "--force")
    run("tar", "-tf", "x.tar")


def test_compression_follows_the_file_name(daemon, chain):
    daemon.define("vm1", disks=chain[1:2])
    for name in ("x", "x.zip", "x.tar.xz", ".tar"):
        r = daemon.cairn("export", "vm1", name, ok=2)
        assert f"cannot choose the compression of {name} from its name" in r.stderr
    assert sorted(n for n in os.listdir() if "x" in n or "tar" in n) == []
    for name, magic in (("x.tzst", b"\x28\xb5"), ("x.tar.gz", b"\x1f\x8b"), ("x.tar", b"ma")):
        daemon.cairn("export", "vm1", name)
        assert open(name, "rb").read(2) == magic
    daemon.cairn("export", "vm1", "x.zip", "--compress", "gzip")
    assert open("x.zip", "rb").read(2) == b"\x1f\x8b"


def test_export_needs_owner_role(shared):  # noqa: F811
    """Reading a whole disk takes more than the right to start and stop the VM."""
    ask = ["vm-export", {"vm": "mine"}]
    for role, may in (("operator", False), ("owner", True)):
        shared.cairn("grant", role, "mine", "--user", "nobody")
        assert allowed(as_nobody(shared, ask)[0]) == may


def test_dry_run_shows_archive_without_import(daemon, chain):
    daemon.define("vm1", disks=chain)
    daemon.cairn("export", "vm1", "x.tar")
    o = json.loads(daemon.cairn("import", "--dry-run", "x.tar", "--format", "json").stdout)
    assert [f["name"] for f in o["files"]] == ["kernel", "vda.qcow2", "vda-1.raw"]
    assert o["files"][2]["size"] == 8 * MIB and o["files"][2]["data"] < MIB
    assert " vda-1.raw " in daemon.cairn("import", "--dry-run", "x.tar").stdout
    # Shows the VM as it would be here, and what would be refused.
    os.mkdir("there")
    new = ["import", "--dry-run", "x.tar", "--folder", "there", "--name", "vm2"]
    assert daemon.cairn(*new).stdout.splitlines()[:2] == ["Domain:         vm2", f"Folder:         {os.path.realpath('there')}/vm2"]
    o = json.loads(daemon.cairn(*new, "--format", "json").stdout)
    assert (o["definition"]["name"], o["folder"]) == ("vm2", os.path.realpath("there/vm2")) and os.listdir("there") == []
    assert "more than the limit of 1024" in daemon.cairn(*new, "--max-bytes", "1K", ok=2).stderr
    os.mkdir("there/vm2")
    assert "vm2 already exists in the folder" in daemon.cairn(*new, ok=4).stderr
    assert "vm2 already exists in the folder" in daemon.cairn(*(a for a in new if a != "--dry-run"), ok=4).stderr
    for args in (new, new[:1] + new[2:]):
        assert 'error: name: must not have a "/"' in daemon.cairn(*args[:-1], "a/b", ok=2).stderr
    with open("x.tar", "r+b") as f:
        f.truncate(os.path.getsize("x.tar") // 2)
    r = daemon.cairn("import", "--dry-run", "x.tar", ok=1)
    assert "truncated" in r.stderr
    r = daemon.cairn("import", "x.tar", "--name", "vm2", ok=1)
    assert "truncated" in r.stderr and names(daemon) == ["vm1"] and not os.path.exists("vm2")


def test_export_of_running_or_saved_vm_is_refused(fake, chain):
    fake.define("vm1", disks=chain)
    fake.cairn("start", "vm1")
    r = fake.cairn("export", "vm1", "x.tar", ok=4)
    assert "is running; shut it down, or export a snapshot of it" in r.stderr
    fake.cairn("managedsave", "vm1")
    r = fake.cairn("export", "vm1", "x.tar", ok=4)
    assert "has a managed save" in r.stderr and "cairn managedsave-remove vm1" in r.stderr
    assert not [n for n in os.listdir(".") if n.startswith("x.tar")]


def increments(daemon, c):
    """Export an increment between two snapshots, and try others."""
    daemon.cairn("snapshot-create-as", "vm1", "s2")
    for line in ("write 64 64 3", "flush"):
        c.run(line)
    daemon.cairn("snapshot-create-as", "vm1", "s3")
    daemon.cairn("export", "vm1", "inc.tar", "--snapshotname", "s2", "--since", "s1")
    r = daemon.cairn("import", "x.tar.zst", "inc.tar", "--dry-run", "--name", "vm3")
    assert "0-vda.qcow2" in r.stdout and "Snapshot:" in r.stdout
    for args, says in ((["--since", "s1"], "since: needs a later snapshot"),
                       (["--snapshotname", "s2", "--since", "none"], "has a snapshot 'none'"),
                       (["--snapshotname", "s2", "--since", "s3"], "'s2' does not descend from 's3'")):
        assert says in daemon.cairn("export", "vm1", "y.tar", *args, ok=False).stderr and not os.path.exists("y.tar")
    daemon.cairn("export", "vm1", "late.tar", "--snapshotname", "s3", "--since", "s2")
    r = daemon.cairn("import", "x.tar.zst", "late.tar", "--name", "vm3", ok=False)
    assert "archive 2 is an increment since snapshot 's2', but the archive before it has another snapshot, 's1'" in r.stderr
    assert names(daemon) == ["vm1"] and not os.path.exists("vm3")
    q = daemon.qmp()
    for wrong in ("relative", "/" + "x" * 5000, 7):
        with open("x.tar.zst", "rb") as f:
            message = {"execute": "vm-import", "arguments": {"folder": "/tmp", "increments": [wrong]}}
            socket.send_fds(q.sock, [json.dumps(message).encode()], [f.fileno()])
        assert "increments: each must be an absolute path" in q.answer()["error"]["desc"]
    q.close()


def test_export_of_snapshot_while_vm_runs(daemon, kvm, guest, tmp_path, monkeypatch):
    """The archive has the disk as of the snapshot, while the guest keeps writing."""
    monkeypatch.chdir(tmp_path)
    run("qemu-img", "create", "-q", "-f", "qcow2", "a.qcow2", "8M")
    shutil.copy(guest("interp.elf"), "kernel")
    daemon.define("vm1", disks=[{"path": "a.qcow2", "format": "qcow2"}])
    daemon.cairn("start", "vm1")
    c = Console(daemon, "vm1")
    assert c.line() == "interp"
    for line in ("open 0", "write 0 64 1", "flush"):
        c.run(line)
    daemon.cairn("snapshot-create-as", "vm1", "s1")
    for line in ("write 0 64 2", "flush"):
        c.run(line)
    daemon.cairn("export", "vm1", "x.tar.zst", "--snapshotname", "s1")
    c.run("verify 0 64 2")
    increments(daemon, c)
    r = daemon.cairn("export", "vm1", "y.tar", "--snapshotname", "none", ok=3)
    assert "vda.qcow2 has no snapshot 'none', which an export needs on each disk that the VM writes to; choose another snapshot" in r.stderr
    assert not os.path.exists("y.tar")
    c.close()
    daemon.cairn("destroy", "vm1")
    daemon.cairn("import", "x.tar.zst", "--name", "vm2")
    daemon.cairn("import", "x.tar.zst", "inc.tar", "--name", "vm3")
    for name, content in ("vm2", 1), ("vm3", 2):
        daemon.cairn("start", name)
        c = Console(daemon, name)
        assert c.line() == "interp"
        c.run("open 0")
        c.run(f"verify 0 64 {content}")
        c.close()
    assert sorted(os.listdir("vm3")) == ["0-vda.qcow2", "kernel", "vda.qcow2"]
    daemon.cairn("destroy", "vm3")
    daemon.cairn("undefine", "vm3", "--remove-all-storage")
    assert not os.path.exists("vm3")
    daemon.cairn("destroy", "vm2")
    assert "No errors" in run("qemu-img", "check", "vm2/vda.qcow2")


def test_export_of_a_live_clone_whose_source_runs(daemon, kvm, guest, tmp_path, monkeypatch):
    """The clone reads its source's image at a pin; the archive has the clone's content as one image."""
    monkeypatch.chdir(tmp_path)
    run("qemu-img", "create", "-q", "-f", "qcow2", "a.qcow2", "8M")
    daemon.define("vm1", boot={"kernel": guest("interp.elf")}, disks=[{"path": "a.qcow2", "format": "qcow2"}])
    daemon.cairn("start", "vm1")
    c = Console(daemon, "vm1")
    assert c.line() == "interp"
    for line in ("open 0", "write 0 64 1", "flush"):
        c.run(line)
    daemon.cairn("clone", "vm1", "copy", "--live")
    c.run("write 0 64 2")
    daemon.cairn("destroy", "copy")
    daemon.cairn("export", "copy", "x.tar")
    daemon.cairn("import", "x.tar", "--name", "vm2")
    disk, = vm_dict(daemon, "vm2")["disks"]
    assert "backing" not in disk and "No errors" in run("qemu-img", "check", disk["path"])
    daemon.cairn("snapshot-create-as", "copy", "s1")
    assert "has snapshots, and a running VM writes to its backing file" in daemon.cairn("export", "copy", "y.tar", ok=6).stderr
    daemon.cairn("export", "copy", "y.tar", "--snapshotname", "s1")
    c.close()
    daemon.cairn("destroy", "vm1")
    daemon.cairn("start", "vm2")
    c = Console(daemon, "vm2")
    assert c.line() == "interp"
    c.run("open 0")
    c.run("verify 0 64 1")
    c.close()
    daemon.cairn("destroy", "vm2")
    daemon.cairn("export", "copy", "z.tar")  # the whole images
    daemon.cairn("import", "z.tar", "--name", "vm3")
    assert os.path.exists("vm3/vda-1.qcow2") and daemon.cairn("snapshot-list", "vm3", "--name").stdout.split() == ["s1"]


# ---- complete or nothing ----

@pytest.fixture
def large(fake, tmp_path, monkeypatch):
    """An archive that takes a while, and its disk."""
    monkeypatch.chdir(tmp_path)
    with open("a.raw", "wb") as f:
        f.write(random.Random(1).randbytes(96 * MIB))
    fake.define("vm1", disks=[{"path": "a.raw", "format": "raw"}])
    fake.cairn("export", "vm1", "x.tar")
    return fake


@pytest.fixture
def halfway(fake, tmp_path, monkeypatch):
    """The path of an archive of which an import can read but the first half before release()."""
    monkeypatch.chdir(tmp_path)
    with open("a.raw", "wb") as f:
        f.write(random.Random(1).randbytes(4 * MIB))
    fake.define("vm1", disks=[{"path": "a.raw", "format": "raw"}])
    fake.cairn("export", "vm1", "x.tar")
    with open("x.tar", "rb") as x, fuse(tmp_path / "fuse", archive=x.read()) as f:
        f.hang(Op.READ, after=2 * MIB // READ_BYTES)
        yield f


def begin_import(q, f):
    """Begin an import of vm2, and return its job when it has unpacked something and waits for more."""
    with open(f["archive"], "rb") as x:
        message = json.dumps({"execute": "vm-import", "arguments": {"folder": os.getcwd(), "name": "vm2"}}).encode()
        socket.send_fds(q.sock, [message], [x.fileno()])
        job = q.answer()["return"]["job"]
    until(lambda: f.hanging() == [Op.READ])
    assert left() == [".vm2.importing"]
    return job


def left():
    return sorted(n for n in os.listdir(".") if "vm2" in n or n.startswith("y."))


def test_cancelled_export_leaves_no_file(large):
    q = large.qmp()
    with open("y.tar", "w+b") as f:
        socket.send_fds(q.sock, [b'{"execute":"vm-export","arguments":{"vm":"vm1","compress":"gzip","level":9}}'], [f.fileno()])
        job = q.answer()["return"]["job"]
    q.run("job-cancel", id=job)
    q.event("JOB_STATUS_CHANGE", id=job, status="concluded")
    assert q.run("query-jobs", id=job)[0]["error"] == "cancelled"


def test_cancelled_import_leaves_no_file(fake, halfway):
    q = fake.qmp()
    job = begin_import(q, halfway)
    q.run("job-cancel", id=job)
    halfway.release()
    q.event("JOB_STATUS_CHANGE", id=job, status="concluded")
    assert q.run("query-jobs", id=job)[0]["error"] == "cancelled"
    until(lambda: left() == [])
    assert names(fake) == ["vm1"] and os.listdir(fake.state / "vms") == ["vm1"]


def test_export_into_unsuitable_file_is_refused(large):
    q = large.qmp()
    for path, flags, why in ((".", os.O_RDONLY, "open for writing"), ("a.raw", os.O_RDWR, "not empty"),
                             ("a.raw", os.O_PATH, "open for writing")):
        fd = os.open(path, flags)
        socket.send_fds(q.sock, [b'{"execute":"vm-export","arguments":{"vm":"vm1"}}'], [fd])
        assert why in q.answer()["error"]["desc"]
        os.close(fd)


def test_export_to_blocked_pipe_can_be_cancelled(large):
    """The VM is free again, also if the client keeps its end of the pipe open."""
    q = large.qmp()
    r, w = os.pipe()
    socket.send_fds(q.sock, [b'{"execute":"vm-export","arguments":{"vm":"vm1"}}'], [w])
    job = q.answer()["return"]["job"]
    until(lambda: fcntl.ioctl(r, termios.FIONREAD, bytes(4)) == struct.pack("I", 65536))
    q.run("job-cancel", id=job)
    q.event("JOB_STATUS_CHANGE", id=job, status="concluded")
    assert [j for j in q.run("query-jobs") if j["id"] == job][0]["error"] == "cancelled"
    large.cairn("start", "vm1")
    os.close(r)
    os.close(w)


def test_export_to_blocked_pipe_ends_with_killed_daemon(large):
    """A killed daemon leaves no process behind, and the VM's disks are free for the next daemon."""
    q = large.qmp()
    r, w = os.pipe()
    socket.send_fds(q.sock, [b'{"execute":"vm-export","arguments":{"vm":"vm1"}}'], [w])
    q.answer()
    os.close(w)
    until(lambda: fcntl.ioctl(r, termios.FIONREAD, bytes(4)) == struct.pack("I", 65536))
    large.stop(signal.SIGKILL)
    with open(r, "rb") as f:
        # Do not read before it has ended: reading would let it continue.
        p = select.poll()
        p.register(f, 0)
        until(lambda: p.poll(0))  # POLLHUP: the other end is closed
    large.start()
    large.cairn("start", "vm1")


@pytest.mark.seconds(120)
def test_import_is_complete_or_absent_after_kill_of_daemon(large):
    """The daemon is killed during an import. The VM is complete or absent, and the import can be repeated."""
    rng = random.Random(os.environ.get("ARCHIVE_SEED", "7"))
    for _ in range(int(os.environ.get("ARCHIVE_KILLS", "8"))):
        p = subprocess.Popen(
            [CAIRN, "import", "x.tar", "--name", "vm2"],
            env=large.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0, 0.4))
        large.stop(signal.SIGKILL)
        p.wait()
        until(lambda: not [n for n in left() if n.startswith(".")])
        large.start()
        until(lambda: left() == [n for n in names(large) if n == "vm2"])
        if not left():
            large.cairn("import", "x.tar", "--name", "vm2")
        run("cmp", "a.raw", "vm2/vda.raw")
        # The daemon may still look whether all files are there.
        until(lambda: large.cairn("undefine", "vm2", "--remove-all-storage", ok=None).returncode == 0)
        assert left() == []


def test_next_daemon_removes_leftovers_of_killed_import(fake, halfway):
    """The next daemon removes the files that the killed daemon and its import left."""
    begin_import(fake.qmp(), halfway)
    unpacks, = fake.children()
    os.kill(unpacks, signal.SIGKILL)  # it does not end before release()
    fake.stop(signal.SIGKILL)
    halfway.release()
    assert left() == [".vm2.importing"]
    fake.start()
    until(lambda: names(fake) == ["vm1"])
    assert left() == []


def test_killed_export_leaves_no_partial_file(large):
    """The file gets its name when it is complete."""
    p = subprocess.Popen([CAIRN, "export", "vm1", "y.tar.gz"],
                         env=large.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: left())
    large.stop(signal.SIGKILL)
    p.wait()
    assert left() == []  # no partial file, under any name
    large.start()
    large.cairn("export", "vm1", "y.tar.gz")


def kill_child(d):
    """Kill the process of an export or an import."""
    pids = []
    until(lambda: pids.extend(d.children()) or pids)
    os.kill(pids[0], signal.SIGKILL)


def assert_failed(q, job):
    q.event("JOB_STATUS_CHANGE", id=job, status="concluded")
    (j,) = q.run("query-jobs", id=job)
    assert "cairn-archive" in j["error"], j


def test_export_fails_when_its_process_dies(large):
    q = large.qmp()
    with open("y.tar", "w+b") as f:
        socket.send_fds(q.sock, [b'{"execute":"vm-export","arguments":{"vm":"vm1","compress":"gzip","level":9}}'], [f.fileno()])
        job = q.answer()["return"]["job"]
    kill_child(large)
    assert_failed(q, job)
    large.cairn("export", "vm1", "y.tar", "--force")


def test_import_fails_when_its_process_dies(fake, halfway):
    q = fake.qmp()
    job = begin_import(q, halfway)
    kill_child(fake)
    halfway.release()  # SIGKILL ends it only afterwards
    assert_failed(q, job)
    assert names(fake) == ["vm1"] and os.listdir(fake.state / "vms") == ["vm1"]
    assert left() == []
    fake.cairn("import", "x.tar", "--name", "vm2")
    assert left() == ["vm2"]


def test_exported_vm_refuses_other_work(large):
    q = large.qmp()
    r, w = os.pipe()  # a pipe that nobody reads, so that the export does not end
    socket.send_fds(q.sock, [b'{"execute":"vm-export","arguments":{"vm":"vm1"}}'], [w])
    job = q.answer()["return"]["job"]
    for command in (["start", "vm1"], ["undefine", "vm1"], ["export", "vm1", "y.tar"]):
        refused = large.cairn(*command, ok=6)
        assert "export" in refused.stderr, refused.stderr
    q.run("job-cancel", id=job)
    q.event("JOB_STATUS_CHANGE", id=job, status="concluded")
    os.close(r)
    os.close(w)
    large.cairn("export", "vm1", "y.tar.gz", "--no-wait")
    until(lambda: large.cairn("start", "vm1", ok=None).returncode == 0)
    run("tar", "-tf", "y.tar.gz")


# ---- rights ----

def test_import_uses_rights_of_requesting_user(shared, monkeypatch):  # noqa: F811
    """Another user's import creates files as that user, where that user may, and no definition in it names other
    files."""
    monkeypatch.chdir(shared.tmp)
    shared.cairn("grant", "admin", "--user", "nobody")
    os.mkdir("mine")
    os.chown("mine", NOBODY, NOBODY)
    with open("a.raw", "wb") as f:
        f.write(os.urandom(MIB))
    definition = {"name": "vm9", "memory": "32M", "boot": {"kernel": "kernel"},
                  "disks": [{"path": "vda.raw", "format": "raw"}]}
    files = [("kernel", "kernel", {}), ("vda.raw", "a.raw", {})]
    assert archivelib.export("x.tar", definition, files).end()[1] == 0
    os.chmod("x.tar", 0o644)

    def take(path, folder, **args):
        script = ("import json, socket, sys\n"
                  f"s = socket.socket(socket.AF_UNIX); s.connect({shared.socket!r})\n"
                  "f = s.makefile(); f.readline()\n"
                  "s.sendall(b'{\"execute\":\"qmp_capabilities\"}'); f.readline()\n"
                  "x = open(sys.argv[1], 'rb')\n"
                  "socket.send_fds(s, [sys.argv[2].encode()], [x.fileno()])\n"
                  "for line in f:\n"
                  "    m = json.loads(line)\n"
                  "    if 'error' in m: print(m['error']['desc']); break\n"
                  "    d = m.get('data', {})\n"
                  "    if m.get('event') == 'JOB_STATUS_CHANGE' and d['status'] == 'concluded':\n"
                  "        s.sendall(b'{\"execute\":\"query-jobs\"}')\n"
                  "    if isinstance(m.get('return'), list): print(m['return'][-1].get('error', 'ok')); break\n")
        message = json.dumps({"execute": "vm-import", "arguments": {"folder": str(folder), **args}})
        r = subprocess.run(["/usr/bin/python3", "-c", script, path, message], user=NOBODY, group=NOBODY,
                           extra_groups=[], capture_output=True, text=True, timeout=50)
        assert not r.stderr, r.stderr
        return r.stdout.strip()

    assert "Permission denied" in take("x.tar", shared.tmp) and "vm9" not in names(shared)
    assert take("x.tar", shared.tmp / "mine") == "ok"
    assert os.stat("mine/vm9/vda.raw").st_uid == NOBODY and "vm9" in names(shared)
    for key in ({"boot": {"kernel": "/etc/passwd"}}, {"disks": [{"path": "/dev/null", "format": "raw"}]},
                {"disks": [{"path": "../../a.raw", "format": "raw"}]}, {"disks": [{"path": "vda.raw", "format": "qcow2"}]}):
        os.unlink("x.tar")
        archivelib.export("x.tar", {**definition, **key}, files).end()
        os.chmod("x.tar", 0o644)
        why = take("x.tar", shared.tmp / "mine", name="vm10")
        assert "names a file that the archive lacks" in why
    assert "vm10" not in names(shared) and os.listdir("mine") == ["vm9"]


# ---- a hostile archive process ----

@pytest.mark.parametrize("says, why", [
    ("""echo '{"result":{}}'""", "did not report the content of the archive"),
    ("""echo '{"result":{"definition":[],"files":[]}}'""", "did not report the content of the archive"),
    ("""echo '{"result":{"definition":{"name":"x","memory":"32M","boot":{"kernel":"k"}},"files":[{},1]}}'""",
     "names a file that the archive lacks"),
    ("""echo '{"result":{"definition":{"name":7},"files":[]}}'""", "is empty"),
    ("yes '{}' 2>/dev/null &\nsleep 0.2", "ended early"),
    ("head -c 2000000 /dev/zero | tr '\\0' '\\n'", "ended early"),
    ("head -c 2000000 /dev/zero | tr '\\0' x", "the output of cairn-archive: JSON parse error, a command is an object in braces"),
    ("""printf '{"result":"'; head -c 2000000 /dev/zero | tr '\\0' x""", "text of more than 1048576 bytes"),
    ("""printf '{"result":{"files":['; yes '{},' | head -n 300000; echo '1]}}'""", "more than 32768 braces, brackets, commas and colons"),
])
def test_daemon_distrusts_hostile_import_process(tmp_path, says, why):
    """The daemon checks each message of the process, and does not wait for it."""
    archive = tmp_path / "cairn-archive"
    archive.write_text("#!/bin/sh\n" + says + "\n")
    archive.chmod(0o755)
    d = Daemon(tmp_path, vm_program=FAKE_VM, env={"CAIRN_LIBEXEC": str(tmp_path)})
    try:
        q = d.qmp()
        with open(archive, "rb") as f:
            message = {"execute": "vm-import", "arguments": {"folder": str(tmp_path)}}
            socket.send_fds(q.sock, [json.dumps(message).encode()], [f.fileno()])
        assert why in q.answer()["error"]["desc"]
        assert q.run("vm-list")["vms"] == []
    finally:
        d.close()
