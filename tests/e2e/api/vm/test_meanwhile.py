"""Two clients with conflicting requests for one VM: the second is refused with the reason, and nothing is lost."""

import json
import os
import random
import shutil
import socket
import subprocess
import threading
import time

import pytest

from conftest import BUILD, FAKE_VM, Daemon, Qmp, until
from test_slow_disk import PRELOAD, hold, slow

SEED = os.environ.get("MEANWHILE_SEED", "1")
NAMES = ["vm1", "vm2", "vm3", "vm4"]


def with_vm(daemon, **keys):
    """A VM with an image, and two clients."""
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", daemon.tmp / "a.qcow2", "1M"], check=True)
    daemon.define("vm1", disks=[{"path": "a.qcow2", "format": "qcow2"}], **keys)
    return daemon, daemon.qmp(), daemon.qmp()


@pytest.fixture
def two(fake):
    return with_vm(fake)


@pytest.fixture
def undefining(tmp_path):
    """Begin an undefine, with the disk and the process that looks at its snapshots blocked, so that a second
    request comes in time."""
    if "asan" in BUILD:
        pytest.skip("slow_sync.so has to come behind a sanitizer")
    assert os.path.exists(PRELOAD), "slow_sync.so is not built: make helpers"
    go = tmp_path / "go"
    go.touch()
    d = Daemon(tmp_path, vm_program=FAKE_VM, env={"LD_PRELOAD": PRELOAD, "SLOW_SYNC_UNTIL": str(go), "SLOW_SYNC_OF": "/vms"})
    daemon, a, b = with_vm(d, cmdline=f"config-until={go}")

    def begin(how):
        go.unlink()
        ask(a, "vm-undefine", vm="vm1", **how)
        return daemon, b

    def end():
        go.touch()
        assert "return" in a.answer()

    yield begin, end
    go.touch()
    d.close()


def ask(q, command, **args):
    q.send(json.dumps({"execute": command, "arguments": args}).encode())


def refusal(q, command, **args):
    ask(q, command, **args)
    return q.answer().get("error", {}).get("desc", "")


def ask_with_file(q, path, command, **args):
    with open(path, "xb") as f:
        socket.send_fds(q.sock, [json.dumps({"execute": command, "arguments": args}).encode()], [f.fileno()])


def no_more_vms(daemon):
    q = daemon.qmp()
    return q.run("vm-list")["vms"] == [] and q.run("query-version")


WAYS = [{}, {"remove-all-storage": True, "snapshots-metadata": True}]


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("what", [("vm-start", {}), ("snapshot-create", {"name": "s1"}), ("vm-rename", {"name": "vm2"}),
                                  ("vm-fork", {"name": "vm2", "snapshot": "s1"})])
def test_requests_during_undefine_are_refused(undefining, how, what):
    """The undefine takes a while: it looks at the VM's snapshots or removes its images."""
    begin, end = undefining
    daemon, b = begin(how)
    ask(b, what[0], vm="vm1", **what[1])
    assert "is being undefined" in b.answer()["error"]["desc"]
    end()
    assert no_more_vms(daemon)


@pytest.mark.parametrize("how", WAYS)
def test_export_during_undefine_is_refused(undefining, how, tmp_path):
    begin, end = undefining
    daemon, b = begin(how)
    ask_with_file(b, tmp_path / "x.tar", "vm-export", vm="vm1")
    assert "is being undefined" in b.answer()["error"]["desc"]
    end()
    assert no_more_vms(daemon)


@pytest.mark.parametrize("file, command, args", [
    ("timetable.json", "schedule-add", {"action": "suspend", "on": "daily"}), ("thresholds.json", "threshold-set", {"measure": "cpu", "above": "90"})])
def test_call_that_waits_for_the_disk_outlives_its_vm(slow, file, command, args):
    """The second client undefines the VM, whose memory glibc then overwrites."""
    slow.define("vm1")
    slow.env["MALLOC_PERTURB_"] = "165"
    go = hold(slow, "/" + file)
    a, b, c = slow.qmp(), slow.qmp(), slow.qmp()
    ask(a, command, vm="vm1", **args)
    until(lambda: any(p.name.startswith(file) for p in (slow.state / "vms/vm1").iterdir()))
    ask(b, "vm-undefine", vm="vm1")
    until(lambda: c.run("vm-list")["vms"] == [])
    go.touch()
    assert "return" in a.answer() and "return" in b.answer()
    lines = [json.loads(line) for line in (slow.state / "audit.log").read_text().splitlines()]
    assert [(x["command"], x["vm"]) for x in lines if "command" in x] == [("vm-define", "vm1"), (command, "vm1"), ("vm-undefine", "vm1")]


def test_rename_ends_although_others_read_all_the_time(two):
    daemon, a, _ = two
    uuid, over = daemon.info("vm1")["uuid"], threading.Event()

    def read():
        q = daemon.qmp()
        while not over.is_set():
            ask(q, "snapshot-list", vm=uuid)
            q.answer()

    readers = [threading.Thread(target=read) for _ in range(8)]
    for r in readers:
        r.start()
    try:
        for i in range(10):
            a.run("vm-rename", vm=uuid, name=f"renamed{i}")
    finally:
        over.set()
        for r in readers:
            r.join()
    assert daemon.info(uuid)["name"] == "renamed9"


def test_name_that_is_taken_while_a_rename_waits_is_refused(fake, tmp_path):
    go = tmp_path / "go"
    daemon, a, b = with_vm(fake, cmdline=f"config-until={go}")
    c = daemon.qmp()
    ask(a, "snapshot-list", vm="vm1")
    until(daemon.children)
    ask(b, "vm-rename", vm="vm1", name="vm2")
    until(lambda: "is being renamed" in refusal(c, "snapshot-list", vm="vm1"))
    daemon.define("vm2")
    go.touch()
    assert "return" in a.answer()
    assert b.answer()["error"]["desc"] == "there is a VM 'vm2' already; choose another name"
    c.run("snapshot-list", vm="vm1")
    c.run("vm-rename", vm="vm1", name="vm3")
    assert sorted(vm["name"] for vm in c.run("vm-list")["vms"]) == ["vm2", "vm3"]


# ---- everything at once ----

def definition(rng, tmp_path, name):
    image = tmp_path / f"{name}-{rng.choice('xy')}.qcow2"
    if not image.exists():
        shutil.copy(tmp_path / "empty.qcow2", image)
    guest = ["", "deaf", "work-takes=100", "work-fails", "quits-in=50", "off-after=200", "crash-after=150"]
    return {"name": name, "memory": "32M", "boot": {"kernel": str(tmp_path / "kernel"), "cmdline": rng.choice(guest)},
            "on_crash": rng.choice(["destroy", "restart", "preserve", "coredump-restart"]), "restart": {"delay": 0, "tries": 2},
            "shutdown": {"deadline": 1, "then": rng.choice(["leave", "destroy", "save"])},
            "disks": [{"path": str(image), "format": "qcow2"}]}


def one_of(rng, tmp_path, serial):
    """Return a random command, its arguments, and its file, if any."""
    vm, new = {"vm": rng.choice(NAMES)}, rng.choice(NAMES)
    file = tmp_path / f"file{serial}"
    return rng.choice([
        *[("vm-define", {"definition": definition(rng, tmp_path, new)}, None)] * 3,
        *[("vm-start", vm, None), ("vm-destroy", vm, None), ("vm-rename", {**vm, "name": new}, None)] * 3,
        ("vm-undefine", vm, None), ("vm-undefine", {**vm, **WAYS[1], "managed-save": True}, None),
        ("vm-export", vm, file), ("vm-dump", vm, file), ("vm-dump", {**vm, "then": "crash"}, file), ("vm-save", vm, file),
        ("vm-fork", {**vm, "name": new}, None), ("vm-fork", {**vm, "name": new, "snapshot": "s"}, None),
        ("vm-clone", {**vm, "name": new, "kind": rng.choice(["full", "linked"])}, None),
        ("vm-template", {**vm, "disable": rng.random() < 0.6}, None),
        ("snapshot-create", {**vm, "name": "s", "halt": rng.random() < 0.3}, None), ("snapshot-list", vm, None),
        ("snapshot-revert", {**vm, "name": "s"}, None), ("snapshot-delete", {**vm, "name": "s"}, None),
        ("vm-managed-save", vm, None), ("vm-managed-save-remove", vm, None), ("vm-autostart", vm, None),
        ("vm-shutdown", vm, None), ("vm-shutdown", {**vm, "timeout": 1, "then": "save"}, None), ("vm-reboot", vm, None),
        ("job-cancel", {"id": f"job{rng.randrange(1, serial % 1000 + 2)}"}, None), ("daemon-stop", {"vms-only": True}, None)])


def works(daemon, tmp_path, n, seconds, hung):
    rng, q, serial = random.Random(f"{SEED}/{n}"), Qmp(daemon.socket, timeout=30), 1000000 * n
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        serial += 1
        command, args, file = one_of(rng, tmp_path, serial)
        try:
            if file:
                ask_with_file(q, file, command, **args)
            else:
                ask(q, command, **args)
            if rng.random() < 0.9:
                q.answer()
            else:  # nobody waits for the answer
                q.close()
                q = Qmp(daemon.socket, timeout=30)
        except (OSError, EOFError) as e:
            hung.append(f"{command} {args}: {e!r}")
            return
    q.close()


@pytest.mark.seconds(120)
def test_daemon_answers_concurrent_random_requests(two, tmp_path):
    """Every command is answered, and the daemon survives; sanitizers find uses after free."""
    daemon, hung = two[0], []
    shutil.copy(tmp_path / "a.qcow2", tmp_path / "empty.qcow2")  # the first may be removed with its VM
    seconds = float(os.environ.get("MEANWHILE_SECONDS", "4"))
    threads = [threading.Thread(target=works, args=(daemon, tmp_path, n, seconds, hung)) for n in range(1, 9)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not hung, f"MEANWHILE_SEED={SEED}"
    assert daemon.qmp().run("query-version") and daemon.proc.poll() is None
