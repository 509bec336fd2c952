"""The daemon and its VMs: processes that fail or end, policies, definitions, and VMs with KVM."""

import json
import os
import signal
import time

import pytest

from conftest import BUILD, FAKE_VM, Daemon, QmpError, children_of, has_ended, open_files, until
from daemonlib import held_at_exit, kept_events, pid_of


# ---- a VM process that fails ----

def test_killed_vm_process_leaves_other_vms(fake):
    fake.define("vm1")
    fake.define("vm2")
    fake.cairn("start", "vm1", "vm2")
    q = fake.qmp()
    os.kill(pid_of(fake, "vm1"), signal.SIGKILL)
    ev = q.event("VM_STATE_CHANGE", vm="vm1")
    assert ev["data"]["state"] == "crashed" and ev["data"]["reason"] == "killed"
    info = fake.info("vm1")
    assert info["exit-signal"] == 9 and info["id"] == -1
    assert fake.cairn("domstate", "--reason", "vm1").stdout == "crashed (killed)\n"
    assert fake.cairn("domstate", "vm2").stdout == "running\n"
    fake.cairn("suspend", "vm2")
    fake.cairn("start", "vm1")
    assert fake.info("vm1")["state"] == "running"


@pytest.mark.parametrize("how, cls, words", [
    ("die-at-config", "GenericError", "exit status 5"),
    ("kill-at-config", "GenericError", "signal 9"),
    ("refuse", "Busy", "vda: is locked by another process"),
    ("garbage-at-config", "GenericError", "before it answered"),
])
def test_failed_start_is_reported_and_can_be_repeated(fake, how, cls, words):
    fake.define("vm1", cmdline=how)
    fake.define("ok")
    q = fake.qmp()
    with pytest.raises(QmpError) as e:
        q.run("vm-start", vm="vm1")
    assert e.value.cls == cls and words in e.value.desc
    info = q.run("vm-info", vm="vm1")
    assert info["state"] == "shutoff" and info["reason"] == "failed" and words in info["detail"]
    told = q.event("VM_STATE_CHANGE", vm="vm1")["data"]
    assert (told["from"], told["state"], told["reason"], told["detail"]) == ("shutoff", "shutoff", "failed", info["detail"])
    q.run("vm-start", vm="ok")
    for _ in range(10):  # each answer comes when the process has ended
        with pytest.raises(QmpError) as e:
            q.run("vm-start", vm="vm1")
        assert e.value.cls == cls and words in e.value.desc
        assert fake.children() == [fake.info("ok")["pid"]]
    assert len(kept_events(fake, event="VM_STATE_CHANGE", vm="vm1")) == 11
    q.run("vm-undefine", vm="vm1")


def test_failed_start_of_a_crashed_vm_sends_an_event_and_leaves_it_crashed(fake):
    fake.define("vm1")
    fake.cairn("start", "vm1")
    os.kill(fake.info("vm1")["pid"], signal.SIGKILL)
    until(lambda: fake.info("vm1")["state"] == "crashed")
    (fake.tmp / "kernel").unlink()
    last = kept_events(fake)[-1]["seq"]
    assert "kernel" in fake.cairn("start", "vm1", ok=None).stderr
    event, = kept_events(fake, since=last)
    assert event["event"] == "VM_STATE_CHANGE" and "kernel" in event["data"]["detail"]
    assert [event["data"][k] for k in ("from", "state", "reason")] == ["crashed", "crashed", "failed"]


def test_failed_start_has_no_status_of_the_run_before(fake):
    fake.define("vm1", cmdline="exit-after=30:42")
    fake.cairn("start", "vm1")
    until(lambda: fake.info("vm1").get("value") == 42)
    (fake.tmp / "kernel").unlink()
    fake.cairn("start", "vm1", ok=None)
    assert fake.info("vm1")["reason"] == "failed" and "value" not in fake.info("vm1")
    assert "value" not in kept_events(fake)[-1]["data"]


def test_long_error_of_a_failed_start_is_cut_between_characters(fake):
    for i in range(2):
        kernel = fake.tmp / ("a" * i + "é" * 120) / ("é" * 120)
        kernel.parent.mkdir()
        kernel.write_bytes(b"")
        fake.define("vm1", boot={"kernel": str(kernel)})
        kernel.unlink()
        fake.cairn("start", "vm1", ok=None)
        assert len(fake.info("vm1")["detail"].encode()) in (349, 350, 351)
    fake.stop()
    (fake.state / "events.jsonl").read_bytes().decode()


def test_failed_start_is_answered_although_its_process_does_not_end(fake):
    fake.define("vm1", cmdline=f"refuse lingers-until={fake.tmp}/never")
    starter, q = fake.qmp(), fake.qmp()
    starter.send(b'{"execute":"vm-start","arguments":{"vm":"vm1"}}')
    until(fake.children)
    with held_at_exit(fake.children()[0]):
        assert "vda: is locked by another process" in starter.answer()["error"]["desc"]  # 5 s after SIGKILL
        for command in ("vm-start", "vm-undefine"):
            with pytest.raises(QmpError) as e:
                q.run(command, vm="vm1")
            assert e.value.cls == "Busy" and "its old process is still ending" in e.value.desc
        assert "was killed, but has not ended" in fake.log.read_text()
    until(lambda: not fake.children())
    fake.define("vm1")
    q.run("vm-start", vm="vm1")


def test_start_fails_when_program_is_missing_or_dies(tmp_path):
    d = Daemon(tmp_path, vm_program="/nonexistent/cairn-vm")
    try:
        d.define("vm1")
        r = d.cairn("start", "vm1", ok=7)
        assert "Failed to start domain 'vm1'" in r.stderr and "/nonexistent/cairn-vm" in r.stderr
    finally:
        d.close()
    d = Daemon(tmp_path, vm_program="/bin/false")
    try:
        assert "exit status 1" in d.cairn("start", "vm1", ok=1).stderr
    finally:
        d.close()


def test_process_that_dies_before_its_configuration_is_sent_or_read(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_VM", "die-at-start")
    d = Daemon(tmp_path, vm_program=os.path.join(BUILD, "helpers", "fake_vm"))
    try:
        d.define("vm1")
        for _ in range(20):
            assert "the VM's process ended (exit status 9)" in d.cairn("start", "vm1", ok=1).stderr
    finally:
        d.close()


def test_destroy_ends_hanging_start(fake):
    fake.define("vm1", cmdline="silent-at-config")
    starter, q = fake.qmp(), fake.qmp()
    starter.send(b'{"execute":"vm-start","arguments":{"vm":"vm1"}}')
    until(fake.children)
    # Queries are answered meanwhile, and requests that exclude a start say so.
    assert q.run("vm-info", vm="vm1")["state"] == "shutoff"
    for command in ("vm-start", "vm-undefine"):
        with pytest.raises(QmpError) as e:
            q.run(command, vm="vm1")
        assert e.value.cls == "Busy" and "is being started" in e.value.desc
    q.run("vm-destroy", vm="vm1")
    assert starter.answer()["error"]["class"] == "Cancelled"
    q.run("vm-undefine", vm="vm1")


def test_start_continues_when_client_disconnects(fake):
    fake.define("vm1", cmdline="silent-at-config")
    q = fake.qmp()
    q.send(b'{"execute":"vm-start","arguments":{"vm":"vm1"}}')
    until(fake.children)
    q.close()
    other = fake.qmp()
    other.run("vm-destroy", vm="vm1")
    assert other.run("vm-info", vm="vm1")["state"] == "shutoff"


def test_garbage_from_vm_process_ends_vm(fake):
    fake.define("vm1", cmdline="garbage-after=50")
    fake.cairn("start", "vm1")
    fake.wait("vm1", "crashed")
    assert "violated the protocol" in fake.info("vm1")["detail"]
    assert "violated the protocol" in fake.log.read_text()


def test_destroy_kills_process_that_ignores_quit(fake):
    fake.define("vm1", cmdline="stubborn")
    fake.cairn("start", "vm1")
    pid = pid_of(fake, "vm1")
    fake.cairn("destroy", "vm1")
    assert has_ended(pid)
    assert fake.cairn("domstate", "--reason", "vm1").stdout == "shut off (destroyed)\n"


@pytest.mark.parametrize("how, shown, reason, state", [
    ("off-after=30", "shut off", "shutdown", "shutoff"),
    ("exit-after=30:42", "shut off", "debug exit", "shutoff"),
    ("panic-after=30", "crashed", "guest panicked", "crashed"),
    ("kill-after=30", "crashed", "killed", "crashed"),
    ("crash-after=30", "crashed", "triple fault", "preserved"),
])
def test_each_kind_of_end_is_reported(fake, how, shown, reason, state):
    """Events, vm-info, vm-list and the state folder have one word for a state; people read virsh's."""
    fake.define("vm1", cmdline=how)
    q = fake.qmp()
    q.run("vm-start", vm="vm1")
    q.event("VM_STATE_CHANGE", vm="vm1", state=state)
    info = q.run("vm-info", vm="vm1")
    assert (info["state"], info["reason"], info["word"]) == (state, reason, state)
    assert [(vm["state"], vm["word"]) for vm in q.run("vm-list")["vms"]] == [(state, state)]
    assert fake.cairn("domstate", "vm1").stdout == shown + "\n"
    assert f" {shown}\n" in fake.cairn("list", "--all").stdout
    assert json.loads(fake.cairn("domstate", "vm1", "--format", "json").stdout)["state"] == state
    if "exit" in how:
        assert info["value"] == 42 and info["exit-status"] == 42
    if state != "preserved":
        until(lambda: (fake.kept("vm1").get("state"), fake.kept("vm1").get("reason")) == (state, reason))
        assert fake.kept("vm1")["version"] == 2


def test_a_preserved_crash_is_started_only_after_destroy(fake):
    fake.define("vm1", cmdline="crash-after=10")
    fake.cairn("start", "vm1")
    fake.wait("vm1", "crashed")
    r = fake.cairn("start", "vm1", ok=4)
    assert "its process is kept" in r.stderr and "Next: cairn destroy vm1" in r.stderr
    fake.cairn("destroy", "vm1")
    fake.cairn("start", "vm1")


def test_errors_about_a_preserved_crash_recommend_destroy(fake):
    """Not a shutdown or a snapshot, which is illegal then; and the whole name can be pasted."""
    name = "v" * 255
    fake.define(name, cmdline="crash-after=10")
    fake.cairn("start", name)
    fake.wait(name, "crashed")
    for args in (["clone", name, "b"], ["clone", "--live", name, "b"], ["export", name, fake.tmp / "a.tar"], ["start", name]):
        said = fake.cairn(*args, ok=4).stderr
        assert said.endswith(f"Next: cairn destroy {name}\n") and "is crashed (its process is kept)" in said and "snapshotname" not in said
    said = fake.cairn("clone", "--live", name, "b", ok=4).stderr
    assert "clone --live works when it is running or paused" in said


def test_io_error_pauses_with_its_reason(fake):
    fake.define("vm1", cmdline="io-error-after=30")
    q = fake.qmp()
    q.run("vm-start", vm="vm1")
    ev = q.event("BLOCK_IO_ERROR", vm="vm1")
    assert ev["data"]["device"] == "vda" and ev["data"]["nospace"] is True
    q.event("STOP", vm="vm1")
    assert fake.cairn("domstate", "--reason", "vm1").stdout == "paused (I/O error)\n"
    fake.cairn("resume", "vm1")


def test_text_from_vm_process_is_sanitized(fake):
    fake.define("vm1", cmdline="rude-after=10")
    fake.cairn("start", "vm1")
    fake.wait("vm1", "crashed")
    assert fake.info("vm1")["detail"] == "?[2J??("
    fake.stop()
    fake.start()  # its state file is valid
    assert fake.info("vm1")["reason"] == "guest panicked"
    assert "damaged" not in fake.log.read_text()


def test_hanging_vm_process_times_out(fake):
    fake.define("silent", cmdline="silent-at-config")
    fake.define("mute", cmdline="mute")
    q, starter, suspender = fake.qmp(), fake.qmp(), fake.qmp()

    def reported_soon():
        """The daemon reports its own knowledge, without the process's answer."""
        asked = time.monotonic()
        assert q.run("vm-info", vm="mute")["state"] == "running"
        return time.monotonic() - asked < 9

    begin = time.monotonic()
    starter.send(b'{"execute":"vm-start","arguments":{"vm":"silent"}}')
    q.run("vm-start", vm="mute")
    suspender.send(b'{"execute":"vm-suspend","arguments":{"vm":"mute"}}')
    until(reported_soon)  # at once, unless the machine stands still
    e = suspender.answer()["error"]
    assert e["class"] == "Timeout" and "did not answer in time" in e["desc"]
    suspended = time.monotonic()
    assert 9 < suspended - begin
    e = starter.answer()["error"]
    assert e["class"] == "Timeout"
    assert 29 < time.monotonic() - begin and suspended < time.monotonic() - 9
    assert q.run("vm-info", vm="silent")["reason"] == "failed"
    assert q.run("vm-info", vm="mute")["state"] == "running"
    q.run("vm-destroy", vm="mute")


# ---- policies ----

def test_on_crash_restart_gives_up(fake):
    fake.define("vm1", cmdline="kill-after=5", on_crash="restart")
    q = fake.qmp()
    q.run("vm-start", vm="vm1")
    for _ in range(3):  # at once, after 1 s, after 2 s
        q.event("VM_STATE_CHANGE", vm="vm1", state="crashed")
        q.event("VM_STATE_CHANGE", vm="vm1", state="running")
    q.event("VM_STATE_CHANGE", vm="vm1", state="crashed")
    q.run("vm-undefine", vm="vm1")  # also while a restart is pending
    assert q.run("vm-list")["vms"] == []


def test_reboot_restarts_vm(fake):
    fake.define("vm1")
    q = fake.qmp()
    first = q.run("vm-start", vm="vm1")["id"]
    q.run("vm-reboot", vm="vm1")
    q.event("VM_STATE_CHANGE", vm="vm1", state="shutoff")
    q.event("VM_STATE_CHANGE", vm="vm1", state="running")
    assert q.run("vm-info", vm="vm1")["id"] > first


# ---- defining ----

def test_uuids_are_unique_and_kept(fake):
    uuid = "2f1c0c0e-5d3a-4b53-9c39-0d8f1c6a7b11"
    fake.define("vm1", uuid=uuid)
    r = fake.cairn("define", fake.write("vm2", uuid=uuid), ok=4)
    assert r.stderr.endswith("error: uuid: is taken by VM 'vm1'; omit it to have one generated\n")
    r = fake.cairn("define", fake.write("vm1", uuid=uuid.replace("2f", "3f")), ok=4)
    assert "uuid: VM 'vm1' exists with another UUID; rename or undefine that VM first, or omit uuid in a new definition" in r.stderr
    fake.define("vm1", memory="64M")  # without a uuid it keeps its own
    assert fake.info("vm1")["uuid"] == uuid and fake.info("vm1")["memory"] == 64 * 2**20
    assert fake.info(uuid)["name"] == "vm1"
    assert fake.cairn("list", "--all", "--name").stdout == "vm1\n"


def test_start_fails_when_disk_is_in_use(fake, tmp_path):
    for n, p in (("vm1", "d.raw"), ("vm2", "same.raw")):
        (tmp_path / p).write_bytes(bytes(4096))
        fake.define(n, disks=[{"path": p, "format": "raw"}])
    (tmp_path / "same.raw").unlink()
    os.link(tmp_path / "d.raw", tmp_path / "same.raw")  # a definition of it would be refused
    fake.cairn("start", "vm1")
    r = fake.cairn("start", "vm2", ok=6)
    assert "disks[0].path: " in r.stderr and "is in use by VM 'vm1'" in r.stderr
    fake.cairn("destroy", "vm1")
    fake.cairn("start", "vm2")


def test_redefinition_applies_at_next_start(fake):
    fake.define("vm1")
    fake.cairn("start", "vm1")
    fake.define("vm1", vcpus=2)
    assert fake.info("vm1")["vcpus"] == 1
    fake.cairn("destroy", "vm1")
    assert fake.info("vm1")["vcpus"] == 2
    fake.cairn("start", "vm1")
    assert fake.info("vm1")["vcpus"] == 2


def test_twenty_vms_start_at_once(fake):
    names = [f"vm{i}" for i in range(20)]
    for n in names:
        fake.define(n)
    clients = [fake.qmp() for _ in names]
    for q, n in zip(clients, names):
        q.send(json.dumps({"execute": "vm-start", "arguments": {"vm": n}}).encode())
    assert all("return" in q.answer() for q in clients)
    for q, n in zip(clients, names):
        q.send(json.dumps({"execute": "vm-destroy", "arguments": {"vm": n}}).encode())
    assert all("return" in q.answer() for q in clients)
    assert fake.cairn("list", "--name").stdout == ""


def test_daemon_and_vms_leak_no_fds(fake):
    fake.define("vm1")
    fake.cairn("start", "vm1")
    fake.cairn("destroy", "vm1")
    fds = f"/proc/{fake.proc.pid}/fd"
    before = len(os.listdir(fds))
    for _ in range(20):
        fake.cairn("start", "vm1")
        fake.cairn("destroy", "vm1")
    until(lambda: len(os.listdir(fds)) <= before + 1)
    # A VM process inherits none of the daemon's fds.
    fake.cairn("start", "vm1")
    links = open_files(pid_of(fake, "vm1"))
    assert links and not [x for x in links if "lock" in x or "anon_inode" in x]


# ---- with KVM ----

def test_real_vm_starts_and_stops(daemon, kvm, guest):
    daemon.define("vm1", boot={"kernel": guest("interp.elf")}, debug_exit=True)
    daemon.define("vm2", boot={"kernel": guest("idle.elf")})
    daemon.cairn("start", "vm1", "vm2")
    daemon.cairn("suspend", "vm1")
    daemon.cairn("resume", "vm1")
    pid = pid_of(daemon, "vm1")
    daemon.stop(signal.SIGKILL)
    daemon.start()
    assert pid_of(daemon, "vm1") == pid
    os.kill(pid, signal.SIGKILL)
    daemon.wait("vm1", "crashed")
    assert daemon.cairn("domstate", "--reason", "vm1").stdout == "crashed (killed)\n"
    assert daemon.info("vm2")["state"] in ("running", "idle")
    daemon.cairn("destroy", "vm2")
    daemon.cairn("start", "vm1")


def test_debug_exit_of_guest_is_reported(daemon, kvm, guest):
    daemon.define("vm1", debug_exit=True,
                  boot={"kernel": guest("interp.elf"), "cmdline": "exit 21"})
    q = daemon.qmp()
    q.run("vm-start", vm="vm1")
    ev = q.event("VM_STATE_CHANGE", vm="vm1", state="shutoff")
    assert ev["data"]["reason"] == "debug exit"
    info = q.run("vm-info", vm="vm1")
    assert info["value"] == info["exit-status"]


@pytest.mark.parametrize("how, reason", [("triple", "triple fault"), ("panic", "guest panicked")])
def test_crash_of_guest_is_reported(daemon, kvm, guest, how, reason):
    daemon.define("vm1", boot={"kernel": guest("interp.elf"), "cmdline": f"crash {how}"},
                  on_reboot="destroy")
    daemon.cairn("start", "vm1")
    daemon.wait("vm1", "crashed")
    assert daemon.cairn("domstate", "--reason", "vm1").stdout == f"crashed ({reason})\n"


def test_start_fails_with_invalid_kernel(daemon, kvm):
    daemon.define("vm1")
    r = daemon.cairn("start", "vm1", ok=None)
    assert r.returncode != 0 and "kernel" in r.stderr
    assert daemon.info("vm1")["reason"] == "failed"


# ---- a daemon that another program starts ----

class IgnoringDaemon(Daemon):
    """A cairnd whose parent ignores the ends of its children."""

    def command(self):
        return ["env", "--ignore-signal=CHLD", *super().command()]


def test_daemon_of_a_parent_that_ignores_sigchld_sees_how_a_vm_ends(tmp_path):
    d = IgnoringDaemon(tmp_path, vm_program=FAKE_VM)
    try:
        d.define("vm1")
        d.cairn("start", "vm1")
        os.kill(pid_of(d, "vm1"), signal.SIGKILL)
        d.wait("vm1", "crashed")
        assert d.info("vm1")["exit-signal"] == 9
    finally:
        d.stop()


# ---- a container that begins with cairnd ----

class FirstDaemon(Daemon):
    """A cairnd that is the first process of a PID namespace."""

    def command(self):
        return ["unshare", *(["-Ur"] if os.geteuid() else []), "-pf", "--mount-proc", *super().command()]


def test_first_process_of_a_container_reaps_all_processes(tmp_path):
    first = FirstDaemon(tmp_path, vm_program=FAKE_VM)
    try:
        init, = children_of(first.proc.pid)
        daemon, = children_of(init)
        first.define("vm1", vsock={"path": f"{tmp_path}/v"})
        first.cairn("start", "vm1")
        dial, = (pid for pid in children_of(init) if pid != daemon)
        assert open(f"/proc/{dial}/comm").read() == "cairn-dial\n"
        first.cairn("destroy", "vm1")
        until(lambda: not os.path.exists(f"/proc/{dial}"))
        assert list(children_of(init)) == [daemon]
        os.kill(init, signal.SIGTERM)
        assert first.proc.wait(50) == 0
    finally:
        if first.proc.poll() is None:
            os.kill(min(children_of(first.proc.pid)), signal.SIGKILL)
            first.proc.wait(50)
