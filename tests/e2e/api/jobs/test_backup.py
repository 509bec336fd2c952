"""cairn backup-begin, domjobinfo and domjobabort: a backup of one instant, while the guest continues. qemu-img is
the oracle, and the client of NBD."""
import contextlib
import json
import os
import signal
import subprocess

import pytest

from conftest import BUILD, QmpError, until
from fuselib import Op, fuse
from test_blockcommit import check, img, vm  # noqa: F401
from test_blockcopy import start


def snapshots(d):
    return d.cairn("snapshot-list", "vm1", "--name").stdout.split()


def begin(d, *args):
    return json.loads(d.cairn("backup-begin", "vm1", *args, "--format", "json").stdout)


def failure(d, command, **args):
    """Return the error of a job of vm1."""
    q = d.qmp()
    return q.run("job-wait", id=q.run(command, vm="vm1", **args)["job"])["error"]


def freeze(g):
    """Return a raw copy of the disk's present content."""
    g.d.cairn("suspend", "vm1")
    img(g.d, "convert", "-U", "-f", "qcow2", "-O", "raw", "disk0.qcow2", "now.raw")
    g.d.cairn("resume", "vm1")


def test_push_copies_the_disks_of_one_instant(vm):
    g = vm("qcow2", "qcow2")
    g.write(1)
    g.write(2, disk=1)
    freeze(g)
    r = begin(g.d)
    assert r["mode"] == "push" and [d["disk"] for d in r["disks"]] == ["vda", "vdb"] and snapshots(g.d) == []
    g.write(3)
    img(g.d, "compare", "-f", "qcow2", "-F", "raw", r["disks"][0]["file"], "now.raw")
    os.mkdir(g.d.tmp / "to")
    one, = begin(g.d, "--to", "to", "--disk", "vdb")["disks"]
    assert os.path.dirname(one["file"]) == str(g.d.tmp / "to") and one["disk"] == "vdb"
    assert "has no job under way" in g.d.cairn("domjobabort", "vm1", ok=False).stderr
    g.verify()


def test_pull_serves_the_disk_of_one_instant_until_it_is_aborted(vm):
    g = vm()
    g.write(1)
    freeze(g)
    r = begin(g.d, "--pull", "--socket", "socks")
    uri = r["disks"][0]["uri"]
    assert uri == f"nbd+unix:///?socket={g.d.tmp}/socks/vda.sock" and snapshots(g.d) == [r["snapshot"]]
    try:
        g.write(2)
        img(g.d, "compare", "-f", "raw", "-F", "raw", uri, "now.raw")
        says = f"a backup of domain 'vm1' is under way (snapshot {r['snapshot']}); end it with: cairn domjobabort vm1"
        assert says in g.d.cairn("backup-begin", "vm1", ok=6).stderr
        assert says in g.d.cairn("snapshot-delete", "vm1", r["snapshot"], ok=6).stderr
        assert says in failure(g.d, "snapshot-create", name="two", tags=["backup", "keep"], disks_only=True)
        assert snapshots(g.d) == [r["snapshot"]]
        info = g.d.cairn("domjobinfo", "vm1").stdout
        assert "Backup" in info and str(g.d.tmp / "socks") in info
        # The server outlives the daemon and the VM's process.
        g.d.stop(signal.SIGKILL)
        g.d.start()
        g.again()
        img(g.d, "compare", "-f", "raw", "-F", "raw", uri, "now.raw")
        # The VM cannot be undefined, because the server could not be ended then.
        g.console.close()
        g.d.cairn("destroy", "vm1")
        assert says in g.d.cairn("undefine", "vm1", "--snapshots-metadata", ok=6).stderr
        q = g.d.qmp()
        with pytest.raises(QmpError, match="domjobabort"):
            q.run("vm-undefine", vm="vm1", snapshots_metadata=True)
        g.start()
    finally:
        pid = int((g.d.tmp / "socks/vda.pid").read_text())
        assert g.d.cairn("domjobabort", "vm1").stdout == "Backup ended\n"
    until(lambda: not os.path.exists(f"/proc/{pid}"))
    assert snapshots(g.d) == [] and not os.path.exists(g.d.tmp / "socks")
    assert "None" in g.d.cairn("domjobinfo", "vm1").stdout
    g.verify()
    g.d.cairn("destroy", "vm1")
    check(g.d, "disk0.qcow2")


def test_server_of_a_disk_that_was_detached_ends_with_the_backup(vm):
    """Its image, which is no disk of the VM any more, keeps the snapshot, and the warning says so."""
    g = vm("qcow2", "qcow2")
    r = begin(g.d, "--pull", "--socket", "socks")
    pids = [int((g.d.tmp / f"socks/{disk}.pid").read_text()) for disk in ("vda", "vdb")]
    g.console.close()
    g.d.cairn("destroy", "vm1")
    g.d.cairn("detach-disk", "vm1", "vdb", "--config")
    said = g.d.cairn("domjobabort", "vm1").stderr
    assert f"disk vdb was detached during the backup, so its image keeps the snapshot {r['snapshot']}; delete it with: cairn-img" in said
    until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids))
    assert not os.path.exists(g.d.tmp / "socks") and snapshots(g.d) == []
    img(g.d, "snapshot", "-d", r["snapshot"], "disk1.qcow2")


def test_uri_of_a_folder_with_special_characters(vm):
    g = vm()
    g.write(1)
    freeze(g)
    one, = begin(g.d, "--pull", "--socket", "p%41b c&d")["disks"]
    try:
        assert one["uri"].endswith("/p%2541b%20c%26d/vda.sock")
        img(g.d, "compare", "-f", "raw", "-F", "raw", one["uri"], "now.raw")
        subprocess.run(["qemu-img", "info", "-f", "raw", one["uri"]], check=True, stdout=subprocess.DEVNULL)
    finally:
        g.d.cairn("domjobabort", "vm1")
    assert os.path.isdir(g.d.tmp / "p%41b c&d") is False


def test_increment_since_a_checkpoint(vm):
    g = vm()
    g.write(1)
    begin(g.d, "--checkpoint", "mon")
    assert snapshots(g.d) == ["mon"]
    g.write(2, n=3)
    r = begin(g.d, "--pull", "--since", "mon", "--checkpoint", "tue")
    try:
        out = img(g.d, "map", "--output", "json", "-f", "raw", r["disks"][0]["uri"]).stdout
        data = sum(e["length"] for e in json.loads(out) if e["data"])
        assert 3 * 65536 <= data <= 6 * 65536  # each write of 32 KiB touches one or two clusters
    finally:
        g.d.cairn("domjobabort", "vm1")
    assert sorted(snapshots(g.d)) == ["mon", "tue"]
    g.d.cairn("snapshot-delete", "vm1", "mon")


def test_backup_of_an_overlay_and_of_a_vm_that_is_off(vm):
    g = vm()
    g.write(1)
    g.snapshot("s1")
    g.write(2)
    g.console.close()
    g.d.cairn("destroy", "vm1")
    img(g.d, "convert", "-f", "qcow2", "-O", "raw", "disk0.s1", "now.raw")
    one, = begin(g.d)["disks"]
    img(g.d, "compare", "-f", "qcow2", "-F", "raw", one["file"], "now.raw")
    g.start()


def test_failed_backup_leaves_nothing(vm):
    g = vm("qcow2", "qcow2")
    assert "folder none: No such file" in g.d.cairn("backup-begin", "vm1", "--to", "none", ok=3).stderr
    assert "folder disk0.qcow2: Not a directory" in g.d.cairn("backup-begin", "vm1", "--to", "disk0.qcow2", ok=False).stderr
    assert snapshots(g.d) == []
    r = g.d.cairn("backup-begin", "vm1", "--pull", "--socket", "x" * 200, ok=False)
    assert snapshots(g.d) == [] and "Failed to back up" in r.stderr and not os.path.exists(g.d.tmp / ("x" * 200))
    path, g.d.env["PATH"] = g.d.env["PATH"], "/none"
    r = g.d.cairn("backup-begin", "vm1", "--pull", ok=False)
    g.d.env["PATH"] = path
    assert "nbdkit is not installed" in r.stderr and snapshots(g.d) == []
    g.write(1)
    g.verify()


def test_pull_of_an_image_that_cannot_be_opened_fails(vm):
    """As one that only the VM's user may read. The plugin opens the image at once, so the error says why."""
    g = vm()
    r = g.d.cairn("backup-begin", "vm1", "--pull", "--since", "none", ok=False)
    assert "since must be an earlier snapshot of the same image" in r.stderr
    if not os.geteuid():
        there, reads = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"], g.d.tmp / "disk0.qcow2"
        os.chown(reads, 65534, 65534)
        os.chmod(reads, 0o600)
        r = subprocess.run([*there, os.path.join(BUILD, "cairn"), "backup-begin", "vm1", "--pull"], env=g.d.env, cwd=g.d.tmp,
                           capture_output=True, text=True)
        assert r.returncode and "disk0.qcow2: Permission denied" in r.stderr and not r.stdout
    assert snapshots(g.d) == [] and not list(g.d.tmp.glob("*.backup"))
    g.write(1)
    g.verify()


def test_interrupted_backup_leaves_nothing(vm):
    g = vm()
    g.write(1)
    with fuse(g.d.tmp / "fuse") as f:
        f.hang(Op.WRITE)
        with start(g.d, "backup-begin", "vm1", "--to", "fuse") as p:
            until(lambda: Op.WRITE in f.hanging())
            os.kill(p.pid, signal.SIGINT)
            children = subprocess.run(["pgrep", "-P", str(p.pid)], stdout=subprocess.PIPE, text=True, check=True).stdout.split()
            for child in children:
                os.kill(int(child), signal.SIGINT)
            f.release()
            assert "Failed to back up" in p.communicate()[1] and p.returncode == -signal.SIGINT
        assert snapshots(g.d) == []


@pytest.mark.parametrize("args", [[], ["--checkpoint", "point"]])
def test_backup_completes_though_a_transient_vm_is_destroyed(vm, monkeypatch, args):
    g = vm()
    g.write(1)
    freeze(g)
    g.d.cairn("destroy", "vm1")
    definition = g.d.cairn("dumpjson", "vm1").stdout
    g.d.cairn("undefine", "vm1")
    g.d.cairn("create", "-", input=definition, stdin=None)
    folder = g.d.tmp / "libexec"  # with a cairn-img that waits before it copies
    folder.mkdir()
    os.mkfifo(folder / "go")
    (folder / "cairn-img").write_text(f"#!/bin/sh\nif [ $1 = convert ]; then touch {folder}/begun; read x <{folder}/go; fi\n"
                                      f"exec {os.path.abspath(BUILD)}/cairn-img \"$@\"\n")
    (folder / "cairn-img").chmod(0o755)
    monkeypatch.setenv("CAIRN_LIBEXEC", str(folder))
    with start(g.d, "backup-begin", "vm1", *args, "--format", "json") as p:
        until((folder / "begun").exists)
        g.d.cairn("destroy", "vm1")
        (folder / "go").write_text("x\n")
        out, errors = p.communicate()
        assert p.returncode == 0, errors
    one, = json.loads(out)["disks"]
    img(g.d, "compare", "-f", "qcow2", "-F", "raw", one["file"], "now.raw")
    assert "snapshot" not in json.loads(out) and ("its checkpoint 'point' is deleted" in errors) == bool(args)
    assert img(g.d, "snapshot", "-l", "disk0.qcow2").stdout == ""


@pytest.mark.parametrize("args,says", [
    (["--socket", "x"], "need --pull"), (["--since", "x"], "need --pull"), (["--pull", "--to", "x"], "without --pull"),
    (["--disk", "vdx"], "does not have")])
def test_impossible_backup_is_refused(vm, args, says):
    g = vm()
    assert says in g.d.cairn("backup-begin", "vm1", *args, ok=False).stderr
    assert snapshots(g.d) == []


# A server that writes its number only when somebody connects.
SLOW_NBDKIT = """#!/usr/bin/python3
import os, socket, sys
value = lambda option: sys.argv[sys.argv.index(option) + 1]
s = socket.socket(socket.AF_UNIX)
s.bind(value("--unix"))
s.listen()
if os.fork():
    os._exit(0)
for fd in range(3):
    os.dup2(os.open(os.devnull, os.O_RDWR), fd)
s.settimeout(20)
c, _ = s.accept()
with open(value("--pidfile"), "w") as f:
    f.write(str(os.getpid()))
c.sendall(b"NBDMAGIC")
"""


def test_backup_has_begun_when_its_server_can_be_ended(vm):
    """nbdkit goes into the background before it writes the number that domjobabort reads."""
    g = vm()
    bin = g.d.tmp / "bin"
    bin.mkdir()
    (bin / "nbdkit").write_text(SLOW_NBDKIT)
    (bin / "nbdkit").chmod(0o755)
    g.d.env["PATH"] = f"{bin}:{g.d.env['PATH']}"
    begin(g.d, "--pull", "--socket", "socks")
    assert (g.d.tmp / "socks/vda.pid").read_text()
    g.d.cairn("domjobabort", "vm1")
    assert snapshots(g.d) == [] and not os.path.exists(g.d.tmp / "socks")


def test_domjobabort_deletes_no_snapshot_that_only_has_the_tag_backup(vm):
    g = vm()
    g.d.cairn("snapshot-create-as", "vm1", "mine", "--tag", "backup", "--disk-only")
    assert "None" in g.d.cairn("domjobinfo", "vm1").stdout
    assert "has no job under way" in g.d.cairn("domjobabort", "vm1", ok=False).stderr
    r = begin(g.d, "--pull", "--socket", "socks")
    assert r["snapshot"] in g.d.cairn("domjobinfo", "vm1").stdout
    g.d.cairn("snapshot-tag", "vm1", r["snapshot"], "keep", "--remove")  # it names the servers' folder all the same
    g.d.cairn("domjobabort", "vm1")
    assert snapshots(g.d) == ["mine"] and not os.path.exists(g.d.tmp / "socks")


@contextlib.contextmanager
def backup_of(g):
    """Begin a backup of vm1 by pull, whose server runs until the block ends. Yield its snapshot."""
    r = begin(g.d, "--pull", "--socket", "socks")
    pid = int((g.d.tmp / "socks/vda.pid").read_text())
    try:
        yield r["snapshot"]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


def test_clone_with_the_snapshot_of_a_backup_has_no_backup(vm):
    g = vm()
    g.write(1)
    with backup_of(g) as name:
        g.console.close()
        g.d.cairn("destroy", "vm1")
        g.d.cairn("clone", "vm1", "copy", "--snapshots")
        assert g.d.cairn("snapshot-list", "copy", "--name").stdout.split() == [name]
        assert "None" in g.d.cairn("domjobinfo", "copy").stdout
        assert "has no job under way" in g.d.cairn("domjobabort", "copy", ok=False).stderr
        img(g.d, "info", f"nbd+unix:///?socket={g.d.tmp}/socks/vda.sock")
        g.d.cairn("backup-begin", "copy", "--checkpoint", "mine")
        # The copy is an ordinary snapshot.
        g.d.cairn("snapshot-tag", "copy", name, "keep", "--remove")
        assert "None" in g.d.cairn("domjobinfo", "copy").stdout
        g.d.cairn("snapshot-delete", "copy", name)
        g.d.cairn("undefine", "copy", "--remove-all-storage", "--snapshots-metadata")
        assert name in g.d.cairn("domjobinfo", "vm1").stdout
        assert g.d.cairn("domjobabort", "vm1").stdout == "Backup ended\n"
    assert snapshots(g.d) == [] and not os.path.exists(g.d.tmp / "socks")


def test_replaced_vm_keeps_its_backup(vm):
    g = vm()
    g.d.cairn("clone", "--live", "vm1", "copy")
    with backup_of(g) as name:
        g.console.close()
        g.d.cairn("promote", "copy")
        assert "None" in g.d.cairn("domjobinfo", "vm1").stdout
        assert name in g.d.cairn("domjobinfo", "vm1-old").stdout
        assert g.d.cairn("domjobabort", "vm1-old").stdout == "Backup ended\n"


def test_work_on_a_vm_that_is_off_names_the_vm_that_uses_its_disk(vm):
    g = vm()
    g.d.define("vm2", boot=json.loads(g.d.cairn("dumpjson", "vm1").stdout)["boot"], disks=[{"path": str(g.d.tmp / "disk0.qcow2"), "format": "qcow2"}])
    for words in ["snapshot-create-as", "vm2", "s1"], ["backup-begin", "vm2"], ["export", "vm2", "vm2.tar"], ["snapshot-diff", "vm2", "s1"]:
        assert "disk0.qcow2 is in use by VM 'vm1'; shut that VM down first" in g.d.cairn(*words, ok=6).stderr


def test_raw_disk_is_refused(vm):
    g = vm("raw")
    assert "disk vda is raw; internal snapshots need qcow2" in g.d.cairn("backup-begin", "vm1", ok=False).stderr


def test_domjobabort_cancels_a_job(vm):
    g = vm()
    g.write(1)
    g.d.cairn("blockcopy", "vm1", "vda", "--dest", "copy.raw", "--bandwidth", "1", "--no-wait")
    assert "blockcopy" in g.d.cairn("domjobinfo", "vm1").stdout
    assert g.d.cairn("domjobabort", "vm1").stdout == "Job is being cancelled\n"
    until(lambda: "None" in g.d.cairn("domjobinfo", "vm1").stdout)
    g.write(2)
    g.verify()


def test_backup_of_a_disk_with_as_many_layers_as_there_may_be(vm):
    """Each layer and each external data file is in a folder of its own, but for the top two layers."""
    g = vm()
    g.write(1)
    freeze(g)
    g.console.close()
    g.d.cairn("destroy", "vm1")
    files = [str(g.d.tmp / "disk0.qcow2")]
    for i in range(14):
        (g.d.tmp / f"f{i}").mkdir()
        files.append(str(g.d.tmp / f"f{i}" / "layer.qcow2"))
    files.append(str(g.d.tmp / "f13" / "top.qcow2"))
    data = {p: str(g.d.tmp / f"d{i}" / "data") for i, p in enumerate(files[1:-1])}
    for base, image in zip(files, files[1:]):
        if image in data:
            os.mkdir(os.path.dirname(data[image]))
        img(g.d, "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", *(["-o", f"data_file={data[image]}"] if image in data else []), image)
    g.d.define("deep", boot=json.loads(g.d.cairn("dumpjson", "vm1").stdout)["boot"], disks=[
        {"id": "vda", "path": files[-1], "format": "qcow2", "backing": [
            {"path": p, "format": "qcow2", **({"data_file": data[p]} if p in data else {})} for p in files[-2::-1]]}])
    one, = json.loads(g.d.cairn("backup-begin", "deep", "--to", ".", "--format", "json").stdout)["disks"]
    img(g.d, "compare", "-f", "qcow2", "-F", "raw", one["file"], "now.raw")
    one, = json.loads(g.d.cairn("backup-begin", "deep", "--pull", "--format", "json").stdout)["disks"]
    try:
        img(g.d, "compare", "-f", "raw", "-F", "raw", one["uri"], "now.raw")
    finally:
        g.d.cairn("domjobabort", "deep")


def test_pull_of_a_transient_vm_is_refused(vm):
    """Its end would undefine it, and nobody could end the servers then."""
    g = vm()
    g.d.cairn("clone", "--live", "vm1", "eph", "--ephemeral")
    r = g.d.cairn("backup-begin", "eph", "--pull", ok=4)
    assert "VM 'eph' is transient, so its end would undefine it, and nobody could end the backup" in r.stderr
    assert g.d.cairn("snapshot-list", "eph", "--name").stdout.split() == []
    g.d.cairn("backup-begin", "eph", "--to", ".")
    g.d.cairn("define", "-", input=g.d.cairn("dumpjson", "eph").stdout, stdin=None)
    g.d.cairn("backup-begin", "eph", "--pull", "--socket", "socks")
    g.d.cairn("domjobabort", "eph")


def test_backup_of_a_renamed_vm_and_of_one_that_got_its_name(vm):
    g = vm()
    folder = g.d.info("vm1")["uuid"][:8] + ".backup"
    first, = begin(g.d, "--pull")["disks"]
    assert first["uri"] == f"nbd+unix:///?socket={g.d.tmp}/{folder}/vda.sock"
    g.console.close()
    g.d.cairn("destroy", "vm1")
    g.d.cairn("domrename", "vm1", "old")
    img(g.d, "create", "-q", "-f", "qcow2", "new.qcow2", str(1 << 20))
    g.d.define("vm1", disks=[{"path": str(g.d.tmp / "new.qcow2"), "format": "qcow2"}])
    try:
        second, = begin(g.d, "--pull")["disks"]
        assert second["uri"] != first["uri"]
        g.d.cairn("domjobabort", "vm1")
        # A failure in the folder of another backup ends no server of that backup.
        r = g.d.cairn("backup-begin", "vm1", "--pull", "--socket", folder, ok=4)
        assert f"{folder}/vda.sock exists, so another backup may serve there" in r.stderr and snapshots(g.d) == []
        img(g.d, "info", first["uri"])
    finally:
        g.d.cairn("domjobabort", "old")
    assert not os.path.exists(g.d.tmp / folder)


def test_domjobinfo_of_a_vm_whose_image_cannot_be_opened(vm):
    g = vm()
    img(g.d, "create", "-q", "-f", "qcow2", "-b", "disk0.qcow2", "-F", "qcow2", "over.qcow2")
    g.d.define("bad", disks=[{"path": str(g.d.tmp / "over.qcow2"), "format": "qcow2"}])
    r = g.d.cairn("domjobinfo", "bad")
    assert "None" in r.stdout and "warning: whether a backup is under way is not known: vda: the image has the backing file" in r.stderr
    assert "which the definition lacks" in g.d.cairn("domjobabort", "bad", ok=False).stderr
    assert "has no backing file in the definition" in g.d.cairn("blockpull", "bad", "vda", ok=False).stderr
    assert "there is no VM 'none'" in g.d.cairn("domjobinfo", "none", ok=False).stderr
