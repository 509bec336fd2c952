"""Fuzz both sockets: every command of the schema, with arguments of every kind, valid and broken.

FUZZ_SEED determines the input; FUZZ_ROUNDS is the number of turns of each command. Every well-formed text gets
exactly one answer, in order, with its id; after a broken one, 0xFF resynchronizes. The daemon survives and its
memory stays bounded."""

import json
import os
import random

import pytest

from conftest import Qmp

SEED = int(os.environ.get("FUZZ_SEED", "1"))
ROUNDS = int(os.environ.get("FUZZ_ROUNDS", "100"))
RSS_MAX = 60 << 20

STRINGS = ["", "vm1", "vm2", "no such", "vda", "s1", "job1", "x" * 255, "x" * 256, "x" * 70000, "a\x00b", "\x7f\x1b[2J",
           "ä\U0001f600\u202e", "\ud800", "../../etc/passwd", "%n%s%d", "-1", "1h", "10%", "2d:all", "viewer", "owner",
           "acpi", "paused", "running", "keep", "too", "serial", "info status", "info", "savevm f", "delvm f",
           "loadvm f", "system_reset", "\r\n", '"}{', "00000000-0000-0000-0000-000000000000"]
S = 10**9  # times are in nanoseconds
NUMBERS = [0, 1, -1, 2, 7, 63, 64, 1000, 1001, 2**31 - 1, 2**31, -2**31, 2**32, 2**53, 2**63 - 1, -2**63, S, 60 * S, (2**31 - 1) * S, 2**31 * S,
           (2**32 - 1) * S, 2**32 * S, 2**62, 2**63, 2**64, 10**30, 1.5, -0.0, 1e308]
# Commands that would end the test's subjects; each has tests of its own.
LEFT_OUT = {"quit", "vm-undefine", "daemon-stop"}


class Shooter:
    def __init__(self, fake, which):
        self.fake, self.which = fake, which
        self.random = random.Random(f"{SEED} {which}")
        self.n = 0
        for vm in ("vm1", "vm2"):
            (fake.tmp / f"{vm}.img").write_bytes(bytes(1 << 20))
            fake.define(vm, disks=[{"path": f"{vm}.img", "format": "qcow2"}])
        self.definition = json.load(open(fake.write("vm2")))
        self.connect()
        schema = self.q.run("query-qmp-schema")
        types = {e["name"]: e for e in schema}
        self.words = {e["name"]: e["values"] for e in schema if e["meta-type"] == "enum"}
        self.commands = {e["name"]: types[e["arg-type"]]["members"] for e in schema
                         if e["meta-type"] == "command" and e["name"] not in LEFT_OUT}

    def connect(self):
        for vm in ("vm1", "vm2"):
            self.fake.cairn("start", vm, ok=None)  # unless it runs
        path = self.fake.socket
        if self.which == "vm":
            path = self.fake.cairn("qmp-path", "vm1").stdout.rstrip("\n")
        self.q = Qmp(path)

    # ---- input ----

    def value(self, depth=0):
        r = self.random
        kind = r.randrange(8 if depth < 3 else 5)
        if kind == 0:
            return r.choice([None, True, False])
        if kind in (1, 2):
            return r.choice(NUMBERS)
        if kind in (3, 4):
            return r.choice(STRINGS)
        if kind == 5:
            return [self.value(depth + 1) for _ in range(r.randrange(4))]
        return {r.choice(STRINGS): self.value(depth + 1) for _ in range(r.randrange(4))}

    def fitting(self, member):
        r = self.random
        kinds = {"str": lambda: r.choice(STRINGS), "int": lambda: r.choice(NUMBERS[:-5]),
                 "bool": lambda: r.random() < 0.5,
                 "array": lambda: r.choice([[], ["vda"], ["keep"], [1], [[]], ["a"] * 3000]),
                 "object": lambda: self.value(0)}
        if member["name"] == "vm":
            return r.choice(["vm1", "vm1", "vm2", "vm3"])
        if member["name"] == "definition":
            d = dict(self.definition)
            if r.random() < 0.8:
                d[r.choice([*d, "no such", "disks", "vcpus"])] = self.value()
            return d
        if member["type"] in self.words and r.random() < 0.8:
            return r.choice(self.words[member["type"]])
        return kinds.get(member["type"], self.value)()

    def command(self, name):
        r = self.random
        args = {m["name"]: self.fitting(m) for m in self.commands[name] if "default" not in m or r.random() < 0.5}
        hurt = r.randrange(6)
        if hurt == 0 and args:
            del args[r.choice([*args])]
        elif hurt == 1:
            args[r.choice(STRINGS)] = self.value()
        elif hurt == 2 and args:
            args[r.choice([*args])] = self.value()
        m = {"execute": name, "arguments": args}
        if hurt == 3:
            m[r.choice(["execute", "arguments", "exec", ""])] = self.value()
        return m

    def broken(self, text):
        """Return bytes that are no text, or only part of one."""
        r = self.random
        how = r.randrange(7)
        at = r.randrange(1, len(text))
        if how == 0:
            return text[:at]
        if how == 1:
            return text[:at] + bytes([r.randrange(256)]) + text[at + 1:]
        if how == 2:
            return text[at:]
        if how == 3:
            return b'{"execute":' * 10000
        if how == 4:
            return text[:at] + b"[" * 10000 + text[at:]
        if how == 5:
            return bytes(r.randrange(256) for _ in range(200))
        return text[:at] + b"\xff" + text[at:]

    def send(self, data):
        """Send in packets of any size, and read meanwhile, as a client that writes a lot must."""
        r = self.random
        cuts = sorted(r.randrange(len(data)) for _ in range(r.choice([0, 0, 1, 5])))
        for a, b in zip([0, *cuts], [*cuts, len(data)]):
            self.q.send(data[a:b])

    # ---- output ----

    def sync(self):
        self.n += 1
        self.q.send(b'\xff{"execute":"query-version","id":"sync %d"}' % self.n)
        while True:
            m = self.q.answer()
            if m.get("id") == f"sync {self.n}":
                assert "return" in m
                return
            # Half a text may have been a valid one; but answers are complete.
            assert set(m) <= {"error", "return", "id"} and len({"error", "return"} & set(m)) == 1, m

    def whole(self, name):
        self.n += 1
        m = {**self.command(name), "id": self.n}
        self.send(json.dumps(m).encode())
        a = self.q.answer()
        assert a.get("id") == self.n and len({"error", "return"} & set(a)) == 1, (m, a)
        if "error" in a:
            assert set(a["error"]) == {"class", "desc"} and a["error"]["desc"], a
            assert self.which == "daemon" or a["error"]["class"] in (
                "GenericError", "CommandNotFound", "DeviceNotActive", "DeviceNotFound"), a

    def shoot(self, name):
        try:
            if self.random.random() < 0.7:
                self.whole(name)
            else:
                self.send(self.broken(json.dumps(self.command(name)).encode()))
                self.sync()
        except (EOFError, ConnectionResetError, BrokenPipeError):
            # A text that is too long ends the connection; a VM's end closes its own socket.
            self.fake.qmp().run("query-version")
            self.connect()
        for fd in self.q.fds:
            os.close(fd)
        self.q.fds.clear()
        self.q.events.clear()


@pytest.mark.seconds(300)
@pytest.mark.parametrize("which", ["daemon", "vm"])
def test_every_command_survives_any_arguments(fake, which):
    s = Shooter(fake, which)
    names = sorted(s.commands) * ROUNDS
    s.random.shuffle(names)
    for name in names:
        s.shoot(name)
    s.q.close()
    assert fake.proc.poll() is None
    rss = int(open(f"/proc/{fake.proc.pid}/statm").read().split()[1]) * 4096
    assert rss < RSS_MAX or "asan" in os.environ.get("CAIRN_BUILD", ""), rss


@pytest.mark.parametrize("which", ["daemon", "vm"])
def test_unread_errors_for_many_broken_commands_are_kept(fake, which):
    """Nothing is read until everything is sent: answers queue up, and none is lost."""
    s = Shooter(fake, which)
    texts = [json.dumps({**s.command("query-jobs"), "execute": "query-jobs", "id": i}).encode() for i in range(300)]
    s.q.send(b"\xff".join(texts))
    assert [s.q.answer().get("id") for _ in texts] == list(range(300))
    s.q.close()
