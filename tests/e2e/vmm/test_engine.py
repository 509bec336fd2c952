"""`cairn run` as a child of a service manager: sd_notify, the watchdog, SIGTERM."""

import os
import socket

import pytest

import guestlib

pytestmark = pytest.mark.usefixtures("kvm")


def messages(sock, until):
    """Return the messages up to one that has this line."""
    got = []
    while True:
        got.append(sock.recv(4096).decode().split("\n"))
        if until in got[-1]:
            return got


@pytest.mark.parametrize("abstract", [False, True])
def test_service_manager_gets_notifications(tmp_path, abstract):
    name = f"@cairn-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(name.replace("@", "\0", 1))
        env = {**os.environ, "NOTIFY_SOCKET": name, "WATCHDOG_USEC": "200000"}
        with guestlib.Guest(guestlib.definition(guest="idle"), env=env) as g:
            g.expect("idle")
            assert ["READY=1", "STATUS=running"] in messages(sock, "READY=1")
            for _ in range(3):
                messages(sock, "WATCHDOG=1")
            g.terminate()
            messages(sock, "STOPPING=1")
            assert g.wait() == guestlib.EXIT_OK


def test_run_works_when_notify_socket_is_missing(tmp_path):
    env = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "nobody")}
    with guestlib.Guest(guestlib.definition(guest="idle"), env=env) as g:
        g.expect("idle")
        g.terminate()
        assert g.wait() == guestlib.EXIT_OK
