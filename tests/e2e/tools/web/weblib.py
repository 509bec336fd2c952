"""cairn-web as a browser sees it."""

import copy
import http.client
import json
import os
import re
import ssl
import subprocess

import certlib
import guestlib
from conftest import BUILD

SECONDS = 50 * guestlib.SLOW


def start(daemon, *args, passed=None, program=None, wrapper=(), **more):
    """Start cairn-web. passed: sockets that it gets as from a service manager. wrapper: a command that becomes it."""
    command = [*wrapper, program or os.path.join(BUILD, "cairn-web"), *args]
    if passed:
        # LISTEN_PID is known only in the process itself.
        move = "".join(f" {3 + i}<&{s.fileno()}" for i, s in enumerate(passed))
        command = ["bash", "-c", f'exec{move}; LISTEN_PID=$$ LISTEN_FDS={len(passed)} exec "$@"', "bash", *command]
        more["pass_fds"] = [s.fileno() for s in passed]
    return subprocess.Popen(command, env=daemon.env, text=True, **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more})


def certificate(folder, *names, name="web", expired=False):
    """Make a certificate for these names, and its key. Return the options that name both files."""
    certlib.certificate(folder, name, ",".join(names), expired=expired)
    os.chmod(folder / f"{name}.key", 0o600)
    return ["--certificate", str(folder / f"{name}.crt"), "--key", str(folder / f"{name}.key")]


class Web:
    """A cairn-web for a daemon. Its requests have the headers that its own page would send; None leaves one out."""

    def __init__(self, daemon, *args, **more):
        self.proc = start(daemon, *args, **more)
        self.headers = {}
        self.seconds = SECONDS  # for each answer
        self.authority = None  # file with the certificate to trust
        self.next_address()

    def next_address(self):
        self.address = self.proc.stdout.readline().strip()
        assert self.address, self.proc.stderr.read()
        self.base, self.token = re.fullmatch(r"(https?://[^/]*)/(?:#token=([0-9a-f]{64}))?", self.address).groups()
        self.port = int(self.base.rpartition(":")[2]) if self.base.count(":") > 1 else 0

    def connect(self):
        if self.authority:
            return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=self.seconds, context=ssl.create_default_context(cafile=self.authority))
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=self.seconds)

    def send(self, method, path, body=None, **headers):
        """Send a request and return its connection's answer, not read yet."""
        body = body.encode() if isinstance(body, str) else body
        all_headers = {**({"Origin": self.base} if method == "POST" else {}), **self.headers,
                       **{k.replace("_", "-"): v for k, v in headers.items()}}
        c = self.connect()
        c.putrequest(method, path, skip_host="Host" in all_headers)
        if method == "POST" and "Content-Length" not in all_headers:
            c.putheader("Content-Length", len(body or b""))
        for name, value in all_headers.items():
            if value is not None:
                c.putheader(name, value)
        c.endheaders(body)
        r = c.getresponse()
        r.connection = c
        return r

    def ask(self, *args, **headers):
        r = self.send(*args, **headers)
        text = r.read().decode()
        r.connection.close()
        return r, text

    def take_session(self, r, text):
        assert r.status == 200, text
        self.headers = {"Cookie": r.headers["Set-Cookie"].partition(";")[0], "X-Cairn-Key": json.loads(text)["key"]}
        self.set_cookie = r.headers["Set-Cookie"]

    def login(self):
        self.take_session(*self.ask("POST", "/login", self.token))
        self.next_address()
        return self

    def user(self, name, password="right"):
        """Log in with a password; return a browser of its own for that."""
        other = copy.copy(self)
        other.headers = {}
        other.take_session(*other.ask("POST", "/login", f"{name}\n{password}"))
        return other

    def api(self, request, status=200):
        r, text = self.ask("POST", "/api", json.dumps(request))
        assert r.status == status, text
        return json.loads(text)

    def run(self, name, **args):
        return self.api({"execute": name, "arguments": args})

    def close(self):
        self.proc.kill()
        self.proc.communicate()
