"""A live clone is handed over to a new process that answers late. (test_handover.py kills processes at any moment;
test_handover_clone.py has handovers without faults.)"""

import json
import os
import re
import subprocess

import pytest

from conftest import BUILD, Daemon, until
from relaylib import Relay
from test_fork import AT, FILL, MIB, image, vm  # noqa: F401 (vm is a fixture)

BLOCK = 65536


@pytest.fixture
def relay(tmp_path):
    return Relay(tmp_path, os.path.join(BUILD, "cairn-vm"))


@pytest.fixture
def daemon(tmp_path, relay):
    d = Daemon(tmp_path, vm_program=relay.program)
    yield d
    d.close()


@pytest.mark.seconds(240)
def test_guest_that_writes_faster_than_the_copy_is_slowed_down(vm, daemon, relay, tmp_path):  # noqa: F811
    """In each round, the guest writes to more blocks than the 512 that the pause may copy aside."""
    written, at = 52 * MIB, AT + FILL
    vm.start(memory="96M", disks=[image(tmp_path / "a.qcow2")])
    vm.clone("c")
    vm.attach("c")
    seed = 1

    def outrun(*args):
        nonlocal seed
        relay.plan("c", "hold", "memory-answer", None)
        with subprocess.Popen([os.path.join(BUILD, "cairn"), "restart-process", "c", *args], env=daemon.env,
                              stdout=subprocess.PIPE, text=True) as p:
            while p.poll() is None:
                until(lambda: relay.is_held("c") or p.poll() is not None)
                if relay.is_held("c"):
                    seed += 1
                    vm.run("c", f"fill {at} {written} {seed} {BLOCK}")
                    relay.release("c")
            return p.stdout.read()

    def figures(text):
        return [json.loads(text)[f"memory-{k}"] for k in ("rounds", "throttle", "stopped")]

    assert re.search(r"\(handed over, paused [0-9.]+ ms, slowed down by 95 % because it wrote its memory faster than that "
                     r"was copied\)\n$", outrun())
    log = (daemon.state / "vms" / "c" / "log").read_text()
    assert int(re.findall(r"(\d+) KiB of them in the pause", log)[-1]) >= written // 1024
    vm.run("c", f"check {at} {written} {seed} {BLOCK}")
    vm.holds("c", AT, FILL, 1)
    assert figures(outrun("--format", "json")) == [12, 95, True]
    vm.run("c", f"check {at} {written} {seed} {BLOCK}")
    rounds, throttle, stopped = figures(daemon.cairn("restart-process", "c", "--format", "json").stdout)
    assert rounds >= 1 and throttle == 0 and stopped is False
    vm.run("c", f"check {at} {written} {seed} {BLOCK}")
