"""cairn web --pam: users log in with passwords of the host."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from conftest import BUILD, until
from loginlib import ALICE, BOB, GROUP, children, host_with_daemon, ids, is_gone
from weblib import SECONDS, Web, certificate, start

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to check passwords and to act for users")
WRONG = "The user or the password is wrong, or this user may not log in here.\n"


@pytest.fixture
def host():
    with host_with_daemon() as (host, daemon):
        host.daemon = daemon
        yield host


@pytest.fixture
def web(host):
    host.daemon.define("vm-a")
    host.daemon.define("vm-b")
    for user, vm in ((ALICE, "vm-a"), (BOB, "vm-b")):
        host.daemon.cairn("grant", "operator", "--user", str(user), "--vm", vm)
    with contextlib.closing(host.serve(host.daemon)) as w:
        yield w


def login(web, user, password):
    r, text = web.ask("POST", "/login", f"{user}\n{password}")
    return r.status, text


def names(web):
    return [vm["name"] for vm in web.run("vm-list")["return"]["vms"]]


def status_of(user):
    """Return the status of a request; None: the session ended meanwhile, and with it its connections."""
    with contextlib.suppress(http.client.RemoteDisconnected, ConnectionResetError):
        return user.ask("POST", "/api", "{}")[0].status
    return None


def ended(response):
    """Read a stream until it ends."""
    with contextlib.suppress(http.client.IncompleteRead, OSError):
        while response.readline():
            pass
    return True


def test_users_act_with_their_own_rights(host, web):
    alice, bob = web.user("alice"), web.user("bob")
    assert names(alice) == ["vm-a"] and names(bob) == ["vm-b"]
    assert "HttpOnly" in alice.set_cookie and "SameSite=Strict" in alice.set_cookie and alice.headers != bob.headers
    assert json.loads(alice.ask("GET", "/session")[1]) == {"login": "password", "user": "alice"}
    assert json.loads(web.ask("GET", "/session")[1]) == {"login": "password"}
    events = alice.send("GET", "/events")
    assert events.readline() == b"{}\n"
    assert "id" in alice.run("vm-start", vm="vm-a")["return"]
    while json.loads(events.readline())["event"] != "VM_STATE_CHANGE":
        pass
    assert alice.run("vm-start", vm="vm-b")["error"]["class"] == bob.run("vm-start", vm="vm-a")["error"]["class"] == "PermissionDenied"
    # A cookie of one user with the key of another is no session.
    assert web.ask("POST", "/api", "{}", Cookie=alice.headers["Cookie"], X_Cairn_Key=bob.headers["X-Cairn-Key"])[0].status == 401
    # The process that has root's rights has no server; the one that browsers reach has no rights.
    server, = children(web.proc.pid, "cairn-web")
    assert Path(f"/proc/{web.proc.pid}/comm").read_text() == "cairn-login\n"
    assert ids(server) == ([60011] * 4, [60011] * 4, [], "0" * 16)
    assert sorted(ids(p) for p in children(web.proc.pid, "cairn-delegate")) == [
        ([ALICE] * 4, [ALICE] * 4, [ALICE, GROUP], "0" * 16), ([BOB] * 4, [BOB] * 4, [BOB], "0" * 16)]
    log = host.log.read_text()
    assert "user 'alice' (60001) has logged in from this host" in log and "right" not in log
    audit = (host.daemon.state / "audit.log").read_text() if (host.daemon.state / "audit.log").exists() else ""
    assert str(ALICE) in audit + "".join(p.read_text() for p in host.daemon.state.glob("audit*/*")), "the daemon sees the user"


def test_wrong_logins_are_refused(host, web):
    bad = {("alice", "wrong"): (403, WRONG), ("nobody-here", "right"): (403, WRONG), ("locked", "right"): (403, WRONG), ("root", "right"): (403, WRONG),
           ("empty", ""): (403, WRONG), ("alice", ""): (403, WRONG), ("expired", "wrong"): (403, WRONG),
           ("expired", "right"): (403, "This account has expired; ask the administrator of the host.\n"),
           ("old", "right"): (403, "This password has expired: change it on the host with passwd, and log in again.\n"),
           ("../alice", "right"): (403, WRONG), ("alice", "right\0x"): (400, None), ("", "right"): (400, None), ("a" * 300, "x"): (400, None),
           ("alice", "x" * 600): (400, None), ("ali\tce", "right"): (400, None)}

    def refused(case):
        began = time.monotonic()
        status, text = login(web, *case)
        assert (status, text) == bad[case] or (status == 400 and bad[case][0] == 400), (case, status, text)
        return status == 400 or time.monotonic() - began >= 2
    with ThreadPoolExecutor(len(bad)) as pool:
        assert all(pool.map(refused, bad))  # whether there is such a user or not, it takes the same time
    assert web.ask("POST", "/login", "alice")[0].status == 400
    assert web.ask("POST", "/login", "alice\nright", Origin="http://evil.example")[0].status == 403
    assert web.ask("POST", "/login", "alice\nright", Host="evil.example")[0].status == 421
    (host.tmp / "nologin").write_text("closed")
    assert login(web, "alice", "right") == (403, WRONG)
    (host.tmp / "nologin").unlink()
    assert names(web.user("alice")) == ["vm-a"]
    log = host.log.read_text()
    assert "login of user 'alice'" in log and "nobody-here" not in log and "wrong" not in log
    until(lambda: not children(web.proc.pid, "cairn-login"))


def test_second_factor_is_refused_with_the_reason(host, web):
    assert login(web, "factor", "right") == (403, "This host asks for more than a password, such as a second factor, which this page cannot "
                                             "take; run cairn web as your own user on the host.\n")
    # A hidden question may be for the password again, so it gets the password.
    assert login(web, "hidden", "right") == (403, WRONG)
    log = host.log.read_text()
    assert "login of user 'factor' from this host is refused: a module of PAM asks for more than a password, which the page cannot answer" in log
    assert "Authentication failure; modules of PAM asked twice, and the page has one password to answer, no second factor" in log
    assert names(web.user("alice")) == ["vm-a"]


def test_root_may_log_in_if_asked(host):
    host.daemon.define("vm-a")
    with contextlib.closing(host.serve(host.daemon, "--allow-root")) as w:
        assert names(w.user("root")) == ["vm-a"]


@pytest.mark.seconds(120)
def test_module_that_hangs_or_crashes_harms_nobody_else(host, web):
    answers = {}
    web.seconds = 3 * SECONDS

    def attempt(user):
        began = time.monotonic()
        answers[user] = (*login(web, user, "right"), time.monotonic() - began)
    threads = [threading.Thread(target=attempt, args=(user,)) for user in ("hang", "crash", "spin", "leave")]
    for t in threads:
        t.start()
    until(lambda: [c for p in children(web.proc.pid, "cairn-login") for c in children(p, "cairn-login")])
    started = [c for p in children(web.proc.pid, "cairn-login") for c in (p, *children(p, "cairn-login"))]
    assert names(web.user("alice")) == ["vm-a"]
    for t in threads:
        t.join()
    assert all(a[0] == 503 and "could not be checked" in a[1] for a in answers.values()), answers
    assert answers["hang"][2] >= 19 and answers["crash"][2] < 19
    until(lambda: not children(web.proc.pid, "cairn-login"))
    log = host.log.read_text()
    assert "a module of PAM took too long" in log and "has crashed" in log
    until(lambda: all(is_gone(p) for p in started))  # what the module has started, too


@pytest.mark.seconds(120)
def test_thousand_wrong_logins_are_limited(host, web):
    alice = web.user("alice")

    def attempt(i):
        r, text = web.ask("POST", "/login", f"alice\nwrong{i}")
        assert r.status != 429 or (int(r.headers["Retry-After"]) <= 30 and "try again in" in text)
        return r.status
    with ThreadPoolExecutor(16) as pool:
        statuses = list(pool.map(attempt, range(1000)))
    assert set(statuses) == {403, 429} and 10 <= statuses.count(403) <= 14, statuses.count(403)
    # Even the right password has to wait; others do not, nor does who has logged in. A try is free after 30 s.
    def has_to_wait():
        r, _ = web.ask("POST", "/login", "alice\nwrong")
        return r.status == 429 and int(r.headers["Retry-After"]) > 15
    until(has_to_wait)
    assert login(web, "alice", "right")[0] == 429
    assert names(web.user("bob")) == ["vm-b"] and names(alice) == ["vm-a"]
    assert 1 <= host.log.read_text().count("login of user 'alice'") <= 40


FLOOD = """
import http.client, sys, threading
def flood(i):
    n = 0
    while True:
        n += 1
        c = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]))
        try:
            c.request("POST", "/login", (sys.argv[2] or f"nobody{i}x{n}") + "\\nwrong", {"Origin": f"http://127.0.0.1:{sys.argv[1]}"})
            print(c.getresponse().status, flush=True)
        except (OSError, http.client.HTTPException):
            pass
        c.close()
for i in range(120):
    threading.Thread(target=flood, args=(i,)).start()
"""


@pytest.mark.seconds(120)
@pytest.mark.parametrize("name", ["", "alice"], ids=["unknown users", "this user"])
def test_flood_of_wrong_logins_locks_nobody_out(host, web, name):
    """The logins of a user of the host take their turns, have few of the places, and limit only themselves."""
    log = host.tmp / "flood"
    with open(log, "wb") as out, subprocess.Popen([sys.executable, "-c", FLOOD, str(web.port), name], user=BOB, group=BOB, stdout=out) as flood:
        try:
            until(lambda: log.read_bytes().count(b"429" if name else b"403") > 60)
            assert [login(web, "alice", "right")[0] for _ in range(5)] == [200] * 5
        finally:
            flood.kill()
    assert f"from uid:{BOB} is refused" in host.log.read_text() and (b"429" if name else b"503") in log.read_bytes()


def test_each_login_is_a_new_session(host, web):
    name = f"cairn-web-{web.port}"
    own = {"Cookie": f"{name}={'a' * 64}", "X-Cairn-Key": "b" * 64}
    r, text = web.ask("POST", "/login", "alice\nright", **own)
    assert r.status == 200 and "a" * 64 not in r.headers["Set-Cookie"]
    assert web.ask("POST", "/api", "{}", **own)[0].status == 401
    alice = web.user("alice")
    first = dict(alice.headers)
    events = alice.send("GET", "/events")
    alice.take_session(*alice.ask("POST", "/login", "alice\nright"))  # in the same browser
    assert ended(events) and web.ask("POST", "/api", "{}", **first)[0].status == 401
    assert names(alice) == ["vm-a"]
    # After a logout, neither the cookie nor what it had open works, and its process is gone.
    stolen = dict(alice.headers)
    events = alice.send("GET", "/events")
    assert alice.ask("POST", "/logout")[0].status == 200
    assert ended(events) and web.ask("POST", "/api", "{}", **stolen)[0].status == 401
    until(lambda: len(children(web.proc.pid, "cairn-delegate")) == 1)  # that of the very first session
    until(lambda: "has ended" in host.log.read_text())


def test_sessions_of_a_user_are_bounded(host, web):
    bob = web.user("bob")
    first = web.user("alice")
    more = [web.user("alice") for _ in range(8)]
    assert first.ask("POST", "/api", "{}")[0].status == 401
    assert names(more[0]) == ["vm-a"] and names(more[-1]) == ["vm-a"] and names(bob) == ["vm-b"]
    until(lambda: len(children(web.proc.pid, "cairn-delegate")) == 9)
    # So are the connections of a session. Each has a thread of the user's process, which may end after the answer.
    bobs, = (p for p in children(web.proc.pid, "cairn-delegate") if ids(p)[0][0] == BOB)
    until(lambda: len(os.listdir(f"/proc/{bobs}/task")) == 1)
    streams = [bob.send("GET", "/events") for _ in range(16)]
    assert all(r.readline() == b"{}\n" for r in streams)
    r, text = bob.ask("GET", "/events")
    assert r.status == 503 and "16 connections open" in text
    assert names(more[0]) == ["vm-a"]
    for r in streams:
        r.close()
        r.connection.close()
    until(lambda: bob.ask("POST", "/api", '{"execute": "query-version"}')[1].startswith('{"return"'))


def test_user_without_a_role_takes_little_memory(host):
    """Requests for much at once are bounded for each user, not only for each session."""
    request = json.dumps([{"execute": "query-qmp-schema"}] * 64)
    host.daemon.cairn("grant", "operator", "--user", str(BOB))
    with contextlib.closing(host.serve(host.daemon)) as w:
        server, = children(w.proc.pid, "cairn-web")
        alice, bob = [w.user("alice") for _ in range(2)], w.user("bob")
        assert alice[0].run("vm-list")["error"]["class"] == "PermissionDenied"
        with ThreadPoolExecutor(32) as pool:
            answers = [pool.submit(alice[i % 2].ask, "POST", "/api", request) for i in range(32)]
            assert names(bob) == []
            answers = [a.result() for a in answers]
        assert {r.status for r, _ in answers} == {200, 503}
        for r, text in answers:
            assert text.startswith("your pages have 8 requests under way") if r.status == 503 else len(json.loads(text)) == 64
        status = dict(line.split(":", 1) for line in Path(f"/proc/{server}/status").read_text().splitlines())
        assert int(status["VmHWM"].split()[0]) < 160 << 10, status["VmHWM"]
        limits = Path(f"/proc/{server}/limits").read_text()
        assert re.search(r"Max address space +2147483648 +2147483648", limits), limits


def test_session_ends_with_its_process(host, web):
    alice, bob = web.user("alice"), web.user("bob")
    events = alice.send("GET", "/events")
    assert events.readline() == b"{}\n" and names(bob) == ["vm-b"]
    victim, = (p for p in children(web.proc.pid, "cairn-delegate") if ids(p)[0][0] == ALICE)
    os.kill(victim, signal.SIGKILL)
    assert ended(events)
    until(lambda: status_of(alice) == 401)
    assert names(bob) == ["vm-b"]
    until(lambda: "its process was killed" in host.log.read_text())
    # A process that its user stops ends with the session all the same.
    carol = web.user("alice")
    assert names(carol) == ["vm-a"]
    victim, = (p for p in children(web.proc.pid, "cairn-delegate") if ids(p)[0][0] == ALICE)
    os.kill(victim, signal.SIGSTOP)
    assert carol.ask("POST", "/logout")[0].status == 200
    until(lambda: is_gone(victim))


@pytest.mark.parametrize("who,sig,status", [("cairn-login", signal.SIGKILL, -9), ("cairn-login", signal.SIGTERM, 0), ("cairn-web", signal.SIGKILL, 1)])
def test_all_processes_end_together(host, web, who, sig, status):
    assert names(web.user("alice")) == ["vm-a"]
    monitor, server, delegate = web.proc.pid, *children(web.proc.pid, "cairn-web"), *children(web.proc.pid, "cairn-delegate")
    os.kill(monitor if who == "cairn-login" else server, sig)
    assert web.proc.wait(SECONDS) == status
    until(lambda: is_gone(server) and is_gone(delegate))
    with pytest.raises(OSError):
        web.ask("GET", "/")


@pytest.mark.seconds(180)
def test_sessions_expire(host):
    host.daemon.define("vm-a")
    host.daemon.cairn("grant", "operator", "--user", str(ALICE))
    with contextlib.closing(host.serve(host.daemon, "--session-idle", "21s")) as w:
        alice = w.user("alice")
        events = alice.send("GET", "/events")
        for _ in range(7):
            time.sleep(3.5)
            assert names(alice) == ["vm-a"]  # in use, so it goes on
        assert ended(events)
        assert alice.ask("POST", "/api", "{}")[0].status == 401
        until(lambda: not children(w.proc.pid, "cairn-delegate"))
    with contextlib.closing(host.serve(host.daemon, "--session-limit", "3s")) as w:
        began = time.monotonic()
        alice = w.user("alice")
        until(lambda: status_of(alice) == 401)
        assert time.monotonic() - began > 2.9
        until(lambda: status_of(w.user("alice")) not in (401, None))


@pytest.mark.seconds(120)
def test_login_form_bears_large_and_slow_requests(host, web):
    assert web.ask("POST", "/login", b"x", Content_Length=str(100 << 20))[0].status == 413
    assert web.ask("POST", "/login", b"alice\n" + b"x" * 2000)[0].status == 413
    head = f"POST /login HTTP/1.1\r\nHost: 127.0.0.1:{web.port}\r\nOrigin: {web.base}\r\n"
    with socket.create_connection(("127.0.0.1", web.port), timeout=SECONDS) as s:
        s.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        with contextlib.suppress(OSError):
            for _ in range(1600):
                s.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")
            assert not s.recv(1)
    slow = [socket.create_connection(("127.0.0.1", web.port), timeout=SECONDS) for _ in range(400)]
    for s in slow:
        with contextlib.suppress(OSError):
            s.sendall(f"{head}Content-Length: 11\r\n\r\nalice\n".encode())
    assert names(web.user("alice")) == ["vm-a"]

    def is_ended(s):
        try:
            s.sendall(b"r")
            return s.recv(1, socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True
    # A connection whose body has arrived gets the answer for a wrong password; cairn-web ends the others.
    end = time.monotonic() + 40
    while not all([is_ended(s) or s.close() or True for s in slow]) and time.monotonic() < end:
        time.sleep(1)
    assert names(web.user("bob")) == ["vm-b"]


def test_service_manager_starts_it(host, tmp_path):
    host.daemon.cairn("grant", "viewer", "--user", str(ALICE))
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(tmp_path / "notify"))
    manager.settimeout(SECONDS)
    host.daemon.env["NOTIFY_SOCKET"] = str(tmp_path / "notify")
    # The first connection holds the server until the login, however late that is.
    with socket.create_server(("127.0.0.1", 0)) as port, socket.create_connection(port.getsockname()) as first, \
            contextlib.closing(host.serve(host.daemon, "--idle", "5s", passed=[port])) as w:
        assert manager.recv(99) == b"READY=1"
        alice = w.user("alice")
        first.close()
        assert names(alice) == []
        assert alice.ask("POST", "/logout")[0].status == 200
        assert w.proc.wait(SECONDS) == 0
    manager.close()


def test_logins_beyond_loopback_need_tls(host, tmp_path):
    out, err = start(host.daemon, "--pam", "--listen", "0.0.0.0:0", wrapper=host.wrapper).communicate(timeout=SECONDS)
    assert not out and "without TLS" in err
    host.daemon.cairn("grant", "viewer", "--user", str(ALICE))
    tls = certificate(tmp_path, "IP:127.0.0.1")  # with a key that only root may read
    with contextlib.closing(host.serve(host.daemon, "--listen", "0.0.0.0:0", *tls)) as w:
        w.authority, w.base = tls[1], f"https://127.0.0.1:{w.port}"
        alice = w.user("alice")
        assert alice.set_cookie.startswith(f"__Host-cairn-web-{w.port}=") and alice.set_cookie.endswith("; Secure")
        assert alice.run("query-version")["return"]


def test_pam_needs_root(host, tmp_path):
    for name in ("cairn-web", "cairn-login", "cairn-delegate"):
        subprocess.run(["cp", os.path.join(BUILD, name), host.daemon.tmp], check=True)
    out, err = start(host.daemon, "--pam", program=host.daemon.tmp / "cairn-web", user=65534, group=65534, extra_groups=[]).communicate(timeout=SECONDS)
    assert not out and "--pam needs root" in err
    r = host.daemon.cairn("web", "--allow-root", ok=False)
    assert "--allow-root is for --pam" in r.stderr


def test_console_and_screen_of_a_users_vm(kvm, guest):
    with host_with_daemon(None) as (host, d):
        d.define("vm1", boot={"kernel": guest("idle.elf")}, screen=True)
        d.cairn("grant", "operator", "--user", str(ALICE), "--vm", "vm1")
        d.cairn("start", "vm1")
        with contextlib.closing(host.serve(d)) as w:
            alice, bob = w.user("alice"), w.user("bob")
            out = alice.send("GET", "/console?vm=vm1&id=a")
            seen = out.read1(1)
            assert seen == b"\0"
            while b"idle" not in seen:
                seen += out.read1()
            assert alice.ask("POST", "/console?id=a", "hello")[0].status == 200
            while b"hello" not in seen:
                seen += out.read1()
            assert bob.ask("POST", "/console?id=a", "q")[0].status == 503
            assert bob.ask("GET", "/console?vm=vm1&id=a")[0].status == 503
            r, text = alice.ask("GET", "/screen?vm=vm1&id=b")
            assert r.status == 503 and text == "VM 'vm1' has no VNC; set \"vnc\": true (cairn edit) for its next start"
            assert alice.ask("GET", "/console?id=c&vm=" + "x" * 300)[0].status == 503
            assert alice.ask("POST", "/logout")[0].status == 200
            ended(out)
            assert d.info("vm1")["word"] == "running"


def test_consoles_of_a_user_leave_room_for_others(kvm, guest):
    with host_with_daemon(None) as (host, d), contextlib.ExitStack() as stack:
        for name in "abcd":  # a VM has 16 consoles for a user
            d.define(name, boot={"kernel": guest("idle.elf")})
            d.cairn("grant", "operator", "--user", str(ALICE if name < "d" else BOB), "--vm", name)
            d.cairn("start", name)
        w = stack.enter_context(contextlib.closing(host.serve(d)))
        alice, bob = [w.user("alice") for _ in range(3)], w.user("bob")
        outs = []
        for i in range(32):  # a login has 16 connections
            outs.append(alice[i % 2].send("GET", f"/console?vm={'ab'[i % 2]}&id={i}"))
            assert outs[-1].read1(1) == b"\0"
        r, text = alice[2].ask("GET", "/console?vm=c&id=more")
        assert r.status == 503 and text == "your pages have 32 consoles and screens open, which is the most; close one"
        assert bob.send("GET", "/console?vm=d&id=0").read1(1) == b"\0"


# ---- a cairn-web that was taken over ----

WRONG_VERDICT, BUSY, FAILED = 1, 5, 6  # enum login_verdict


class Monitor:
    """cairn-login, with this test in cairn-web's place."""

    def __init__(self, host):
        self.web = subprocess.Popen(["sleep", "1000"])
        self.channel, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel.settimeout(SECONDS)
        with open(host.log, "ab") as log:
            self.proc = subprocess.Popen([*host.wrapper, os.path.join(BUILD, "cairn-login"), str(self.web.pid), str(other.fileno()), host.daemon.socket,
                                          os.path.join(BUILD, "cairn-delegate"), "0"], pass_fds=[other.fileno()], stderr=log)
        other.close()

    def send(self, kind, session, body=b"", version=1, length=None, fds=()):
        head = struct.pack("<HHIQ", version, kind, len(body) if length is None else length, session)
        socket.send_fds(self.channel, [head + body], fds)

    def ask(self, session, user, password, address=""):
        self.send(2, session, struct.pack("256s512s64s", user.encode(), password.encode(), address.encode()))

    def answer(self):
        data, fds, _, _ = socket.recv_fds(self.channel, 4096, 4)
        verdict, wait = struct.unpack_from("<II", data, 16)
        return struct.unpack_from("<Q", data, 8)[0], verdict, data[24:].rstrip(b"\0").decode(), fds

    def close(self):
        for p in (self.proc, self.web):
            p.kill()
            p.wait()
        self.channel.close()


@pytest.mark.parametrize("attack", [
    lambda m: m.send(4, 1, bytes(264)), lambda m: m.send(9, 1), lambda m: m.send(2, 1, b"x"), lambda m: m.send(2, 1, b"x" * 832),
    lambda m: m.send(2, 1, bytes(832)), lambda m: m.send(2, 1, b"alice" + bytes(827), length=5), lambda m: m.send(1, 0, version=2),
    lambda m: m.ask(0, "alice", "right"), lambda m: m.ask(1, "al\nice", "right"), lambda m: m.ask(1, "alice", "right", "example.org"),
    lambda m: m.send(1, 0, fds=[0]), lambda m: [m.ask(5, "hang", "wrong") for _ in range(2)]])
def test_nonsense_ends_the_server(host, attack):
    with contextlib.closing(Monitor(host)) as m:
        attack(m)
        assert m.proc.wait(SECONDS) == 1
        assert m.web.wait(SECONDS) == -9
    assert "sent an invalid message" in host.log.read_text()


def test_server_that_was_taken_over_gets_no_user_without_a_password(host):
    with contextlib.closing(Monitor(host)) as m:
        m.send(3, 77)  # no such session
        m.ask(1, "alice", "wrong")
        assert m.answer()[:2] == (1, WRONG_VERDICT)
        m.ask(2, "alice", "right")
        session, verdict, user, fds = m.answer()
        assert (session, verdict, user, len(fds)) == (2, 0, "alice", 1)
        # The delegate is the user's, and survives nonsense, too, or ends alone.
        delegate = socket.socket(fileno=fds[0])
        delegate.settimeout(SECONDS)
        delegate.send(struct.pack("<HHIQ", 1, 1, 260, 0) + bytes(260))  # without a socket
        a, b = socket.socketpair()
        a.settimeout(SECONDS)
        socket.send_fds(delegate, [struct.pack("<HHIQ", 1, 1, 260, 0) + struct.pack("<I256s", 9, b"x" * 256)], [b.fileno()])
        b.close()
        assert b"no such kind" in a.recv(4096)
        delegate.send(b"nonsense")
        assert delegate.recv(1) == b""
        m.ask(3, "bob", "right", "192.0.2.1")
        assert m.answer()[:3] == (3, 0, "bob")
        # Behind 32 checks at once, others wait. More than 32 of one origin, and 128 of all, are refused at once.
        until(lambda: not children(m.proc.pid, "cairn-login"))
        for i in range(32):
            m.ask(100 + i, "hang", "wrong", f"192.0.2.{i + 2}")
        for k, origin in enumerate(("", "uid:1000", "uid:1001")):
            for i in range(33):
                m.ask(200 + 100 * k + i, f"nobody{k}x{i}", "wrong", origin)
            assert m.answer()[:2] == (232 + 100 * k, BUSY)
        m.ask(500, "nobody", "wrong", "192.0.2.1")
        assert m.answer()[:2] == (500, BUSY)
        assert len(children(m.proc.pid, "cairn-login")) == 32
        for p in children(m.proc.pid, "cairn-login"):
            os.kill(p, signal.SIGKILL)
        assert sorted(m.answer()[:2] for _ in range(128)) == [(k + i, FAILED if k == 100 else WRONG_VERDICT) for k in (100, 200, 300, 400) for i in range(32)]
    until(lambda: not [p for p in children(os.getpid(), "cairn-login")])


@pytest.mark.parametrize("uid", [0, BOB])
def test_delegate_of_another_user_ends_at_once(host, uid):
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    program = os.open(os.path.join(BUILD, "cairn-delegate"), os.O_RDONLY)

    def become():
        os.dup2(there.fileno(), 3)
        os.setresuid(uid, uid, uid)
    p = subprocess.Popen([f"/proc/self/fd/{program}", host.daemon.socket, str(ALICE)], pass_fds=[3, program], preexec_fn=become)
    there.close()
    assert p.wait(SECONDS) == 1
    os.close(program)
    here.close()


def test_web_serves_one_user_without_pam(host):
    with contextlib.closing(Web(host.daemon)) as w:
        assert json.loads(w.ask("GET", "/session")[1]) == {"login": "address"}
        assert json.loads(w.login().ask("GET", "/session")[1]) == {"login": "address"}
