"""Reads and writes that fail, are short or end early while a VM's state and a clone's memory go to a new process: the
VM goes on in the old process, or in the new one with all of its content. (test_handover_faults.py has faults of messages
and processes.)"""

import errno
import json
import os
import struct

import pytest

from conftest import BUILD, Daemon
from forklib import check, vm  # noqa: F401 (vm is a fixture)
from test_handover_faults import cloned, holds, source, source_holds

NONE, SHORT, ERROR, END = range(4)
FAULTS = struct.Struct("<4I3Q")  # struct faults of fail_io.c
READS, WRITES, OLD, NEW = 0, 1, 0, 1


class Faults:
    def __init__(self, path):
        self.path = path
        path.touch()
        self.plan(NONE)

    def plan(self, fault, writes=0, successor=0, error=0, after=0):
        with self.path.open("r+b") as f:  # processes have mapped the file
            f.write(FAULTS.pack(fault, writes, successor, error, after, 0, 0))

    def hits(self):
        return FAULTS.unpack(self.path.read_bytes())[-1]


@pytest.fixture
def faults(tmp_path):
    return Faults(tmp_path / "faults")


@pytest.fixture
def daemon(tmp_path, faults):
    d = Daemon(tmp_path, vm_program=os.path.abspath(f"{BUILD}/helpers/fail_io_vm"), env={"FAIL_IO": str(faults.path)})
    yield d
    d.close()


# How the fault is planned, and what the job's error says; None: the handover succeeds.
HOW = {
    "write-nospace": ((ERROR, WRITES, OLD, errno.ENOSPC), "No space left on device"),
    "write-nospace-later": ((ERROR, WRITES, OLD, errno.ENOSPC, 1500), "No space left on device"),
    "write-error": ((ERROR, WRITES, OLD, errno.EIO, 1), "Input/output error"),
    "write-short": ((SHORT, WRITES, OLD, 0, 1000), None),
    "read-error": ((ERROR, READS, NEW, errno.EIO), "Input/output error"),
    "read-error-later": ((ERROR, READS, NEW, errno.EIO, 1500), "Input/output error"),
    "read-no-memory": ((ERROR, READS, NEW, errno.ENOMEM, 1500), "Cannot allocate memory"),
    "read-short": ((SHORT, READS, NEW, 0, 1000), None),
    "read-ends": ((END, READS, NEW, 0, 1500), ""),
    "read-is-empty": ((END, READS, NEW), ""),
}


@pytest.mark.seconds(120)
@pytest.mark.parametrize("name", ["src", "c"])
def test_vm_goes_on_when_its_state_cannot_be_written_or_read(vm, daemon, faults, tmp_path, name):  # noqa: F811
    source(vm, tmp_path)
    cloned(vm, "c")
    for how, (plan, error) in HOW.items():
        pid = daemon.info(name)["pid"]
        faults.plan(*plan)
        r = daemon.cairn("restart-process", name, "--format", "json", ok=None)
        outcome, = json.loads(r.stdout)
        assert faults.hits() and (r.returncode == 0) == (error is None), (how, r)
        faults.plan(NONE)
        if error is None:
            assert outcome["way"] == "handover" and daemon.info(name)["pid"] != pid, how
        else:
            assert error in outcome["error"] and daemon.info(name)["pid"] == pid, (how, outcome)
        assert daemon.info(name)["state"] == "running", how
        holds(vm, "c")
        source_holds(vm)
    daemon.cairn("restart-process", name)
    holds(vm, "c")
    source_holds(vm)
    for n in "c", "src":
        daemon.cairn("destroy", n)
    check(*tmp_path.glob("*.qcow2"))
