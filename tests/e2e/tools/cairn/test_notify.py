"""cairn event --notify: events as desktop messages, with a notification service of the test on a private bus."""

import contextlib
import itertools
import json
import os
import pwd
import re
import select
import shutil
import socket
import struct
import subprocess
import threading
import time

import pytest

from conftest import BUILD, until
from test_timetable import define

CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>session</type><listen>unix:path={}</listen><auth>EXTERNAL</auth>
<limit name="auth_timeout">600000</limit><policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>"""


def has_account():
    try:
        return bool(pwd.getpwuid(os.geteuid()))
    except KeyError:
        return False


pytestmark = [
    pytest.mark.skipif(not (shutil.which("dbus-daemon") and shutil.which("busctl")), reason="dbus-daemon or busctl is missing"),
    pytest.mark.skipif(not has_account(), reason="dbus-daemon needs a user with an account"),
]


class Reader:
    """Reads D-Bus's little-endian values."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def get(self, sig):
        size = {"y": 1, "g": 1, "v": 1, "(": 8, "{": 8}.get(sig[0], 4)
        self.at += -self.at % size
        if sig in ("y", "u", "i"):
            self.at += size
            return struct.unpack_from({"y": "<B", "u": "<I", "i": "<i"}[sig], self.data, self.at - size)[0]
        if sig in ("s", "o", "g"):
            n = self.get("y" if sig == "g" else "u")
            self.at += n + 1
            return self.data[self.at - n - 1:self.at - 1].decode()
        if sig == "v":
            return self.get(self.get("g"))
        assert sig[0] == "a"
        n, entry = self.get("u"), sig[1:]
        self.at += -self.at % (8 if entry[0] in "({" else 4)
        end, found = self.at + n, []
        while self.at < end:
            if entry[0] in "({":
                self.at += -self.at % 8
                found.append(tuple(self.get(one) for one in entry[1:-1]))
            else:
                found.append(self.get(entry))
        return found


def text(s, kind="<I"):
    data = s.encode()
    return struct.pack(kind, len(data)) + data + b"\0"


def message(kind, serial, fields, sig="", body=b""):
    packed = b""
    for code, of, value in fields + ([(8, "g", sig)] if sig else []):
        packed += bytes(-len(packed) % 8) + bytes([code]) + text(of, "<B")
        packed += bytes(-len(packed) % 4) + struct.pack("<I", value) if of == "u" else text(value, "<B") if of == "g" else bytes(-len(packed) % 4) + text(value)
    head = struct.pack("<BBBBIII", ord("l"), kind, 0, 1, len(body), serial, len(packed)) + packed
    return head + bytes(-len(head) % 8) + body


class Notifications:
    """The service org.freedesktop.Notifications on a bus. shown: what it was asked to show: summary, body, urgency."""

    def __init__(self, path, capabilities=("body",), hangs=False):
        self.shown, self.capabilities, self.hangs, self.serial = [], capabilities, hangs, 0
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(path))
        self.stream = self.sock.makefile("rb")
        self.sock.sendall(b"\0AUTH EXTERNAL " + str(os.geteuid()).encode().hex().encode() + b"\r\n")
        assert self.stream.readline().startswith(b"OK")
        self.sock.sendall(b"BEGIN\r\n")
        self.call_bus("Hello")
        self.call_bus("RequestName", "su", text("org.freedesktop.Notifications") + bytes(2) + struct.pack("<I", 0))
        self.ready = threading.Event()
        threading.Thread(target=self.serve, daemon=True).start()
        assert self.ready.wait(50)

    def send(self, kind, fields, sig="", body=b""):
        self.serial += 1
        self.sock.sendall(message(kind, self.serial, fields, sig, body))

    def call_bus(self, member, sig="", body=b""):
        bus = "org.freedesktop.DBus"
        self.send(1, [(1, "o", "/org/freedesktop/DBus"), (2, "s", bus), (3, "s", member), (6, "s", bus)], sig, body)

    def read(self):
        head = self.stream.read(16)
        if len(head) < 16:
            return None
        n = struct.unpack_from("<I", head, 12)[0]
        rest = self.stream.read(n + -n % 8)
        return head[1], struct.unpack_from("<I", head, 8)[0], header_fields(rest[:n]), self.stream.read(struct.unpack_from("<I", head, 4)[0])

    def serve(self):
        replies = 0
        while got := self.read():
            kind, serial, fields, body = got
            replies += kind == 2
            if replies == 2:
                self.ready.set()
            if kind != 1 or self.hangs:
                continue
            to = [(5, "u", serial), (6, "s", fields[7])]
            if fields[3] == "GetCapabilities":
                words = b""
                for word in self.capabilities:
                    words += bytes(-len(words) % 4) + text(word)
                self.send(2, to, "as", struct.pack("<I", len(words)) + words)
                continue
            r = Reader(body)
            assert fields[3] == "Notify" and fields[8] == "susssasa{sv}i"
            program, replaces, icon, summary, told, actions, hints, _ = [r.get(one) for one in ("s", "u", "s", "s", "s", "as", "a{sv}", "i")]
            assert (program, replaces, actions) == ("cairn", 0, [])
            self.shown.append((summary, told, dict(hints)["urgency"]))
            self.send(2, to, "u", struct.pack("<I", len(self.shown)))

    def close(self):
        self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()


def header_fields(data):
    r, found = Reader(data), {}
    while r.at < len(data):
        r.at += -r.at % 8
        code = r.get("y")
        found[code] = r.get("v")
    return found


def accepts(path):
    """Return whether a client can connect: between bind() and listen(), there is only the file."""
    with socket.socket(socket.AF_UNIX) as s:
        return s.connect_ex(str(path)) == 0


@pytest.fixture
def bus(tmp_path):
    """Return the path of a bus."""
    path, config = tmp_path / "bus", tmp_path / "bus.conf"
    config.write_text(CONFIG.format(path))
    with subprocess.Popen(["dbus-daemon", f"--config-file={config}", "--nofork"]) as p:
        try:
            until(lambda: accepts(path))
            yield path
        finally:
            p.terminate()


# A bus that stands still for 5 s, on a busy machine, must cost no message: a call has 600 s, unless the file "hangs" is
# beside this program.
BUSCTL = """#!/bin/sh
[ "$2" = --timeout=5 ] || exit 99
[ -e "${0%/*}/hangs" ] || { shift 2; set -- --user --timeout=600 "$@"; }
exec BUSCTL "$@"
"""


@pytest.fixture
def vm(fake, bus):
    define(fake)
    fake.env["DBUS_SESSION_BUS_ADDRESS"] = f"unix:path={bus}"
    program = fake.tmp / "bin/busctl"
    program.parent.mkdir()
    program.write_text(BUSCTL.replace("BUSCTL", shutil.which("busctl")))
    program.chmod(0o755)
    fake.env["PATH"] = f"{program.parent}:{fake.env['PATH']}"
    return fake


@contextlib.contextmanager
def listening(d, *args, poke=None):
    """Run cairn events --notify. Yields the process once it has printed an event. poke: makes one."""
    with subprocess.Popen([os.path.join(BUILD, "cairn"), "events", "--notify", *args], env=d.env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as p:
        def heard():
            if poke:
                poke()
            else:
                define(d, "begin")
                d.cairn("undefine", "begin")
            assert p.poll() is None, p.stderr.read()
            return select.select([p.stdout], [], [], 0.2)[0]

        try:
            until(heard)
            yield p
        finally:
            p.kill()


def test_what_matters_is_shown(vm, bus):
    with contextlib.closing(Notifications(bus)) as service, listening(vm):
        vm.cairn("start", "vm1")
        vm.cairn("suspend", "vm1")
        vm.cairn("resume", "vm1")
        vm.cairn("destroy", "vm1")
        vm.cairn("start", "vm1")
        os.kill(vm.info("vm1")["pid"], 9)
        until(lambda: vm.info("vm1")["state"] == "crashed")
        (vm.tmp / "kernel").unlink()
        vm.cairn("start", "vm1", ok=None)
        until(lambda: len(service.shown) == 5)
        assert [(s, u) for s, _, u in service.shown] == [("VM vm1 runs", 1), ("VM vm1 is off", 1), ("VM vm1 runs", 1), ("VM vm1 has crashed", 2),
                                                         ("VM vm1 could not be started", 2)]
        assert service.shown[3][1] and "kernel" in service.shown[4][1]


def test_vm_that_the_policy_leaves_off_is_shown_so(vm, bus):
    vm.define("vm1", cmdline="kill-after=5", on_crash="restart", restart={"delay": 0, "tries": 1})
    with contextlib.closing(Notifications(bus)) as service, listening(vm):
        vm.cairn("start", "vm1")
        until(lambda: len(service.shown) == 5)
        crash = [("VM vm1 runs", 1), ("VM vm1 has crashed", 2)]
        assert [(s, u) for s, _, u in service.shown] == 2 * crash + [("VM vm1 is not restarted again", 2)]


def test_vm_that_could_not_be_woken_is_shown_so(vm, bus):
    vm.cairn("start", "vm1")
    vm.cairn("managedsave", "vm1")
    vm.stop()
    state = vm.state / "vms/vm1/state.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"reason": "idle"}))
    vm.start()
    with contextlib.closing(Notifications(bus)) as service, listening(vm):
        (vm.tmp / "kernel").unlink()
        vm.cairn("start", "vm1", ok=None)
        until(lambda: service.shown)
        assert service.shown[0][0] == "VM vm1 could not be started" and service.shown[0][1].startswith("waking failed: ")


@pytest.mark.parametrize("capabilities, shown", [(("body",), "a<b>&c"), (("actions", "body", "body-markup"), "a&lt;b&gt;&amp;c")], ids=["plain", "markup"])
def test_event_that_is_asked_for_is_shown_as_it_is(vm, bus, capabilities, shown):
    vm.cairn("start", "vm1")
    numbers = itertools.count()
    with contextlib.closing(Notifications(bus, capabilities)) as service, listening(
            vm, "--event", "SNAPSHOT_CREATED", poke=lambda: vm.cairn("snapshot-create-as", "vm1", f"a<b>&c{next(numbers)}")):
        until(lambda: service.shown)
        assert service.shown[0][0] == "vm1: SNAPSHOT_CREATED" and f"snapshot={shown}" in service.shown[0][1] and service.shown[0][2] == 1


def test_flood_is_cut(vm, bus):
    """At most 20 messages in each 10 s."""
    begun = time.monotonic()
    with contextlib.closing(Notifications(bus)) as service, listening(vm) as p:
        q = vm.qmp()
        for _ in range(30):
            q.run("vm-start", vm="vm1")
            q.run("vm-destroy", vm="vm1")
        printed = ""
        while printed.count("state=shutoff") < 30:
            printed += p.stdout.readline()
        assert 0 < len(service.shown) <= 20 * ((time.monotonic() - begun) // 10 + 1)


def test_session_without_messages_is_an_error(vm, bus):
    r = vm.cairn("events", "--notify", ok=7)
    assert r.stderr.startswith("error: Failed to show desktop messages\nerror: the desktop shows no messages: ") and r.stderr.endswith("run this in a desktop session\n")
    vm.env["DBUS_SESSION_BUS_ADDRESS"] = "unix:path=/nowhere"
    assert "the desktop shows no messages" in vm.cairn("events", "--notify", ok=7).stderr
    vm.env["PATH"] = "/nowhere"
    assert "busctl is missing" in vm.cairn("events", "--notify", ok=7).stderr


def test_service_that_hangs_stops_no_event(vm, bus):
    with contextlib.closing(Notifications(bus)) as service, listening(vm) as p:
        hangs = vm.tmp / "bin/hangs"
        hangs.touch()
        service.hangs = True
        vm.cairn("start", "vm1")
        vm.cairn("destroy", "vm1")
        printed = ""
        while "state=shutoff" not in printed:
            printed += p.stdout.readline()
        service.hangs = False
        hangs.unlink()
        vm.cairn("start", "vm1")
        until(lambda: service.shown)
        p.kill()
        assert re.fullmatch(r"warning: a desktop message was not shown: .*\n", p.stderr.read())
