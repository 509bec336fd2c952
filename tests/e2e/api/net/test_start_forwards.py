"""`cairn start --publish`: the VM starts with all of the forwards, or not at all. VM processes and cairn-slirp are
stand-ins."""

import json
import os
import re
import shutil
import socket

import pytest

from conftest import BUILD, FAKE_VM, Daemon, free_port, until
from daemonlib import as_nobody, shared  # noqa: F401
from test_idle import asleep
from test_network import fake_ssh
from test_usernet import awaits, connect, libexec, listens, user  # noqa: F401


@pytest.fixture
def host(tmp_path, libexec):  # noqa: F811
    d = Daemon(tmp_path, vm_program=FAKE_VM, env=libexec)
    yield d
    d.close()


def forwards(d, *args):
    return [(f["port"], f["to"]) for f in json.loads(d.cairn("forward-list", "a", "--format", "json", *args).stdout)]


def test_vm_has_all_ports_until_it_is_off(host):
    fixed, one = free_port(), free_port()
    host.define("a", interfaces=[user(fixed)])
    r = host.cairn("start", "a", "-p", f"{one}:80", "--publish", "udp:auto:53")
    auto = int(re.search(r"^a: udp 127.0.0.1:(\d+) leads to port 53$", r.stdout, re.M)[1])
    assert f"a: tcp 127.0.0.1:{one} leads to port 80\n" in r.stdout and str(fixed) not in r.stdout
    assert forwards(host) == [(fixed, 22), (one, 80), (auto, 53)] and listens(one) and listens(fixed)
    host.stop()
    host.start()
    assert forwards(host) == [(fixed, 22), (one, 80), (auto, 53)]
    host.cairn("destroy", "a")
    assert forwards(host, "--inactive") == [(fixed, 22)]
    until(lambda: not listens(one))
    host.cairn("start", "a")
    assert forwards(host) == [(fixed, 22)]


@pytest.mark.parametrize("why", ["program", "vm", "itself", "interface"])
def test_start_fails_as_a_whole_if_a_port_cannot_be_opened(host, why):
    one, two = free_port(), free_port()
    host.define("a", interfaces=[user(two)] if why == "itself" else [] if why == "interface" else [user()])
    if why == "vm":
        host.define("b", interfaces=[user(two, mac="52:54:00:00:00:02")])
        host.cairn("start", "b")
    with socket.create_server(("127.0.0.1", two)) if why == "program" else socket.socket():
        r = host.cairn("start", "a", "--publish", f"{one}:22", "--publish", f"{two}:80", ok=False)
    assert "error: Failed to start domain 'a'" in r.stderr
    assert {"program": "is used by another program", "vm": "is forwarded to VM 'b'", "itself": str(two),
            "interface": "cairn attach-interface a user"}[why] in r.stderr
    assert host.info("a")["state"] == "shutoff" and not listens(one) and not r.stdout
    assert forwards(host) == ([(two, 22)] if why == "itself" else [])
    if why != "interface":
        host.cairn("start", "a")
        assert (one, 22) not in forwards(host)


def test_vm_that_sleeps_with_open_ports_starts_with_more(host):
    """The daemon holds the port of a saved VM. A start that fails leaves the VM asleep, and the port wakes it."""
    fixed, one, taken = free_port(), free_port(), free_port()
    host.define("a", interfaces=[user(fixed)], idle={"after": "1s", "action": "save"})
    host.cairn("start", "a")
    asleep(host, "saved", "a")
    until(lambda: awaits(host, fixed))
    with socket.create_server(("127.0.0.1", taken)):
        assert "is used by another program" in host.cairn("start", "a", "--publish", f"{taken}:22", ok=False).stderr
    assert host.info("a")["state"] == "saved"
    until(lambda: awaits(host, fixed))
    host.cairn("start", "a", "--publish", f"{one}:80")
    assert forwards(host) == [(fixed, 22), (one, 80)]
    asleep(host, "saved", "a")
    until(lambda: awaits(host, fixed) and not listens(one))
    with connect(fixed):
        until(lambda: host.info("a")["state"] != "saved")


def test_operator_starts_without_forwards_only(shared):  # noqa: F811
    shutil.copy(os.path.join(BUILD, "cairn-slirp"), shared.tmp)
    shared.define("a", interfaces=[user()])
    shared.cairn("grant", "operator", "a", "--user", "nobody")
    start = {"vm": "a", "forwards": [{"to": 22}]}
    refused, started = as_nobody(shared, ["vm-start", start], ["vm-start", {**start, "forwards": []}])
    assert "forwards: to forward ports requires the role owner" in refused["error"]["desc"] and "return" in started


def test_publish_takes_one_vm(host):
    host.define("a", interfaces=[user()])
    for wrong in ["a*"], ["--all"], ["a", "--dry-run"]:
        assert "--publish takes one VM" in host.cairn("start", *wrong, "--publish", "auto:22", ok=2).stderr


# ---- ssh ----

@pytest.mark.parametrize("address, told", [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("127.0.0.2", "127.0.0.2")])
def test_ssh_goes_by_a_published_port(host, tmp_path, address, told):
    ssh = fake_ssh(host, tmp_path)
    port = free_port()
    host.define("a", cmdline="no-agent", interfaces=[user({"port": free_port(), "to": 80}, {"port": port, "to": 22, "protocol": "udp"},
                                                          {"port": port, "to": 22, "address": address})])
    host.cairn("start", "a")
    uuid = host.cairn("domuuid", "a").stdout.strip()
    assert ssh("carol@a", "ls") == ["-o", f"HostName={told}", "-o", f"HostKeyAlias=cairn-{uuid}", "-o",
                                    "StrictHostKeyChecking=accept-new", "-o", "LogLevel=ERROR", "-o", f"Port={port}", "-l", "carol",
                                    "--", "cairn-network", "ls"]
    host.cairn("forward-remove", "a", f"tcp:{address}:{port}")
    assert "no vsock device" in ssh("a", ok=1)
    host.cairn("forward-add", "a", f"{port}:22")
    assert f"Port={port}" in ssh("a")
