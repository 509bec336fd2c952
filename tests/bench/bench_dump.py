"""dump: a guest's memory as an ELF core, compared with QEMU's dump-guest-memory: duration, and pause of the guest.
QEMU's pause lasts for the whole dump, and QEMU writes zero pages as well."""

import json
import os
import socket
import tempfile
import time

import guestlib
from benchlib import SEQUENTIAL, Program, kvm_limit, need_kvm, need_qemu, qemu_microvm, sequential_mib_s
from conftest import Qmp, until
from snapbench import FILL_AT, running

MEMORY_MIB, FILLED_MIB, ROUNDS = 512, 256, 5


def ours_ms(vm, path):
    """Return duration and pause."""
    q = Qmp(vm.daemon.socket)
    with open(path, "wb") as f:
        begin = time.perf_counter()
        socket.send_fds(q.sock, [json.dumps({"execute": "vm-dump", "arguments": {"vm": "vm"}}).encode()], [f.fileno()])
        job = q.answer()["return"]["job"]
        q.event("JOB_STATUS_CHANGE", id=job, status="concluded")
        ms = (time.perf_counter() - begin) * 1e3
    result = q.run("query-jobs", id=job)[0]["result"]
    q.run("job-dismiss", id=job)
    q.close()
    os.unlink(path)
    return ms, result["pause"] / 1e6


def qemu_ms(q, path):
    begin = time.perf_counter()
    q.run("dump-guest-memory", paging=False, protocol=f"file:{path}")
    ms = (time.perf_counter() - begin) * 1e3
    q.event("DUMP_COMPLETED")
    os.unlink(path)
    return ms


def write_ms(path):
    """Return the milliseconds in which as much as the filled memory can be written."""
    rate = sequential_mib_s(path, FILLED_MIB)
    return rate and FILLED_MIB * 1e3 / rate


def run(bench):
    need_kvm()
    need_qemu()
    with tempfile.TemporaryDirectory(prefix="cairn-bench-") as folder, running(bench.uid, MEMORY_MIB, FILLED_MIB) as vm:
        monitor, core = os.path.join(folder, "qmp"), os.path.join(folder, "core")
        argv = qemu_microvm(guestlib.bare("interp"), MEMORY_MIB, "-qmp", f"unix:{monitor},server=on,wait=off")
        with Program(argv) as qemu:
            qemu.until(b"interp")
            os.write(qemu.stdin, f"fill {FILL_AT:#x} {FILLED_MIB << 20:#x} 1\n".encode())
            qemu.until(b"\nok")
            until(lambda: os.path.exists(monitor))
            q = Qmp(monitor)
            rounds = [(ours_ms(vm, core), qemu_ms(q, core), write_ms(core), kvm_limit(bench, "pause")) for _ in range(ROUNDS)]
            q.close()
    name = "dump-guest-memory"
    bench.pairs("256 MiB of 512", "ms", [(ours[0], theirs) for ours, theirs, _, _ in rounds], name, 2.0,
                limit=[r[2] for r in rounds], limit_name=SEQUENTIAL)
    bench.pairs("256 MiB of 512, pause", "ms", [(ours[1], theirs) for ours, theirs, _, _ in rounds], name, 10.0,
                limit=[r[3] for r in rounds], limit_name="a vCPU is kicked, parks, and runs again")
