"""The runtime folder of a user goes at the end of the user's last session, while cairnd and its VMs run."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile

import pytest

from conftest import BUILD, FAKE_VM, until
from daemonlib import NOBODY, open_folder

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")


class User:
    """Another user with a folder for the runtime and one for the state."""

    def __init__(self, path):
        self.path = path
        self.procs = []
        os.chmod(path, 0o755)
        for name in "runtime", "state":
            os.mkdir(f"{path}/{name}")
            os.chown(f"{path}/{name}", NOBODY, NOBODY)
        for program in "cairn", "cairnd":
            shutil.copy(os.path.join(BUILD, program), path)
        shutil.copy(FAKE_VM, f"{path}/cairn-vm")

    def command(self, *args):
        return ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups", f"{self.path}/{args[0]}", *args[1:]]

    def env(self):
        return {"XDG_RUNTIME_DIR": f"{self.path}/runtime", "XDG_STATE_HOME": f"{self.path}/state", "CAIRN_JOURNAL": "", "PATH": os.environ["PATH"]}

    def cairn(self, *args):
        return subprocess.run(self.command("cairn", *args), env=self.env(), capture_output=True, text=True, timeout=50)

    def daemon(self):
        with open(f"{self.path}/log", "ab") as log:
            self.procs.append(subprocess.Popen(self.command("cairnd"), env=self.env(), stderr=log))
        until(lambda: self.cairn("list").returncode == 0)

    def stop(self, how):
        proc = self.procs.pop()
        proc.send_signal(how)
        proc.wait(50)

    def logout(self):
        shutil.rmtree(f"{self.path}/runtime")

    def login(self):
        os.mkdir(f"{self.path}/runtime")
        os.chown(f"{self.path}/runtime", NOBODY, NOBODY)

    def info(self):
        return json.loads(self.cairn("dominfo", "vm1", "--format", "json").stdout)


@pytest.fixture
def user():
    with tempfile.TemporaryDirectory(prefix="cairn-test-", dir=open_folder()) as path:
        u = User(path)
        u.daemon()
        kernel = f"{path}/kernel"
        with open(kernel, "wb"):
            pass
        with open(f"{path}/vm1.json", "w") as f:
            json.dump({"name": "vm1", "memory": "16M", "boot": {"kernel": kernel}}, f)
        assert u.cairn("define", f"{path}/vm1.json").returncode == 0
        assert u.cairn("start", "vm1").returncode == 0
        yield u
        with contextlib.suppress(OSError):
            u.login()
        if not u.procs:
            u.daemon()
        until(lambda: u.cairn("destroy", "vm1").returncode in (0, 4))
        u.stop(signal.SIGTERM)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_next_daemon_finds_the_vms(user, how):
    pid = user.info()["pid"]
    user.logout()
    user.stop(how)
    user.login()
    user.daemon()
    assert (user.info()["state"], user.info()["pid"]) == ("running", pid)


def test_daemon_listens_again_in_the_next_session(user):
    pid = user.info()["pid"]
    user.logout()
    assert user.cairn("list").returncode != 0
    user.login()
    until(lambda: user.cairn("list").returncode == 0)
    assert (user.info()["state"], user.info()["pid"]) == ("running", pid)
    assert any(os.scandir(f"{user.path}/runtime/cairn/cairn.qmp"))  # the VM's own socket
