"""A daemon that begins finds each running VM, also one whose process stands still and accepts no connection."""

import contextlib
import json
import os
import signal
import socket
import threading

import pytest

from conftest import Console, until

NO_PLACE = "VM 'vm1': cannot connect to its process: it accepts no connection; trying again"


def fill(daemon, name):
    """Connect to a VM's socket until it has no place for one more connection, as daemons do that end before its process
    accepts them."""
    n = 0
    while True:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK) as s:
            try:
                s.connect(str(daemon.state / "run" / f"{name}.sock"))
            except BlockingIOError:
                return n
        n += 1


@pytest.fixture
def stop():
    """Stop a process and continue it after the test, also if the test has failed."""
    pids = []

    def now(pid):
        os.kill(pid, signal.SIGSTOP)
        pids.append(pid)
    yield now
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def stand_still(daemon, stop, pid):
    """End the daemon, and stop the VM's process with a full socket."""
    daemon.stop()
    stop(pid)
    assert fill(daemon, "vm1") > 6


class Starting:
    """Start a daemon in a thread: it answers clients when all VMs have answered, or after 10 s."""

    def __init__(self, daemon):
        self.thread = threading.Thread(target=daemon.start)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *args):
        self.thread.join()


def no_place(daemon):
    until(lambda: NO_PLACE in daemon.log.read_text())


def test_vm_whose_socket_is_full_is_adopted_when_it_goes_on(daemon, stop, guest, kvm):
    daemon.define("vm1", boot={"kernel": guest("interp.elf")})
    daemon.cairn("start", "vm1")
    console, before = Console(daemon, "vm1"), daemon.info("vm1")
    until(lambda: console.line() == "interp")
    console.run("fill 0x1000000 0x100000 5")
    stand_still(daemon, stop, before["pid"])
    with Starting(daemon):
        no_place(daemon)
        os.kill(before["pid"], signal.SIGCONT)
    info = daemon.info("vm1")
    assert (info["state"], info["reason"], info["pid"]) == ("running", before["reason"], before["pid"])
    Console(daemon, "vm1").run("check 0x1000000 0x100000 5")
    daemon.cairn("suspend", "vm1")
    assert daemon.cairn("domstate", "--reason", "vm1").stdout == "paused (user)\n"
    daemon.cairn("destroy", "vm1")
    assert not daemon.children()


def test_vm_that_ends_while_its_socket_is_full_is_seen_to_end(fake, stop):
    fake.define("vm1")
    fake.cairn("start", "vm1")
    pid = fake.info("vm1")["pid"]
    stand_still(fake, stop, pid)
    with Starting(fake):
        no_place(fake)
        os.kill(pid, signal.SIGKILL)
    fake.wait("vm1", "crashed")
    fake.cairn("start", "vm1")
    assert fake.info("vm1")["pid"] != pid


@pytest.mark.seconds(120)  # the daemon waits 10 s for the VM
@pytest.mark.parametrize("full", [True, False], ids=["full", "connected"])
def test_vm_that_answers_late_is_adopted(fake, stop, full):
    """Clients have been answered before. A request that waits is carried out."""
    fake.define("vm1")
    fake.cairn("start", "vm1", "--paused")
    before = fake.info("vm1")
    fake.stop()
    state = fake.state / "vms" / "vm1" / "state.json"
    state.unlink()  # so that only the process knows the state
    stop(before["pid"])
    if full:
        fill(fake, "vm1")
    fake.start()
    assert fake.cairn("domstate", "--reason", "vm1").stdout == "running (unknown)\n"
    q = fake.qmp()
    q.send(json.dumps({"execute": "vm-suspend", "arguments": {"vm": "vm1"}}).encode())
    # Another client's answer came later, so the daemon has the request while it does not know that the VM is paused.
    assert fake.cairn("domstate", "--reason", "vm1").stdout == "running (unknown)\n"
    os.kill(before["pid"], signal.SIGCONT)
    until(lambda: f"VM 'vm1' adopted: pid {before['pid']}" in fake.log.read_text())
    assert "return" in q.answer()
    assert fake.cairn("domstate", "--reason", "vm1").stdout == "paused (user)\n"
    fake.cairn("resume", "vm1")
    info = fake.info("vm1")
    assert (info["state"], info["pid"]) == ("running", before["pid"])


@pytest.mark.seconds(120)
def test_vm_whose_socket_is_full_is_destroyed_when_it_goes_on(fake, stop):
    fake.define("vm1")
    fake.cairn("start", "vm1")
    pid = fake.info("vm1")["pid"]
    stand_still(fake, stop, pid)
    fake.start()
    error = fake.cairn("destroy", "vm1", ok=False).stderr
    assert "has not ended" in error, error
    os.kill(pid, signal.SIGCONT)
    fake.wait("vm1", "shutoff")
    fake.cairn("start", "vm1")
    assert fake.info("vm1")["pid"] != pid


def test_socket_of_an_interface_that_the_vm_lacks_is_removed(fake):
    """The daemon is killed after it has stored the interface. The simulated VM does not keep it."""
    fake.define("a")
    fake.cairn("start", "a")
    fake.cairn("attach-interface", "a", "user", "--live")
    assert "..net0:a.sock" in os.listdir(fake.state / "run")
    fake.stop(signal.SIGKILL)
    fake.start()
    assert json.loads(fake.cairn("domiflist", "a", "--format", "json").stdout) == []
    assert "..net0:a.sock" not in os.listdir(fake.state / "run")
