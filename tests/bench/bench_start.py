"""start: from exec of `cairn run`, and from `vm-start` on the daemon's socket, to a guest's first byte."""

import json
import os
import subprocess
import tempfile
import time

import guestlib
from benchlib import limit_program, milliseconds_to, need_kvm, need_qemu, qemu_microvm

DAEMON_TARGET_MS = 6.0
LIMIT = "a static program runs an empty VM until its first out"
FRACTION = 0.12  # of QEMU microvm's time


class Client:
    """A connection to the daemon that is already negotiated."""

    def __init__(self, path):
        import socket
        self.socket_module = socket
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(path)
        self.buffer = b""
        self.message()
        self.run("qmp_capabilities")

    def message(self):
        fds = []
        while b"\r\n" not in self.buffer:
            data, more, _, _ = self.socket_module.recv_fds(self.sock, 65536, 4)
            if not data:
                raise RuntimeError("the daemon hung up")
            fds += more
            self.buffer += data
        line, self.buffer = self.buffer.split(b"\r\n", 1)
        return json.loads(line), fds

    def run(self, command, **args):
        """Run a command. Return the fds that came with the answer."""
        self.sock.sendall(json.dumps({"execute": command, "arguments": args}).encode())
        fds = []
        while True:
            answer, more = self.message()
            fds += more
            if "error" in answer:
                raise RuntimeError(f"{command}: {answer['error']['desc']}")
            if "return" in answer:
                return fds


def daemon_start(client):
    begin = time.perf_counter_ns()
    client.run("vm-start", vm="bench")
    (console,) = client.run("vm-console", vm="bench")
    if os.read(console, 1) != b"A":
        raise RuntimeError("the guest's first byte is not its first byte")
    passed = (time.perf_counter_ns() - begin) / 1e6
    os.close(console)
    client.run("vm-destroy", vm="bench")
    return passed


def empty_start(bench):
    program = limit_program(bench.build, "kvm_limit")
    return program and milliseconds_to([program, "start"], b"A")


def through_the_daemon(bench, folder, definition):
    path = os.path.join(folder, "cairn.sock")
    daemon = subprocess.Popen([os.path.join(bench.build, "cairnd"), "--state-dir", os.path.join(folder, "state"),
                               "--socket", path, "--log-level", "error"])
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                client = Client(path)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        client.run("vm-define", definition=definition)
        daemon_start(client)  # the first one reads the program from the disk
        bench.compare("vm-start to first byte", "ms", lambda: daemon_start(client), DAEMON_TARGET_MS, "target", 1.0,
                      limit=lambda: empty_start(bench), limit_name=LIMIT)
    finally:
        daemon.terminate()
        daemon.wait()


def run(bench):
    need_kvm()
    need_qemu()
    guest = guestlib.bare("first_byte")
    definition = {"name": "bench", "memory": "32M", "boot": {"kernel": guest}}
    with tempfile.TemporaryDirectory(prefix="cairn-bench-") as folder:
        file = os.path.join(folder, "vm.json")
        with open(file, "w") as f:
            json.dump(definition, f)
        ours = [os.path.join(bench.build, "cairn"), "run", file]
        peer = qemu_microvm(guest, 32)
        milliseconds_to(ours, b"A")
        milliseconds_to(peer, b"A")
        bench.compare("cairn run to first byte", "ms", lambda: milliseconds_to(ours, b"A"),
                      lambda: milliseconds_to(peer, b"A"), "QEMU microvm", 1 / FRACTION,
                      limit=lambda: empty_start(bench), limit_name=LIMIT)
        through_the_daemon(bench, folder, definition)
