"""A file system that does not answer, such as FUSE, delays only the user who names its files, never the daemon."""

import contextlib
import json
import os
import shutil
import signal
import subprocess

import pytest

from conftest import BUILD, Qmp, open_files, until
from daemonlib import NOBODY, shared  # noqa: F401
from fuselib import Op, fuse
from otherslib import as_user


@pytest.fixture
def hostile(shared):  # noqa: F811
    """A daemon and a file system. The user nobody is an owner of the VM 'mine'."""
    shared.cairn("grant", "owner", "mine", "--user", "nobody")
    with fuse(shared.tmp / "fuse", kernel=b"not a kernel\n", disk=bytes(65536), other=bytes(65536)) as f:
        yield shared, f


def definition(f, **keys):
    return {"name": "mine", "memory": "32M", "boot": {"kernel": f["kernel"]}, **keys}


@contextlib.contextmanager
def asked(d, command, uid=NOBODY, **args):
    """Send a command as that user, and yield a function that waits for the answer."""
    def run(say):
        q = Qmp(d.socket)
        q.send(json.dumps({"execute": command, "arguments": args}).encode())
        say(q.answer())
    with as_user(run, uid=uid) as lines:
        yield lambda: json.loads(lines.readline())


def serves(d):
    """Check that the daemon serves a new client: greeting, command, answer."""
    q = d.qmp()
    q.run("vm-list")
    q.close()
    return True


@pytest.mark.parametrize("op", [Op.OPEN, Op.FLUSH])
def test_define_times_out_for_its_user_alone(hostile, op):
    d, f = hostile
    f.hang(op)
    with asked(d, "vm-define", definition=definition(f)) as answer:
        until(lambda: op in f.hanging())
        assert serves(d)
        e = answer()["error"]
        assert e["class"] == "Timeout" and "a file system does not answer" in e["desc"]
    # The process is still stuck, and its late answer means nothing to another define.
    assert op in f.hanging() and serves(d)
    d.define("mine", title="root's")
    f.release()
    d.define("other")
    assert json.loads(d.cairn("dumpjson", "mine").stdout)["title"] == "root's"


def test_daemon_closes_no_file_of_a_definition(hostile):
    """The file system answers the close() of the helper process, but would not answer the daemon's."""
    d, f = hostile
    f.hang(Op.FLUSH, after=1)
    with asked(d, "vm-define", definition=definition(f)) as answer:
        assert "return" in answer()
    with asked(d, "vm-define", definition=definition(f), **{"validate-only": True}) as answer:
        until(lambda: Op.FLUSH in f.hanging())
        assert serves(d)


@pytest.mark.parametrize("op", [Op.LOOKUP, Op.GETATTR])
def test_hung_files_of_root_do_not_block_the_daemon(hostile, op):
    d, f = hostile
    f.hang(op)
    q = d.qmp()
    q.send(json.dumps({"execute": "vm-define", "arguments": {"definition": definition(f)}}).encode())
    until(lambda: op in f.hanging())
    assert serves(d)
    f.release()
    q.answer()


def test_daemon_is_replaced_beside_a_stuck_helper(hostile):
    """A helper process that hangs in open() holds neither the daemon's lock nor its socket."""
    d, f = hostile
    f.hang(Op.OPEN)
    with asked(d, "vm-define", definition=definition(f)):
        until(lambda: Op.OPEN in f.hanging())
        d.stop(signal.SIGKILL)
        d.start()
        assert Op.OPEN in f.hanging() and serves(d)


@pytest.mark.parametrize("meanwhile", ["role revoked", "VM replaced"])
def test_role_is_checked_again_when_a_define_takes_effect(hostile, meanwhile):
    """A define that hangs until its user has no role, or until its VM was replaced, changes nothing."""
    d, f = hostile
    f.hang(Op.OPEN)
    with asked(d, "vm-define", definition=definition(f, description="nobody's")) as answer:
        until(lambda: Op.OPEN in f.hanging())
        if meanwhile == "role revoked":
            d.cairn("revoke", "mine", "--user", "nobody")
        else:
            d.cairn("undefine", "mine")
            d.define("mine")
            d.cairn("grant", "owner", "mine", "--user", "nobody")
        f.release()
        e = answer()["error"]
        assert e["class"] in ("PermissionDenied", "Timeout"), e  # a slow machine may let the define time out
    assert "description" not in json.loads(d.cairn("dumpjson", "mine").stdout)


@pytest.mark.parametrize("meanwhile", ["role revoked", "name taken"])
def test_creator_is_checked_again_when_a_define_takes_effect(hostile, meanwhile):
    d, f = hostile
    d.cairn("grant", "creator", "--user", "nobody")
    f.hang(Op.OPEN)
    with asked(d, "vm-define", definition={**definition(f), "name": "web"}) as answer:
        until(lambda: Op.OPEN in f.hanging())
        if meanwhile == "role revoked":
            d.cairn("revoke", "--role", "creator", "--user", "nobody")
        else:
            d.define("web")
        f.release()
        a = answer()
        assert a["error"]["class"] in ("PermissionDenied" if meanwhile == "role revoked" else "AlreadyExists", "Timeout"), a
    assert [p["vm"] for p in json.loads(d.cairn("permissions", "--format", "json").stdout) if p["role"] == "owner"] == ["mine"]


def is_refused(d, command, **args):
    """Send a command as the user nobody. Return whether the daemon refuses to start another process with that user's
    rights."""
    with asked(d, command, **args) as answer:
        a = answer()
    if a.get("error", {}).get("class") != "Busy":
        return False
    assert f"with files of user {NOBODY} have not ended; a file system of that user may not answer" in a["error"]["desc"]
    return True


def others_are_served(d):
    """Check that root and a third user can define VMs."""
    kernel = d.tmp / "kernel"
    kernel.write_text("not a kernel\n")
    kernel.chmod(0o644)
    d.define("roots")
    d.cairn("grant", "owner", "other", "--user", str(NOBODY - 1))
    with asked(d, "vm-define", uid=NOBODY - 1,
               definition={"name": "other", "memory": "32M", "boot": {"kernel": str(kernel)}}) as answer:
        return "return" in answer()


def test_hung_processes_of_a_user_who_hangs_up_are_limited(hostile):
    d, f = hostile
    n = 12
    f.hang(Op.OPEN)

    def attack(say):
        clients = [Qmp(d.socket) for _ in range(n)]
        for q in clients:
            q.send(json.dumps({"execute": "vm-define", "arguments": {"definition": definition(f)}}).encode())
        signal.pause()
    with as_user(attack):
        until(lambda: f.hanging().count(Op.OPEN) == n)
    with asked(d, "vm-define", definition=definition(f)) as answer:  # the last one whose time limit comes
        assert answer()["error"]["class"] == "Timeout"
    for _ in range(5):
        assert is_refused(d, "vm-define", definition=definition(f))
    assert f.hanging().count(Op.OPEN) == n + 1
    assert others_are_served(d)
    f.release()
    until(lambda: not is_refused(d, "vm-define", definition=definition(f)))


def test_hung_processes_that_have_served_their_files_are_limited(hostile):
    """A process that opened the files of a VM's start may hang when it closes them, while the VM runs."""
    d, f = hostile
    with asked(d, "vm-define", definition=definition(f)) as answer:
        assert "return" in answer()
    for i in range(8):
        f.hang(Op.FLUSH)
        with asked(d, "vm-start", vm="mine") as answer:
            until(lambda: f.hanging().count(Op.FLUSH) == i + 1)
            f.hang(Op.FLUSH, after=1000000)  # the VM's process, which keeps the files open, can close them
            assert "return" in answer()
        d.cairn("destroy", "mine")

    def start_is_refused():
        if is_refused(d, "vm-start", vm="mine"):
            return True
        d.cairn("destroy", "mine")
        return False
    until(start_is_refused)
    assert f.hanging().count(Op.FLUSH) == 8 and others_are_served(d)
    f.release()
    until(lambda: not is_refused(d, "vm-start", vm="mine"))


def test_many_files_opened_at_once_are_not_refused(shared):  # noqa: F811
    """Processes that end in time do not count towards the limits."""
    d = shared
    kernel = d.tmp / "kernel"
    kernel.write_text("not a kernel\n")
    kernel.chmod(0o644)
    names = [f"vm{i}" for i in range(64)]
    d.cairn("grant", "admin", "--user", "nobody")

    def run(say):
        clients = {name: Qmp(d.socket) for name in names}
        for command, key in (("vm-define", "definition"), ("vm-start", "vm")):
            for name, q in clients.items():
                keys = {"name": name, "memory": "32M", "boot": {"kernel": str(kernel)}}
                q.send(json.dumps({"execute": command, "arguments": {key: keys if key == "definition" else name}}).encode())
            say([q.answer() for q in clients.values()])
    with as_user(run) as lines:
        for line in lines:
            assert all("return" in answer for answer in json.loads(line))
    for name in names:
        d.cairn("destroy", name)


START = ["vm-start", {"vm": "mine"}]


@pytest.mark.parametrize("uid", [NOBODY, 0], ids=["nobody", "root"])
@pytest.mark.parametrize("command, cmdline, refused", [
    (START, "", False),
    (START, "refuse", True),
    (START, "die-at-config", True),
    (["snapshot-list", {"vm": "mine"}], "", False)], ids=["start", "refused start", "died start", "offline process"])
def test_files_go_past_the_daemon_to_the_process_that_needs_them(hostile, command, cmdline, refused, uid):
    """The daemon closes none of the files, whether the command succeeds or fails."""
    d, f = hostile
    disk = {"path": f["disk"], "format": "raw"}
    boot = {"kernel": f["kernel"], "cmdline": cmdline}
    with asked(d, "vm-define", uid=uid, definition=definition(f, disks=[disk], boot=boot)) as answer:
        assert "return" in answer()
    f.hang(Op.FLUSH)
    with asked(d, command[0], uid=uid, **command[1]) as answer:
        until(lambda: Op.FLUSH in f.hanging())
        assert serves(d) and not [t for t in open_files(d.proc.pid) if t.startswith(str(f.folder))]
        f.release()
        assert ("error" in answer()) == refused


@pytest.mark.parametrize("op", [Op.LOOKUP, Op.OPEN])
def test_hung_files_of_roots_vms_delay_nobody_else(hostile, op):
    """Starts, a revert and an undefine of root's VMs wait for a file system. Other VMs start, root's too. Each error
    says what to do, and each command works when the file system answers."""
    d, f = hostile
    kernel = d.tmp / "kernel"
    kernel.write_text("not a kernel\n")
    d.define("well", boot={"kernel": str(kernel)})
    for i in range(6):
        d.define(f"hung{i}", boot={"kernel": f["kernel"]})
    d.define("reverted", boot={"kernel": str(kernel)}, disks=[{"path": f["disk"], "format": "qcow2"}])
    d.cairn("snapshot-create-as", "reverted", "s1")
    d.define("undefined", boot={"kernel": str(kernel)}, disks=[{"path": f["other"], "format": "raw"}])
    until(lambda: not d.children())
    f.hang(op)
    starts = [d.qmp() for _ in range(6)]
    for i, q in enumerate(starts):
        q.send(json.dumps({"execute": "vm-start", "arguments": {"vm": f"hung{i}"}}).encode())
    undefine, revert = d.qmp(), d.qmp()
    if op == Op.LOOKUP:  # that is all that an undefine needs before it removes anything
        undefine.send(b'{"execute":"vm-undefine","arguments":{"vm":"undefined","remove-all-storage":true}}')
    job = revert.run("snapshot-revert", vm="reverted", name="s1")["job"]
    until(lambda: op in f.hanging())
    d.cairn("start", "well")
    errors = [q.answer()["error"] for q in starts]
    revert.event("JOB_STATUS_CHANGE", id=job, status="concluded")
    said = [e["desc"] for e in errors] + [revert.run("query-jobs", id=job)[0]["error"]]
    assert {e["class"] for e in errors} == {"Timeout"}
    assert all("opening its files: timed out; a file system does not answer: repair or unmount it" in text for text in said), said
    if op == Op.LOOKUP:
        e = undefine.answer()["error"]
        assert e["class"] == "Timeout" and "removing its images: timed out; a file system does not answer" in e["desc"]
    f.release()
    d.cairn("start", "hung0")
    d.cairn("snapshot-revert", "reverted", "s1")
    d.cairn("undefine", "undefined", "--remove-all-storage")
    assert Op.UNLINK in f.seen() and Op.UNLINK not in f.hanging()


@pytest.mark.parametrize("uid", [NOBODY, 0], ids=["nobody", "root"])
def test_hung_removal_of_images_does_not_block_the_daemon(hostile, uid):
    """A removal may take long, so it has no time limit; the VM goes when its images are gone."""
    d, f = hostile
    with asked(d, "vm-define", uid=uid, definition=definition(f, disks=[{"path": f["disk"], "format": "raw"}])) as answer:
        assert "return" in answer()
    f.hang(Op.UNLINK)
    q = d.qmp()
    q.send(b'{"execute":"vm-undefine","arguments":{"vm":"mine","remove-all-storage":true}}')
    until(lambda: Op.UNLINK in f.hanging())
    assert serves(d) and d.info("mine")["state"] == "shutoff"
    assert "is being undefined" in d.cairn("start", "mine", ok=False).stderr
    f.release()
    assert "return" in q.answer()


@pytest.mark.parametrize("op", [Op.READ, Op.FLUSH], ids=["read", "flush"])
@pytest.mark.parametrize("uid", [NOBODY, 0], ids=["nobody", "root"])
def test_hung_archive_of_an_import_does_not_block_the_daemon(hostile, uid, op):
    d, f = hostile
    d.cairn("grant", "admin", "--user", "nobody")
    shutil.copy(os.path.join(BUILD, "cairn"), d.tmp)  # the build folder may be closed to others
    shutil.copy(f["kernel"], d.tmp / "kernel")
    d.define("source", boot={"kernel": str(d.tmp / "kernel")})
    d.cairn("export", "source", str(d.tmp / "a.tar"))
    shutil.copy(d.tmp / "a.tar", f["archive"])
    folder = d.tmp / "there"
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    f.hang(op)

    def run(say):
        r = subprocess.run([d.tmp / "cairn", "import", f["archive"], "--name", "copy", "--folder", str(folder)],
                           env=d.env, capture_output=True, text=True)
        say([r.returncode, r.stderr])
    with as_user(run, uid=uid) as lines:
        until(lambda: op in f.hanging())
        assert serves(d) and not [t for t in open_files(d.proc.pid) if t.startswith(str(f.folder))]
        f.release()
        assert json.loads(lines.readline()) == [0, ""]
    assert "copy" in d.cairn("list", "--all").stdout and (folder / "copy/kernel").read_bytes() == b"not a kernel\n"


@pytest.mark.parametrize("uid", [NOBODY, 0], ids=["nobody", "root"])
def test_next_daemon_looks_beside_the_loop_for_files_of_a_killed_import(hostile, uid):
    """All files of the import exist. Their file system does not answer the next daemon for a while."""
    d, f = hostile
    with asked(d, "vm-define", uid=uid, definition=definition(f)) as answer:
        assert "return" in answer()
    d.stop()
    (d.state / "vms/mine/import.pending").touch()
    f.hang(Op.LOOKUP)
    d.start()
    until(lambda: Op.LOOKUP in f.hanging())
    assert serves(d)
    d.define("other")
    f.release()
    until(lambda: not (d.state / "vms/mine/import.pending").exists())
    d.cairn("start", "mine")


@pytest.mark.parametrize("uid", [NOBODY, 0], ids=["nobody", "root"])
@pytest.mark.parametrize("op", [Op.LOOKUP, Op.OPEN], ids=["lookup", "open"])
def test_destroy_ends_a_start_that_waits_for_files(hostile, op, uid):
    """The helper that opens a file later closes it, and the next start works."""
    d, f = hostile
    with asked(d, "vm-define", uid=uid, definition=definition(f, boot={"kernel": f["kernel"]})) as answer:
        assert "return" in answer()
    f.hang(op)
    start, q = d.qmp(), d.qmp()
    start.send(json.dumps({"execute": "vm-start", "arguments": {"vm": "mine"}}).encode())
    until(lambda: op in f.hanging())
    d.cairn("destroy", "mine")
    e = start.answer()["error"]
    assert e["desc"] == "the VM was destroyed while starting" and op in f.hanging()
    info = q.run("vm-info", vm="mine")
    assert (info["state"], info["reason"], info.get("pid")) == ("shutoff", "destroyed", None)
    f.release()
    until(lambda: f.seen().count(Op.RELEASE) == f.seen().count(Op.OPEN))
    assert d.info("mine")["state"] == "shutoff" and not d.children()
    d.cairn("start", "mine")


def test_destroy_ends_an_automatic_restart(hostile):
    """The restart waits for files. After destroy, no further restart follows."""
    d, f = hostile
    d.define("mine", boot={"kernel": f["kernel"]}, on_crash="restart", restart={"delay": 60, "max_delay": 60, "tries": 3})
    d.cairn("start", "mine")
    f.hang(Op.OPEN)
    os.kill(d.info("mine")["pid"], signal.SIGKILL)  # the first restart is immediate
    until(lambda: Op.OPEN in f.hanging())
    d.cairn("destroy", "mine")
    info = d.info("mine")
    assert (info["state"], info["reason"]) == ("crashed", "destroyed") and "restart-in" not in info
    assert info["detail"] == "the VM was destroyed while starting"


def test_destroy_ends_a_revert_that_starts_the_vm(hostile):
    """The job's start waits for files. The job fails, and the snapshot is still there."""
    d, f = hostile
    image = d.tmp / "a.qcow2"
    image.write_bytes(bytes(1 << 20))
    d.define("mine", boot={"kernel": f["kernel"]}, disks=[{"path": str(image), "format": "qcow2"}])
    d.cairn("start", "mine")
    d.cairn("snapshot-create-as", "mine", "s1")
    d.cairn("destroy", "mine")
    f.hang(Op.OPEN)
    q = d.qmp()
    job = q.run("snapshot-revert", vm="mine", name="s1")["job"]
    until(lambda: Op.OPEN in f.hanging())
    assert serves(d)
    d.cairn("destroy", "mine")
    q.event("JOB_STATUS_CHANGE", id=job, status="concluded")
    assert q.run("query-jobs", id=job)[0]["error"] == "the VM was destroyed while starting"
    f.release()
    d.cairn("snapshot-revert", "mine", "s1")


@pytest.mark.parametrize("uid", [NOBODY, 0], ids=["nobody", "root"])
def test_export_gets_its_files_past_the_daemon(hostile, uid):
    d, f = hostile
    with asked(d, "vm-define", uid=uid, definition=definition(f)) as answer:
        assert "return" in answer()
    f.hang(Op.FLUSH)
    archive = d.tmp / "mine.tar"
    with subprocess.Popen([os.path.join(BUILD, "cairn"), "export", "mine", str(archive)], env=d.env) as export:
        until(lambda: Op.FLUSH in f.hanging())
        assert serves(d)
        f.release()
        assert export.wait() == 0
    d.cairn("import", "--dry-run", str(archive))


@pytest.mark.parametrize("uid", [NOBODY, 0], ids=["nobody", "root"])
@pytest.mark.parametrize("op", [Op.LOOKUP, Op.OPEN, Op.CREATE, Op.FLUSH], ids=["lookup", "open", "create", "flush"])
@pytest.mark.parametrize("command", ["vm-clone", "vm-fork"])
def test_hung_files_of_clones_do_not_block_the_daemon(hostile, command, op, uid):
    """The daemon neither opens, stats nor closes the images of the source and of the clone."""
    d, f = hostile
    keys = {"disks": [{"path": f["disk"], "format": "qcow2"}], "boot": {"kernel": str(d.tmp / "kernel")}}
    (d.tmp / "kernel").write_text("not a kernel\n")
    (d.tmp / "kernel").chmod(0o644)
    with asked(d, "vm-define", uid=uid, definition=definition(f, **keys)) as answer:
        assert "return" in answer()
    if command == "vm-fork":
        d.cairn("start", "mine")
    f.hang(op)
    q = d.qmp()
    q.send(json.dumps({"execute": command, "arguments": {"vm": "mine", "name": "copy"}}).encode())
    until(lambda: op in f.hanging())
    assert serves(d) and not [t for t in open_files(d.proc.pid) if t.startswith(str(f.folder))]
    f.release()
    q.answer()


def test_failed_fork_ends_clones_whose_files_hang(hostile):
    """The source dies while a clone's disk is being opened. The clone's process would wait for a pin that never
    comes."""
    d, f = hostile
    (d.tmp / "kernel").write_text("not a kernel\n")
    d.define("mine", disks=[{"path": f["disk"], "format": "qcow2"}],
             boot={"kernel": str(d.tmp / "kernel"), "cmdline": f"fork-ready work-until={d.tmp}/never clone-until={d.tmp}/never:copy"})
    d.cairn("start", "mine")
    q = d.qmp()
    f.hang(Op.OPEN, after=1)  # the first one is the source's image, for the fork
    job = q.run("vm-fork", vm="mine", name="copy")["job"]
    until(lambda: Op.OPEN in f.hanging())
    # The daemon has the files opened before the start, while the source's process still works.
    until(lambda: d.info("copy").get("starting"))
    os.kill(d.info("mine")["pid"], signal.SIGKILL)
    q.event("VM_STATE_CHANGE", vm="mine", state="crashed")
    f.release()
    q.event("JOB_STATUS_CHANGE", id=job, status="concluded")
    assert "signal 9" in q.run("query-jobs", id=job)[0]["error"]
    assert "VM 'copy': the VM was destroyed while starting" in d.log.read_text()


def test_processes_of_a_real_vm_get_its_files(shared, kvm, guest):  # noqa: F811
    """The VM's process, the offline process and the export, with their sandboxes, take files of two users."""
    d, folder = shared, shared.tmp / "nobodys"
    folder.mkdir()
    shutil.copy(guest("idle.elf"), folder / "kernel")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", folder / "a.qcow2", "16M"], check=True)
    subprocess.run(["qemu-img", "create", "-q", "-f", "raw", d.tmp / "roots.raw", "1M"], check=True)
    for path in (folder, folder / "kernel", folder / "a.qcow2"):
        os.chown(path, NOBODY, NOBODY)
    d.stop()
    d.vm_program = None
    d.start()
    keys = {"memory": "32M", "boot": {"kernel": str(folder / "kernel")},
            "disks": [{"path": str(folder / "a.qcow2"), "format": "qcow2"}]}
    d.cairn("grant", "owner", "mine", "--user", "nobody")
    with asked(d, "vm-define", definition={"name": "mine", **keys}) as answer:
        assert "return" in answer()
    keys["disks"].append({"path": str(d.tmp / "roots.raw"), "format": "raw", "readonly": True})
    d.cairn("define", d.write("mine", **keys))
    d.cairn("start", "mine")
    opened = {os.path.basename(t) for t in open_files(d.children()[0])}
    assert {"kernel", "a.qcow2", "roots.raw"} <= opened
    d.cairn("snapshot-create-as", "mine", "s1")
    d.cairn("destroy", "mine")
    assert "s1" in d.cairn("snapshot-list", "mine").stdout
    d.cairn("export", "mine", str(d.tmp / "mine.tar"))
    d.cairn("import", "--dry-run", str(d.tmp / "mine.tar"))
