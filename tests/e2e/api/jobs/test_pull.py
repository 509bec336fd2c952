"""cairn blockpull: a disk becomes independent of its backing files, while its VM runs or is off."""

import json
import os
import signal
import subprocess

import pytest

from conftest import BUILD, Console, Qmp, QmpError, has_ended, open_files, until
from test_qmp import qemu  # noqa: F401 (a fixture)
from test_slow_disk import PRELOAD

MIB = 1 << 20


def img(d, *args):
    return subprocess.run([os.path.join(BUILD, "cairn-img"), *args], cwd=d.tmp, check=True, text=True, stdout=subprocess.PIPE).stdout


def overlay(d, size=24 * MIB):
    """Make base.raw with random bytes in its middle, and disk.qcow2 on it."""
    with open(d.tmp / "base.raw", "wb") as f:
        f.truncate(size)
        f.seek(4 * MIB)
        f.write(os.urandom(8 * MIB))
    img(d, "create", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "disk.qcow2")
    return {"id": "vda", "path": "disk.qcow2", "format": "qcow2", "backing": [{"path": "base.raw", "format": "raw"}]}


def stands_alone(d):
    """Check that image and definition have no backing file, and that the image has base.raw's content."""
    assert "backing-filename" not in json.loads(img(d, "info", "--output", "json", "-U", "disk.qcow2"))
    disk, = d.qmp().run("vm-dump-definition", vm="vm1")["definition"]["disks"]
    assert "backing" not in disk
    assert d.qmp().run("vm-dump-definition", vm="vm1")["pending"] is False


each_bus = pytest.mark.parametrize("vm", ["virtio", "scsi"], indirect=True)


@pytest.fixture
def vm(request, daemon, kvm, guest):
    """A running VM with an overlay."""
    daemon.bus = getattr(request, "param", "virtio")
    daemon.define("vm1", boot={"kernel": guest("interp.elf")}, debug_exit=True, disks=[{**overlay(daemon), "bus": daemon.bus}])
    daemon.cairn("start", "vm1")
    until(lambda: daemon.kept("vm1").get("state") == "running")
    return daemon


def same_content(d):
    """Compare the image alone with base.raw, once the VM is off."""
    os.rename(d.tmp / "base.raw", d.tmp / "was.raw")
    subprocess.run(["qemu-img", "compare", "-q", "-f", "qcow2", "-F", "raw", "disk.qcow2", "was.raw"], cwd=d.tmp, check=True)
    subprocess.run(["qemu-img", "check", "-q", "disk.qcow2"], cwd=d.tmp, check=True)


@each_bus
def test_disk_of_running_vm_is_pulled(vm):
    pid = vm.info("vm1")["pid"]
    assert str(vm.tmp / "base.raw") in open_files(pid)
    assert vm.cairn("blockpull", "vm1", "vda", "--wait", "--bandwidth", "1000").stdout == "Pull complete\n"
    assert str(vm.tmp / "base.raw") not in open_files(pid)
    stands_alone(vm)
    assert "has no backing file in the definition of VM 'vm1'; if its image has one, add it" in vm.cairn("blockpull", "vm1", str(vm.tmp / "disk.qcow2"), ok=False).stderr
    vm.cairn("snapshot-create-as", "vm1", "s1")
    vm.cairn("destroy", "vm1")
    same_content(vm)
    vm.cairn("start", "vm1")


@each_bus
def test_guest_writes_during_pull(vm):
    """The guest's data wins over the backing file's, whether the guest writes a cluster before or after the pull."""
    c = Console(vm, "vm1")
    assert c.line() == "interp"
    c.run("open 0" if vm.bus == "virtio" else "sopen 0 512")
    sectors = range(8192 - 64, 24576, 1000)  # across the backing file's data
    for n, sector in enumerate(sectors[::2]):
        c.run(f"write {sector} 128 {n}")
    id = vm.cairn("blockpull", "vm1", "vda", "--bandwidth", "16", "--no-wait").stdout.strip()
    for n, sector in enumerate(sectors[1::2]):
        c.run(f"write {sector} 128 {100 + n}")
    q = vm.qmp()
    until(lambda: [j for j in q.jobs() if j["id"] == id][0]["status"] == "concluded")
    stands_alone(vm)
    for n, sector in enumerate(sectors[::2]):
        c.run(f"verify {sector} 128 {n}")
    for n, sector in enumerate(sectors[1::2]):
        c.run(f"verify {sector} 128 {100 + n}")
    c.run("flush")
    c.close()
    vm.cairn("destroy", "vm1")
    subprocess.run(["qemu-img", "check", "-q", "disk.qcow2"], cwd=vm.tmp, check=True)


def test_disk_is_neither_attached_nor_detached_meanwhile(vm):
    """The VM's process says so at once, although the pull takes half a minute."""
    for name in "bc":
        img(vm, "create", "-f", "qcow2", f"{name}.qcow2", "1M")
    attach = ["attach-disk", "vm1", str(vm.tmp / "b.qcow2"), "vdb", "--live", "--subdriver", "qcow2"]
    vm.cairn(*attach)
    id = vm.cairn("blockpull", "vm1", "vda", "--bandwidth", "1", "--no-wait").stdout.strip()
    attach[2:4] = str(vm.tmp / "c.qcow2"), "vdc"
    for command in (attach, ["detach-disk", "vm1", "vdb", "--live"]):
        assert "a blockpull of this VM is under way; try again after it" in vm.cairn(*command, ok=False).stderr
    assert "vm1" in vm.cairn("domstats", "vm1").stdout
    q = vm.qmp()
    q.run("job-cancel", id=id)
    until(lambda: q.run("query-jobs", id=id)[0]["status"] == "concluded")


def test_qmp_streams_a_disk(vm):
    path = vm.qmp().run("vm-qmp-path", vm="vm1")["path"]
    q = Qmp(path)
    q.run("block-stream", device="vda", job_id="s")
    q.event("JOB_STATUS_CHANGE", id="s", status="concluded")
    job, = q.run("query-jobs")
    assert (job["id"], job["type"]) == ("s", "stream") and "error" not in job
    q.close()
    stands_alone(vm)


def test_qmp_shows_the_job_of_a_disk_as_qemu_does(vm, qemu):  # noqa: F811
    q = Qmp(vm.qmp().run("vm-qmp-path", vm="vm1")["path"])
    vm.clients.append(q)
    q.run("block-stream", device="vda", job_id="s", speed=1 << 20)  # half a minute
    until(lambda: q.run("query-block-jobs")[0]["len"])
    job, = jobs = q.run("query-block-jobs")
    qemu.check(qemu.by_name["query-block-jobs"]["ret-type"], jobs, "query-block-jobs")
    assert (job["device"], job["type"], job["status"], job["speed"]) == ("s", "stream", "running", 1 << 20)
    assert job["busy"] and not job["ready"] and job["offset"] < job["len"]
    q.run("job-cancel", id="s")
    q.event("JOB_STATUS_CHANGE", id="s", status="concluded")
    assert q.run("query-block-jobs") == [] and len(q.run("query-jobs")) == 1


def test_disk_of_vm_that_is_off_is_pulled(vm):
    vm.cairn("destroy", "vm1")
    vm.cairn("blockpull", "vm1", "vda")
    stands_alone(vm)
    same_content(vm)
    vm.cairn("start", "vm1")


def test_live_clone_is_pulled(vm):
    """The clone keeps its content, and its source loses the pin: it is pulled itself then."""
    vm.cairn("clone", "--live", "vm1", "copy")
    disk, = vm.qmp().run("vm-dump-definition", vm="copy")["definition"]["disks"]
    assert len(disk["backing"]) == 2
    assert "live clones read it" in vm.cairn("blockpull", "vm1", "vda", ok=False).stderr
    vm.cairn("blockpull", "copy", "vda")
    assert str(vm.tmp / "disk.qcow2") not in open_files(vm.info("copy")["pid"])
    until(lambda: vm.cairn("blockpull", "vm1", "vda", ok=None).returncode == 0)
    vm.cairn("destroy", "copy")
    subprocess.run(["qemu-img", "compare", "-q", "-f", "qcow2", "-F", "raw", disk["path"], "base.raw"], cwd=vm.tmp, check=True)
    subprocess.run(["qemu-img", "check", "-q", disk["path"]], cwd=vm.tmp, check=True)
    vm.cairn("undefine", "copy", "--remove-all-storage")


def test_cancelled_pull_keeps_backing_file(vm):
    id = vm.cairn("blockpull", "vm1", "vda", "--bandwidth", "1", "--no-wait").stdout.strip()
    q = vm.qmp()
    q.event("JOB_PROGRESS", id=id)
    vm.cairn("reset", "vm1")  # does not wait for the pull
    with pytest.raises(QmpError, match=f"job {id} "):
        q.run("snapshot-create", vm="vm1", name="s1")
    q.run("job-cancel", id=id)
    q.event("JOB_STATUS_CHANGE", id=id, status="concluded")
    job, = [j for j in q.jobs() if j["id"] == id]
    assert "disk vda keeps its backing file" in job["error"]
    assert str(vm.tmp / "base.raw") in open_files(vm.info("vm1")["pid"])
    vm.cairn("blockpull", "vm1", "vda")
    stands_alone(vm)


def test_pull_is_cancelled_before_it_begins(vm):
    """The daemon reads both requests at once, when the disk's mark is not stored yet."""
    q, watcher = vm.qmp(), vm.qmp()
    q.send(b'{"execute":"vm-blockpull","arguments":{"vm":"vm1","disk":"vda","bandwidth":1,"job-id":"j"}}'
           b'{"execute":"job-cancel","arguments":{"id":"j"}}')
    assert "return" in q.answer() and q.answer() == {"return": {}}
    until(lambda: watcher.run("query-jobs", id="j")[0]["status"] == "concluded")
    assert "disk vda keeps its backing file" in watcher.run("query-jobs", id="j")[0]["error"]
    until(lambda: "pulling" not in vm.kept("vm1"))
    vm.cairn("blockpull", "vm1", "vda")
    stands_alone(vm)


def test_snapshots_prevent_pull(vm):
    vm.cairn("snapshot-create-as", "vm1", "s1")
    r = vm.cairn("blockpull", "vm1", "vda", ok=False)
    assert "has internal snapshots, or live clones read it" in r.stderr
    vm.cairn("snapshot-delete", "vm1", "s1")
    vm.cairn("blockpull", "vm1", "vda")


def pull_under_way(vm, bandwidth):
    """Begin a pull, and wait until it has copied something. Return the job's id."""
    id = vm.cairn("blockpull", "vm1", "vda", "--bandwidth", bandwidth, "--no-wait").stdout.strip()
    vm.qmp().event("JOB_PROGRESS", id=id)
    until(lambda: vm.kept("vm1").get("pulling") == [str(vm.tmp / "disk.qcow2")])
    return id


def test_next_daemon_begins_the_pull_again(vm):
    """The new job has the id and the rate of the old one."""
    pid = vm.info("vm1")["pid"]
    id = pull_under_way(vm, "2")
    vm.stop(signal.SIGKILL)
    assert vm.kept("vm1")["pull_rate"] == 2 * MIB
    vm.start()
    assert vm.info("vm1")["pid"] == pid
    job, = vm.qmp().jobs()
    assert (job["id"], job["type"]) == (id, "blockpull")
    client = vm.qmp()
    until(lambda: client.jobs()[0]["status"] == "concluded")
    assert "error" not in vm.qmp().jobs()[0]
    stands_alone(vm)
    until(lambda: vm.kept("vm1").keys().isdisjoint({"pulling", "pull_rate"}))
    vm.cairn("destroy", "vm1")
    same_content(vm)


def test_pull_that_began_again_is_cancelled(vm):
    id = pull_under_way(vm, "1")
    vm.stop(signal.SIGKILL)
    vm.start()
    q = vm.qmp()
    q.run("job-cancel", id=id)
    until(lambda: q.jobs()[0]["status"] == "concluded")
    assert "disk vda keeps its backing file" in q.jobs()[0]["error"]
    until(lambda: "pulling" not in vm.kept("vm1"))
    vm.cairn("blockpull", "vm1", "vda")
    stands_alone(vm)


@pytest.mark.parametrize("process", ["lives", "has ended"])
def test_killed_daemon_leaves_a_vm_that_starts(vm, process):
    """The process has finished the pull, but the daemon's definition has one backing file too many."""
    pid = vm.info("vm1")["pid"]
    files = [vm.state / "vms/vm1" / name for name in ("definition.json", "state.json")]
    id = pull_under_way(vm, "1")
    during_pull = [f.read_text() for f in files]
    q = vm.qmp()
    q.run("job-cancel", id=id)
    q.event("JOB_STATUS_CHANGE", id=id, status="concluded")
    until(lambda: "pulling" not in vm.kept("vm1"))
    vm.cairn("blockpull", "vm1", "vda")
    until(lambda: "pulling" not in vm.kept("vm1"))
    vm.stop(signal.SIGKILL)
    for f, text in zip(files, during_pull):
        f.write_text(text)
    if process == "lives":
        vm.start()
        assert vm.info("vm1")["pid"] == pid
        until(lambda: "pulling" not in vm.kept("vm1") and "job" not in vm.info("vm1"))
        stands_alone(vm)
        return
    os.kill(pid, signal.SIGKILL)
    until(lambda: has_ended(pid))
    vm.start()
    vm.cairn("snapshot-create-as", "vm1", "s1")
    vm.cairn("start", "vm1")
    assert str(vm.tmp / "base.raw") not in open_files(vm.info("vm1")["pid"])
    q = vm.qmp()
    definition = q.run("vm-dump-definition", vm="vm1")["definition"]
    q.run("vm-define", definition={**definition, "memory": "48M"})
    assert vm.kept("vm1")["pulling"]
    del definition["disks"][0]["backing"]
    q.run("vm-define", definition=definition)
    assert vm.kept("vm1")["pulling"]  # the definition that the VM runs with still names the backing file
    vm.cairn("destroy", "vm1")
    until(lambda: "pulling" not in vm.kept("vm1"))


def test_image_that_lost_its_backing_file_without_a_pull_is_refused(vm):
    vm.cairn("destroy", "vm1")
    img(vm, "create", "-f", "qcow2", "disk.qcow2", "24M")
    for args in ("start", "vm1"), ("snapshot-list", "vm1"):
        assert "no backing file" in vm.cairn(*args, ok=False).stderr


def test_edit_that_is_stored_while_a_pull_ends_is_kept(vm):
    """The user's draft waits for the disk while the pull ends and changes the definition, too."""
    vm.cairn("destroy", "vm1")
    vm.stop()
    go = vm.tmp / "go"
    vm.env |= {"LD_PRELOAD": PRELOAD, "SLOW_SYNC_OF": ".draft-", "SLOW_SYNC_UNTIL": str(go)}
    vm.start()
    vm.cairn("start", "vm1")
    pid = vm.info("vm1")["pid"]
    assert str(vm.tmp / "base.raw") in open_files(pid)
    q, other = vm.qmp(), vm.qmp()
    definition = q.run("vm-dump-definition", vm="vm1")["definition"]
    os.kill(pid, signal.SIGSTOP)
    id = vm.cairn("blockpull", "vm1", "vda", "--no-wait").stdout.strip()
    q.send(json.dumps({"execute": "vm-define", "arguments": {"definition": {**definition, "memory": "48M"}}}).encode())
    until(lambda: any(p.name.startswith(".draft-") for p in (vm.state / "vms").iterdir()))
    os.kill(pid, signal.SIGCONT)
    until(lambda: str(vm.tmp / "base.raw") not in open_files(pid))
    assert other.run("query-jobs", id=id)[0]["status"] == "running"
    go.touch()
    assert "return" in q.answer()
    until(lambda: other.run("query-jobs", id=id)[0]["status"] == "concluded")
    now = other.run("vm-dump-definition", vm="vm1", inactive=True)
    assert now["definition"] == {**definition, "memory": "48M", "disks": now["definition"]["disks"]}
    assert "backing" not in now["definition"]["disks"][0] and now["pending"]


def test_refusals_of_pull(vm):
    q = vm.qmp()
    for disk, words in ("vdx", "has no disk 'vdx'"), ("", "has no disk ''"):
        with pytest.raises(QmpError, match=words):
            q.run("vm-blockpull", vm="vm1", disk=disk)
    with pytest.raises(QmpError, match="bandwidth: must not be negative"):
        q.run("vm-blockpull", vm="vm1", disk="vda", bandwidth=-1)
    assert vm.cairn("blockpull", "vm1", "vda", "--bandwidth", "x", ok=2)
