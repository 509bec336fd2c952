"""cairn web: the server of the page, as programs and hostile pages see it."""

import contextlib
import http.client
import json
import os
import select
import struct
import shutil
import socket
import subprocess
import threading
import time

import pytest

import guestlib
from conftest import BUILD, FAKE_VM, Daemon, until
from netlib import keepalive_asks
from weblib import SECONDS, Web, certificate, start


@pytest.fixture
def fake(tmp_path):
    with contextlib.closing(Daemon(tmp_path, FAKE_VM)) as d:
        yield d


@pytest.fixture
def web(fake):
    with contextlib.closing(Web(fake)) as w:
        yield w


def test_address_works_once(web):
    first = web.token
    web.login()
    assert "HttpOnly" in web.set_cookie and "SameSite=Strict" in web.set_cookie
    assert web.run("query-version")["return"]
    r, text = web.ask("POST", "/login", first)
    assert r.status == 403 and "has been used" in text
    for wrong in ("", "0" * 64, web.token[:-1], web.token + "0"):
        assert web.ask("POST", "/login", wrong)[0].status == 403
    assert web.token != first
    web.login()


def test_session_needs_cookie_and_key(web):
    assert web.ask("POST", "/api", "{}")[0].status == 401
    assert web.ask("GET", "/events")[0].status == 401
    # A session that the client has made up does not become one by a login.
    name = f"cairn-web-{web.port}"
    own = {"Cookie": f"{name}={'a' * 64}", "X-Cairn-Key": "b" * 64}
    r, text = web.ask("POST", "/login", web.token, **own)
    assert r.status == 200 and "a" * 64 not in r.headers["Set-Cookie"]
    web.next_address()
    assert web.ask("POST", "/api", "{}", **own)[0].status == 401
    web.login()
    cookie, key = web.headers["Cookie"], web.headers["X-Cairn-Key"]
    request = json.dumps({"execute": "query-version"})
    assert web.ask("POST", "/api", request, Cookie="other=1; " + cookie)[0].status == 200
    for headers in ({"Cookie": None}, {"X-Cairn-Key": None}, {"Cookie": cookie[:-1]}, {"X-Cairn-Key": "0" * 64}, {"Cookie": "x" + cookie}):
        assert web.ask("POST", "/api", request, **headers)[0].status == 401
    web.headers = {"Cookie": cookie, "X-Cairn-Key": key}
    assert web.ask("POST", "/logout")[0].status == 200
    assert web.ask("POST", "/api", request)[0].status == 401


def test_quiet_stream_ends_when_the_browsers_host_has_vanished(web):
    web.login()
    stream = web.send("GET", "/events")
    until(lambda: keepalive_asks(web.port, 60))
    stream.close()


def test_logout_ends_streams(web):
    web.login()
    streams = [web.send("GET", "/events") for _ in range(2)]
    other, web.headers = web.headers, {}
    web.login()
    stays = web.send("GET", "/events")
    web.headers, own = other, web.headers
    assert web.ask("POST", "/logout")[0].status == 200
    for r in streams:
        with contextlib.suppress(http.client.IncompleteRead):
            r.read()
    web.headers = own
    # The oldest of more sessions than there is room for ends, with its streams.
    for _ in range(15):
        web.headers = {}
        web.login()
    assert stays.readline() == b"{}\n"
    web.headers = {}
    web.login()
    with contextlib.suppress(http.client.IncompleteRead):
        stays.read()
    assert web.ask("POST", "/api", "{}", **own)[0].status == 401


def test_other_hosts_and_origins_are_refused(web):
    web.login()
    request = json.dumps({"execute": "query-version"})
    for host in ("evil.example", f"evil.example:{web.port}", "127.0.0.1", f"127.0.0.1:{web.port + 1}", f"127.0.0.1.evil:{web.port}", None):
        r, text = web.ask("POST", "/api", request, Host=host, Origin=f"http://{host}")
        assert r.status in (421, 400), host
        assert web.ask("GET", "/", Host=host)[0].status in (421, 400)
    for host in (f"localhost:{web.port}", f"[::1]:{web.port}"):
        assert web.ask("POST", "/api", request, Host=host, Origin=f"http://{host}")[0].status == 200
    for origin in (None, "null", "http://evil.example", f"https://127.0.0.1:{web.port}", f"http://127.0.0.1:{web.port + 1}", f"http://localhost:{web.port}"):
        r, text = web.ask("POST", "/api", request, Origin=origin)
        assert r.status == 403 and ("Another page" if origin else "needs the header Origin") in text
    assert web.ask("GET", "/events", Origin="http://evil.example")[0].status == 403


def test_headers_forbid_foreign_scripts_and_frames(web):
    for path in ("/", "/main.js", "/style.css", "/nothing"):
        r, text = web.ask("GET", path)
        policy = r.headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in policy and "script-src 'self';" in policy and "unsafe" not in policy
        assert r.headers["X-Content-Type-Options"] == "nosniff" and r.headers["Cache-Control"] == "no-store"
        assert r.status == (404 if path == "/nothing" else 200)
    assert "<script>" not in text and " on" not in web.ask("GET", "/")[1]


def test_scripts_insert_texts_only():
    page = os.path.join(os.path.dirname(__file__), "../../../../tools/web/page")
    for name in os.listdir(page):
        with open(os.path.join(page, name)) as f:
            text = f.read()
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
            assert word not in text, name


def test_name_with_markup_is_data(fake, web):
    web.login()
    title = "<script>alert(1)</script>\u001b]0;x\u0007"
    definition = {"name": "vm1", "title": title, "memory": "32M", "boot": {"kernel": str(fake.tmp / "kernel")}}
    (fake.tmp / "kernel").write_bytes(b"")
    assert "return" in web.run("vm-define", definition={**definition, "title": "<script>"})
    r, text = web.ask("POST", "/api", json.dumps({"execute": "vm-list"}))
    assert r.headers["Content-Type"] == "application/json" and json.loads(text)["return"]["vms"][0]["title"] == "<script>"
    assert "\u001b" not in web.ask("POST", "/api", json.dumps({"execute": "vm-define", "arguments": {"definition": definition}}))[1]


def test_commands_of_another_form_are_refused(web):
    web.login()
    for request in ({}, [{}], 5, "x", {"execute": 5}, {"execute": "qmp_capabilities"}, {"execute": "query-version", "id": 1},
                    {"execute": "query-version", "arguments": []}, [{"execute": "query-version"}] * 65):
        answer = web.api(request)
        answer = answer[0] if isinstance(answer, list) else answer
        assert answer["error"]["class"] == "InvalidArgument", request
    r, text = web.ask("POST", "/api", json.dumps([{"execute": "query-version", "arguments": {"a": [{}] * 20000}}]))
    assert "more than 16384 braces, brackets, commas and colons" in text
    for body, says in (('{"execute": "query-events", "arguments": {"since": -99999999999999999999}}', "below -2^63"), ("", "no complete JSON"),
                       ('{"execute": "vm-info", "arguments": {"vm": "a", "vm": "b"}}', "duplicate key"), ('{"execute": "query-version"} {}', "follows")):
        assert says in json.loads(web.ask("POST", "/api", body)[1])["error"]["desc"], body
    r, text = web.ask("POST", "/api", json.dumps({"execute": "vm-info", "arguments": {"vm": "\\\",{[:" * 9000}}))
    assert "there is no VM" in text  # those in strings do not count
    r, text = web.ask("POST", "/api", '{"execute": ')
    assert "error" in json.loads(text)
    for number, why in (("1e400", "too large"), ("18446744073709551616", "above 2^64 - 1")):
        r, text = web.ask("POST", "/api", '{"execute": "vm-info", "arguments": {"vm": "none", "x": %s}}' % number)
        assert f"the number {number} is " in text and why in text
    r, text = web.ask("POST", "/api", '{"execute": "job-wait", "arguments": {"id": "none", "timeout": 9223372036854775808}}')
    assert "timeout: 9223372036854775808 is too large" in text
    many = web.api([{"execute": "query-version"}, {"execute": "vm-info", "arguments": {"vm": "none"}}])
    assert "return" in many[0] and many[1]["error"]["class"] == "NotFound"
    # The page has no way to take an open file.
    assert web.ask("PUT", "/api", "x")[0].status == 405
    assert web.ask("POST", "/", "")[0].status == 404


def test_large_answers_end_the_commands_of_a_request(web):
    web.login()
    answers = web.api([{"execute": "query-qmp-schema"}] * 64)
    run = [a for a in answers if "return" in a]
    assert 2 << 20 < len(json.dumps(run, separators=(",", ":"))) < 3 << 20 and answers[:len(run)] == run
    assert len(answers) == 64
    assert answers[-1]["error"]["desc"] == "not run: the answers before it are too large; send fewer commands in a request"


def test_vm_starts_and_events_tell_it(fake, web):
    web.login()
    r = web.send("GET", "/events")
    assert r.readline() == b"{}\n"
    fake.define("vm1")
    assert "id" in web.run("vm-start", vm="vm1")["return"]
    seen = []
    while "VM_STATE_CHANGE" not in seen:
        seen.append(json.loads(r.readline())["event"])
    r.connection.close()
    assert web.run("vm-info", vm="vm1")["return"]["word"] == "running"
    fake.stop()
    answer = web.run("vm-info", vm="vm1")
    assert answer["error"]["desc"] and "cairnd" in answer["error"]["desc"]
    r, text = web.ask("GET", "/events")
    assert r.status == 503 and "cairnd" in text
    fake.start()
    assert "return" in web.run("vm-info", vm="vm1")


def test_events_end_with_the_daemon(fake, web):
    web.login()
    r = web.send("GET", "/events")
    assert r.readline() == b"{}\n"
    fake.stop()
    while r.readline():
        pass


def test_large_body_is_refused(web):
    web.login()
    r, text = web.ask("POST", "/api", b"x", Content_Length=str(100 << 20))
    assert r.status == 413 and "too large" in text
    assert web.ask("POST", "/login", b"x" * 1025)[0].status == 413
    big = json.dumps({"execute": "query-version", "arguments": {"x": "y" * 1000000}})
    assert "error" in json.loads(web.ask("POST", "/api", big)[1])


@pytest.mark.parametrize("lengths, status, says", [
    (["Content-Length: 0"], 200, '"error"'), ([], 200, '"error"'),
    (["Transfer-Encoding: chunked"], 411, "with Content-Length"), (["Transfer-Encoding: gzip, chunked"], 411, "with Content-Length"),
    (["transfer-encoding: identity"], 411, "with Content-Length"),
    (["Content-Length: 5", "Transfer-Encoding: chunked"], 400, "with Content-Length"),
    (["Content-Length: 5", "content-length: 5"], 400, "one Content-Length"), (["Content-Length: 5", "Content-Length: 6"], 400, "one Content-Length"),
    (["Content-Length: 5, 5"], 400, ""), (["Content-Length: +5"], 400, ""),
], ids=range(10))
def test_body_has_one_length(web, lengths, status, says):
    """No second request is read from what follows: where the body ends is not certain."""
    web.login()
    head = [f"{k}: {v}" for k, v in {**web.headers, "Origin": web.base, "Host": web.base[7:]}.items()]
    with socket.create_connection(("127.0.0.1", web.port), timeout=SECONDS) as s:
        s.sendall("\r\n".join(["POST /api HTTP/1.1", *head, *lengths, "", ""]).encode())
        if status != 200:
            s.sendall(b"5\r\n{}   \r\n0\r\n\r\nGET /main.js HTTP/1.1\r\nHost: " + web.base[7:].encode() + b"\r\n\r\n")
        else:
            s.shutdown(socket.SHUT_WR)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while part := s.recv(65536):
                answer += part
    assert answer.startswith(f"HTTP/1.1 {status} ".encode()) and says.encode() in answer
    assert b"import" not in answer


def test_unknown_command_names_the_remedy(web):
    web.login()
    assert web.run("vm-fly")["error"]["desc"] == (
        "The command vm-fly has not been found; the daemon may be of an older version: restart cairnd")


@pytest.mark.seconds(120)
def test_slow_clients_do_not_keep_others_out(web):
    web.login()
    slow = []
    for i in range(500):
        s = socket.create_connection(("127.0.0.1", web.port), timeout=SECONDS)
        s.sendall(b"GET / HTTP/1.1\r\nX: ")
        slow.append(s)
        if i % 100 == 99:
            began = time.monotonic()
            assert "return" in web.run("query-version")
            assert time.monotonic() - began < 15 * guestlib.SLOW

    # A byte now and then does not prolong the time of a request.
    def ended(s):
        try:
            s.sendall(b"y")
            return s.recv(1, socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True
    until(lambda: time.sleep(0.5) or all([ended(s) for s in slow]))
    for s in slow:
        s.close()
    assert "return" in web.run("query-version")


def test_page_has_the_rights_of_its_user(tmp_path_factory):
    if os.geteuid():
        pytest.skip("needs root, to become another user")
    tmp = tmp_path_factory.mktemp("web")
    for folder in (tmp, tmp.parent, tmp.parent.parent):
        folder.chmod(0o755)
    shutil.copy(os.path.join(BUILD, "cairn-web"), tmp)
    with contextlib.closing(Daemon(tmp, FAKE_VM)) as d:
        d.define("vm1")
        d.cairn("grant", "viewer", "--user", "nobody")
        with contextlib.closing(Web(d, program=tmp / "cairn-web", user=65534, group=65534, extra_groups=[])) as w:
            w.login()
            assert [vm["name"] for vm in w.run("vm-list")["return"]["vms"]] == ["vm1"]
            assert w.run("vm-start", vm="vm1")["error"]["class"] == "PermissionDenied"


def unix_connection(path):
    c = http.client.HTTPConnection("localhost", timeout=SECONDS)
    c.sock = socket.socket(socket.AF_UNIX)
    c.sock.connect(str(path))
    return c


def test_unix_socket_is_the_users_own(fake, tmp_path):
    path = tmp_path / "web.sock"
    with contextlib.closing(Web(fake, "--unix", str(path))) as w:
        assert path.stat().st_mode & 0o777 == 0o600 and w.base == "http://localhost"
        w.connect = lambda: unix_connection(path)
        assert "return" in w.login().run("query-version")
        assert w.ask("GET", "/", Host="localhost:8080")[0].status == 200  # of ssh -L
        assert w.ask("GET", "/", Host="localhost:x")[0].status == 421


@pytest.mark.seconds(120)
@pytest.mark.parametrize("what", ["page", "api"])
def test_connection_ends_when_its_browser_takes_no_answers(fake, tmp_path, what):
    path = tmp_path / "web.sock"
    with contextlib.closing(Web(fake, "--unix", str(path))) as w:
        w.connect = lambda: unix_connection(path)
        w.login()
        if what == "page":  # 40 times, without a session
            request = 40 * b"GET /terminal.js HTTP/1.1\r\nHost: localhost\r\n\r\n"
        else:
            body = json.dumps(20 * [{"execute": "query-qmp-schema"}])
            head = "".join(f"{k}: {v}\r\n" for k, v in {**w.headers, "Host": "localhost", "Origin": w.base, "Content-Length": len(body)}.items())
            request = f"POST /api HTTP/1.1\r\n{head}\r\n{body}".encode()
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(str(path))
            s.sendall(request)
            ended = select.poll()
            ended.register(s, select.POLLRDHUP)
            assert ended.poll(SECONDS * 1000)
            got = 0
            with contextlib.suppress(ConnectionResetError):
                while part := s.recv(65536):
                    got += len(part)
        assert 50_000 < got < 400_000, "the answers were shorter than the socket's buffer"


class FloodingDaemon:
    """A daemon that fills each stream of the page: events, a console or a screen."""

    def __init__(self, tmp, what):
        self.env = {**os.environ, "CAIRN_SOCKET": str(tmp / "daemon.sock")}
        self.what, self.screen = what, str(tmp / "screen.sock")
        self.flood = threading.Event()
        self.sockets, self.threads = [], []
        self.listen(self.env["CAIRN_SOCKET"], self.talk)
        self.listen(self.screen, self.fill)

    def listen(self, path, serve):
        s = socket.socket(socket.AF_UNIX)
        s.bind(path)
        s.listen()
        self.sockets.append(s)
        self.thread(self.accept, s, serve)

    def thread(self, function, *args):
        self.threads.append(threading.Thread(target=function, args=args, daemon=True))
        self.threads[-1].start()

    def accept(self, s, serve):
        with contextlib.suppress(OSError):
            while True:
                self.sockets.append(s.accept()[0])
                self.thread(serve, self.sockets[-1])

    def fill(self, s):
        self.flood.wait()
        event = {"timestamp": {"seconds": 1, "microseconds": 0}, "event": "VM_STATE_CHANGE", "data": {"vm": 999 * "x"}}
        with contextlib.suppress(OSError):
            while True:
                s.sendall(json.dumps(event).encode() + b"\r\n")

    def answer(self, s, command):
        files, result = [], {}
        if command == "vm-console":
            ours, theirs = socket.socketpair()
            self.sockets += [ours, theirs]
            self.thread(self.fill, ours)
            files = [theirs.fileno()]
        elif command == "vm-dump-definition":
            result = {"definition": {"vnc": {"path": self.screen}}}
        socket.send_fds(s, [json.dumps({"return": result}).encode() + b"\r\n"], files)

    def talk(self, s):
        version = {"qemu": {"micro": 0, "minor": 2, "major": 7}, "package": ""}
        s.sendall(json.dumps({"QMP": {"version": version, "capabilities": []}}).encode() + b"\r\n")
        text = b""
        with contextlib.suppress(OSError):
            while part := s.recv(4096):
                text += part
                with contextlib.suppress(json.JSONDecodeError):
                    self.answer(s, json.loads(text)["execute"])
                    text = b""
                    if self.what == "events":
                        self.fill(s)

    def close(self):
        self.flood.set()
        for s in self.sockets:
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)
        for t in self.threads:
            t.join()
        for s in self.sockets:
            s.close()


class SilentDaemon(FloodingDaemon):
    """A daemon that never answers most commands."""

    def __init__(self, tmp):
        super().__init__(tmp, "nothing")
        self.asked = []

    def answer(self, s, command):
        self.asked.append(command)
        if command in ("qmp_capabilities", "query-version"):
            super().answer(s, command)


def test_commands_that_last_keep_no_place(tmp_path):
    with contextlib.closing(SilentDaemon(tmp_path)) as daemon, contextlib.closing(Web(daemon)) as w:
        w.login()
        start = {"execute": "vm-start", "arguments": {"vm": "vm1"}}
        assert json.loads(w.ask("POST", "/api?seconds=1", json.dumps(start))[1]) == {"pending": True}
        daemon.asked.clear()
        body = json.dumps([start] * 2)
        head = "".join(f"{k}: {v}\r\n" for k, v in {**w.headers, "Host": w.base[7:], "Origin": w.base, "Content-Length": len(body)}.items())
        gone = [socket.create_connection(("127.0.0.1", w.port), timeout=SECONDS) for _ in range(8)]
        for s in gone:
            s.sendall(f"POST /api HTTP/1.1\r\n{head}\r\n{body}".encode())
        until(lambda: daemon.asked.count("vm-start") == 8)
        r, text = w.ask("POST", "/api", '{"execute": "query-version"}')
        assert r.status == 503 and text.startswith("your pages have 8 requests under way")
        for s in gone:
            s.close()
        until(lambda: w.ask("POST", "/api", '{"execute": "query-version"}')[0].status == 200)
        assert daemon.asked.count("vm-start") == 8  # the second ones are not run


@pytest.mark.seconds(120)
@pytest.mark.parametrize("what", ["events", "console?vm=vm1&id=a", "screen?vm=vm1&id=a"])
def test_stream_ends_when_its_browser_takes_nothing(tmp_path, what):
    with contextlib.closing(FloodingDaemon(tmp_path, what)) as daemon, \
            contextlib.closing(Web(daemon, "--unix", str(tmp_path / "web.sock"))) as w:
        w.connect = lambda: unix_connection(tmp_path / "web.sock")
        r = w.login().send("GET", "/" + what)
        assert r.read1(1) in (b"{", b"\0")
        ended = select.poll()
        ended.register(r.connection.sock, select.POLLRDHUP)
        if what == "events":
            assert not ended.poll(12_000)  # a quiet stream has no limit
        daemon.flood.set()
        assert ended.poll(SECONDS * 1000)
        r.connection.close()


def test_passed_socket_keeps_clients_for_the_next_server(fake):
    """The socket stays with the service manager when the server ends for lack of work."""
    with socket.create_server(("127.0.0.1", 0)) as port:
        first = socket.create_connection(port.getsockname())  # holds the server until the login, however late that is
        with first, contextlib.closing(Web(fake, "--idle", "5s", passed=[port])) as w:
            assert w.port == port.getsockname()[1] and w.base == f"http://127.0.0.1:{w.port}"
            w.login()
            first.close()
            time.sleep(7)
            assert "return" in w.run("query-version")  # a session holds it
            assert w.ask("POST", "/logout")[0].status == 200
            assert w.proc.wait(SECONDS) == 0
            early = w.connect()
            early.request("GET", "/")
        with contextlib.closing(Web(fake, "--idle", "5s", passed=[port])) as w:
            assert early.getresponse().read()
            for _ in range(4):
                time.sleep(2)  # the server ends a connection that is silent for 10 s
                early.request("GET", "/")  # a connection holds it, too
                assert early.getresponse().read()
            early.close()
            assert w.proc.wait(SECONDS) == 0


def test_passed_unix_socket_is_served(fake, tmp_path):
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(tmp_path / "web.sock"))
        s.listen()
        with contextlib.closing(Web(fake, passed=[s])) as w:
            assert w.base == "http://localhost"
            w.connect = lambda: unix_connection(tmp_path / "web.sock")
            assert "return" in w.login().run("query-version")


def test_unsuitable_passed_socket_is_told(fake, tmp_path):
    tls = certificate(tmp_path, "DNS:vms.cairn.test")
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.create_server(("0.0.0.0", 0)) as all_addresses, \
            socket.socket() as silent, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "web.sock"))
        unix.listen()
        for sockets, args, word in (([tcp, unix], [], "passes 2 sockets; pass one"), ([tcp], ["--listen", "127.0.0.1:0"], "neither --listen nor --unix"),
                                    ([all_addresses], [], "without TLS"), ([silent], [], "not a listening stream socket"),
                                    ([unix], tls, "TLS needs a TCP port"), ([tcp], ["--idle", "0s"], "--idle must be a time"),
                                    ([tcp], ["--idle", "5"], "--idle must be a time")):
            out, err = start(fake, *args, passed=sockets).communicate(timeout=SECONDS)
            assert word in err and not out, (word, err)


@pytest.mark.parametrize("args,word", [
    (["--listen", "0.0.0.0:0"], "TLS"), (["--listen", "[::]:0"], "TLS"), (["--listen", "127.0.0.1"], "ADDRESS:PORT"),
    (["--listen", "localhost:80"], "ADDRESS:PORT"), (["--listen", "127.0.0.1:0", "--unix", "/tmp/x"], "either"), (["--what"], "--what")])
def test_bad_options_are_told(fake, args, word):
    r = subprocess.run([os.path.join(BUILD, "cairn-web"), *args], env=fake.env, capture_output=True, text=True, timeout=SECONDS)
    assert r.returncode == 2 and word in r.stderr and not r.stdout


def test_port_in_use_is_told(fake, web):
    r = fake.cairn("web", "--listen", f"127.0.0.1:{web.port}", ok=False)
    assert "another program has this port" in r.stderr


def test_console_passes_output_and_input(kvm, guest, tmp_path):
    with contextlib.closing(Daemon(tmp_path)) as d, contextlib.closing(Web(d)) as web:
        web.login()
        d.define("vm1", boot={"kernel": guest("idle.elf")})
        r, text = web.ask("GET", "/console?vm=vm1&id=a")
        assert r.status == 503 and "not running" in text or "shut off" in text, text
        d.cairn("start", "vm1")
        out = web.send("GET", "/console?vm=vm1&id=a")
        seen = out.read1(1)
        assert seen == b"\0"
        while b"idle" not in seen:
            seen += out.read1()
        assert web.ask("POST", "/console?id=a", "hello")[0].status == 200
        while b"hello" not in seen:
            seen += out.read1()
        # Another session cannot write there, nor can another console have its id.
        assert web.ask("GET", "/console?vm=vm1&id=a")[0].status == 503
        assert web.ask("POST", "/console?id=b", "x")[0].status == 503
        first, web.headers = web.headers, {}
        web.login()
        assert web.ask("POST", "/console?id=a", "x")[0].status == 503
        web.headers = first
        assert web.ask("POST", "/console?id=a", "q")[0].status == 200  # the guest powers off
        while out.read1():
            pass
        until(lambda: web.ask("POST", "/console?id=a", "x")[0].status == 503)
        assert web.ask("GET", "/console?vm=vm1&id=")[0].status == 400
        assert web.ask("GET", "/console?vm=vm1&id=" + "a" * 33)[0].status == 400


def test_page_has_tls_beyond_loopback(fake, tmp_path):
    tls = certificate(tmp_path, "DNS:*.cairn.test", "DNS:vms.cairn.test", "IP:127.0.0.1")
    with contextlib.closing(Web(fake, "--listen", "0.0.0.0:0", *tls)) as w:
        assert w.base == f"https://vms.cairn.test:{w.port}"
        w.authority = tls[1]
        base = w.base = f"https://127.0.0.1:{w.port}"
        w.login()
        w.base = base
        assert w.set_cookie.startswith(f"__Host-cairn-web-{w.port}=") and w.set_cookie.endswith("; Secure")
        assert w.run("query-version")["return"]
        w.send("GET", "/events").read1()
        for host, status in ((f"vms.cairn.test:{w.port}", 200), (f"b.cairn.test:{w.port}", 200), (f"localhost:{w.port}", 421), (f"cairn.test:{w.port}", 421),
                             ("vms.cairn.test:1", 421), (f"[::1]:{w.port}", 421), ("[", 421), ("", 421), ("a" * 300 + f":{w.port}", 421)):
            assert w.ask("GET", "/", Host=host)[0].status == status, host
        # Pages of the same names without TLS are others.
        assert w.ask("POST", "/api", '{"execute": "query-version"}', Origin=f"http://127.0.0.1:{w.port}")[0].status == 403
        w.authority = None
        with pytest.raises((http.client.HTTPException, OSError)):
            w.ask("GET", "/")


def test_tls_names_what_is_wrong(fake, tmp_path):
    web, other, old = (certificate(tmp_path, "DNS:a", name=name, expired=name == "old") for name in ("web", "other", "old"))
    (tmp_path / "shared.key").write_bytes((tmp_path / "web.key").read_bytes())
    os.chmod(tmp_path / "shared.key", 0o640)

    def says(*args):
        r = subprocess.run([os.path.join(BUILD, "cairn-web"), "--listen", "127.0.0.1:0", *args], env=fake.env, capture_output=True, text=True,
                           timeout=SECONDS)
        assert r.returncode in (1, 2) and not r.stdout
        return r.stderr
    assert "TLS needs both --certificate and --key" in says(*web[:2]) and "TLS needs both" in says(*web[2:])
    assert "others may read or change this file; make it yours alone: chmod 600" in says(*web[:2], "--key", str(tmp_path / "shared.key"))
    assert "certificate and the given key do not match" in says(*web[:2], *other[2:])
    assert "has expired: no browser accepts it" in says(*old)
    assert "No such file" in says("--certificate", "none", *web[2:]) and "No such file" in says(*web[:2], "--key", "none")
    assert "--certificate" in says("--certificate", web[3], *web[2:])


def test_screen_passes_what_a_vnc_client_says(kvm, guest, tmp_path):
    with contextlib.closing(Daemon(tmp_path)) as d, contextlib.closing(Web(d)) as web:
        web.login()
        d.define("vm1", boot={"kernel": guest("interp.elf")}, screen=True)

        def refused():
            r, text = web.ask("GET", "/screen?vm=vm1&id=a")
            assert r.status == 503
            return text
        assert refused() == "VM 'vm1' has no VNC; set \"vnc\": true (cairn edit) for its next start"
        d.define("vm1", boot={"kernel": guest("interp.elf")}, screen=True, vnc=True)
        assert refused() == "VM 'vm1' shows no screen: it is off, or its cairn-vnc has ended"
        d.cairn("start", "vm1")
        out = web.send("GET", "/screen?vm=vm1&id=a")
        assert out.read(13) == b"\0RFB 003.008\n"

        def say(data):
            assert web.ask("POST", "/console?id=a", data)[0].status == 200
        say(b"RFB 003.008\n")
        assert out.read(2) == b"\1\1"
        say(b"\1")
        assert out.read(4) == bytes(4)
        say(b"\1")
        width, height = struct.unpack(">HH", out.read(24)[:4])
        assert (width, height) == (640, 480)
        d.cairn("destroy", "vm1")
        while out.read1():
            pass


def test_gone_browser_leaves_no_stream(fake, web):
    web.login()

    def threads():
        return len(os.listdir(f"/proc/{web.proc.pid}/task"))
    before = threads()
    streams = [web.send("GET", "/events") for _ in range(20)]
    assert threads() >= before + 19
    for r in streams:
        r.close()
        r.connection.close()
    until(lambda: threads() <= before)
