"""relaylib: a program between the two processes of a handover, which passes their messages on, and does to one of them
what a test has planned. The daemon starts it in place of the successor; it starts a relay, and becomes the successor."""

import json
import os
import resource
import select
import signal
import socket
import stat
import struct
import sys

TYPES = {36: "memory", 1: "config", 35: "go"}  # enum vm_msg_type; the successor answers the first two
REPLY = 16
BYTES = 128 * 1024  # longer than any message
FDS = 128


class Relay:
    """A plan for each VM, and the program that a Daemon gets as its vm_program."""

    def __init__(self, tmp, vm):
        """vm: the path of cairn-vm."""
        self.tmp = tmp
        self.program = str(tmp / "relayed-vm")
        with open(self.program, "w") as f:
            f.write(f"#!/bin/sh\n[ $1 = --take-over ] && exec {sys.executable} {__file__} {tmp} {vm} \"$@\"\nexec {vm} \"$@\"\n")
        os.chmod(self.program, os.stat(self.program).st_mode | stat.S_IXUSR)

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
    def __init__(self, tmp, name, old, new, pid):
        self.name = name
        self.held = os.path.join(tmp, f"relay-{self.name}-held")
        self.old, self.new = old, new
        self.counts, self.asked, self.plan = {}, None, {"act": None, "step": None}
        try:
            path = os.path.join(tmp, f"relay-{self.name}-plan")
            with open(path) as f:
                self.plan = json.load(f)
            os.unlink(path)
        except FileNotFoundError:
            pass
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


def main(tmp, program, _, fd, *args):
    end_file = args[args.index("--end-file") + 1]
    name = os.path.basename(os.path.dirname(os.readlink(f"/proc/self/fd/{end_file}")))  # of the VM
    old = socket.socket(fileno=int(fd))
    new, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for s in (old, new, theirs):
        s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * BYTES)
    pid = os.getpid()
    link = Link(tmp, name, old, new, pid)
    child = os.fork()
    if not child:
        if not os.fork():
            theirs.close()
            link.run()
        os._exit(0)
    os.waitpid(child, 0)
    old.close()
    new.close()
    os.set_inheritable(theirs.fileno(), True)
    if link.plan["act"] == "enomem":
        resource.setrlimit(resource.RLIMIT_AS, (64 << 20, 64 << 20))
    os.execv(program, [program, "--take-over", str(theirs.fileno()), "--end-file", end_file])


if __name__ == "__main__":
    main(*sys.argv[1:])
