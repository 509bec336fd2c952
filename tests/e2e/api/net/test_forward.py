"""Forwards of VMs that run: forward-add, forward-remove, forward-list and --publish."""

import ipaddress
import json
import os
import re
import signal
import socket
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

import guestlib
from conftest import BUILD, Console, Daemon, QmpError, until
from daemonlib import as_nobody
from test_net import lan  # noqa: F401
from test_usernet import (  # noqa: F401 (fixtures)
    IDLE, answers, awaits, connect, daemon_for_all, define, free_port, host, libexec, listens, log, slirp, slirps, start, user)

pytestmark = pytest.mark.usefixtures("kvm")


def forwards(daemon, name, *args):
    return json.loads(daemon.cairn("forward-list", "--format", "json", *args, name).stdout)


def added(daemon, name, what, *args, ok=0):
    """Add a forward and return its port on the host."""
    r = daemon.cairn("forward-add", *args, name, what, ok=ok)
    return int(re.fullmatch(rf"{name}: (tcp|udp) [\d.]+:(\d+) leads to port \d+(?: of [\d.]+)?\n", r.stdout)[2])


def pending(daemon, name):
    """Return whether the next start has another definition than the running VM."""
    return daemon.qmp().run("vm-dump-definition", vm=name)["pending"]


def test_forwards_of_running_vm_change(host):  # noqa: F811
    first = free_port()
    c = start(host, "a", user(first))
    port = added(host, "a", "auto:80")
    assert "slirp: add tcp:-:80" in log(host, "a")
    for seed, p in enumerate((first, port)):
        with connect(p) as s:
            answers(c, s, 2 * seed)
    assert [line.split() for line in host.cairn("forward-list", "a").stdout.splitlines()[2:4]] == [
        ["net0", "tcp", f"127.0.0.1:{first}", ":22"], ["net0", "tcp", f"127.0.0.1:{port}", ":80"]]
    assert [(f["port"], f["to"]) for f in forwards(host, "a")] == [(first, 22), (port, 80)]
    assert [f["port"] for f in forwards(host, "a", "--inactive")] == [first]
    host.stop(signal.SIGKILL)
    host.start()
    assert [f["port"] for f in forwards(host, "a")] == [first, port]
    udp = added(host, "a", f"udp:0.0.0.0:{free_port(socket.SOCK_DGRAM)}:53", "--guest", "10.0.2.20")
    assert "slirp: add udp:10.0.2.20:53" in log(host, "a")
    with connect(port) as s:
        answers(c, s, 5)
        assert host.cairn("forward-remove", "a", str(first)).stdout == "Forward removed successfully\n"
        answers(c, s, 7)
    until(lambda: not listens(first))
    host.cairn("forward-remove", "a", f"udp:{udp}")
    assert [f["port"] for f in forwards(host, "a")] == [port]
    host.cairn("destroy", "a")
    host.cairn("start", "a")
    assert [f["port"] for f in forwards(host, "a")] == [first]
    until(lambda: listens(first) and not listens(port))


def test_forward_for_now_and_next_start(host):  # noqa: F811
    start(host, "a", user()).close()
    port = added(host, "a", "auto:22", "--live", "--config")
    assert [f["port"] for f in forwards(host, "a", "--inactive")] == [port]
    assert not pending(host, "a")
    host.cairn("forward-remove", "a", f"127.0.0.1:{port}", "--config")
    assert pending(host, "a") and listens(port)
    host.stop(signal.SIGKILL)
    host.start()  # the next daemon knows what the VM runs with
    assert pending(host, "a") and [f["port"] for f in forwards(host, "a")] == [port]
    assert forwards(host, "a", "--inactive") == []
    host.cairn("forward-add", "a", f"{port}:22", "--config")
    host.cairn("destroy", "a")
    assert "auto finds a free port for a VM that runs" in host.cairn("forward-add", "a", "auto:23", ok=2).stderr
    host.cairn("start", "a")
    assert listens(port)
    host.cairn("destroy", "a")
    host.cairn("forward-remove", "a", str(port))
    assert forwards(host, "a") == []


def test_clones_of_a_group_publish_ports(host):  # noqa: F811
    for i, name in enumerate("ab", 1):
        start(host, name, user(mac=f"52:54:00:00:00:0{i}")).close()
    r = host.cairn("group-clone", "a", "b", "--publish", "auto:22", "--publish", "udp:auto:53", "--name-pattern", "%s2")
    ports = re.findall(r"^([ab]2): (tcp|udp) 127.0.0.1:(\d+) leads to port (22|53)$", r.stdout, re.M)
    assert [(n, kind, to) for n, kind, _, to in ports] == [(n, *p) for n in ("a2", "b2") for p in (("tcp", "22"), ("udp", "53"))]
    tcp = {n: int(p) for n, kind, p, _ in ports if kind == "tcp"}
    assert len({p for *_, p, _ in ports}) == 4 and all(listens(p) for p in tcp.values())
    assert forwards(host, "a2", "--inactive") == []
    host.stop(signal.SIGKILL)
    host.start()
    assert all(listens(p) and p in [f["port"] for f in forwards(host, n)] for n, p in tcp.items())
    result = json.loads(host.cairn("group-clone", "a", "--publish", f"{(one := free_port())}:22", "--format", "json").stdout)
    assert [(p["name"], p["port"], p["to"]) for p in result["clones"][0]["published"]] == [("a-clone", one, 22)] and listens(one)
    r = host.cairn("group-clone", "a", "b", "--publish", f"{one}:22", "--name-pattern", "%s3", ok=False).stderr
    assert f"several clones cannot share port {one}" in r and "--publish auto:22" in r
    with pytest.raises(QmpError, match="^[A-Za-z]+: VM 'a' has no interface 'net9'"):
        host.qmp().run("group-clone", vms=["a", "b"], name_pattern="%s4", forwards=[{"to": 22, "interface": "net9"}])
    assert "is forwarded to VM 'a-clone'" in host.cairn("group-clone", "b", "--publish", f"{one}:22", ok=False).stderr
    assert sorted(host.cairn("list", "--all", "--name").stdout.split()) == ["a", "a-clone", "a2", "b", "b2"]


def test_start_and_live_clones_publish_ports(host):  # noqa: F811
    define(host, "a", user())
    r = host.cairn("start", "a", "--publish", "auto:22", "--publish", "udp:auto:53")
    assert len(re.findall(r"^a: (?:tcp|udp) 127.0.0.1:\d+ leads to port (?:22|53)$", r.stdout, re.M)) == 2
    c = Console(host, "a")
    c.line()
    r = host.cairn("clone", "--live", "a", "b", "--count", "3", "--publish", "auto:22", "--publish", "auto:80")
    ports = re.findall(r"^(b-\d): tcp 127.0.0.1:(\d+) leads to port (22|80)$", r.stdout, re.M)
    assert [(n, to) for n, _, to in ports] == [(f"b-{i}", to) for i in (1, 2, 3) for to in ("22", "80")]
    assert len({p for _, p, _ in ports}) == 6 and all(listens(int(p)) for _, p, _ in ports)
    # The forwards are stored before the job ends, so a daemon that is killed then forgets none.
    q = host.qmp()
    job = q.run("vm-fork", vm="a", name="g", count=8, forwards=[{"to": 22}])["job"]
    q.event("JOB_STATUS_CHANGE", id=job, status="concluded")
    assert all("live" in json.loads((host.state / f"vms/g-{i}/state.json").read_text()) for i in range(1, 9))
    r = json.loads(host.cairn("clone", "--live", "a", "d", "--publish", "auto:22", "--format", "json").stdout)
    assert [(p["name"], p["to"]) for p in r["published"]] == [("d", 22)] and listens(r["published"][0]["port"])
    assert forwards(host, "d", "--inactive") == []
    port = r["published"][0]["port"]
    assert "live" in json.loads((host.state / "vms/d/state.json").read_text())
    host.stop(signal.SIGKILL)
    host.start()
    assert [f["port"] for f in forwards(host, "d")] == [port] and listens(port)
    host.cairn("forward-remove", "d", str(port))
    assert forwards(host, "d") == [] and not listens(port)
    # Several clones cannot share a port; nothing is made.
    r = host.cairn("clone", "--live", "a", "e", "--count", "2", "--publish", f"{port}:22", ok=False)
    assert "several clones cannot share port" in r.stderr and "--publish auto:22" in r.stderr
    taken = json.loads(host.cairn("clone", "--live", "a", "f", "--publish", "auto:22", "--format", "json").stdout)["published"][0]["port"]
    assert "is forwarded to VM 'f'" in host.cairn("clone", "--live", "a", "e", "--publish", f"{taken}:22", ok=False).stderr
    with socket.create_server(("127.0.0.1", port)):
        assert "is used by another program" in host.cairn("clone", "--live", "a", "e", "--publish", f"{port}:22", ok=False).stderr
    q = host.qmp()
    q.send(json.dumps({"execute": "vm-fork", "arguments": {"vm": "a", "name": "e", "job-id": "j", "forwards": [{}] * 17}}).encode())
    assert "at most 16 for each interface" in q.answer()["error"]["desc"]
    assert not [n for n in host.cairn("list", "--all", "--name").stdout.split() if n.startswith("e")]
    host.cairn("clone", "--live", "a", "e", "--publish", f"{port}:22", "--paused")
    assert [f["port"] for f in forwards(host, "e")] == [port] and listens(port)
    host.cairn("destroy", "e")
    until(lambda: not listens(port))
    host.cairn("start", "e")
    assert forwards(host, "e") == []
    for wrong in (["clone", "a", "e", "--publish", "auto:22"], ["start", "a", "b-1", "--publish", "1:2"],
                  ["start", "a", "--publish", "22"], ["clone", "--live", "a", "e", "--publish", "x:22"]):
        assert "--publish" in host.cairn(*wrong, ok=2).stderr


def test_wrong_forwards_change_nothing(host):  # noqa: F811
    port = free_port()
    start(host, "a", user(port)).close()
    start(host, "b", user(mac="52:54:00:00:00:02")).close()
    define(host, "off", user(mac="52:54:00:00:00:03"))
    define(host, "none")
    host.cairn("start", "none")

    def refused(*args, ok):
        return host.cairn("forward-add", *args, ok=ok).stderr

    assert f"tcp 127.0.0.1:{port} is forwarded to VM 'a'; shut that VM down first" in refused("b", f"{port}:22", ok=6)
    assert f"tcp 127.0.0.1:{port} is also used by" in refused("a", f"{port}:23", ok=2)
    with socket.create_server(("127.0.0.1", 0)) as s:
        taken = s.getsockname()[1]
        assert f"tcp 127.0.0.1:{taken} is used by another program" in refused("a", f"{taken}:22", ok=6)
    assert "this host has no such address" in refused("a", "192.0.2.1:8080:22", ok=3)
    assert "without an interface of type user" in refused("none", "auto:22", ok=3)
    assert "without an interface 'net9' of type user" in refused("a", "auto:22", "--interface", "net9", ok=3)
    assert "is not an address that the guest can have" in refused("a", "auto:22", "--guest", "10.9.9.9", ok=2)
    assert "does not run; change the forwards of its next start with" in refused("off", "1:22", "--live", ok=4)
    for wrong in ("auto:0", "auto:70000", "0:22", "70000:22"):
        refused("a", wrong, ok=2)
    for wrong in ("22", "a:b", "tcp:1:2:3:4", "x:22"):
        assert "FORWARD must be like" in refused("a", wrong, ok=2)
    q = host.qmp()
    for args in ({"to": -1}, {"to": 22, "protocol": "sctp"}, {"to": 22, "address": "localhost"}, {"to": 22, "port": 1 << 40}):
        with pytest.raises(QmpError):
            q.run("forward-add", vm="a", **args)
    assert f"without a forward of tcp port {taken}; see: cairn forward-list a" in host.cairn("forward-remove", "a", str(taken), ok=3).stderr
    assert "without a forward of udp port" in host.cairn("forward-remove", "a", f"udp:{port}", ok=3).stderr
    for i in range(15):
        added(host, "a", f"auto:{i + 100}")
    assert "has 16 forwards, which is the most" in refused("a", "auto:22", ok=2)
    assert len(forwards(host, "a")) == 16 and listens(port)


def test_cairn_slirp_that_does_not_change_its_forwards(host):  # noqa: F811
    start(host, "a", user()).close()
    pid = slirp(host)
    os.kill(pid, signal.SIGSTOP)
    assert "does not answer; it may be of an earlier release" in host.cairn("forward-add", "a", "auto:22", ok=None).stderr
    assert forwards(host, "a") == []
    # Nobody knows which forwards it has. When it answers, it has the one that it was to add, and so has the list.
    assert "does not answer" in host.cairn("forward-add", "a", "auto:23", ok=None).stderr
    os.kill(pid, signal.SIGCONT)
    until(lambda: [f["to"] for f in forwards(host, "a")] == [22])
    port = added(host, "a", "auto:24")
    host.cairn("forward-remove", "a", str(forwards(host, "a")[0]["port"]))
    assert [f["to"] for f in forwards(host, "a")] == [24] and listens(port)
    os.kill(pid, signal.SIGKILL)
    host.qmp()
    until(lambda: not slirps(host))
    assert "its cairn-slirp has ended" in host.cairn("forward-add", "a", "auto:22", ok=None).stderr


def test_vm_is_undefined_while_its_forwards_change(tmp_path, libexec):  # noqa: F811
    """The answers come when the VM is gone: cairn-slirp does not answer, and is killed after the VM."""
    d = Daemon(tmp_path, env={**libexec, "MALLOC_PERTURB_": "165"})  # no freed memory looks as before
    try:
        start(d, "a", user()).close()
        pid = slirp(d)
        os.kill(pid, signal.SIGSTOP)
        with ThreadPoolExecutor() as pool:
            changes = [pool.submit(d.cairn, "forward-add", "a", f"auto:{to}", ok=None) for to in (22, 23)]
            until(lambda: any(c.done() for c in changes))  # one was refused, because the other one is under way
            d.cairn("destroy", "a")
            d.cairn("undefine", "a")
            said = sorted(c.result(30).stderr for c in changes)
        assert "is under way" in said[0] and "another user has undefined the VM meanwhile" in said[1], said
        lines = [x for x in d.qmp().run("query-audit")["lines"] if x["command"] == "forward-add"]
        assert [x["vm"] for x in lines] == ["a", "a"] and all(x["outcome"] != "ok" for x in lines)
    finally:
        d.close()


def test_vm_that_sleeps_has_forwards_of_its_definition(tmp_path, libexec):  # noqa: F811
    """A forward that was added to the running VM ends with the process; a removed one is back."""
    port = free_port()
    d = Daemon(tmp_path, env=libexec)
    try:
        start(d, "a", user(port), idle=IDLE).close()
        until(lambda: awaits(d, port))
        assert listens(port)
        until(lambda: d.info("a")["state"] == "running")
        c = connect(port)  # keeps the VM awake
        late = added(d, "a", "auto:22")
        d.cairn("forward-remove", "a", str(port))
        c.close()
        until(lambda: d.info("a")["state"] == "saved")
        until(lambda: not listens(late))
        until(lambda: awaits(d, port))
        assert listens(port)
        until(lambda: d.info("a")["state"] == "running")  # that has woken it
    finally:
        d.close()


def test_port_is_opened_with_rights_of_asker(lan):  # noqa: F811
    with daemon_for_all(lan) as d:
        start(d, "a", user()).close()
        d.cairn("grant", "owner", "--user", "nobody", "--vm", "a")
        refused = as_nobody(d, ["forward-add", {"vm": "a", "port": 80, "to": 22}])[0]
        assert "ports below 1024 require root" in refused["error"]["desc"]
        assert "return" in as_nobody(d, ["forward-add", {"vm": "a", "port": 8080, "to": 22}])[0]
        added(d, "a", "80:22")
        d.cairn("grant", "operator", "--user", "nobody", "--vm", "a")
        assert as_nobody(d, ["forward-remove", {"vm": "a", "port": 80}])[0]["error"]["class"] == "PermissionDenied"
        assert [f["port"] for f in forwards(d, "a")] == [8080, 80]


def test_real_cairn_slirp_listens_at_new_port(tmp_path):
    d = Daemon(tmp_path)
    try:
        start(d, "a", user()).close()
        port = added(d, "a", "auto:22")
        until(lambda: listens(port))
        d.cairn("forward-remove", "a", str(port))
        until(lambda: not listens(port))
        assert os.path.samefile(f"/proc/{slirp(d)}/exe", os.path.join(BUILD, "cairn-slirp"))
    finally:
        d.close()


def test_clones_answer_http_on_ports_of_their_own(daemon):
    """The guests do what they do in the benchmark fork-serve. A guest answers again after its client has disconnected,
    and the source continues."""
    daemon.define("src", memory="32M", boot={"kernel": guestlib.bare("interp")}, interfaces=[user({"port": (port := free_port()), "to": 80})])
    daemon.cairn("start", "src")
    c = Console(daemon, "src")
    c.run("net open 0")
    address = c.run("net dhcp")[0]
    c.run(f"tcp listen {int(ipaddress.ip_address(address))} 80")
    c.sock.sendall(b"tcp http\n")
    c.close()
    r = daemon.cairn("clone", "--live", "src", "c", "--count", "3", "--publish", "auto:80", "--format", "json")
    ports = {p["name"]: p["port"] for p in json.loads(r.stdout)["published"]}
    assert len(set(ports.values()) | {port}) == 4
    for p in [port, *ports.values()] * 2:
        with urllib.request.urlopen(f"http://127.0.0.1:{p}/", timeout=30) as answer:
            assert (answer.status, answer.read()) == (200, b"served\n")
