"""undefine: what is removed with a VM, what stays, and that it is announced before."""

import fcntl
import json
import os
import random
import signal
import subprocess
import time

import pinlib
from conftest import until
from daemonlib import NOBODY, as_nobody, shared  # noqa: F401
from fuselib import Op, fuse
from test_rights import files  # noqa: F401


def image(folder, name, fmt="qcow2", *args):
    path = folder / name
    subprocess.run(["qemu-img", "create", "-q", "-f", fmt, *args, path, "1M"], check=True)
    return path


def disk(path, fmt="qcow2", **keys):
    return {"path": str(path), "format": fmt, **keys}


def names(daemon):
    return daemon.cairn("list", "--all", "--name").stdout.split()


def test_undefine_removes_storage(daemon, tmp_path):
    a, b, iso = image(tmp_path, "a.qcow2"), image(tmp_path, "b.raw", "raw"), image(tmp_path, "c.iso", "raw")
    daemon.define("vm1", disks=[disk(a), disk(b, "raw"), disk(iso, "raw", readonly=True)])
    r = daemon.cairn("undefine", "vm1", "--remove-all-storage", "--dry-run")
    assert r.stdout == (f"Would undefine domain 'vm1' (shut off)\nWould remove volume 'vda'({a})\n"
                        f"Would remove volume 'vdb'({b})\n"
                        f"Volume 'vdc'({iso}) would stay: it is read-only for the VM.\n")
    assert a.exists() and b.exists() and names(daemon) == ["vm1"]
    r = daemon.cairn("undefine", "vm1", "--remove-all-storage")
    assert r.stdout == (f"Domain 'vm1' has been undefined\nVolume 'vda'({a}) removed.\n"
                        f"Volume 'vdb'({b}) removed.\nVolume 'vdc'({iso}) stays: it is read-only for the VM.\n")
    assert not a.exists() and not b.exists() and iso.exists() and names(daemon) == []
    assert (tmp_path / "kernel").exists() and not os.listdir(daemon.state / "vms")


def test_empty_drive_has_no_storage_to_remove(daemon, tmp_path):
    """An empty drive has no image to remove."""
    a = image(tmp_path, "a.qcow2")
    daemon.define("vm1", disks=[{"device": "cdrom"}, disk(a)])
    assert 'has no disk "x"' in daemon.cairn("undefine", "vm1", "--storage", "x", ok=3).stderr
    assert daemon.cairn("undefine", "vm1", "--remove-all-storage").stdout == (
        f"Domain 'vm1' has been undefined\nVolume 'vdb'({a}) removed.\n")
    assert names(daemon) == [] and not a.exists()


def test_undefine_removes_named_disks_only(daemon, tmp_path):
    a, b = image(tmp_path, "a.qcow2"), image(tmp_path, "b.qcow2")
    daemon.define("vm1", disks=[disk(a), disk(b)])
    r = daemon.cairn("undefine", "vm1", "--storage", "vda,vdx", ok=3)
    assert 'VM \'vm1\' has no disk "vdx"' in r.stderr
    assert daemon.cairn("undefine", "vm1", "--storage", "vda", "--remove-all-storage", ok=None).returncode
    r = daemon.cairn("undefine", "vm1", "--storage", str(b), "--format", "json")
    assert json.loads(r.stdout)[0]["volumes"] == [{"id": "vdb", "path": str(b), "removed": True}]
    assert a.exists() and not b.exists()
    daemon.define("vm2", disks=[disk(a)])
    daemon.cairn("undefine", "vm2", "--nvram")
    assert a.exists()


def test_undefine_keeps_symbolic_links(daemon, tmp_path):
    a = image(tmp_path, "a.raw", "raw")
    link = tmp_path / "link.raw"
    link.symlink_to(a)
    gone = image(tmp_path, "gone.raw", "raw")
    daemon.define("vm1", disks=[disk(link, "raw"), disk(gone, "raw")])
    gone.unlink()
    r = daemon.cairn("undefine", "vm1", "--remove-all-storage")
    assert f"Volume 'vda'({link}) stays: it is a symbolic link.\n" in r.stdout
    assert f"Volume 'vdb'({gone}) stays: it does not exist.\n" in r.stdout
    assert a.exists() and link.is_symlink()


def test_undefine_keeps_an_image_that_another_process_has_open(daemon, tmp_path):
    """As a VM of another daemon has, or `cairn run`: it would go on with a file that nobody finds any more."""
    a = image(tmp_path, "a.qcow2", "qcow2")
    daemon.define("vm1", disks=[disk(a)])
    with open(a, "rb") as f:
        fcntl.lockf(f, fcntl.LOCK_SH, 1, 100)
        for args in (["--dry-run"], []):
            r = daemon.cairn("undefine", "vm1", "--remove-all-storage", *args, ok=6)
            assert f"disk vda: {a} is in use by another process" in r.stderr and "lslocks" in r.stderr
        assert a.exists() and names(daemon) == ["vm1"]
    daemon.cairn("undefine", "vm1", "--remove-all-storage")
    assert not a.exists()


def test_undefine_refuses_images_in_use_and_names_users(daemon, tmp_path):
    base = image(tmp_path, "base.qcow2")
    top = image(tmp_path, "top.qcow2", "qcow2", "-b", base, "-F", "qcow2")
    daemon.define("base", disks=[disk(base)])
    daemon.define("clone", disks=[disk(top, backing=[disk(base)])])
    before = sorted(os.listdir(tmp_path))
    for args in (["--dry-run"], []):
        r = daemon.cairn("undefine", "base", "--remove-all-storage", *args, ok=6)
        assert r.stderr == ("error: Failed to undefine domain 'base'\n"
                            f"error: disk vda: {base} is used by VM 'clone'; undefine that VM first, or keep the "
                            "images; nothing was done\n")
    assert sorted(os.listdir(tmp_path)) == before and names(daemon) == ["base", "clone"]
    # Named by another path. A definition of a file that has hard links would have been refused.
    daemon.define("other", disks=[disk(image(tmp_path, "hard.qcow2"))])
    (tmp_path / "hard.qcow2").unlink()
    (tmp_path / "hard.qcow2").hardlink_to(top)
    r = daemon.cairn("undefine", "clone", "--remove-all-storage", ok=6)
    assert "by another path" in r.stderr and top.exists()
    (tmp_path / "hard.qcow2").unlink()
    daemon.define("other", disks=[{**disk(image(tmp_path, "any.qcow2")), "data_file": str(image(tmp_path, "hard.qcow2", "raw"))}])
    (tmp_path / "hard.qcow2").unlink()
    (tmp_path / "hard.qcow2").hardlink_to(top)
    r = daemon.cairn("undefine", "clone", "--remove-all-storage", ok=6)
    assert "by another path" in r.stderr and top.exists()
    # Without the images nothing prevents it.
    daemon.cairn("undefine", "other")
    daemon.cairn("undefine", "clone", "--remove-all-storage")
    assert base.exists() and not top.exists()
    daemon.cairn("undefine", "base", "--remove-all-storage")
    assert not base.exists()


def test_undefine_refuses_as_virsh(daemon, tmp_path, kvm, guest):
    a = image(tmp_path, "a.qcow2")
    daemon.define("vm1", boot={"kernel": guest("idle.elf")}, disks=[disk(a)])
    daemon.cairn("start", "vm1")
    r = daemon.cairn("undefine", "vm1", "--remove-all-storage", ok=4)
    assert "VM 'vm1' is running; undefine works when it is" in r.stderr
    daemon.cairn("managedsave", "vm1")
    r = daemon.cairn("undefine", "vm1", "--remove-all-storage", ok=4)
    assert "--managed-save" in r.stderr
    daemon.cairn("managedsave-remove", "vm1")
    daemon.cairn("snapshot-create-as", "vm1", "s1")
    for args in ([], ["--remove-all-storage"], ["--dry-run"]):
        r = daemon.cairn("undefine", "vm1", *args, ok=4)
        assert "cannot delete inactive domain with 1 snapshots" in r.stderr and "--snapshots-metadata" in r.stderr
    assert a.exists() and names(daemon) == ["vm1"]
    daemon.cairn("undefine", "vm1", "--snapshots-metadata", "--remove-all-storage")
    assert not a.exists() and names(daemon) == []


def test_undefine_works_with_unreadable_images(daemon, tmp_path):
    a = image(tmp_path, "a.qcow2")
    daemon.define("vm1", disks=[disk(a)])
    a.write_bytes(b"no image")
    daemon.cairn("undefine", "vm1", "--remove-all-storage")
    assert not a.exists()


def test_undefine_removes_files_with_definers_rights(shared, files):  # noqa: F811
    """root's daemon removes only what the VM's definer may remove."""
    def define(*paths):
        d = {"name": "v", "memory": "32M", "boot": {"kernel": str(shared.tmp / "kernel")},
             "disks": [disk(p, "raw") for p in paths]}
        assert "return" in as_nobody(shared, ["vm-define", {"definition": d}])[0]

    roots = shared.tmp / "roots"
    roots.mkdir()
    (roots / "lent.raw").write_bytes(bytes(4096))
    os.chmod(roots / "lent.raw", 0o666)
    define(roots / "lent.raw")
    for _ in range(2):
        r = shared.cairn("undefine", "v", "--remove-all-storage", ok=5)  # even though root asks
        assert f"cannot remove {roots / 'lent.raw'}: Permission denied (for user {NOBODY}" in r.stderr
        assert (roots / "lent.raw").exists() and "v" in names(shared)
    define(files / "mine.raw", roots / "lent.raw")
    shared.cairn("undefine", "v", "--remove-all-storage", ok=5)
    assert (files / "mine.raw").exists()  # all files or none
    define(files / "mine.raw")
    shared.cairn("undefine", "v", "--remove-all-storage")
    assert not (files / "mine.raw").exists() and "v" not in names(shared)


def test_undefine_removes_former_layers_of_the_definer_alone(shared):  # noqa: F811
    """A file that an owner added to root's imported VM, and that a pull took out of the definition, has no author any
    more. Root's rights must not remove it: its folder may be a link by then."""
    parent, secret = shared.tmp / "parent", shared.tmp / "secret"
    parent.mkdir()
    os.chmod(parent, 0o777)
    secret.mkdir(mode=0o700)
    (secret / "precious").write_text("root's")
    shared.cairn("export", "mine", str(shared.tmp / "x.tar"))
    shared.cairn("import", str(shared.tmp / "x.tar"), "--name", "v", "--folder", str(parent))
    shared.cairn("grant", "owner", "v", "--user", "nobody")
    (parent / "v").rename(parent / "was")
    (parent / "v").mkdir()
    for name in "top.qcow2", "precious":
        (parent / "v" / name).write_bytes(bytes(65536))
        os.chown(parent / "v" / name, NOBODY, NOBODY)
    definition = {"name": "v", "memory": "32M", "boot": {"kernel": str(shared.tmp / "kernel")}}
    layered = disk(parent / "v/top.qcow2", backing=[disk(parent / "v/precious", "raw")])
    as_nobody(shared, ["vm-define", {"definition": {**definition, "disks": [layered]}}], ["vm-start", {"vm": "v"}])
    pull, = as_nobody(shared, ["vm-blockpull", {"vm": "v", "disk": "vda"}])
    assert shared.qmp().run("job-wait", id=pull["return"]["job"])["status"] == "concluded"
    assert "backing" not in json.loads(shared.cairn("dumpjson", "v").stdout)["disks"][0]
    shared.cairn("destroy", "v")
    assert "return" in as_nobody(shared, ["vm-define", {"definition": definition}])[0]
    (parent / "v").rename(parent / "nobodys")
    (parent / "v").symlink_to(secret)
    undefined, = as_nobody(shared, ["vm-undefine", {"vm": "v", "remove-all-storage": True}])
    assert "return" in undefined and (secret / "precious").read_text() == "root's", undefined


def test_next_daemon_completes_undefine(daemon, tmp_path):
    rnd = random.Random(6)
    whole = gone = 0
    for i in range(12):
        paths = [image(tmp_path, f"k{i}-{k}.raw", "raw") for k in range(8)]
        daemon.define("vm1", disks=[disk(p, "raw") for p in paths])
        q = daemon.qmp()
        q.send(json.dumps({"execute": "vm-undefine", "arguments": {
            "vm": "vm1", "remove-all-storage": True}}).encode())
        time.sleep(rnd.random() * 0.006)
        daemon.stop(signal.SIGKILL)
        daemon.start()
        until(lambda: not (daemon.state / "vms/vm1/undefine.json").exists())  # the next daemon has completed it
        assert sum(p.exists() for p in paths) in (0, 8)
        if paths[0].exists():
            whole += 1
            assert names(daemon) == ["vm1"]
            daemon.cairn("undefine", "vm1", "--remove-all-storage")  # another try succeeds
        else:
            gone += 1
            until(lambda: names(daemon) == [])
        assert not any(p.exists() for p in paths)
        until(lambda: not os.listdir(daemon.state / "vms"))  # written behind
    assert whole + gone == 12


def test_undefine_recorded_by_older_daemon_is_completed(daemon, tmp_path):
    a, b = image(tmp_path, "a.raw", "raw"), image(tmp_path, "b.raw", "raw")
    daemon.define("vm1", disks=[disk(a, "raw"), disk(b, "raw")])
    daemon.stop(signal.SIGKILL)
    a.unlink()
    (daemon.state / "vms/vm1/undefine.json").write_text(json.dumps({"version": 1, "volumes": [str(a), str(b)]}))
    daemon.start()
    until(lambda: names(daemon) == [])
    assert not b.exists()
    until(lambda: not os.listdir(daemon.state / "vms"))


def test_undefine_of_a_killed_daemon_releases_the_pin_of_a_clones_image(daemon, tmp_path):
    source, a = image(tmp_path, "source.qcow2"), tmp_path / "a.qcow2"
    pinlib.header_write(a, source, 32 * "a")
    daemon.define("vm1", disks=[{**disk(a), "backing": [disk(source)]}])
    daemon.stop(signal.SIGKILL)
    assert [row["overlay"] for row in json.loads((daemon.state / "pins.json").read_text())["used"]] == [str(a)]
    (daemon.state / "vms/vm1/undefine.json").write_text(json.dumps({"version": 1, "volumes": [str(a)]}))
    daemon.start()
    until(lambda: names(daemon) == [])
    until(lambda: json.loads((daemon.state / "pins.json").read_text())["used"] == [])


def test_undefine_of_a_killed_daemon_spares_the_images_of_a_vm_that_runs(fake, tmp_path):
    """The plan could not be removed when the undefine failed, and the VM was started afterwards."""
    a = image(tmp_path, "a.raw", "raw")
    fake.define("vm1", disks=[disk(a, "raw")])
    fake.cairn("start", "vm1")
    fake.stop(signal.SIGKILL)
    plan = fake.state / "vms/vm1/undefine.json"
    plan.write_text(json.dumps({"version": 1, "volumes": [str(a)]}))
    fake.start()
    assert not plan.exists() and a.exists() and fake.info("vm1")["state"] == "running"


def test_undefine_of_a_vm_whose_image_does_not_answer_ends_in_a_sentence(daemon, tmp_path):
    """The processes that read the images wait in the kernel, deaf to SIGKILL. The VMs and their images stay."""
    content = image(tmp_path, "a.qcow2").read_bytes()
    vms = ["vm1", "vm2", "vm3", "vm4", "vm5"]
    with fuse(tmp_path / "fuse", **dict.fromkeys(vms, content)) as f:
        for vm in vms:
            daemon.define(vm, disks=[disk(f[vm])])
        f.hang(Op.READ)
        clients = [daemon.qmp() for _ in range(9)]

        def ask(client, command, vm, **args):
            clients[client].send(json.dumps({"execute": command, "arguments": {"vm": vm, **args}}).encode())

        def refused(answer, vm):
            says = f"the images of VM '{vm}' do not answer ({f[vm]}); repair or unmount their file system, then try again"
            assert says in answer

        ask(0, "vm-undefine", "vm1", **{"remove-all-storage": True})
        ask(1, "vm-undefine", "vm2", **{"remove-all-storage": True, "snapshots-metadata": True})
        ask(4, "snapshot-list", "vm3")
        ask(5, "snapshot-list", "vm4")
        ask(7, "snapshot-list", "vm5")
        until(lambda: f.hanging().count(Op.READ) >= 5)
        q = daemon.qmp()
        job = q.run("snapshot-diff", vm="vm3", **{"from": "s1"})["job"]  # it waits for the list
        ask(6, "vm-start", "vm4")  # so does the start
        ask(8, "vm-rename", "vm5", name="vm6")
        assert names(daemon) == vms
        for i in range(2):
            refused(clients[i].answer()["error"]["desc"], f"vm{i + 1}")
        # The processes were killed a moment ago. A client that connects now waits for their end, until
        # that takes too long.
        processes = sorted(daemon.children())
        assert len(processes) == 5
        ask(0, "vm-undefine", "vm1", **{"snapshots-metadata": True})
        ask(1, "vm-undefine", "vm2")
        ask(2, "vm-start", "vm1")
        ask(3, "snapshot-list", "vm2")
        for i in range(4):
            refused(clients[i].answer()["error"]["desc"], f"vm{i % 2 + 1}")
        for i in 4, 5, 7:
            assert "did not answer in time" in clients[i].answer()["error"]["desc"]
        refused(clients[6].answer()["error"]["desc"], "vm4")
        refused(clients[8].answer()["error"]["desc"], "vm5")
        q.event("JOB_STATUS_CHANGE", id=job, status="concluded")
        refused(q.run("query-jobs", id=job)[0]["error"], "vm3")
        # From now on nobody waits.
        for words in (["undefine", "vm1"], ["start", "vm1"], ["snapshot-list", "vm1"], ["clone", "vm1", "copy"],
                      ["export", "vm1", str(tmp_path / "a.tar")], ["snapshot-diff", "vm1", "s1"]):
            refused(daemon.cairn(*words, ok=False).stderr, "vm1")
        assert sorted(daemon.children()) == processes and names(daemon) == vms
        f.release()
        until(lambda: not daemon.children())
        for vm in vms:
            assert daemon.cairn("snapshot-list", vm, "--name").stdout.strip() == ""
            daemon.cairn("undefine", vm)
            with open(f[vm], "rb") as image_now:
                assert image_now.read() == content
        assert names(daemon) == []


def test_undefine_that_ends_after_its_removals_says_so(daemon, tmp_path):
    """While the removal goes on, a client lists the snapshots, and the process that reads them for it cannot end."""
    with fuse(tmp_path / "one", vda=b"x" * 1024) as read, fuse(tmp_path / "two", vdb=b"x" * 1024) as removed:
        daemon.define("vm1", disks=[disk(read["vda"], "raw"), disk(removed["vdb"], "raw")])
        q, client = daemon.qmp(), daemon.qmp()
        removed.hang(Op.UNLINK)
        q.send(b'{"execute":"vm-undefine","arguments":{"vm":"vm1","storage":["vdb"]}}')
        until(lambda: Op.UNLINK in removed.hanging())
        read.hang(Op.READ)
        client.send(b'{"execute":"snapshot-list","arguments":{"vm":"vm1"}}')
        assert "did not answer in time" in client.answer()["error"]["desc"]
        removed.release()
        assert (f"the images of VM 'vm1' do not answer ({read['vda']}, {removed['vdb']}); repair or unmount their file system, then try "
                "again; 1 of the VM's images were removed, and the VM stays defined") in q.answer()["error"]["desc"]
        assert names(daemon) == ["vm1"] and not os.path.exists(removed["vdb"])
        read.release()
        until(lambda: not daemon.children())
        daemon.cairn("undefine", "vm1")
