"""relaylib: a program between the two processes of a handover, which passes their messages on, and does to one of them
what a test has planned. The daemon starts it in place of the successor; it gives its socket to a server, which starts a
relay, and becomes the successor. The server is outside the successor's pid namespace, so it can kill both."""

import json
import os
import resource
import select
import signal
import socket
import stat
import struct
import subprocess
import sys

TYPES = {36: "memory", 1: "config", 35: "go"}  # enum vm_msg_type; the successor answers the first two
REPLY = 16
BYTES = 128 * 1024  # longer than any message
FDS = 128


class Relay:
    """A plan for each VM, and the program that a Daemon gets as its vm_program. Use as a context manager."""

    def __init__(self, tmp, vm):
        """vm: the path of cairn-vm."""
        self.tmp = tmp
        self.program = str(tmp / "relayed-vm")
        with open(self.program, "w") as f:
            f.write(f"#!/bin/sh\n[ $1 = --take-over ] && exec {sys.executable} {__file__} {tmp} {vm} \"$@\"\nexec {vm} \"$@\"\n")
        os.chmod(self.program, os.stat(self.program).st_mode | stat.S_IXUSR)

    def __enter__(self):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
            s.bind(str(self.tmp / "relay"))
            s.listen(64)
            self.server = subprocess.Popen([sys.executable, __file__, str(s.fileno())], pass_fds=[s.fileno()])
        return self

    def __exit__(self, *_):
        self.server.kill()
        self.server.wait()

    def file(self, name, what):
        return self.tmp / f"relay-{name}-{what}"

    def plan(self, name, act, step=None, n=0, old=None):
        """Do something to the n-th message of a kind (None: to each) in the next handover of this VM: drop, cut or hold
        it, or kill a process (of two: old and new) instead of passing it on, or afterwards: kill-new-before, kill-new-after
        and so on. enomem: the successor gets little address space."""
        self.file(name, "plan").write_text(json.dumps({"act": act, "step": step, "n": n, "old": old}))

    def is_held(self, name):
        return self.file(name, "held").exists()

    def release(self, name):
        self.file(name, "held").unlink()


def end(pid):
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    signal.pidfd_send_signal(fd, signal.SIGKILL)
    select.select([fd], [], [])


class Link:
    def __init__(self, held, plan, old, new, pid):
        """held: the file that exists while a message is held; pid: of the successor."""
        self.held, self.plan = held, plan
        self.old, self.new = old, new
        self.counts, self.asked = {}, None
        self.pids = {"old": self.plan.get("old"), "new": pid}

    def step_of(self, kind):
        step = TYPES.get(kind) or (f"{self.asked}-answer" if kind == REPLY else "event")
        if kind in TYPES:
            self.asked = step
        self.counts[step] = self.counts.get(step, -1) + 1
        return step

    def act_on(self, step):
        planned = step == self.plan["step"] and self.plan["n"] in (None, self.counts[step])
        return self.plan["act"] if planned else None

    def hold(self):
        """Wait until the test releases the message, or the successor is gone."""
        open(self.held, "w").close()
        gone = select.poll()
        gone.register(self.new, 0)
        while os.path.exists(self.held) and not gone.poll(10):
            pass

    def kill(self, act, when):
        if act and act.startswith("kill-") and act.endswith(when):
            end(self.pids[act.split("-")[1]])

    def carry(self, frm, to):
        """Pass a message on. Returns whether both processes are still there."""
        data, fds, _, _ = socket.recv_fds(frm, BYTES, FDS)
        if not data:
            return False
        act = self.act_on(self.step_of(struct.unpack_from("HH", data)[1]))
        self.kill(act, "before")
        if act == "hold":
            self.hold()
        if act not in ("drop", "kill-old-before", "kill-new-before"):
            socket.send_fds(to, [data[:-8] if act == "cut" else data], fds)
        for fd in fds:
            os.close(fd)
        self.kill(act, "after")
        return True

    def run(self):
        pair = {self.old: self.new, self.new: self.old}
        try:
            while all([self.carry(s, pair[s]) for s in select.select(list(pair), [], [])[0]]):
                pass
        except (BrokenPipeError, ConnectionResetError):
            pass


def serve(fd):
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    server = socket.socket(fileno=int(fd))
    while True:
        client = server.accept()[0]
        if not os.fork():
            server.close()
            data, fds, _, _ = socket.recv_fds(client, BYTES, 2)
            pid = struct.unpack("iII", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
            client.close()
            held, plan = json.loads(data)
            Link(held, plan, *(socket.socket(fileno=fd) for fd in fds), pid).run()
            os._exit(0)
        client.close()


def plan_of(tmp, name):
    path = os.path.join(tmp, f"relay-{name}-plan")
    try:
        with open(path) as f:
            plan = json.load(f)
        os.unlink(path)
        return plan
    except FileNotFoundError:
        return {"act": None, "step": None}


def become_successor(tmp, program, _, fd, *args):
    end_file = args[args.index("--end-file") + 1]
    name = os.path.basename(os.path.dirname(os.readlink(f"/proc/self/fd/{end_file}")))  # of the VM
    plan = plan_of(tmp, name)
    old = socket.socket(fileno=int(fd))
    new, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for s in (old, new, theirs):
        s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * BYTES)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.connect(os.path.join(tmp, "relay"))
        socket.send_fds(server, [json.dumps([os.path.join(tmp, f"relay-{name}-held"), plan]).encode()], [old.fileno(), new.fileno()])
    old.close()
    new.close()
    os.set_inheritable(theirs.fileno(), True)
    if plan["act"] == "enomem":
        resource.setrlimit(resource.RLIMIT_AS, (64 << 20, 64 << 20))
    os.execv(program, [program, "--take-over", str(theirs.fileno()), "--end-file", end_file])


if __name__ == "__main__":
    (become_successor if len(sys.argv) > 2 else serve)(*sys.argv[1:])
