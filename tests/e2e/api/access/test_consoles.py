"""A user who loses the role for a VM loses its open consoles."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import tempfile

import pytest

from conftest import BUILD, Console, Daemon, Qmp, QmpError
from daemonlib import NOBODY, shared  # noqa: F401
from otherslib import as_user
from test_compat import grow_old

GROUP = 4242


@contextlib.contextmanager
def opened(d, groups=()):
    """Open a console of the VM `mine` as nobody. Yield the lines of a client that says True when it has a console, and
    False when the console has ended."""
    def hold(say):
        q = Qmp(d.socket)
        q.run("vm-console", vm="mine")
        s = socket.socket(fileno=q.fds.pop())
        say(True)
        with contextlib.suppress(ConnectionError):
            while s.recv(4096):
                pass
        say(False)
    with as_user(hold, groups=groups) as lines:
        assert json.loads(lines.readline()) is True
        yield lines


def ended(lines):
    return json.loads(lines.readline()) is False


def echoes(console):
    """Check that the console is open: fake_vm repeats the input."""
    console.sock.sendall(b"typed\n")
    assert console.line() == "typed"
    console.close()


def works(console):
    """Check that the guest executes a command."""
    console.run("fill 0x800000 0x1000 1")
    return True


@pytest.fixture
def real(kvm, guest):
    """A daemon that other users reach, with real VMs. `mine` runs."""
    if os.geteuid():
        pytest.skip("needs root, to be somebody else")
    with tempfile.TemporaryDirectory(prefix="cairn-test-") as folder:
        os.chmod(folder, 0o711)
        shutil.copy(os.path.join(BUILD, "cairn-archive"), folder)
        d = Daemon(pathlib.Path(folder), env={"CAIRN_LIBEXEC": folder})
        d.define("mine", boot={"kernel": guest("interp.elf")}, debug_exit=True)
        d.cairn("start", "mine")
        yield d
        d.close()


def lose(d, how, *who):
    if how == "revoke":
        d.cairn("revoke", "mine", *who)
    else:
        d.cairn("grant", "viewer", "mine", *who)


@pytest.mark.parametrize("how", ["revoke", "lower"])
def test_console_ends_with_the_role(shared, how):  # noqa: F811
    shared.cairn("start", "mine", "other")
    shared.cairn("grant", "operator", "mine", "--user", "nobody")
    roots = Console(shared, "mine")
    with opened(shared) as lines:
        # Another entry changes nothing.
        shared.cairn("grant", "operator", "mine", "--user", "4243")
        shared.cairn("revoke", "mine", "--user", "4243")
        shared.cairn("grant", "owner", "mine", "--user", "nobody")
        roots.line()
        lose(shared, how, "--user", "nobody")
        assert ended(lines)
    echoes(roots)


def test_console_stays_while_a_role_for_all_vms_allows_it(shared):  # noqa: F811
    shared.cairn("start", "mine")
    for vm in ["mine"], []:
        shared.cairn("grant", "operator", *vm, "--user", "nobody")
    with opened(shared) as lines:
        shared.cairn("revoke", "mine", "--user", "nobody")
        with opened(shared) as later:
            shared.cairn("revoke", "--user", "nobody")
            assert ended(lines) and ended(later)


def test_next_daemon_ends_consoles_without_a_role(shared):  # noqa: F811
    """The state is that of a daemon that ended between the revoke and its message to the VM's process."""
    shared.cairn("start", "mine")
    shared.cairn("grant", "operator", "mine", "--user", "nobody")
    roots = Console(shared, "mine")
    roots.line()
    with opened(shared) as lines:
        shared.stop(signal.SIGKILL)
        file = shared.state / "permissions.json"
        table = json.loads(file.read_text())
        table["permissions"] = []
        file.write_text(json.dumps(table))
        shared.start()
        assert ended(lines)
    echoes(roots)


def test_console_ends_when_a_stopped_process_goes_on(shared):  # noqa: F811
    shared.cairn("start", "mine")
    shared.cairn("grant", "operator", "mine", "--user", "nobody")
    with opened(shared) as lines:
        pid = shared.info("mine")["pid"]
        os.kill(pid, signal.SIGSTOP)
        shared.cairn("revoke", "mine", "--user", "nobody")
        os.kill(pid, signal.SIGCONT)
        assert ended(lines)


@pytest.mark.parametrize("version", [1, 2])
def test_consoles_of_an_older_process_are_told(shared, version):  # noqa: F811
    """The consoles stay open, because the process does not know the message."""
    d = shared
    d.define("mine", cmdline="version-1" if version == 1 else "keeps-consoles")
    d.cairn("start", "mine", "other")
    d.cairn("grant", "operator", "mine", "--user", "nobody")
    with opened(d):
        if version == 1:
            grow_old(d, "mine")
        else:
            d.stop()
            d.start()
        words = "consoles of VM 'mine' that are open stay open, because an older version of Cairn started its process"
        r = d.cairn("grant", "viewer", "other", "--user", "nobody")
        assert not r.stderr
        r = d.cairn("revoke", "mine", "--user", "nobody")
        assert words in r.stderr and "cairn restart-process mine" in r.stderr
        assert d.info("mine")["state"] == "running"
        with Console(d, "mine").sock as roots:
            assert roots.recv(100) == b"fake guest\r\n"
        q = d.qmp()
        q.run("permission-grant", role="operator", user=NOBODY)
        assert words in q.run("permission-revoke", user=NOBODY)["warnings"][0]


# ---- real VMs ----

@pytest.mark.parametrize("who", ["user", "group"])
def test_console_of_a_real_vm_ends(real, who):
    subject = ["--user", "nobody"] if who == "user" else ["--group", str(GROUP)]
    real.cairn("grant", "operator", "mine", *subject)
    roots = Console(real, "mine")
    with opened(real, groups=[GROUP]) as lines, opened(real, groups=[GROUP]) as more:
        real.cairn("grant", "operator", "mine", "--user", "4243")
        real.cairn("revoke", "mine", "--user", "4243")
        with opened(real, groups=[GROUP]) as last:
            assert works(roots)
            real.cairn("revoke", "mine", *subject)
            assert ended(lines) and ended(more) and ended(last)
    assert works(roots)
    roots.close()


def test_user_with_all_its_consoles_gets_no_more_and_the_vm_runs(real):
    def ask(say):
        q = Qmp(real.socket)
        for _ in range(16):
            q.run("vm-console", vm="mine")
        with pytest.raises(QmpError) as e:
            q.run("vm-console", vm="mine")
        say(str(e.value))
    real.cairn("grant", "operator", "mine", "--user", "nobody")
    with as_user(ask) as lines:
        assert "16 of your clients are attached, the limit of a user" in json.loads(lines.readline())
    roots = Console(real, "mine")
    assert works(roots)
    roots.close()


@pytest.mark.parametrize("who", ["user", "group"])
def test_new_process_knows_whose_consoles_it_has(real, who):
    """The user loses the console after a handover, and after a restart of the daemon."""
    subject = ["--user", "nobody"] if who == "user" else ["--group", str(GROUP)]
    real.cairn("grant", "operator", "mine", *subject)
    roots = Console(real, "mine")
    with opened(real, groups=[GROUP]) as lines:
        pid = real.info("mine")["pid"]
        real.cairn("restart-process", "mine")
        assert works(roots) and real.info("mine")["pid"] != pid
        real.stop(signal.SIGKILL)
        real.start()
        assert works(roots)
        with opened(real, groups=[GROUP]) as more:
            real.cairn("revoke", "mine", *subject)
            assert ended(lines) and ended(more)
    assert works(roots)
    roots.close()
