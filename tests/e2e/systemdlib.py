"""A small D-Bus with a systemd and a systemd-machined, as far as systemd-run and busctl need them."""

import os
import socket
import struct
import threading

CALL, RETURN, ERROR, SIGNAL = 1, 2, 3, 4
PATH, INTERFACE, MEMBER, ERROR_NAME, REPLY, DESTINATION, SENDER, SIGNATURE = range(1, 9)
ALIGN = {"y": 1, "b": 4, "n": 2, "q": 2, "i": 4, "u": 4, "x": 8, "t": 8, "d": 8, "h": 4, "s": 4, "o": 4, "g": 1, "a": 4, "(": 8, "{": 8, "v": 1}
FIXED = {"y": "B", "b": "I", "n": "h", "q": "H", "i": "i", "u": "I", "x": "q", "t": "Q", "d": "d", "h": "I"}


def first_type(s):
    """Return the length of the first complete type of a signature."""
    if s[0] == "a":
        return 1 + first_type(s[1:])
    if s[0] not in "({":
        return 1
    i = 1
    while s[i] not in ")}":
        i += first_type(s[i:])
    return i + 1


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def align(self, n):
        self.at += -self.at % n

    def take(self, fmt):
        v = struct.unpack_from("<" + fmt, self.data, self.at)[0]
        self.at += struct.calcsize("<" + fmt)
        return v

    def text(self, n):
        v = self.data[self.at:self.at + n].decode()
        self.at += n + 1
        return v

    def value(self, sig):
        self.align(ALIGN[sig[0]])
        if sig[0] in FIXED:
            return self.take(FIXED[sig[0]])
        if sig[0] in "so":
            return self.text(self.take("I"))
        if sig[0] == "g":
            return self.text(self.take("B"))
        if sig[0] == "v":
            return self.value(self.value("g"))
        if sig[0] == "a":
            n = self.take("I")
            self.align(ALIGN[sig[1]])
            end, items = self.at + n, []
            while self.at < end:
                items.append(self.value(sig[1:]))
            return items
        return tuple(self.values(sig[1:-1]))

    def values(self, sig):
        out = []
        while sig:
            n = first_type(sig)
            out.append(self.value(sig[:n]))
            sig = sig[n:]
        return out


def text(s):
    return struct.pack("<I", len(s)) + s.encode() + b"\0"


def body_of(sig, values):
    # A variant holds bytes.
    out = b""
    for kind, v in zip(sig, values):
        out += b"\0" * (-len(out) % ALIGN[kind])
        if kind == "v":
            out += b"\x02ay\0" + struct.pack("<I", len(v)) + v
        else:
            out += text(v) if kind in "so" else struct.pack("<" + FIXED[kind], v)
    return out


class Bus:
    """Serves a socket until close(). `group` holds the slices. `calls`: (member, arguments) of each call to systemd and
    machined. `hold`: members that get no answer. `hold_once`: machines whose next registration gets none. `fail`: members
    that get an error."""

    def __init__(self, path, group):
        self.group, self.calls, self.hold, self.hold_once, self.fail = group, [], set(), set(), set()
        self.machines = {}
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.bind(str(path))
        self.sock.listen()
        threading.Thread(target=self.accept, daemon=True).start()

    def close(self):
        self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()

    def members(self):
        return [m for m, _ in self.calls]

    def accept(self):
        while True:
            try:
                c, _ = self.sock.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(c,), daemon=True).start()

    def serve(self, c):
        with c, c.makefile("rb") as f:
            try:
                assert f.read(1) == b"\0"
                while (line := f.readline().split()) != [b"BEGIN"]:
                    c.sendall({b"AUTH": b"DATA", b"DATA": b"OK " + b"0" * 32}.get(line[0], b"AGREE_UNIX_FD") + b"\r\n")
                while head := f.read(16):
                    self.message(c, f, head)
            except (OSError, IndexError):
                pass

    def message(self, c, f, head):
        _, kind, _, _, length, serial, fields = struct.unpack("<BBBBIII", head)
        data = head[12:] + f.read(fields + -fields % 8)
        header = Reader(b"\0" * 12 + data)
        header.at = 12
        keys = dict(header.value("a(yv)"))
        args = Reader(f.read(length)).values(keys.get(SIGNATURE, ""))
        if kind == CALL:
            self.call(c, serial, keys, args)

    def send(self, c, kind, keys, sig="", values=()):
        body = body_of(sig, values)
        fields = b""
        for key, (t, v) in {**keys, **({SIGNATURE: ("g", sig)} if sig else {})}.items():
            fields += b"\0" * (-len(fields) % 8) + bytes([key, 1]) + t.encode() + b"\0"
            if t == "g":
                fields += bytes([len(v)]) + v.encode() + b"\0"
            else:
                fields += b"\0" * (-len(fields) % 4) + (struct.pack("<I", v) if t == "u" else text(v))
        head = struct.pack("<BBBBIII", ord("l"), kind, 0, 1, len(body), 1, len(fields)) + fields
        c.sendall(head + b"\0" * (-len(head) % 8) + body)

    def answer(self, c, serial, sig="", *values):
        self.send(c, RETURN, {REPLY: ("u", serial), SENDER: ("s", "org.freedesktop.systemd1")}, sig, values)

    def refuse(self, c, serial, why, name="org.test.Error"):
        self.send(c, ERROR, {REPLY: ("u", serial), ERROR_NAME: ("s", name), SENDER: ("s", "org.freedesktop.systemd1")}, "s", (why,))

    def call(self, c, serial, keys, args):
        member = keys[MEMBER]
        if keys.get(DESTINATION) == "org.freedesktop.DBus":
            self.answer(c, serial, *(("s", ":1.1") if member == "Hello" else ()))
            return
        if member == "StartTransientUnit" and "PIDFDs" in dict(args[2]):  # of systemd 257, which then sends PIDs as earlier ones do
            self.refuse(c, serial, "Unknown property", "org.freedesktop.DBus.Error.UnknownProperty")
            return
        self.calls.append((member, args))
        if member in self.hold:
            return
        if member == "RegisterMachine" and args[0] in self.hold_once:
            self.hold_once.remove(args[0])
            return
        if member in self.fail:
            self.refuse(c, serial, f"{member} is not for you")
        elif member == "StartTransientUnit":
            self.scope(args)
            job = "/org/freedesktop/systemd1/job/1"
            self.answer(c, serial, "o", job)
            self.send(c, SIGNAL, {PATH: ("o", "/org/freedesktop/systemd1"), INTERFACE: ("s", "org.freedesktop.systemd1.Manager"),
                                  MEMBER: ("s", "JobRemoved"), SENDER: ("s", "org.freedesktop.systemd1")},
                      "uoss", (1, job, args[0], "done"))
        elif member == "Get":  # the property InvocationID of a unit
            self.answer(c, serial, "v", b"0" * 16)
        elif member == "RegisterMachine":
            if args[0] in self.machines:
                self.refuse(c, serial, f"Machine '{args[0]}' already exists")
                return
            self.machines[args[0]] = args[1:]
            self.answer(c, serial, "o", "/org/freedesktop/machine1/machine/x")
        elif member in ("GetMachine", "UnregisterMachine"):
            if args[0] not in self.machines:
                self.refuse(c, serial, f"No machine '{args[0]}' known")
                return
            if member == "UnregisterMachine":
                del self.machines[args[0]]
            self.answer(c, serial, *(("o", "/org/freedesktop/machine1/machine/x") if member == "GetMachine" else ()))
        else:
            self.answer(c, serial)

    def scope(self, args):
        unit, properties = args[0], dict(args[2])
        folder = os.path.join(self.group, properties["Slice"], unit)
        os.makedirs(folder)
        for pid in properties["PIDs"]:
            with open(os.path.join(folder, "cgroup.procs"), "w") as f:
                f.write(str(pid))
