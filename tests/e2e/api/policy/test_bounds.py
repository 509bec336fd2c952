"""No user's VM keeps the host from starting or stopping the VMs of others."""

import contextlib
import json
import os
import signal
import socket

import pytest

from conftest import until
from daemonlib import as_nobody, held_at_exit, pid_of, shared  # noqa: F401
from test_policy import boot_anew


def options_set(d, *options):
    """Let the next daemon have these options."""
    plain = type(d).command(d)
    d.command = lambda: plain + list(options)


def restarted(d, *options):
    options_set(d, *options)
    d.stop()
    d.start()


def booted(d, *options):
    options_set(d, *options)
    boot_anew(d)
    d.start()


def define_as_nobody(d, *names, **keys):
    """Let nobody define VMs that start with the host."""
    d.cairn("grant", "admin", "--user", "nobody")
    for n in names:
        definition = {"name": n, "memory": "32M", "boot": {"kernel": str(d.tmp / "kernel")}, **keys}
        assert "return" in as_nobody(d, ["vm-define", {"definition": definition}])[0]
        d.cairn("autostart", n)


def autostarts(d):
    return [e["data"] for e in d.qmp().run("query-events", event="AUTOSTART")["events"]]


def test_start_delay_of_a_user_holds_no_other_vms(shared):  # noqa: F811
    d = shared
    define_as_nobody(d, "a", "b", start_delay=86400, order=0)
    d.cairn("autostart", "mine")
    d.cairn("autostart", "other")
    booted(d, "--max-user-delay", "86400")
    until(lambda: d.info("mine")["state"] == d.info("other")["state"] == d.info("a")["state"] == "running")
    assert d.info("b")["state"] == "shutoff"


def test_start_delay_and_order_of_a_user_are_bounded(shared):  # noqa: F811
    d = shared
    define_as_nobody(d, "a", "b", start_delay=86400, order=0)
    d.define("z", order=5)
    d.cairn("autostart", "z")
    booted(d, "--max-user-delay", "0", "--min-user-order", "6")
    until(lambda: len(autostarts(d)) == 3)
    assert autostarts(d)[0]["vm"] == "z" and all(e["outcome"] == "started" for e in autostarts(d))


def test_autostarts_of_a_user_are_bounded(shared):  # noqa: F811
    d = shared
    define_as_nobody(d, "a", "b", "c")
    for n in ("mine", "other"):
        d.cairn("autostart", n)
    booted(d, "--max-user-autostart", "1")
    until(lambda: d.info("mine")["state"] == d.info("other")["state"] == d.info("a")["state"] == "running")
    events = [e for e in autostarts(d) if e["outcome"] == "failed"]
    assert [e["vm"] for e in events] == ["b", "c"] and "--max-user-autostart" in events[0]["detail"]
    assert d.info("b")["state"] == d.info("c")["state"] == "shutoff"


def test_deadlines_are_bounded_when_the_host_shuts_down(shared):  # noqa: F811
    d = shared
    define_as_nobody(d, "a", stop_action="shutdown", shutdown={"deadline": 86400, "then": "destroy"})
    d.define("z", cmdline="deaf", stop_action="shutdown", shutdown={"deadline": 86400, "then": "destroy"})
    d.cairn("start", "a")
    d.cairn("start", "z")
    said = d.cairn("daemon-stop", "--vms-only", "--dry-run").stdout
    assert "after 120 s, destroyed" in said and "after 900 s, destroyed" in said
    restarted(d, "--max-user-deadline", "7", "--shutdown-limit", "0")
    said = d.cairn("daemon-stop", "--vms-only", "--dry-run").stdout
    assert "after 7 s, destroyed" in said and "after 86400 s, destroyed" in said
    restarted(d, "--shutdown-limit", "1")
    assert "destroyed" in d.cairn("daemon-stop", "--vms-only").stdout
    assert d.info("z")["state"] == d.info("a")["state"] == "shutoff"


def dump_begun(d):
    """Begin a memory dump of the VM v that does not end by itself. Returns the job's id."""
    q = d.qmp()
    with contextlib.closing(os.fdopen(os.open(d.tmp / "core", os.O_RDWR | os.O_CREAT), "wb")) as f:
        socket.send_fds(q.sock, [json.dumps({"execute": "vm-dump", "arguments": {"vm": "v"}}).encode()], [f.fileno()])
        return q.answer()["return"]["job"]


def test_save_at_shutdown_cancels_a_job(fake):
    fake.define("v", cmdline=f"work-until={fake.tmp}/never", stop_action="save")
    fake.cairn("start", "v")
    job = dump_begun(fake)
    q = fake.qmp()
    stopper = fake.qmp()
    stopper.send(b'{"execute":"daemon-stop","arguments":{"vms-only":true}}')
    q.event("JOB_STATUS_CHANGE", id=job, status="concluded")
    # The save works as long as the dump would.
    (fake.tmp / "never").touch()
    assert stopper.answer()["return"]["vms"] == [{"vm": "v", "action": "save", "outcome": "saved"}]
    assert fake.info("v")["state"] == "saved"


def test_save_at_shutdown_outlasts_a_save(fake):
    fake.define("v", cmdline=f"work-until={fake.tmp}/go", stop_action="save")
    fake.cairn("start", "v")
    q, stopper = fake.qmp(), fake.qmp()
    q.run("vm-managed-save", vm="v")
    stopper.send(b'{"execute":"daemon-stop","arguments":{"vms-only":true}}')
    until(lambda: "waits for the end of job" in fake.log.read_text())
    (fake.tmp / "go").touch()
    (o,) = stopper.answer()["return"]["vms"]
    assert o["vm"] == "v" and fake.info("v")["state"] == "saved", o


def test_save_at_shutdown_outlasts_the_fork_that_makes_the_vm(fake):
    """The fork's job names its source, and owns the clones too."""
    keys = {"cmdline": f"clone-until={fake.tmp}/go:c-2"}
    fake.define("src", stop_action="save", **keys)
    fake.cairn("start", "src")
    q, stopper = fake.qmp(), fake.qmp()
    job = q.run("vm-fork", vm="src", name="c", count=3)["job"]
    q.event("VM_STATE_CHANGE", vm="c-3", state="running")
    fake.define("src", stop_action="leave", **keys)
    stopper.send(b'{"execute":"daemon-stop","arguments":{"vms-only":true}}')
    until(lambda: "VM 'c-3': waits for the end of job" in fake.log.read_text())
    (fake.tmp / "go").touch()
    outcomes = {o["vm"]: o["outcome"] for o in stopper.answer()["return"]["vms"]}
    assert outcomes == {"src": "left running", "c-1": "saved", "c-2": "saved", "c-3": "saved"}
    assert q.run("query-jobs", id=job)[0]["status"] == "concluded"


def outcomes(answer):
    return {o["vm"]: o["outcome"] for o in answer["vms"]}


@pytest.mark.parametrize("begun", [False, True])
def test_save_of_a_user_that_does_not_end_holds_no_other_vms(shared, begun):  # noqa: F811
    """The user's VM stops first. It makes progress, which a hostile one can always claim."""
    d = shared
    define_as_nobody(d, "a", stop_action="save", order=5,
                     boot={"kernel": str(d.tmp / "kernel"), "cmdline": f"work-until={d.tmp}/never"})
    d.define("z", stop_action="save")
    restarted(d, "--shutdown-limit", "1")
    d.cairn("start", "a", "z")
    q = d.qmp()
    if begun:
        q.run("vm-managed-save", vm="a")
    assert outcomes(q.run("daemon-stop", **{"vms-only": True})) == {"a": "not saved in time", "z": "saved"}
    (d.tmp / "never").touch()
    q.event("VM_STATE_CHANGE", vm="a", state="saved")  # the save went on


def test_save_on_a_hung_disk_holds_no_other_vms(fake):
    fake.define("a", stop_action="save", order=5)
    fake.define("z", stop_action="save")
    restarted(fake, "--shutdown-limit", "1")
    fake.cairn("start", "a", "z")
    pid = pid_of(fake, "a")
    os.kill(pid, signal.SIGSTOP)
    try:
        assert outcomes(fake.qmp().run("daemon-stop", **{"vms-only": True})) == {"a": "not saved in time", "z": "saved"}
    finally:
        os.kill(pid, signal.SIGCONT)


def test_slow_save_of_the_admin_is_awaited(fake):
    fake.define("v", cmdline=f"work-until={fake.tmp}/go", stop_action="save")
    restarted(fake, "--shutdown-limit", "1")
    fake.cairn("start", "v")
    stopper = fake.qmp()
    stopper.send(b'{"execute":"daemon-stop","arguments":{"vms-only":true}}')
    until(lambda: "makes progress, so it is awaited" in fake.log.read_text())
    (fake.tmp / "go").touch()
    assert outcomes(stopper.answer()["return"]) == {"v": "saved"}


def test_process_that_does_not_end_holds_no_other_vms(fake):
    fake.define("a", cmdline=f"deaf lingers-until={fake.tmp}/never", stop_action="shutdown", order=5,
                shutdown={"deadline": 1, "then": "destroy"})
    fake.define("z", stop_action="save")
    fake.cairn("start", "a", "z")
    with held_at_exit(pid_of(fake, "a")):
        assert outcomes(fake.qmp().run("daemon-stop", **{"vms-only": True})) == {
            "a": "its process was killed, but has not ended", "z": "saved"}
