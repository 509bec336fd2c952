"""Logs of VMs: a VM's process writes into a pipe, and cairn-log writes the files, also while no daemon runs. The
process holds no file that it could fill the file system with."""

import os
import signal
import socket
import struct
import subprocess

import pytest

from conftest import BUILD, Console, QmpError, has_ended, open_files, status_confined, until

pytestmark = pytest.mark.usefixtures("kvm")


def start(d, guest, name="vm1", **keys):
    d.define(name, boot={"kernel": guest("interp.elf")}, **keys)
    d.cairn("start", name)
    console = Console(d, name)
    until(lambda: console.line() == "interp")
    return console


def folder(d, name="vm1"):
    return d.state / "vms" / name


def test_process_has_no_file_of_its_log(daemon, guest):
    console = start(daemon, guest)
    opened = open_files(daemon.info("vm1")["pid"])
    assert not [f for f in opened if f.startswith(str(folder(daemon)))], opened
    assert "info vm1: running (booted)\n" in daemon.log_of("vm1")
    console.close()


def test_log_and_reason_are_kept_while_no_daemon_runs(daemon, guest):
    """The first daemon's cairn-log serves the VM until its end, and then ends itself."""
    console = start(daemon, guest)
    old, pid = daemon.log_process(), daemon.info("vm1")["pid"]
    daemon.stop(signal.SIGKILL)
    console.sock.sendall(b"crash triple\n")
    console.close()
    until(lambda: has_ended(pid) and has_ended(old))
    assert "ended (triple fault)" in (folder(daemon) / "log").read_text()
    daemon.start()
    assert daemon.info("vm1")["reason"] == "triple fault"
    daemon.cairn("start", "vm1")
    assert daemon.log_process() != old and daemon.log_of("vm1").count("running (booted)\n") == 2


def test_end_of_a_vm_that_changed_its_process_is_known(daemon, guest):
    """The new process gets the end file from the daemon, because the old one holds none."""
    console = start(daemon, guest)
    daemon.cairn("restart-process", "vm1")
    old, pid = daemon.log_process(), daemon.info("vm1")["pid"]
    daemon.stop(signal.SIGKILL)
    console.sock.sendall(b"crash triple\n")
    console.close()
    until(lambda: has_ended(pid) and has_ended(old))
    daemon.start()
    assert daemon.info("vm1")["reason"] == "triple fault"
    assert "ended (triple fault)" in (folder(daemon) / "log").read_text()


def test_killed_log_process_is_started_again(daemon, guest):
    """The daemon keeps the pipes of VMs that run, so the next cairn-log writes what they say meanwhile and later. It
    tries again however often cairn-log is killed."""
    console = start(daemon, guest)
    for n in range(1, 3):
        old = daemon.log_process()
        os.kill(old, signal.SIGSTOP)  # what the VM says from now on is in its pipe
        daemon.cairn("suspend", "vm1")
        os.kill(old, signal.SIGKILL)
        until(lambda: (folder(daemon) / "log").read_text().count("paused (user)") == n)
        assert daemon.log_process() != old
        assert not os.path.exists(f"/proc/{old}")  # nor a zombie
        daemon.cairn("resume", "vm1")
        until(lambda: daemon.log_of("vm1").count("running (user)") == n)
    pipe = os.readlink(f"/proc/{daemon.info('vm1')['pid']}/fd/2")
    start(daemon, guest, "vm2").close()
    assert "running (booted)\n" in daemon.log_of("vm2")
    assert "warning cairnd/log: cairn-log has ended; starting it again" in daemon.log.read_text()
    assert "lose the further lines" not in daemon.log.read_text()
    assert pipe in open_files(daemon.proc.pid)
    daemon.cairn("destroy", "vm1")
    until(lambda: pipe not in open_files(daemon.proc.pid))
    console.close()


def test_log_process_that_stands_still_delays_no_vm(daemon, guest):
    console = start(daemon, guest)
    pid = daemon.log_process()
    os.kill(pid, signal.SIGSTOP)
    try:
        start(daemon, guest, "vm2").close()
        assert console.run("echo alive") == ["alive"]
        daemon.cairn("suspend", "vm1")
        daemon.cairn("destroy", "vm1")
    finally:
        os.kill(pid, signal.SIGCONT)
    assert "ended (user)" in daemon.log_of("vm1")
    assert "running (booted)\n" in daemon.log_of("vm2")
    console.close()


def test_log_gives_no_orders_to_a_terminal(tmp_path):
    """A process that a guest has taken over chooses each byte, and where a write ends: controls in UTF-8, also in two
    pieces, and bytes that are controls where no UTF-8 is expected."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pieces = [b"a\xc2", b"\x9b31m \x9b31m \xe2\x82", b"\xac \xe0\x82\x9b \x1b[m\t\n"]
    shown = [b"a\xc2", b"?31m ?31m \xe2\x82", b"\xac ??? ?[m\t\n"]
    its.setblocking(False)
    log = tmp_path / "log"
    log.touch()
    reader, writer = os.pipe()
    place = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    with subprocess.Popen(["bash", "-c", f'exec "{BUILD}/cairn-log" 3<&{its.fileno()}'], pass_fds=[its.fileno()]) as p:
        its.close()
        socket.send_fds(ours, [struct.pack("<HHIQ", 1, 1, 3, 0) + b"vm1"], [reader, place])
        for i, piece in enumerate(pieces):
            os.write(writer, piece)
            until(lambda i=i: log.read_bytes() == b"".join(shown[:i + 1]))
        for fd in (reader, writer, place):
            os.close(fd)
        ours.close()
        assert p.wait(50) == 0


# ---- cairn log ----

def pages(q, name="vm1"):
    """The text of all pages, and how many pages it takes."""
    text, n, page = "", 0, {"more": True}
    while page["more"]:
        page = q.run("vm-log", vm=name, **({"from": page["next"]} if n else {}))
        text, n = text + page["text"], n + 1
        assert not page["lost"] and len(page["text"].encode()) <= 16384
    return text, n, page["next"]


def test_work_on_images_of_a_vm_that_is_off_logs_no_end_of_the_vm(daemon, tmp_path):
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", tmp_path / "disk.qcow2", "1M"], check=True)
    daemon.define("vm1", disks=[{"path": str(tmp_path / "disk.qcow2"), "format": "qcow2"}])
    for name in ("s1", "s2"):
        daemon.cairn("snapshot-create-as", "vm1", name)
        until(lambda: not daemon.children())
    until(lambda: "snapshot 's2'" in daemon.cairn("log", "vm1").stdout)  # cairn-log writes it a moment later
    assert "ended" not in daemon.cairn("log", "vm1").stdout


def test_log_is_read_page_by_page(daemon, guest):
    daemon.define("vm1")
    q, place = daemon.qmp(), folder(daemon)
    assert pages(q)[:2] == ("", 1)  # before the first start
    assert daemon.cairn("log", "vm1").stdout == ""
    old = "".join(f"{i} \u20ac \"{'x' * (i % 90)}\n" for i in range(900))
    (place / "log.1").write_text(old)
    (place / "log").write_text("y" * 50000 + "\u20ac" * 9000 + "\nlast\n")
    text, n, end = pages(q)
    assert text == old + (place / "log").read_text() and n > 6
    assert daemon.cairn("log", "vm1").stdout == text
    assert daemon.cairn("log", "vm1", "--tail", "1").stdout == "last\n"
    assert daemon.cairn("log", "vm1", "--tail", "901").stdout == text.split("\n", 1)[1]
    assert daemon.cairn("log", "vm1", "--tail", "100000").stdout == text
    # The file has become full, and two more began meanwhile.
    with open(place / "log", "a") as f:
        f.write("more\n")
    os.rename(place / "log", place / "log.1")
    (place / "log").write_text("new\n")
    page = q.run("vm-log", vm="vm1", **{"from": end})
    assert (page["text"], page["more"], page["lost"]) == ("more\n", True, False)
    page = q.run("vm-log", vm="vm1", **{"from": page["next"]})
    assert (page["text"], page["more"], page["lost"]) == ("new\n", False, False)
    (place / "log.1").unlink()
    page = q.run("vm-log", vm="vm1", **{"from": end})
    assert (page["text"], page["more"], page["lost"]) == ("new\n", False, True)
    for wrong in ("", "1", "1-", "a-b", "1-2x"):
        with pytest.raises(QmpError, match="is not the `next` of a page"):
            q.run("vm-log", vm="vm1", **{"from": wrong})
    assert "--tail must be a number of lines" in daemon.cairn("log", "vm1", "--tail", "0", ok=2).stderr


def test_log_is_followed_and_says_why_a_start_failed(daemon, guest):
    console = start(daemon, guest)
    assert "running (booted)" in daemon.log_of("vm1")
    p = subprocess.Popen([os.path.join(BUILD, "cairn"), "log", "-f", "--tail", "1", "vm1"], env=daemon.env,
                         stdout=subprocess.PIPE, text=True)
    try:
        assert "running (booted)" in p.stdout.readline()
        daemon.cairn("suspend", "vm1")
        assert "paused (user)" in p.stdout.readline()
        console.close()
        daemon.cairn("destroy", "vm1")
        assert any("ended (user)" in line for line in iter(p.stdout.readline, ""))
        daemon.cairn("undefine", "vm1")
        assert p.wait(50) == 3
    finally:
        p.kill()
        p.communicate()


@pytest.mark.usefixtures("sandbox")
def test_log_process_has_no_privileges(daemon):
    status = status_confined(daemon.log_process())
    assert status["CapEff"] == status["CapPrm"] == "0" * 16
    assert status["NoNewPrivs"] == "1" and status["Seccomp"] == "2"
