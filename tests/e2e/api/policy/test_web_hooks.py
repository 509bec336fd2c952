"""Web hooks: events that the daemon sends to URLs, by cairn-webhook alone and under a daemon with fake_vm. The receiver
is an HTTP server of the test on loopback."""

import base64
import contextlib
import errno
import hashlib
import hmac
import http.server
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import time

import pytest

import certlib
from conftest import BUILD, QmpError, until
from daemonlib import as_nobody, audit, shared  # noqa: F401
from otherslib import NOBODY
from test_slow_disk import PRELOAD
from test_timetable import define

PROGRAM = os.path.join(BUILD, "cairn-webhook")
SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()


class Receiver:
    """An HTTP server. answers: what to say to the requests, one after the other, and then `otherwise`: a status,
    "close", "hang", or bytes to send as they are. tls: the names of the files with certificate and key."""

    def __init__(self, *answers, host="127.0.0.1", tls=None):
        self.answers, self.otherwise = list(answers), 200
        self.got = []
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.got.append((self.path, dict(self.headers), body, time.time()))
                answer = receiver.answers.pop(0) if receiver.answers else receiver.otherwise
                if answer == "close":
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                elif answer == "hang":
                    receiver.over.wait(60)
                elif isinstance(answer, bytes):
                    with contextlib.suppress(OSError):
                        self.wfile.write(answer)
                    self.close_connection = True
                else:
                    self.send_response(answer)
                    self.send_header("Location", f"http://127.0.0.1:{receiver.port}/other")
                    self.send_header("Content-Length", "2")
                    self.end_headers()
                    self.wfile.write(b"ok")

            do_GET = do_POST

            def log_message(self, *args):
                pass

        class Server(http.server.ThreadingHTTPServer):
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
            daemon_threads = True

            def handle_error(self, request, client_address):
                pass

        self.over = threading.Event()
        self.server = Server((host, 0), Handler)
        self.port = self.server.server_address[1]
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"http{'s' if tls else ''}://{'[' + host + ']' if ':' in host else host}:{self.port}/hook?a=b"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self):
        self.over.set()
        self.server.shutdown()
        self.server.server_close()

    def events(self):
        return [json.loads(body) for _, _, body, _ in self.got]


@pytest.fixture
def receiver():
    with contextlib.closing(Receiver()) as r:
        yield r


def check_signature(headers, body, key=bytes(range(32))):
    """Check the signature as the specification Standard Webhooks defines it."""
    told = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    assert headers["webhook-signature"] == "v1," + base64.b64encode(hmac.new(key, told, hashlib.sha256).digest()).decode()
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60


# ---- cairn-webhook ----

def deliver(url, private=True, secret=SECRET, body='{"a":1}', env=None, wrap=()):
    """Run cairn-webhook. Return its exit status and its line."""
    with tempfile.TemporaryFile() as f:
        f.write(json.dumps({"url": url, "secret": secret, "id": "msg_1", "body": body, "private": private}).encode())
        f.seek(0)
        r = subprocess.run([*wrap, PROGRAM], stdin=f, text=True, capture_output=True, timeout=50, env=env)
    assert r.stdout.count("\n") == 1 and not r.stderr, r
    return r.returncode, r.stdout.strip()


@pytest.mark.parametrize("secret, key", [(SECRET, bytes(range(32))), ("a-secret-of-one-s-own-making", b"a-secret-of-one-s-own-making"), ("whsec_!", b"whsec_!")])
def test_delivery_is_signed(receiver, secret, key):
    assert deliver(receiver.url, secret=secret) == (0, "HTTP 200")
    (path, headers, body, _), = receiver.got
    assert path == "/hook?a=b" and body == b'{"a":1}'
    assert headers["webhook-id"] == "msg_1" and headers["Content-Type"] == "application/json" and "Expect" not in headers
    check_signature(headers, body, key)


@pytest.mark.parametrize("answer, status, says", [
    (204, 0, "HTTP 204"), (500, 75, "HTTP 500"), (503, 75, "HTTP 503"), (429, 75, "HTTP 429"), (404, 1, "HTTP 404"), (410, 1, "HTTP 410"),
    (302, 1, "HTTP 302: redirects are not followed"), (307, 1, "HTTP 307: redirects"), ("close", 75, "Empty reply"), (b"nonsense\r\n\r\n", 1, ""),
    (b"HTTP/1.1 200 OK\r\n\r\n" + bytes(1 << 20), 0, "HTTP 200"), (b"HTTP/1.1 200 OK\r\nX: " + b"x" * (1 << 20), 0, "HTTP 200"),
], ids=range(12))
def test_answer_decides(receiver, answer, status, says):
    receiver.answers = [answer]
    code, line = deliver(receiver.url)
    assert code == status and says in line
    assert len(receiver.got) == 1


def test_server_that_hangs_is_left(receiver):
    receiver.answers = ["hang"]
    begun = time.monotonic()
    code, line = deliver(receiver.url)
    assert code == 75 and "timed out" in line and 8 < time.monotonic() - begun < 30


def test_closed_port_is_tried_again():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        assert deliver(f"http://127.0.0.1:{s.getsockname()[1]}/")[0] == 75


@pytest.mark.parametrize("host", [
    "127.0.0.1", "127.1", "2130706433", "0x7f.1", "0177.0.0.1", "0.0.0.0", "localhost", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]",
    "[::127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "169.254.169.254", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
    "100.64.0.1", "[fe80::1]", "[fc00::1]", "[fd00:ec2::254]", "[2001:db8::1]", "224.0.0.1", "255.255.255.255", "[ff02::1]", "192.0.2.1", "198.18.0.1"])
def test_address_that_is_not_public_is_refused(host):
    with contextlib.closing(Receiver(host="127.0.0.1")) as r:
        code, line = deliver(f"http://{host}:{r.port}/", private=False)
        assert code == 1 and "is no public address; only an admin may name others" in line, line
        assert r.got == []


@pytest.mark.parametrize("host, listens", [("127.1", "127.0.0.1"), ("[::1]", "::1"), ("[::ffff:127.0.0.1]", "127.0.0.1"), ("localhost", "127.0.0.1")])
def test_admin_may_name_it(host, listens):
    with contextlib.closing(Receiver(host=listens)) as r:
        assert deliver(f"http://{host}:{r.port}/") == (0, "HTTP 200")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_name_that_leads_inside_is_refused(tmp_path, receiver):
    """The name has a public address and one of this host, as in an attack by DNS rebinding."""
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 inside.example\n::1 inside.example\n192.168.7.7 both.example\n127.0.0.1 both.example\n::ffff:127.0.0.1 mapped.example\n")
    hosts.chmod(0o644)
    wrap = ["unshare", "-m", "sh", "-c", f'mount --bind {hosts} /etc/hosts && exec "$@"', "sh"]
    for name in ("inside", "both", "mapped"):
        code, line = deliver(f"http://{name}.example:{receiver.port}/", private=False, wrap=wrap)
        assert code == 1 and "is no public address" in line, line
        assert receiver.got == []
    assert deliver(f"http://both.example:{receiver.port}/", wrap=wrap)[0] == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_public_address_that_does_not_answer_is_tried_again(tmp_path):
    """The name has a private address, too, which is refused."""
    hosts = tmp_path / "hosts"
    hosts.write_text("9.9.9.9 split.example\n192.168.7.7 split.example\n")
    hosts.chmod(0o644)
    wrap = ["unshare", "-mn", "sh", "-c", f'mount --bind {hosts} /etc/hosts && ip link set lo up && ip address add 9.9.9.9/32 dev lo && exec "$@"', "sh"]
    code, line = deliver("http://split.example:81/", private=False, wrap=wrap)
    assert code == 75 and "onnect" in line, line


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/", "gopher://127.0.0.1/", "unix:///run/x", "http://", "http://a b/"])
def test_other_urls_are_refused(url):
    assert deliver(url)[0] == 1


def test_environment_names_no_proxy(receiver):
    proxy = "http://127.0.0.1:1/"
    env = {"http_proxy": proxy, "ALL_PROXY": proxy, "HTTP_PROXY": proxy, "HOME": "/root"}
    assert deliver(receiver.url, env=env) == (0, "HTTP 200")


def test_program_gives_up_its_rights(receiver):
    receiver.answers = ["hang"]
    with tempfile.TemporaryFile() as f:
        f.write(json.dumps({"url": receiver.url, "secret": SECRET, "id": "msg_1", "body": "{}", "private": True}).encode())
        f.seek(0)
        with subprocess.Popen([PROGRAM], stdin=f, stdout=subprocess.PIPE) as p:
            until(lambda: receiver.got)
            status = dict(line.split(":\t", 1) for line in open(f"/proc/{p.pid}/status").read().splitlines() if ":\t" in line)
            p.kill()
    assert status["NoNewPrivs"] == "1" and status["Seccomp"] == "2" and int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
    if os.geteuid() == 0:
        assert "0" not in status["Uid"].split() and "0" not in status["Gid"].split() and status["Groups"].strip() == ""


# ---- certificates ----

@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """Make an authority, and return its file and a function that makes certificates."""
    folder = tmp_path_factory.mktemp("certificates")

    def make(name, of="127.0.0.1", expired=False):
        certlib.certificate(folder, name, f"IP:{of}", "ca", expired)
        return str(folder / f"{name}.crt"), str(folder / f"{name}.key")
    certlib.authority(folder, "ca")
    folder.chmod(0o700)  # cairn-webhook reads the file before it gives up root's rights
    return str(folder / "ca.crt"), make


def trusting(path):
    return {**os.environ, "SSL_CERT_FILE": path}


def test_certificate_of_a_trusted_authority_is_accepted(certificates):
    authority, make = certificates
    with contextlib.closing(Receiver(tls=make("good"))) as r:
        assert deliver(r.url, env=trusting(authority)) == (0, "HTTP 200")
        (_, headers, body, _), = r.got
        check_signature(headers, body)


@pytest.mark.parametrize("case, made, says", [
    ("unknown", {}, "unable to get local issuer certificate; to trust its authority, add that to the host's certificates, or"),
    ("expired", {"expired": True}, "certificate has expired"), ("wrong host", {"of": "127.0.0.2"}, "does not match|no alternative certificate subject name matches"),
    ("no file", {}, "SSL_CERT_FILE: .*absent: No such file"), ("no certificates", {}, "SSL_CERT_FILE: the file has no certificates")], ids=["unknown", "expired", "wrong host", "no file", "no certificates"])
def test_other_certificates_fail_and_get_no_event(certificates, tmp_path, case, made, says):
    authority, make = certificates
    other = {"unknown": "", "no file": str(tmp_path / "absent"), "no certificates": __file__}
    with contextlib.closing(Receiver(tls=make(case.replace(" ", "-"), **made))) as r:
        code, line = deliver(r.url, env=trusting(other.get(case, authority)))
        assert code == 75 and re.search(says, line) and ("to trust" in line) == (case == "unknown"), line
        assert r.got == []


# ---- under the daemon ----

@pytest.fixture
def vm(fake):
    define(fake)
    return fake


def hook(d, receiver, *args, name="h", secret=SECRET, private=True):
    path = d.tmp / "secret"
    path.write_text(secret + "\n")
    return d.cairn("web-hook", name, "--url", receiver.url, "--secret-file", str(path), *(["--private"] if private else []), *args)


def hooks(d):
    return json.loads(d.cairn("web-hook-list", "--format", "json").stdout)


def types(receiver):
    return [e["type"] for e in receiver.events()]


def test_events_of_vms_are_delivered(vm, receiver):
    define(vm, "vm2")
    assert hook(vm, receiver).stdout == "Web hook 'h' set\n"
    hook(vm, receiver, "--vm", "vm2", "--event", "stopped,crashed", name="of-vm2")
    vm.cairn("start", "vm1")
    vm.cairn("snapshot-create-as", "vm1", "s1")
    vm.cairn("destroy", "vm1")
    until(lambda: len(receiver.got) == 3)
    assert sorted(types(receiver)) == ["snapshot", "started", "stopped"]
    for _, headers, body, _ in receiver.got:
        check_signature(headers, body)
    started = next(e for e in receiver.events() if e["type"] == "started")
    assert (started["event"], started["data"]["vm"], started["data"]["state"]) == ("VM_STATE_CHANGE", "vm1", "running")
    assert len({headers["webhook-id"] for _, headers, _, _ in receiver.got}) == 3
    vm.cairn("start", "vm2")
    os.kill(vm.info("vm2")["pid"], 9)
    until(lambda: len(receiver.got) == 6)
    assert sorted(types(receiver)[3:]) == ["crashed", "crashed", "started"]
    until(lambda: sorted((h["name"], h.get("vm"), h["waiting"], h["delivered"], h.get("last")) for h in hooks(vm)) == [
        ("h", None, 0, 5, "HTTP 200"), ("of-vm2", "vm2", 0, 1, "HTTP 200")])
    vm.cairn("undefine", "vm2", "--remove-all-storage")
    assert [h["name"] for h in hooks(vm)] == ["h"]
    vm.cairn("web-hook-remove", "h")
    assert hooks(vm) == []


def test_event_is_tried_again_with_its_id(vm, receiver):
    receiver.answers = [500, "close"]
    hook(vm, receiver, "--event", "started")
    vm.cairn("start", "vm1")
    until(lambda: len(receiver.got) == 3)
    assert len({(headers["webhook-id"], body) for _, headers, body, _ in receiver.got}) == 1
    times = [at for *_, at in receiver.got]
    assert times[1] - times[0] > 0.9 and times[2] - times[1] > 2.9
    until(lambda: hooks(vm)[0]["delivered"] == 1)
    assert (hooks(vm)[0]["waiting"], hooks(vm)[0]["failed"]) == (0, 0)


def test_event_that_is_refused_is_counted(vm, receiver):
    receiver.answers = [404]
    hook(vm, receiver, "--event", "started")
    vm.cairn("start", "vm1")
    until(lambda: hooks(vm)[0]["failed"] == 1)
    assert hooks(vm)[0]["last"] == "HTTP 404" and hooks(vm)[0]["waiting"] == 0
    assert "web hook h: an event was not delivered: HTTP 404" in vm.log.read_text()
    row = vm.cairn("web-hook-list").stdout.splitlines()[2].split()
    assert row == ["h", "-", receiver.url, "started", "0", "0", "1", "0", "HTTP", "404"]


def test_queue_survives_the_daemon(vm, receiver):
    def delivered():
        h, = hooks(vm)
        return h["delivered"], h["waiting"]
    receiver.otherwise = 500
    hook(vm, receiver, "--event", "started,stopped")
    vm.cairn("start", "vm1")
    until(lambda: hooks(vm)[0].get("last") == "HTTP 500")
    vm.stop()
    before = len(receiver.got)
    receiver.otherwise = 200
    vm.start()
    until(lambda: delivered() == (1, 0))
    assert len(receiver.got) > before and len({(headers["webhook-id"], body) for _, headers, body, _ in receiver.got}) == 1
    before = len(receiver.got)
    receiver.otherwise = 500
    vm.cairn("destroy", "vm1")
    queue = vm.state / "webhook-queue.json"
    until(lambda: [json.loads(e["body"])["type"] for e in json.loads(queue.read_text())["queues"][0]["queue"]] == ["stopped"])
    vm.stop(signal.SIGKILL)
    receiver.otherwise = 200
    vm.start()
    until(lambda: delivered() == (2, 0))
    assert {(e["type"], got[1]["webhook-id"]) for e, got in zip(receiver.events()[before:], receiver.got[before:])} == {
        ("stopped", receiver.got[-1][1]["webhook-id"])}
    assert (vm.state / "webhooks.json").stat().st_mode & 0o777 == 0o600 and queue.stat().st_mode & 0o777 == 0o600


def test_daemon_passes_its_authorities_on(vm, certificates):
    authority, make = certificates
    with contextlib.closing(Receiver(tls=make("daemon"))) as r:
        hook(vm, r)
        assert "issuer certificate; to trust its authority" in vm.cairn("web-hook-test", "h", ok=7).stderr
        vm.cairn("start", "vm1")
        until(lambda: "issuer certificate" in hooks(vm)[0].get("last", "") and hooks(vm)[0]["waiting"] == 1)
        vm.stop()
        vm.env |= {"SSL_CERT_FILE": authority}
        vm.start()
        until(lambda: types(r) == ["started"] and hooks(vm)[0]["waiting"] == 0)
        assert hooks(vm)[0]["last"] == "HTTP 200"


def test_server_that_hangs_holds_no_other_hook_and_its_queue_is_bounded(vm, receiver):
    with contextlib.closing(Receiver(*["hang"] * 99)) as slow:
        hook(vm, slow, "--event", "started,stopped", name="slow")
        hook(vm, receiver, "--event", "started")
        q, begun = vm.qmp(), time.monotonic()
        for i in range(40):
            q.run("vm-start", vm="vm1")
            q.run("vm-destroy", vm="vm1")
        until(lambda: len(receiver.got) == 40)
        seen = {h["name"]: h for h in hooks(vm)}
        assert seen["slow"]["waiting"] == 64 and seen["slow"]["dropped"] == 16
        assert len(slow.got) <= 1 + (time.monotonic() - begun) / 10  # each try takes so many seconds
        vm.cairn("web-hook-remove", "slow")
        assert [h["name"] for h in hooks(vm)] == ["h"]


def test_secret_is_shown_once_at_most(vm, receiver):
    hook(vm, receiver)
    out = vm.cairn("web-hook", "made", "--private", "--url", receiver.url).stdout
    made = re.fullmatch(r"Web hook 'made' set\nIts secret, which nothing shows again: (whsec_[A-Za-z0-9+/]{43}=)\n", out)[1]
    vm.cairn("start", "vm1")
    until(lambda: len(receiver.got) == 2)
    shown = vm.cairn("web-hook-list", "--format", "json").stdout + "".join(p.read_text() for p in vm.state.glob("*.log")) + vm.log.read_text()
    for secret in (SECRET, made):
        assert secret not in shown and secret[6:] not in shown
    keys = [base64.b64decode(s[6:]) for s in (SECRET, made)]
    for _, headers, body, _ in receiver.got:
        with contextlib.suppress(AssertionError):
            check_signature(headers, body, keys[0])
            continue
        check_signature(headers, body, keys[1])


def test_hook_is_tested(vm, receiver):
    hook(vm, receiver)
    assert vm.cairn("web-hook-test", "h").stdout == "Web hook 'h' got the event: HTTP 200\n"
    assert receiver.events() == [{"type": "test", "event": "WEB_HOOK_TEST", "data": {"hook": "h"}}]
    receiver.answers = [500]
    assert "HTTP 500" in vm.cairn("web-hook-test", "h", ok=7).stderr
    assert (hooks(vm)[0]["waiting"], hooks(vm)[0]["failed"], len(receiver.got)) == (0, 0, 2)
    assert "has no web hook 'h'" in vm.cairn("web-hook-test", "h", "--vm", "vm1", ok=3).stderr


@pytest.mark.parametrize("args, says", [
    (["h", "--url", "ftp://a/"], "must begin with https:// or http://"), (["h", "--url", "http:///x"], "names no host"),
    (["h", "--url", "http://user:pw@a/"], "no user and password"), (["h", "--url", "http://a/\x01"], "no URL may have"),
    (["h", "--url", "http://a/" + "x" * 1000], "at most 1000"), (["a b", "--url", "http://a/"], "is no name of a web hook"),
    (["h", "--url", "http://a/", "--event", "boom"], '"boom" is no event'), (["h", "--url", "http://a/", "--event", ","], '"" is no event'),
    (["h"], "needs --url"), (["h", "--url", "http://127.0.0.1:8080/x"], "127.0.0.1 is no public address; only an admin may name others, with: cairn web-hook --private"),
    (["h", "--url", "http://10.1"], "10.1 is no public"), (["h", "--url", "https://[fd00::1]:1?x"], "fd00::1 is no public"),
    (["h", "--url", "https://Localhost/"], "Localhost is no public")], ids=range(13))
def test_nonsense_is_refused_in_one_sentence(vm, args, says):
    r = vm.cairn("web-hook", *args, ok=2)
    assert says in r.stderr and r.stderr.count("\n") == 2 and hooks(vm) == []


@pytest.mark.parametrize("secret, says", [("short", "give 24 to 256"), ("whsec_a-secret-of-one-s-own-making", "make one with: openssl rand -base64 32")])
def test_wrong_secret_is_refused(vm, receiver, secret, says):
    (vm.tmp / "s").write_text(secret + "\n")
    assert says in vm.cairn("web-hook", "h", "--url", receiver.url, "--private", "--secret-file", str(vm.tmp / "s"), ok=2).stderr


def test_change_that_is_not_stored_has_no_effect(vm, receiver):
    fails = vm.tmp / "fails"
    vm.stop()
    vm.env |= {"LD_PRELOAD": PRELOAD, "SLOW_SYNC_OF": "/webhooks.json", "SLOW_SYNC_FAIL": str(errno.EIO), "SLOW_SYNC_FAIL_IF": str(fails)}
    vm.start()
    hook(vm, receiver, "--event", "started")
    stored = (vm.state / "webhooks.json").read_text()
    fails.touch()
    with contextlib.closing(Receiver()) as other:
        q = vm.qmp()
        for command, args in (("web-hook-set", {"name": "h", "url": other.url, "private": True}),
                              ("web-hook-set", {"name": "new", "url": other.url, "private": True}), ("web-hook-remove", {"name": "h"})):
            with pytest.raises(QmpError, match="webhooks.json: Input/output error"):
                q.run(command, **args)
        assert [(h["name"], h["url"], h["events"]) for h in hooks(vm)] == [("h", receiver.url, ["started"])]
        vm.cairn("start", "vm1")
        until(lambda: hooks(vm)[0]["delivered"] == 1)
        assert types(receiver) == ["started"] and other.got == [] and (vm.state / "webhooks.json").read_text() == stored
        # The hook of a VM that is undefined meanwhile does not come back.
        fails.unlink()
        define(vm, "vm2")
        hook(vm, other, "--vm", "vm2", name="of-vm2")
        fails.touch()
        vm.cairn("undefine", "vm2")
        until(lambda: [h["name"] for h in hooks(vm)] == ["h"])
        fails.unlink()
        hook(vm, receiver, name="new")
        vm.stop()
        vm.start()
        assert sorted(h["name"] for h in hooks(vm)) == ["h", "new"]
        vm.cairn("web-hook-remove", "h")
        assert [h["name"] for h in hooks(vm)] == ["new"]


def test_hook_stays_when_its_vm_gets_another_name(vm, receiver):
    def of_vms():
        return [(h["name"], h["vm"]) for h in hooks(vm)]

    hook(vm, receiver, "--vm", "vm1", "--event", "started")
    vm.cairn("domrename", "vm1", "web")
    assert of_vms() == [("h", "web")]
    vm.cairn("start", "web")
    vm.cairn("clone", "--live", "web", "try")
    hook(vm, receiver, "--vm", "try", name="of-try")
    # The hooks belong to the UUID, which the clone takes over; it gives up its own one.
    vm.cairn("promote", "try")
    assert of_vms() == [("h", "web")]
    vm.stop()
    vm.start()
    assert of_vms() == [("h", "web")]
    until(lambda: types(receiver) == ["started"])
    vm.cairn("destroy", "web")
    vm.cairn("start", "web")
    until(lambda: types(receiver) == ["started"] * 2)


def test_changes_that_are_under_way_do_not_mix(vm, receiver):
    """Each change starts from the result of the change before."""
    go = vm.tmp / "go"
    vm.stop()
    vm.env |= {"LD_PRELOAD": PRELOAD, "SLOW_SYNC_OF": "/webhooks.json", "SLOW_SYNC_UNTIL": str(go)}
    vm.start()
    clients = [vm.qmp() for _ in range(3)]
    for q, name, url in zip(clients, "aba", ("/1", "/2", "/3")):
        q.send(json.dumps({"execute": "web-hook-set", "arguments": {"name": name, "url": receiver.url + url, "private": True}}).encode())
    assert hooks(vm) == []
    go.touch()
    assert ["secret" in q.answer()["return"] for q in clients] == [True] * 3
    shown = sorted((h["name"], h["url"]) for h in hooks(vm))
    assert [name for name, _ in shown] == ["a", "b"]
    vm.stop()
    vm.start()
    assert sorted((h["name"], h["url"]) for h in hooks(vm)) == shown


def test_damaged_file_is_no_hook(vm, receiver):
    hook(vm, receiver)
    path = vm.state / "webhooks.json"
    vm.stop()
    kept = json.loads(path.read_text())
    good = kept["hooks"][0]
    kept["hooks"] = [good, {**good, "name": ""}, {**good, "url": "file:///etc/passwd"}, {**good, "uid": -1}, {**good, "events": []}, {**good, "secret": 1}, 5]
    path.write_text(json.dumps(kept))
    vm.start()
    assert [h["name"] for h in hooks(vm)] == ["h"] and "6 of its web hooks are invalid" in vm.log.read_text()


# ---- users ----

@pytest.fixture
def users(shared):  # noqa: F811
    """A daemon that other users can reach, and that has cairn-webhook."""
    shared.stop()
    shutil.copy(PROGRAM, shared.tmp)
    shared.start()
    shared.cairn("grant", "owner", "mine", "--user", "nobody")
    return shared


def set_args(receiver, **more):
    return {"name": "h", "url": receiver.url, "secret": SECRET, **more}


def test_owner_has_web_hooks_of_own_vm_to_public_addresses(users, receiver):
    hook(users, receiver)
    answers = as_nobody(
        users, ["web-hook-set", set_args(receiver)], ["web-hook-set", set_args(receiver, vm="other")], ["web-hook-set", set_args(receiver, vm="mine", private=True)],
        ["web-hook-set", set_args(receiver, vm="mine")],
        # Only libcurl reads such an address.
        ["web-hook-set", set_args(receiver, vm="mine", url=receiver.url.replace("127.0.0.1", "127.0.0.%31"))],
        ["web-hook-test", {"vm": "mine", "name": "h"}], ["web-hook-test", {"name": "h"}], ["query-web-hooks", {}])
    assert [a.get("error", {}).get("class") for a in answers] == [
        *["PermissionDenied"] * 3, "InvalidArgument", None, "HostError", "PermissionDenied", None], answers
    assert "127.0.0.1 is no public address; only an admin" in answers.pop(3)["error"]["desc"]
    assert "127.0.0.1 is no public address; only an admin" in answers[4]["error"]["desc"] and receiver.got == []
    assert [(h["vm"], h["uid"]) for h in answers[6]["return"]["hooks"]] == [("mine", NOBODY)]
    assert sorted((h.get("vm", ""), h["uid"]) for h in hooks(users)) == [("", 0), ("mine", NOBODY)]
    rows = [r for r in audit(users) if r["command"] == "web-hook-set"]
    assert {r["uid"] for r in rows} == {0, NOBODY} and all(r["arguments"]["secret"] == "(masked)" for r in rows)
    assert all(r["arguments"]["url"].endswith("/(masked)") for r in rows)


def test_maker_without_role_gets_nothing(users, receiver):
    """An admin who may name this host loses the role."""
    users.cairn("grant", "admin", "--user", "nobody")
    answers = as_nobody(users, ["web-hook-set", set_args(receiver, private=True)], ["web-hook-test", {"name": "h"}])
    assert answers[1]["return"]["outcome"] == "HTTP 200" and len(receiver.got) == 1
    users.cairn("revoke", "--user", "nobody")
    users.cairn("start", "mine")
    until(lambda: hooks(users)[0]["failed"] == 1)
    assert hooks(users)[0]["last"] == "the user who made the web hook has lost the role that it needs" and len(receiver.got) == 1


def test_user_has_a_rate_and_a_number_of_hooks(users, receiver):
    users.cairn("grant", "admin", "--user", "nobody")
    first = as_nobody(users, *[["web-hook-set", set_args(receiver, private=True, name=f"h{i}", events=["stopped"])] for i in range(17)])
    assert ["error" in a for a in first] == [False] * 16 + [True] and "you have 16 web hooks" in first[16]["error"]["desc"]
    q, begun = users.qmp(), time.monotonic()
    for _ in range(6):
        q.run("vm-start", vm="mine")
        q.run("vm-destroy", vm="mine")
    until(lambda: len(receiver.got) >= 60)
    assert len(receiver.got) <= 60 + 2 * (time.monotonic() - begun)  # 60 at once, and two a second
    rows = hooks(users)
    assert all(h["dropped"] == 0 for h in rows)
    assert sum(h["waiting"] for h in rows) > 0 or time.monotonic() - begun > 10


def test_user_with_many_events_displaces_none_of_others(users, receiver):
    """All queues together hold 1024 events: those of one user, whose receiver hangs."""
    users.cairn("grant", "admin", "--user", "nobody")
    with contextlib.closing(Receiver()) as hanging:
        hanging.otherwise = "hang"
        answers = as_nobody(users, *[["web-hook-set", set_args(hanging, private=True, name=f"h{i}")] for i in range(16)])
        assert all("return" in a for a in answers)
        q = users.qmp()
        while sum(h["waiting"] for h in hooks(users)) < 1024:
            q.run("vm-start", vm="mine")
            q.run("vm-destroy", vm="mine")
        hook(users, receiver, "--vm", "other", name="roots")
        users.cairn("start", "other")
        until(lambda: types(receiver) == ["started"])
        rows = {h["name"]: h for h in hooks(users)}
        assert rows["roots"]["dropped"] == 0 and sum(h["waiting"] for h in rows.values()) <= 1024


def test_servers_that_hang_delay_no_other_hook_of_their_maker(vm, receiver):
    with contextlib.closing(Receiver()) as hanging:
        hanging.otherwise = "hang"
        for i in range(3):
            hook(vm, hanging, name=f"slow{i}")
        hook(vm, receiver, "--event", "started,stopped")
        q = vm.qmp()
        for i in range(20):
            q.run("vm-start", vm="vm1")
            q.run("vm-destroy", vm="vm1")
        until(lambda: len(receiver.got) == 40)
        assert {h["name"]: h for h in hooks(vm)}["h"]["dropped"] == 0


def test_users_whose_servers_hang_delay_no_others(users, receiver):
    """Three users could take all six places, and their events are older."""
    with contextlib.closing(Receiver()) as hanging:
        hanging.otherwise = "hang"
        for user in range(NOBODY - 3, NOBODY):
            users.cairn("grant", "admin", "--user", str(user))
            answers = as_nobody(users, *[["web-hook-set", set_args(hanging, private=True, name=f"h{user}-{i}")] for i in range(16)], user=user)
            assert all("return" in a for a in answers)
        q = users.qmp()
        for i in range(8):
            q.run("vm-start", vm="mine")
            q.run("vm-destroy", vm="mine")
        until(lambda: len(hanging.got) == 4)  # the last two places are for users who have none
        hook(users, receiver, "--vm", "other", name="roots")
        users.cairn("start", "other")
        until(lambda: types(receiver) == ["started"])
        assert len(hanging.got) == 4  # no place became free meanwhile
