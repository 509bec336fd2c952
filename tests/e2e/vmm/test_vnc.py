"""VNC: clients see what the guest draws and type keys into it, by a socket or by TCP with a password; cairn-vnc is
confined, and outlives neither its VM nor troubles it. The clients are libvncclient (tests/helpers/vnc_client.c) and
Debian's vncsnapshot; the guest is the bare-metal interpreter."""

import contextlib
import ctypes
import itertools
import json
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import time

import pytest

import guestlib
from conftest import BUILD, Qmp, QmpError, free_port, status_confined, until
from netlib import keepalive_asks
from forklib import image, vm  # noqa: F401 (vm is a fixture)
from test_screen import RED, draw, read_keys, read_ppm

VNC_PW_FILE = "45d011ed9ab348f4"  # "pw", as vncpasswd writes it
CLIENT = os.path.join(BUILD, "helpers", "vnc_client")
SHIFT_L, RETURN = 0xffe1, 0xff0d
SESSIONS = 150


def begin(vm, daemon, vnc=True, **keys):
    vm.start(screen=True, vnc=vnc, **keys)
    vm.run("src", "screen open")
    vm.run("src", "keyboard ask 244")
    read_keys(vm)
    return daemon.cairn("vncdisplay", "src").stdout.strip()


def client(server, *what, password=None, encodings=None, ok=True, out="/dev/null"):
    env = {**os.environ, **({"VNC_PASSWORD": password} if password else {}), **({"VNC_ENCODINGS": encodings} if encodings else {})}
    r = subprocess.run([CLIENT, server, *what, str(out)], env=env, capture_output=True, text=True, timeout=50 * guestlib.SLOW)
    assert ok in (None, r.returncode == 0), (r.returncode, r.stderr)
    return r


class Watcher:
    """A client that goes through its actions while the test changes what it sees."""

    def __init__(self, server, *what, out="/dev/null", encodings="zrle raw", password=""):
        self.proc = subprocess.Popen([CLIENT, server, *what, str(out)], stdout=subprocess.PIPE, text=True,
                                     env={**os.environ, "VNC_ENCODINGS": encodings, "VNC_PASSWORD": password})

    def has(self, what):
        """Wait until the client has done its next action."""
        assert self.proc.stdout.readline() == what + "\n"

    def end(self):
        with self.proc:
            assert self.proc.wait(50 * guestlib.SLOW) == 0


def keys_come(vm, *wanted):
    """cairn-vnc passes on what a client has sent, also after the client's end."""
    got = []
    until(lambda: got.extend(read_keys(vm)) or len(got) >= len(wanted))
    assert got == list(wanted)


def shows(pid):
    with open(f"/proc/{pid}/comm") as f:
        return f.read().strip() == "cairn-vnc"


def vnc_processes():
    """Return the pids of all cairn-vnc."""
    pids = []
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            pids += [pid] if shows(pid) else []
    return pids


def vnc_pids(path):
    """Return the processes that listen on the socket."""
    inodes = {line.split()[6] for line in open("/proc/net/unix") if line.rstrip().endswith(str(path))}
    pids = []
    for pid in vnc_processes():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
            if any(f"socket:[{i}]" in links for i in inodes):
                pids.append(pid)
    return pids


@pytest.mark.parametrize("encodings", ["raw", "zrle", "tight", "hextile"])
def test_client_sees_what_the_guest_draws(vm, daemon, tmp_path, encodings):
    path = begin(vm, daemon)
    assert path.endswith("/src.vnc") and os.stat(path).st_mode & 0o777 == 0o600
    client(path, "wait:640,480,0,0,0")  # the screen is off
    draw(vm, "src", "800 600 32")
    out = tmp_path / "a.ppm"
    client(path, "wait:800,600,10,20,ff0000", encodings=encodings, out=out)
    p = read_ppm(out)
    assert [p.at(*xy) for xy in ((9, 20), (10, 20), (39, 59), (40, 59))] == [(0, 0, 0), RED, RED, (0, 0, 0)]


def test_client_follows_changes_of_picture_and_mode(vm, daemon, tmp_path):
    path = begin(vm, daemon)
    draw(vm, "src")
    c = Watcher(path, "wait:640,480,10,20,ff0000", "wait:640,480,639,479,0000ff", "wait:800,600,0,0,00ff00",
                "wait:640,480,0,0,000000", out=tmp_path / "b.ppm")
    c.has("wait:640,480,10,20,ff0000")
    vm.run("src", f"screen rect 639 479 1 1 {0x0000ff}")
    c.has("wait:640,480,639,479,0000ff")
    vm.run("src", "screen mode 800 600 16")
    vm.run("src", f"screen rect 0 0 800 600 {0x07e0}")
    c.has("wait:800,600,0,0,00ff00")
    daemon.cairn("reset", "src")
    c.end()


def test_client_types_and_points(vm, daemon):
    path = begin(vm, daemon)
    # "a", "A" without Shift, "!" with it, Return; a sign that the keyboard lacks.
    client(path, "key:0x61", "key:0x41", "key:0x21", f"key:{RETURN}", "key:0xe4")
    keys_come(vm, "1e", "9e", "2a", "1e", "aa", "9e", "2a", "2", "aa", "82", "1c", "9c")
    # AltGr, by which a German keyboard has "@", is no key of the US layout.
    client(path, "key:0xfe03", "key:0x40")
    keys_come(vm, "2a", "3", "aa", "83")
    vm.run("src", "keyboard mouse 244")
    client(path, "point:100,100,0", "point:105,98,1", "point:105,98,0")
    keys_come(vm, "m8", "m5", "m2", "m9", "m0", "m0", "m8", "m0", "m0")


def test_guest_gets_the_places_of_keys(vm, daemon):
    """A client with a German keyboard: "z" is where the US layout has "y", and the guest's own layout knows "ä"."""
    path = begin(vm, daemon)
    client(path, "place:0x7a,0x15", "place:0xe4,0x28", "place:0xfe03,0xb8", "place:0x61,0x1ff")  # no key has the last place
    keys_come(vm, "15", "95", "28", "a8", "e0", "38", "e0", "b8", "1e", "9e")


def test_tablet_is_where_the_client_points(vm, daemon):
    """As long as the guest has no driver for it, the PS/2 mouse gets the client's pointer."""
    path = begin(vm, daemon, tablet=True)
    draw(vm, "src")  # 640 x 480
    vm.run("src", "keyboard mouse 244")
    client(path, "point:100,100,0", "point:105,98,0")
    keys_come(vm, "m8", "m5", "m2")
    assert vm.run("src", "tablet open") == ["Cairn virtio tablet, 32767"]
    client(path, "point:0,479,0", "point:639,240,1", "point:639,240,0")
    left = 0x110
    wanted = [(3, 0, 25), (3, 1, 32733), (0, 0, 0), (3, 0, 32742), (3, 1, 16418), (0, 0, 0), (1, left, 1), (0, 0, 0),
              (1, left, 0), (0, 0, 0)]
    got = []
    until(lambda: got.extend(tuple(map(int, line.split())) for line in vm.run("src", "tablet read")) or len(got) >= len(wanted))
    assert got == wanted and read_keys(vm) == []
    # It goes on in a clone, and in another process.
    daemon.cairn("clone", "--live", "src", "b")
    assert vm.run("b", "tablet read") == []
    daemon.cairn("restart-process", "src")
    client(path, "point:320,240,0")
    until(lambda: vm.run("src", "tablet read")[:1] == ["3 0 16409"])


def test_input_of_qmp(vm, daemon):
    """input-send-event: keys, buttons, the wheel, and coordinates, for the mouse or the tablet."""
    begin(vm, daemon, tablet=True)
    draw(vm, "src")  # 640 x 480
    vm.run("src", "keyboard mouse 244")
    q = Qmp(daemon.cairn("qmp-path", "src").stdout.rstrip("\n"))

    def at(axis, value):
        return {"type": "abs", "data": {"axis": axis, "value": value}}

    def press(button, down=True):
        return {"type": "btn", "data": {"button": button, "down": down}}

    key = [{"type": "key", "data": {"down": down, "key": {"type": "qcode", "data": "a"}}} for down in (True, False)]
    assert q.run("input-send-event", events=[*key, at("x", 5120), at("y", 6827), at("x", 5376), at("y", 6691)]) == {}
    keys_come(vm, "1e", "9e", "m8", "m5", "m2")
    with pytest.raises(QmpError, match="its mouse needs both coordinates"):
        q.run("input-send-event", events=[at("x", 1)])
    vm.run("src", "tablet open")
    q.run("input-send-event", events=[at("x", 7), press("right"), press("wheel-down"), press("wheel-down", False), at("y", 32767)])
    assert vm.run("src", "tablet read") == ["3 0 7", "0 0 0", "1 273 1", "0 0 0", "2 8 4294967295", "0 0 0", "3 1 32767", "0 0 0"]
    for event, words in ((at("z", 1), "does not accept value 'z'"), (at("x", 32768), "a coordinate is 0 to 32767"),
                         (press("nose"), "does not accept value 'nose'"), ({"type": "mtt", "data": {}}, "does not accept value 'mtt'"),
                         ({"type": "rel", "data": {"axis": "x", "value": 1}}, "send coordinates, with type abs")):
        with pytest.raises(QmpError, match=words):
            q.run("input-send-event", events=[at("x", 9), event])
    assert vm.run("src", "tablet read") == []
    q.close()


def test_tcp_needs_the_password(vm, daemon, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("swordfis\n")
    port = free_port()
    server = begin(vm, daemon, {"port": port, "password_file": str(secret)})
    assert server == f"127.0.0.1:{port - 5900}"
    assert daemon.cairn("domdisplay", "src").stdout == f"vnc://127.0.0.1:{port - 5900}\n"
    assert "--type must be vnc" in daemon.cairn("domdisplay", "src", "--type", "spice", ok=2).stderr
    draw(vm, "src")
    server = f"127.0.0.1:{port}"
    client(server, "wait:640,480,10,20,ff0000", password="swordfis")

    def has_to_wait():
        """After five wrong ones in a row, 10 s. They may pass before the right one when the machine stands still."""
        for wrong in ("swordfi", "x", "Swordfis", "sword", "guess"):
            assert client(server, password=wrong, ok=False).returncode == 4
        return client(server, password="swordfis", ok=None).returncode != 0
    until(has_to_wait)


def tcp_begin(vm, daemon, tmp_path):
    """Show the screen at a port with a password. Returns the port."""
    (tmp_path / "secret").write_text("swordfis\n")
    port = free_port()
    begin(vm, daemon, {"port": port, "password_file": str(tmp_path / "secret")})
    draw(vm, "src")
    return port


def connected(port, said=b""):
    """Connect to the server, and send something after its first message."""
    s = socket.create_connection(("127.0.0.1", port), timeout=50 * guestlib.SLOW)
    assert received(s, 12) == b"RFB 003.008\n"
    s.sendall(said)
    return s


def received(s, n):
    """Return the next n bytes."""
    data = b""
    while len(data) < n:
        more = s.recv(n - len(data))
        assert more, "the server has closed the connection"
        data += more
    return data


def is_served(port):
    client(f"127.0.0.1:{port}", "wait:640,480,10,20,ff0000", password="swordfis")


def test_silent_clients_do_not_keep_others_out(vm, daemon, tmp_path):
    """At the limit of 16 clients, the one that waits longest before the password is closed."""
    port = tcp_begin(vm, daemon, tmp_path)
    watcher = Watcher(f"127.0.0.1:{port}", "wait:640,480,10,20,ff0000", "wait:640,480,639,479,0000ff", password="swordfis")
    watcher.has("wait:640,480,10,20,ff0000")
    many = [connected(port) for _ in range(16)]
    is_served(port)
    assert many[0].recv(1) == b""
    vm.run("src", f"screen rect 639 479 1 1 {0x0000ff}")
    watcher.end()
    for s in many:
        s.close()


@pytest.mark.parametrize("half, rest, answer", [
    (b"R", b"FB 003.008\n", 2),
    (b"RFB 003.008\n\2" + 12 * b"x", 4 * b"x", 2 + 16 + 4)], ids=["version", "response"])
def test_half_a_message_before_the_password_holds_nobody(vm, daemon, tmp_path, half, rest, answer):
    """Otherwise the server would wait two seconds, and close the connection."""
    port = tcp_begin(vm, daemon, tmp_path)
    with connected(port, half) as s:
        is_served(port)
        s.sendall(rest)
        assert received(s, answer)[:2] == b"\1\2"


def test_client_ends_when_its_host_has_vanished(vm, daemon, tmp_path):
    port = tcp_begin(vm, daemon, tmp_path)
    with connected(port):
        until(lambda: keepalive_asks(port, 60))


def test_challenge_is_not_a_function_of_the_time(vm, daemon, tmp_path):
    """libvncserver seeds the C library's random numbers with the time and the pid."""
    libc, begun = ctypes.CDLL(None), int(time.time())
    port = tcp_begin(vm, daemon, tmp_path)
    with connected(port, b"RFB 003.008\n\2") as s:
        challenge = received(s, 18)[2:]
    for seconds, pid in itertools.product(range(begun, int(time.time()) + 1), vnc_processes()):
        libc.srandom((seconds ^ pid) & 0xffffffff)
        assert bytes(libc.random() & 255 for _ in range(16)) != challenge


def test_another_projects_client(vm, daemon, tmp_path):
    """Debian's vncsnapshot, of TightVNC."""
    if not shutil.which("vncsnapshot"):
        pytest.fail("no vncsnapshot: make deps")
    secret = tmp_path / "secret"
    secret.write_text("pw")
    (tmp_path / "passwd").write_bytes(bytes.fromhex(VNC_PW_FILE))
    port = free_port()
    begin(vm, daemon, {"port": port, "password_file": str(secret)})
    draw(vm, "src", "640 480 32", "0 0 640 480", 0x0000ff)
    r = subprocess.run(["vncsnapshot", "-quiet", "-passwd", tmp_path / "passwd", "-nojpeg", f"127.0.0.1:{port - 5900}", tmp_path / "a.jpg"],
                       capture_output=True, text=True, timeout=50)
    assert r.returncode == 0, r.stderr
    data = (tmp_path / "a.jpg").read_bytes()
    at = data.index(b"\xff\xc0")
    assert (int.from_bytes(data[at + 5:at + 7], "big"), int.from_bytes(data[at + 7:at + 9], "big")) == (480, 640)


def test_process_is_confined_and_ends_with_the_vm(vm, daemon, tmp_path):
    path = begin(vm, daemon)
    pid, = vnc_pids(path)
    status = status_confined(pid)
    assert status["Seccomp"] == "2" and status["NoNewPrivs"] == "1"
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
    assert os.stat(f"/proc/{pid}/maps").st_uid == 0  # not dumpable
    limits = {line[:26].strip(): line[26:].split()[0] for line in open(f"/proc/{pid}/limits")}
    assert int(limits["Max address space"]) <= 256 << 20 and int(limits["Max open files"]) <= 64
    with open(f"/proc/{daemon.info('src')['pid']}/maps") as f:
        assert "libvncserver" not in f.read()
    daemon.cairn("destroy", "src")
    until(lambda: not os.path.exists(f"/proc/{pid}"))
    daemon.cairn("start", "src")  # the socket of before is no obstacle
    assert len(vnc_pids(path)) == 1


def test_vm_outlives_its_display(vm, daemon):
    path = begin(vm, daemon)
    pid, = vnc_pids(path)
    held = subprocess.Popen([CLIENT, path, "point:5,5,1", "wait:1,1,0,0,0", "/dev/null"])
    os.kill(pid, signal.SIGKILL)
    held.wait(50)
    until(lambda: "the process that shows the screen has ended" in daemon.log_of("src"))
    vm.run("src", "screen mode 640 480 32")
    daemon.cairn("send-key", "src", "KEY_A")
    assert "1e" in read_keys(vm)
    daemon.cairn("destroy", "src")
    daemon.cairn("start", "src")
    assert len(vnc_pids(path)) == 1


def test_client_stays_over_a_new_process_a_new_daemon_and_a_revert(vm, daemon, tmp_path):
    path = begin(vm, daemon, disks=[image(tmp_path / "a.qcow2")])
    draw(vm, "src")
    daemon.cairn("snapshot-create-as", "src", "s1")
    vm.run("src", f"screen rect 10 20 30 40 {0x00ff00}")
    c = Watcher(path, "wait:640,480,10,20,00ff00", "wait:640,480,10,20,ff0000", "wait:640,480,10,20,0000ff", "key:0x62", encodings="raw")
    before, = vnc_pids(path)
    c.has("wait:640,480,10,20,00ff00")
    daemon.cairn("snapshot-revert", "src", "s1")
    c.has("wait:640,480,10,20,ff0000")
    daemon.cairn("restart-process", "src")
    vm.run("src", f"screen rect 10 20 30 40 {0x0000ff}")
    c.end()
    assert vnc_pids(path) == [before]
    keys_come(vm, "30", "b0")


def test_clone_has_no_display(vm, daemon):
    begin(vm, daemon)
    draw(vm, "src")
    vm.clone("copy")
    for verb in ("vncdisplay", "domdisplay"):
        assert "runs without VNC" in daemon.cairn(verb, "copy", ok=False).stderr
    assert daemon.cairn("domdisplay", "src").stdout == "vnc+unix://" + daemon.cairn("vncdisplay", "src").stdout


@pytest.mark.parametrize("vnc, said", [
    ({"port": 5901}, "a TCP port needs a password"), ({"port": 5901, "path": "a"}, "either path or port"),
    ({"address": "::1"}, "vnc.port: is missing"), ({"port": 0}, "1"), ({"address": "localhost", "port": 1}, "must be an address"),
    ({"path": "x" * 200}, "bytes long"), (3, "must be true, false or an object"), ({"pass": "a"}, "pass")])
def test_wrong_definitions_are_refused(daemon, guest, tmp_path, vnc, said):
    d = {"name": "a", "memory": "16M", "boot": {"kernel": guest("interp.elf")}, "screen": True, "vnc": vnc}
    (tmp_path / "a.json").write_text(json.dumps(d))
    assert said in daemon.cairn("define", str(tmp_path / "a.json"), ok=False).stderr


@pytest.mark.parametrize("text, said", [("", "1 to 8 bytes"), ("123456789", "1 to 8 bytes"), (None, "No such file")])
def test_wrong_passwords_fail_the_start(vm, daemon, guest, tmp_path, text, said):
    if text is not None:
        (tmp_path / "secret").write_text(text)
    daemon.define("src", screen=True, vnc={"path": "p", "password_file": str(tmp_path / "secret")}, memory="16M",
                  boot={"kernel": guest("interp.elf")})
    assert said in daemon.cairn("start", "src", ok=False).stderr


def test_vm_without_a_screen_cannot_have_vnc(daemon, guest, tmp_path):
    (tmp_path / "a.json").write_text('{"name": "a", "memory": "16M", "boot": {"kernel": "%s"}, "vnc": true}' % guest("interp.elf"))
    assert "set screen to true" in daemon.cairn("define", str(tmp_path / "a.json"), ok=False).stderr


def test_busy_port_fails_the_start_in_a_sentence(vm, daemon, guest, tmp_path):
    (tmp_path / "secret").write_text("pw")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        daemon.define("src", screen=True, vnc={"port": s.getsockname()[1], "password_file": str(tmp_path / "secret")}, memory="16M",
                      boot={"kernel": guest("interp.elf")})
        assert "is used by another program" in daemon.cairn("start", "src", ok=False).stderr


def test_hostile_clients_end_alone(vm, daemon):
    """Garbage, a flood of connections, and a client that stops amid a message: others are served, and the VM runs."""
    path = begin(vm, daemon)
    draw(vm, "src")
    for junk in (b"\0" * 5000, b"RFB 003.008\n\x01\x01" + os.urandom(20000), b"GET / HTTP/1.1\r\n\r\n", b"RFB 003.003\n" + b"\xff" * 100):
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(5)
            s.connect(path)
            try:
                s.sendall(junk)
                s.shutdown(socket.SHUT_WR)
                while s.recv(65536):
                    pass
            except OSError:
                pass
    many = [socket.socket(socket.AF_UNIX) for _ in range(40)]
    for s in many:
        s.connect(path)
    for s in many:
        s.close()
    # The server refuses clients until it has closed enough of these connections.
    until(lambda: subprocess.run([CLIENT, path, "wait:640,480,10,20,ff0000", "/dev/null"], capture_output=True).returncode == 0)
    vm.run("src", "screen mode 640 480 32")


def rfb_message(rng):
    """Return a message of a client, also of kinds that only some servers know, mostly well formed."""
    kind = rng.choice([0, 2, 3, 3, 4, 5, 6, 7, 8, 10, 11, 12, 15, 150, 248, 250, 251, rng.randrange(256)])
    u16 = lambda: rng.choice([0, 1, 15, 16, 640, 65535, rng.randrange(65536)])  # noqa: E731
    if kind == 0:
        return struct.pack(">B3xBBBBHHHBBB3x", 0, rng.choice([8, 16, 32, 24, 0, 255]), rng.choice([24, 16, 8, 0, 255]), rng.randrange(2), rng.randrange(2),
                           u16(), u16(), u16(), rng.randrange(64), rng.randrange(64), rng.randrange(64))
    if kind == 2:
        known = [0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 15, 16, 17, -223, -224, -239, -240, -257, -308, 0xC0A1E5CE - (1 << 32), rng.randrange(1 << 31)]
        chosen = [rng.choice(known) for _ in range(rng.randrange(12))]
        return struct.pack(f">BxH{len(chosen)}i", 2, len(chosen), *chosen)
    if kind == 3:
        return struct.pack(">BBHHHH", 3, rng.randrange(2), u16(), u16(), u16(), u16())
    if kind == 4:
        return struct.pack(">BBxxI", 4, rng.randrange(2), rng.randrange(1 << 32))
    if kind == 5:
        return struct.pack(">BBHH", 5, rng.randrange(256), u16(), u16())
    if kind == 6:
        text = rng.randbytes(rng.randrange(200))
        return struct.pack(">B3xI", 6, rng.choice([len(text), len(text) - 1 & 0xffffffff, 1 << 31, 0xffffffff])) + text
    return bytes([kind]) + rng.randbytes(rng.randrange(40))


@pytest.mark.seconds(180)
def test_random_sessions_of_clients_harm_nobody(vm, daemon):
    path = begin(vm, daemon)
    draw(vm, "src")
    rng, before = random.Random(1), vnc_pids(path)
    for _ in range(SESSIONS):
        session = bytearray(b"RFB 003.008\n\1\1" + b"".join(rfb_message(rng) for _ in range(rng.randrange(1, 30))))
        for _ in range(rng.choice([0, 0, 1, 5])):
            session[rng.randrange(len(session))] ^= 1 << rng.randrange(8)
        with socket.socket(socket.AF_UNIX) as s, contextlib.suppress(OSError):
            s.settimeout(0.05)
            s.connect(path)
            s.sendall(session)
            for _ in range(40):  # a server that waits for the rest of a message is left
                if not s.recv(1 << 16):
                    break
    until(lambda: subprocess.run([CLIENT, path, "wait:640,480,10,20,ff0000", "/dev/null"], capture_output=True).returncode == 0)
    assert vnc_pids(path) == before
    vm.run("src", "screen mode 640 480 32")
