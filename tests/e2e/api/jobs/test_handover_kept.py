"""State that a handover (cairn restart-process) keeps besides the guest: the consoles' output and clients,
figures, and requests that wait."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import threading

import pytest

from conftest import BUILD, FAKE_VM, Console, Daemon, QmpError, has_ended, library, until
from test_handover import goes_on, hold, held, job_of, restart, taking_over, vm  # noqa: F401 (held, vm are fixtures)


# Figures of the present process (docs/man/cairn.1 says so), and those of images, which may shrink.
OF_A_PROCESS = re.compile(r"\.name|\.halted|\.delay|in-flight|latency_histogram|cpu\.(user|system)")
OF_AN_IMAGE = re.compile(r"\.(path|allocation|physical)$")


def figures(d):
    """Return all figures of `cairn domstats` that only grow, also over a handover."""
    r = d.cairn("domstats", "--cpu-total", "--vcpu", "--block", "--interface", "vm1").stdout
    pairs = [line.strip().split("=") for line in r.splitlines() if "=" in line]
    return {key: int(value) for key, value in pairs if not (OF_A_PROCESS.search(key) or OF_AN_IMAGE.search(key))}


def console(d, history=False):
    q = d.qmp()
    q.run("vm-console", vm="vm1", history=history)
    c = Console(d, "vm1", q.fds.pop())
    q.close()
    return c


def history(d):
    """Return the output that a new client gets. The guest is idle, so it ends with the last answer."""
    c = console(d, history=True)
    c.sock.sendall(b"echo end-of-history\n")
    text = ""
    while not text.endswith("end-of-history\nok\n"):
        text += c.sock.recv(65536).decode().replace("\r", "")
    c.close()
    return text


def test_output_of_console_is_kept(vm):  # noqa: F811
    c = console(vm)
    for i in range(3):
        c.run(f"echo before-{i}")
    c.close()
    was = history(vm)
    assert "interp" in was and "before-2" in was
    assert restart(vm)["way"] == "handover"
    assert history(vm).startswith(was)
    assert restart(vm)["way"] == "handover"
    assert history(vm).startswith(was)


def test_full_history_is_kept(vm):  # noqa: F811
    """The guest has written more than the console keeps."""
    c = console(vm)
    for i in range(350):
        c.run("echo " + f"{i:04d}" * 50)
    was = history(vm)
    assert 65536 <= len(was) < 65600 and "interp" not in was
    assert restart(vm)["way"] == "handover"
    assert was[100:] in history(vm)
    c.close()


def test_client_of_console_stays_attached(vm):  # noqa: F811
    clients = [console(vm) for _ in range(3)]
    clients[1].sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    for n in range(2):
        assert restart(vm)["way"] == "handover"
        clients[n].run(f"echo from-{n}")
        for i in {0, 1, 2} - {n}:
            while clients[i].line() != f"from-{n}":
                pass
            assert clients[i].line() == "ok"
    for c in clients:
        c.close()


def test_input_during_handover_reaches_guest(held):  # noqa: F811
    """Clients type while the VM is handed over: one stays, the other one hangs up."""
    stays, leaves = console(held), console(held)
    id, old, new = hold(held)
    leaves.sock.sendall(b"echo typed-by-the-one-who-left\n")
    leaves.close()
    (held.tmp / "go").touch()
    assert "error" not in job_of(held, id)
    while stays.line() != "typed-by-the-one-who-left":
        pass
    assert stays.line() == "ok"
    stays.run("echo typed-afterwards")
    stays.close()


def test_input_during_failed_handover_reaches_guest(held):  # noqa: F811
    stays = console(held)
    id, old, new = hold(held)
    stays.sock.sendall(b"echo typed-meanwhile\n")
    held.qmp().run("job-cancel", id=id)
    (held.tmp / "go").touch()
    assert job_of(held, id)["error-class"] == "Cancelled"
    while stays.line() != "typed-meanwhile":
        pass
    assert stays.line() == "ok"
    stays.close()


def test_figures_are_kept(vm):  # noqa: F811
    vm.figures("vm1")
    before = figures(vm)
    assert before["block.0.wr.reqs"] >= 32 and before["block.0.fl.reqs"] and before["cpu.time"]
    for _ in range(2):
        assert restart(vm)["way"] == "handover"
        vm.figures("vm1")
        after = figures(vm)
        assert after.keys() == before.keys()
        assert not {key: (before[key], after[key]) for key in before if after[key] < before[key]}
        goes_on(vm)
        before = figures(vm)


# ---- requests that wait for the guest's agent ----

def waiting(d, *args):
    """Begin a request, and return when the VM's process has it."""
    before = d.log_of("vm1").count("the agent has request")
    p = subprocess.Popen([os.path.join(BUILD, "cairn"), *args], env=d.env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    until(lambda: d.log_of("vm1").count("the agent has request") > before)
    return p


def test_request_that_reads_is_asked_again(fake):
    fake.define("vm1", cmdline="hands-over agent-after=1", guest_agent=True)
    fake.cairn("start", "vm1")
    p = waiting(fake, "domifaddr", "vm1")
    assert json.loads(fake.cairn("restart-process", "vm1", "--format", "json").stdout)[0]["way"] == "handover"
    out, err = p.communicate(timeout=60)
    assert p.returncode == 0 and "192.0.2.7/24" in out, err


def test_request_that_changes_something_says_that_it_may_be_done(fake):
    fake.define("vm1", cmdline="hands-over agent-after=1", guest_agent=True)
    fake.cairn("start", "vm1")
    p = waiting(fake, "shutdown", "--mode", "agent", "vm1")
    assert json.loads(fake.cairn("restart-process", "vm1", "--format", "json").stdout)[0]["way"] == "handover"
    out, err = p.communicate(timeout=60)
    assert p.returncode and ("the VM was handed over to a new process before the request was answered; it may have been "
                             "carried out") in err, err
    assert fake.cairn("domstate", "vm1").stdout == "running\n"


@pytest.mark.parametrize("words, sign", [("", "is lost; connecting again"), (" half-closes", "paused")], ids=["closed", "half-closed"])
def test_request_that_the_old_process_has_not_got_goes_to_the_new_one(fake, tmp_path, words, sign):
    ends = tmp_path / "ends"
    fake.define("vm1", cmdline=f"hands-over handover-ends={ends}{words}")
    fake.cairn("start", "vm1")
    old, q = fake.info("vm1")["pid"], fake.qmp()
    job = fake.cairn("restart-process", "--no-wait", "vm1").stdout.strip()
    until(lambda: sign in fake.log.read_text() + fake.info("vm1")["state"])
    q.send(json.dumps({"execute": "vm-console", "arguments": {"vm": "vm1", "history": False}}).encode())
    assert fake.info("vm1")["pid"] == old
    ends.touch()
    assert "error" not in job_of(fake, job)
    assert "error" not in q.answer()
    with socket.socket(fileno=q.fds.pop()) as sock:
        assert sock.recv(100) == b"fake guest\r\n"
    assert fake.info("vm1")["pid"] != old
    q.close()


def test_request_at_any_moment_of_a_handover_is_done_or_refused(vm):  # noqa: F811
    """Nobody is told that a request may have been carried out."""
    over, errors = threading.Event(), []

    def ask():
        q = vm.qmp()
        while not over.is_set():
            try:
                q.run("vm-console", vm="vm1", history=False)
                os.close(q.fds.pop())
            except QmpError as e:
                errors.append(str(e))
        q.close()

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for t in threads:
        t.start()
    for _ in range(10):
        assert restart(vm)["way"] == "handover"
    over.set()
    for t in threads:
        t.join()
    assert [e for e in errors if "being handed over to a new process; try again" not in e] == []
    assert errors


def successor(listening, ret):
    """Run the process to which another one hands its VM over."""
    with listening, listening.accept()[0] as sock:
        ret.append(subprocess.Popen([FAKE_VM, "--take-over", str(sock.fileno())], pass_fds=[sock.fileno()]))


def test_new_daemon_follows_a_handover_that_came_before_its_query_was_read(fake, tmp_path):
    moves, new = tmp_path / "moves", []
    fake.define("vm1", cmdline=f"leaves-query={moves}")
    fake.cairn("start", "vm1")
    old = fake.info("vm1")["pid"]
    fake.stop(signal.SIGKILL)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listening.bind(str(moves))
    listening.listen()
    listening.settimeout(60)
    thread = threading.Thread(target=successor, args=(listening, new))
    thread.start()
    fake.start()
    thread.join()
    with new[0]:
        info = fake.info("vm1")
        assert info["state"] == "running" and info["pid"] == new[0].pid != old
        fake.cairn("destroy", "vm1")
        assert fake.info("vm1")["state"] == "shutoff"


def test_daemon_follows_a_handover_while_the_old_process_ends_slowly(tmp_path):
    """The old process closes its connection long before it ends, so the daemon connects again. The new process's first
    message comes just after the daemon has looked for a message, and must not count as one of the old process."""
    ends, looked = tmp_path / "ends", tmp_path / "looked"
    env = {"LD_PRELOAD": library("late_message"), "LATE_MESSAGE": str(looked)}
    if "asan" in BUILD:
        pytest.skip("late_message.so has to come behind a sanitizer")
    with contextlib.closing(Daemon(tmp_path, FAKE_VM, env)) as d:
        d.define("vm1", cmdline=f"hands-over handover-ends={ends} goes-on-when={looked}")
        d.cairn("start", "vm1")
        old = d.info("vm1")["pid"]
        job = d.cairn("restart-process", "--no-wait", "vm1").stdout.strip()
        until(lambda: f"(pid {old}) is lost; connecting again" in d.log.read_text())
        ends.touch()
        j = job_of(d, job)
        assert j.get("error") is None, d.log.read_text() + d.log_of('vm1')
        assert looked.exists()
        info = d.info("vm1")
        assert info["state"] == "running" and info["pid"] != old and not has_ended(info["pid"])


@pytest.mark.parametrize("first", ["answer", "end"])
def test_daemon_follows_a_handover_that_it_was_not_told_of(fake, tmp_path, first):
    """The old process pauses after its connection is lost, and the new one is the first to answer on the next
    connection, before or after the end of the old one."""
    ends, goes_on_when = tmp_path / "ends", tmp_path / "goes-on"
    fake.define("vm1", cmdline=f"hands-over-silently handover-ends={ends} goes-on-when={goes_on_when}")
    fake.cairn("start", "vm1")
    old = fake.info("vm1")["pid"]
    job = fake.cairn("restart-process", "--no-wait", "vm1").stdout.strip()
    until(lambda: f"(pid {old}) is lost; connecting again" in fake.log.read_text())
    new, = taking_over(fake)
    if first == "answer":
        goes_on_when.touch()
        until(lambda: f"process {new} answers in place of process {old}" in fake.log.read_text())
    ends.touch()
    until(lambda: has_ended(old))
    goes_on_when.touch()
    assert job_of(fake, job).get("error") is None, fake.log.read_text()
    info = fake.info("vm1")
    assert info["state"] == "running" and info["pid"] == new
