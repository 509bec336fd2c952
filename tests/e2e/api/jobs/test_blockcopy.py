"""cairn blockcopy and blockjob: a disk of a running VM moves to another file. qemu-img is the oracle."""
import json
import os
import re
import signal
import subprocess

import pytest

from conftest import BUILD, Console, open_files, until
from fuselib import Op, fuse

MIB = 1 << 20
SIZE = 24 * MIB
each_bus = pytest.mark.parametrize("vm", ["virtio", "scsi"], indirect=True)


@pytest.fixture
def vm(request, daemon, kvm, guest, monkeypatch):
    """A running VM with data on its disk, and its console with the disk open.

    With bus scsi, the controller is on the loop of another disk."""
    bus = getattr(request, "param", "virtio")
    monkeypatch.chdir(daemon.tmp)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "disk.qcow2", str(SIZE)], cwd=daemon.tmp, check=True)
    disks = [{"id": "vda", "bus": bus, "path": "disk.qcow2", "format": "qcow2"}]
    if bus == "scsi":
        (daemon.tmp / "first.raw").write_bytes(bytes(MIB))
        disks.insert(0, {"id": "sda", "bus": bus, "path": "first.raw", "format": "raw", "readonly": True})
    daemon.define("vm1", boot={"kernel": guest("interp.elf")}, debug_exit=True, disks=disks)
    daemon.cairn("start", "vm1")
    c = Console(daemon, "vm1")
    assert c.line() == "interp"
    daemon.open_disk = "sopen 1 512" if bus == "scsi" else "open 0"
    c.run(daemon.open_disk)
    for n in range(0, 40, 2):
        c.run(f"write {n * 1200} 256 {n}")
    c.run("flush")
    daemon.console_of_guest = c
    yield daemon
    c.close()


def compare(d, a, b):
    fmt = {True: "qcow2", False: "raw"}
    subprocess.run(["qemu-img", "compare", "-q", "-U", "-f", fmt[a.endswith("qcow2")], "-F", fmt[b.endswith("qcow2")], a, b],
                   cwd=d.tmp, check=True)


def path_of(d, running):
    done = d.cairn("dumpjson", "vm1", *([] if running else ["--inactive"]))
    disk, = [x for x in json.loads(done.stdout)["disks"] if x["id"] == "vda"]
    return os.path.basename(disk["path"]), disk["format"]


@pytest.mark.parametrize("vm,to", [("virtio", "copy.raw"), ("virtio", "copy.qcow2"), ("scsi", "copy.qcow2")], indirect=["vm"])
def test_pivot_goes_on_with_the_copy(vm, to):
    c, fmt = vm.console_of_guest, to.split(".")[1]
    pid = vm.info("vm1")["pid"]
    assert vm.cairn("blockcopy", "vm1", "vda", "--dest", to, "--wait", "--pivot").stdout == "Successfully pivoted\n"
    compare(vm, "disk.qcow2", to)
    files = open_files(pid)
    assert str(vm.tmp / to) in files and str(vm.tmp / "disk.qcow2") not in files
    assert path_of(vm, True) == path_of(vm, False) == (to, fmt)
    os.rename(vm.tmp / "disk.qcow2", vm.tmp / "old.qcow2")
    for n in range(0, 40, 2):
        c.run(f"verify {n * 1200} 256 {n}")
    c.run("write 100 64 77")
    c.run("flush")
    if fmt == "qcow2":
        vm.cairn("snapshot-create-as", "vm1", "s1")
    vm.cairn("destroy", "vm1")
    if fmt == "qcow2":
        subprocess.run(["qemu-img", "check", "-q", to], cwd=vm.tmp, check=True)
    vm.cairn("start", "vm1")
    d = Console(vm, "vm1")
    assert d.line() == "interp"
    for line in (vm.open_disk, "verify 100 64 77", "verify 2400 256 2"):
        d.run(line)
    d.close()


def test_finish_leaves_a_copy_of_the_moment(vm):
    c = vm.console_of_guest
    assert vm.cairn("blockcopy", "vm1", "vda", "--dest", "copy.raw", "--finish").stdout == "Successfully copied\n"
    compare(vm, "disk.qcow2", "copy.raw")
    c.run("write 0 64 99")
    c.run("flush")
    assert path_of(vm, True) == path_of(vm, False) == ("disk.qcow2", "qcow2")
    assert str(vm.tmp / "copy.raw") not in open_files(vm.info("vm1")["pid"])
    with pytest.raises(subprocess.CalledProcessError):
        compare(vm, "disk.qcow2", "copy.raw")
    assert vm.cairn("blockcopy", "vm1", "vda", "--dest", "two.raw", "--finish").stdout == "Successfully copied\n"


@pytest.mark.parametrize("vm,who", [("virtio", "process"), ("virtio", "daemon"), ("scsi", "process")], indirect=["vm"])
def test_flushed_data_is_on_both_when_one_is_killed(vm, who):
    """The kill comes in the mirroring phase; the guest has written during and after the copy."""
    c = vm.console_of_guest
    id = vm.cairn("blockcopy", "vm1", "vda", "--dest", "copy.qcow2", "--bandwidth", "20", "--no-wait").stdout.strip()
    for n in range(1, 40, 2):
        c.run(f"write {n * 1200} 256 {n}")
    q = vm.qmp()
    until(lambda: [j for j in q.jobs() if j["id"] == id][0]["status"] == "concluded")
    q.close()
    c.run("write 7 200 50")
    c.run("zero 5000 128")
    c.run("flush")
    assert "is being mirrored to a copy, or to its base; end that first, with cairn blockjob vm1 vda --abort, or --pivot" in vm.cairn(
        "snapshot-create-as", "vm1", "s1", ok=False).stderr
    if who == "process":
        os.kill(vm.info("vm1")["pid"], signal.SIGKILL)
        until(lambda: vm.info("vm1")["state"] in ("crashed", "shutoff"))
        for image in ("disk.qcow2", "copy.qcow2"):
            done = subprocess.run(["qemu-img", "check", image], cwd=vm.tmp, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
            assert done.returncode in (0, 3), done.stdout  # leaks at most
        compare(vm, "disk.qcow2", "copy.qcow2")
        assert path_of(vm, False) == ("disk.qcow2", "qcow2")
        return
    until(lambda: vm.kept("vm1").get("mirrors"))
    vm.stop(signal.SIGKILL)
    vm.start()
    compare(vm, "disk.qcow2", "copy.qcow2")
    assert vm.cairn("blockjob", "vm1", "vda").stdout == f"Block Copy: [100.00 %]    To: {vm.tmp}/copy.qcow2\n"
    assert vm.cairn("blockjob", "vm1", "vda", "--pivot").stdout == "Successfully pivoted\n"
    assert path_of(vm, True) == path_of(vm, False) == ("copy.qcow2", "qcow2")
    assert vm.cairn("blockjob", "vm1", "vda").stdout == "No current block job for vda\n"
    vm.cairn("snapshot-create-as", "vm1", "s1")


def mirror_of(d):
    disk, = [x for x in d.info("vm1")["disks"] if x["id"] == "vda"]
    return disk.get("mirror")


def test_blockjob_shows_and_cancels_the_copy(vm):
    for n in range(192):  # the copy takes 24 s
        vm.console_of_guest.run(f"write {n * 256} 256 {n + 1}")
    id = vm.cairn("blockcopy", "vm1", "vda", "--dest", "copy.raw", "--bandwidth", "1", "--no-wait").stdout.strip()
    shown = vm.cairn("blockjob", "vm1", "vda", "--info").stdout
    assert re.fullmatch(r"Block Copy: \[ *\d+\.\d\d %\]    Bandwidth limit: 1048576 bytes/s \(1\.000 MiB/s\)\n", shown), shown
    assert "No disk found whose source path or target is disk.qcow2" in vm.cairn("blockjob", "vm1", "disk.qcow2", ok=3).stderr
    o = json.loads(vm.cairn("blockjob", "vm1", str(vm.tmp / "disk.qcow2"), "--format", "json").stdout)
    assert (o["job"]["id"], o["job"]["disk"], o["mirror"]) == (id, "vda", None)
    r = vm.cairn("blockjob", "vm1", "vda", "--pivot", ok=False)
    assert "the job has not copied all yet; cairn blockjob vm1 vda shows its progress" in r.stderr
    assert vm.cairn("blockjob", "vm1", "vda", "--abort").stdout == "The job is being cancelled\n"
    until(lambda: vm.cairn("blockjob", "vm1", "vda").stdout == "No current block job for vda\n")
    assert mirror_of(vm) is None
    assert "--dest-format must be raw or qcow2" in vm.cairn("blockjob", "vm1", "vda", "--pivot", "--dest", "x", "--dest-format", "vdi", ok=2).stderr
    why = "no copy of the disk is known; if an older Cairn began one, name its file with --dest"
    assert why in vm.cairn("blockjob", "vm1", "vda", "--pivot", ok=3).stderr
    assert "No disk found whose source path or target is vdz" in vm.cairn("blockjob", "vm1", "vdz", ok=3).stderr


def test_a_daemon_compares_its_mirrors_with_the_process(vm):
    """A kill of the daemon may leave state.json with a copy that has ended, or without one that is there."""
    vm.cairn("blockcopy", "vm1", "vda", "--dest", "copy.raw")
    assert mirror_of(vm) == {"type": "blockcopy", "path": str(vm.tmp / "copy.raw"), "format": "raw", "user": os.geteuid()}
    state = vm.state / "vms/vm1/state.json"
    until(lambda: vm.kept("vm1").get("mirrors"))
    vm.stop(signal.SIGKILL)
    noted = state.read_text()
    o = json.loads(noted)
    assert o.pop("mirrors") == [{"disk": "vda", "type": "blockcopy", "path": str(vm.tmp / "copy.raw"), "format": "raw", "user": os.geteuid()}]
    state.write_text(json.dumps(o))
    vm.start()
    assert mirror_of(vm) == {"type": "blockcopy"}
    assert "To: a file that is not known by name" in vm.cairn("blockjob", "vm1", "vda").stdout
    assert "it is not known which file is the copy; name it with --dest" in vm.cairn("blockjob", "vm1", "vda", "--pivot", ok=False).stderr
    assert vm.cairn("blockjob", "vm1", "vda", "--abort").stdout == "Successfully copied\n"
    vm.stop(signal.SIGKILL)
    o["mirrors"] = json.loads(noted)["mirrors"]
    state.write_text(json.dumps(o))
    vm.start()
    assert mirror_of(vm) is None
    vm.cairn("destroy", "vm1")
    assert vm.cairn("blockjob", "vm1", "vda").stdout == "No current block job for vda\n"
    assert "No disk found" in vm.cairn("blockjob", "vm1", "vdz", ok=3).stderr


def test_abort_in_mirroring_phase(vm):
    assert vm.cairn("blockcopy", "vm1", "vda", "--dest", "copy.raw").stdout == "Now in mirroring phase\n"
    assert "disk vda is being mirrored to a copy" in vm.cairn("blockcopy", "vm1", "vda", "--dest", "b.raw", ok=False).stderr
    assert not os.path.exists(vm.tmp / "b.raw")
    with open(vm.tmp / "other.raw", "wb") as f:
        f.truncate(SIZE)
    r = vm.cairn("blockjob", "vm1", "vda", "--pivot", "--dest", "other.raw", ok=False)
    assert "the file is not the copy of disk vda" in r.stderr
    r = vm.cairn("blockjob", "vm1", "vda", "--pivot", "--dest", "copy.raw", "--dest-format", "qcow2", ok=False)
    assert "the copy of disk vda has format raw" in r.stderr
    assert path_of(vm, False) == ("disk.qcow2", "qcow2")  # a refused pivot leaves the definition of the next start
    assert vm.cairn("blockjob", "vm1", "vda", "--pivot", "--dest", "copy.raw").stdout == "Successfully pivoted\n"
    assert "has no copy under way" in vm.cairn("blockjob", "vm1", "vda", "--abort", ok=3).stderr
    vm.cairn("destroy", "vm1")
    assert "VM 'vm1' is shut off, so no disk of it has a copy under way" in vm.cairn("blockjob", "vm1", "vda", "--abort", ok=3).stderr


def test_abort_is_refused_while_the_next_start_has_the_copy(vm):
    vm.cairn("blockcopy", "vm1", "vda", "--dest", "copy.raw")
    was = vm.cairn("dumpjson", "vm1", "--inactive").stdout
    now = json.loads(was)
    now["disks"][0].update(path=str(vm.tmp / "copy.raw"), format="raw")
    (vm.tmp / "vm1.json").write_text(json.dumps(now))
    vm.cairn("define", "vm1.json")
    assert "change that back first, with cairn edit, or continue with it: cairn blockjob vm1 vda --pivot" in vm.cairn(
        "blockjob", "vm1", "vda", "--abort", ok=4).stderr
    (vm.tmp / "vm1.json").write_text(was)
    vm.cairn("define", "vm1.json")
    vm.cairn("blockjob", "vm1", "vda", "--abort")


def next_start_gets(vm, path, backing=()):
    """Let the next start have another image."""
    now = json.loads(vm.cairn("dumpjson", "vm1", "--inactive").stdout)
    now["disks"][0].update(path=str(vm.tmp / path), format="qcow2", backing=[{"path": str(vm.tmp / b), "format": "qcow2"} for b in backing])
    (vm.tmp / "vm1.json").write_text(json.dumps(now))
    vm.cairn("define", "vm1.json")


@pytest.mark.parametrize("verb", [("blockcopy", "vda", "--dest", "copy.qcow2", "--pivot"), ("snapshot-create-as", "e1", "--disk-only", "--external")],
                         ids=lambda v: v[0])
def test_next_start_with_an_image_of_its_own_keeps_it(vm, verb):
    """As in libvirt. The running VM does not need it."""
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "other.qcow2", str(SIZE)], cwd=vm.tmp, check=True)
    next_start_gets(vm, "other.qcow2")
    r = vm.cairn(verb[0], "vm1", *verb[1:])
    assert r.stderr == f"note: the next start of domain 'vm1' keeps its own image for disk vda: {vm.tmp}/other.qcow2\n"
    assert path_of(vm, True)[0] == ("copy.qcow2" if verb[0] == "blockcopy" else "disk.e1")
    assert path_of(vm, False)[0] == "other.qcow2"
    vm.console_of_guest.run("verify 2400 256 2")


def test_next_start_that_needs_the_image_excludes_a_pivot(vm):
    """It would lack what the guest writes to the copy. The copy can still be ended."""
    subprocess.run(["qemu-img", "create", "-q", "-u", "-b", "disk.qcow2", "-F", "qcow2", "-f", "qcow2", "over.qcow2", str(SIZE)], cwd=vm.tmp, check=True)
    next_start_gets(vm, "over.qcow2", ["disk.qcow2"])
    r = vm.cairn("blockcopy", "vm1", "vda", "--dest", "copy.qcow2", "--pivot", ok=6)
    assert f"next start has the image {vm.tmp}/over.qcow2 for disk vda, which reads a file that the disk has now" in r.stderr
    assert not (vm.tmp / "copy.qcow2").exists()
    r = vm.cairn("snapshot-create-as", "vm1", "e1", "--disk-only", "--external", ok=4)
    assert "complete an interrupted snapshot with its --reuse-external" in r.stderr and not (vm.tmp / "disk.e1").exists()
    assert vm.cairn("blockcopy", "vm1", "vda", "--dest", "copy.raw", "--finish").stdout == "Successfully copied\n"
    assert path_of(vm, True)[0] == "disk.qcow2" and path_of(vm, False)[0] == "over.qcow2"


def test_next_start_with_another_path_of_the_image_gets_the_copy(vm):
    os.symlink("disk.qcow2", vm.tmp / "link.qcow2")
    next_start_gets(vm, "link.qcow2")
    assert "note" not in vm.cairn("blockcopy", "vm1", "vda", "--dest", "copy.qcow2", "--pivot").stderr
    assert path_of(vm, True) == path_of(vm, False) == ("copy.qcow2", "qcow2")


def test_pivot_keeps_snapshots(vm, monkeypatch):
    vm.cairn("snapshot-create-as", "vm1", "s1")
    # The VM refuses it before the copy, also for a user who cannot read the image.
    monkeypatch.setitem(vm.env, "CAIRN_LIBEXEC", "/none")
    r = vm.cairn("blockcopy", "vm1", "vda", "--dest", "copy.qcow2", "--pivot", ok=False)
    assert "has internal snapshots (1), or live clones read it: a copy has none of them; delete the snapshots first" in r.stderr
    assert not os.path.exists(vm.tmp / "copy.qcow2")
    vm.cairn("blockcopy", "vm1", "vda", "--dest", "copy.qcow2", "--dest-format", "qcow2")
    r = vm.cairn("blockjob", "vm1", "vda", "--pivot", "--dest", "copy.qcow2", "--dest-format", "qcow2", ok=False)
    assert "has internal snapshots (1), or live clones read it: the copy has none, so continue with the disk" in r.stderr
    vm.cairn("blockjob", "vm1", "vda", "--abort")
    os.remove(vm.tmp / "copy.qcow2")
    assert path_of(vm, True) == path_of(vm, False) == ("disk.qcow2", "qcow2")
    # The copy has ended, as any that fails: nothing but the disk is written, and other work is possible.
    assert not os.path.exists(vm.tmp / "copy.qcow2") and str(vm.tmp / "copy.qcow2") not in str(open_files(vm.info("vm1")["pid"]))
    vm.console_of_guest.run("verify 2400 256 2")
    vm.cairn("snapshot-create-as", "vm1", "s2")


def test_cancelled_copy_leaves_the_disk(vm):
    id = vm.cairn("blockcopy", "vm1", "vda", "--dest", "copy.raw", "--bandwidth", "1", "--no-wait").stdout.strip()
    vm.cairn("job-cancel", id)
    q = vm.qmp()
    until(lambda: [j for j in q.jobs() if j["id"] == id][0]["status"] == "concluded")
    q.close()
    assert str(vm.tmp / "copy.raw") not in open_files(vm.info("vm1")["pid"])
    vm.console_of_guest.run("verify 2400 256 2")
    vm.cairn("snapshot-create-as", "vm1", "s1")


def test_no_file_is_made_without_a_daemon(tmp_path):
    """A file that stays would make the next try fail, because the copy must make its file."""
    p = subprocess.run([os.path.join(BUILD, "cairn"), "-c", str(tmp_path / "none"), "blockcopy", "vm1", "vda", "--dest", "copy.raw"],
                       cwd=tmp_path, stderr=subprocess.PIPE, text=True, check=False, timeout=50)
    assert p.returncode == 7 and "no daemon listens" in p.stderr and "warning" not in p.stderr
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("args,says", [
    (["vdx", "--dest", "a"], "vdx"), (["vda"], "--dest"), (["vda", "--dest", "disk.qcow2"], "disk.qcow2 exists already; name a file that the copy makes"),
    (["vda", "--dest", "a", "--pivot", "--finish"], "exclude"), (["vda", "--dest", "a", "--dest-format", "vmdk"], "raw or qcow2"),
    (["vda", "--dest", "a", "--bandwidth", "x"], "MiB/s")])
def test_impossible_copy_is_refused(vm, args, says):
    assert says in vm.cairn("blockcopy", "vm1", *args, ok=False).stderr
    assert not os.path.exists(vm.tmp / "a")


@pytest.mark.parametrize("verb", [["blockcopy", "vm1", "vda", "--dest", "copy.raw", "--finish"], ["blockpull", "vm1", "vda", "--wait"]], ids=lambda v: v[0])
def test_damaged_cluster_is_named(daemon, kvm, guest, monkeypatch, verb):
    """The message names the layer of the disk, the cluster, and the way to rescue the rest."""
    monkeypatch.chdir(daemon.tmp)
    (daemon.tmp / "plain").write_bytes(b"data" * (MIB // 4))
    subprocess.run(["qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", "plain", "base"], check=True)
    with open("base", "r+b") as f:
        def word(at):
            f.seek(at)
            return int.from_bytes(f.read(8), "big")
        entry = word((word(word(40)) & 0x00FFFFFFFFFFFE00) + 8 * 3)
        f.seek(entry & ((1 << 54) - 1))
        f.write(b"\xff" * 16)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "disk.qcow2"], check=True)
    daemon.define("vm1", boot={"kernel": guest("interp.elf")}, disks=[
        {"id": "vda", "path": "disk.qcow2", "format": "qcow2", "backing": [{"path": "base", "format": "qcow2"}]}])
    daemon.cairn("start", "vm1")
    said = daemon.cairn(*verb, ok=False).stderr
    assert f"vda: backing layer 1: the compressed cluster of guest offset {3 << 16} is damaged; `cairn-img convert --salvage` copies" in said


@pytest.fixture
def hung(vm):
    """Mount a file system that answers only after release()."""
    with fuse(vm.tmp / "fuse") as f:
        yield f
        f.release()


def start(d, *args):
    return subprocess.Popen([os.path.join(BUILD, "cairn"), *args], cwd=d.tmp, env={**os.environ, "CAIRN_SOCKET": str(d.socket)},
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_process_answers_while_the_copy_is_made_on_a_hung_file_system(vm, hung):
    hung.hang(Op.WRITE)
    with start(vm, "blockcopy", "vm1", "vda", "--dest", "fuse/copy.qcow2") as p:
        until(lambda: Op.WRITE in hung.hanging())
        vm.sandbox("vm1")  # the process answers
        vm.console_of_guest.run("verify 2400 256 2")
        hung.release()
        assert p.communicate()[0] == "Now in mirroring phase\n"


@pytest.mark.seconds(120)
@pytest.mark.parametrize("vm,how", [("virtio", ["--abort"]), ("virtio", ["--pivot", "--dest", "fuse/copy.raw"]),
                                    ("scsi", ["--pivot", "--dest", "fuse/copy.raw"])], indirect=["vm"])
def test_end_of_a_copy_on_a_hung_file_system(vm, hung, how):
    c = vm.console_of_guest
    assert vm.cairn("blockcopy", "vm1", "vda", "--dest", "fuse/copy.raw").stdout == "Now in mirroring phase\n"
    hung.hang(Op.WRITE, Op.FSYNC)
    c.sock.sendall(b"write 100 64 77\n")
    until(lambda: hung.hanging())
    with start(vm, "blockjob", "vm1", "vda", *how) as p:
        while p.poll() is None:
            vm.sandbox("vm1")  # the process answers
        assert "does not answer" in p.stderr.read()
    assert path_of(vm, True) == path_of(vm, False) == ("disk.qcow2", "qcow2")
    hung.release()
    until(lambda: c.line() == "ok")
    c.run("flush")
    assert vm.cairn("blockjob", "vm1", "vda", *how).stdout in ("Successfully copied\n", "Successfully pivoted\n")
    compare(vm, "disk.qcow2", "fuse/copy.raw")


def test_closing_the_copy_on_a_hung_file_system_delays_no_guest(vm, hung):
    assert vm.cairn("blockcopy", "vm1", "vda", "--dest", "fuse/copy.raw").stdout == "Now in mirroring phase\n"
    hung.hang(Op.FLUSH)
    with start(vm, "blockjob", "vm1", "vda", "--abort") as p:
        until(lambda: Op.FLUSH in hung.hanging())
        vm.sandbox("vm1")  # the process answers
        vm.console_of_guest.run("write 100 64 77")
        hung.release()
        assert p.communicate()[0] == "Successfully copied\n"


@each_bus
def test_copy_ends_beside_a_guest_that_writes_without_end(vm):
    """The copy is slower than the guest's writes, so each round leaves as much as the one before."""
    c = vm.console_of_guest
    c.sock.sendall(b"bench randwrite 8 1000000000 4096 40000\n")
    assert vm.cairn("blockcopy", "vm1", "vda", "--dest", "copy.raw", "--bandwidth", "20").stdout == "Now in mirroring phase\n"
    vm.cairn("suspend", "vm1")
    assert vm.cairn("blockjob", "vm1", "vda", "--pivot", "--dest", "copy.raw").stdout == "Successfully pivoted\n"
    compare(vm, "disk.qcow2", "copy.raw")


def test_file_stays_if_the_connection_is_lost(vm):
    """The command cannot know whether the VM uses the file."""
    with start(vm, "blockcopy", "vm1", "vda", "--dest", "copy.raw", "--bandwidth", "1") as p:
        until(lambda: str(vm.tmp / "copy.raw") in open_files(vm.info("vm1")["pid"]))
        vm.stop(signal.SIGKILL)
        assert "may use copy.raw, so it stays" in p.communicate()[1]
    assert (vm.tmp / "copy.raw").exists()
    vm.start()
