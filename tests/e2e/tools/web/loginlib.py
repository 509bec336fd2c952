"""Users of the host for cairn-web --pam: files of its own in /etc, in a mount namespace of its own. Needs root."""

import contextlib
import os
import subprocess
import tempfile
import shutil
from pathlib import Path

from conftest import FAKE_VM, ROOT, Daemon, library, until
from weblib import Web

ALICE, BOB = 60001, 60002
GROUP = 60100
# name, uid, fields of shadow behind the password: last change, ..., expiry
USERS = (("alice", ALICE, "20000::::::"), ("bob", BOB, "20000::::::"), ("locked", 60003, "20000::::::"), ("expired", 60004, "20000:::::1:"),
         ("old", 60005, "0::::::"), ("crash", 60006, "20000::::::"), ("hang", 60007, "20000::::::"), ("spin", 60008, "20000::::::"),
         ("leave", 60009, "20000::::::"), ("empty", 60010, "20000::::::"), ("cairn-web", 60011, "20000::::::"), ("root", 0, "20000::::::"),
         ("factor", 60012, "20000::::::"), ("hidden", 60013, "20000::::::"))
PAM = f"""auth required {library("pam_trouble")}
auth required pam_unix.so
"""


class Host:
    """The host's users, as cairn-web sees them."""

    def __init__(self, tmp):
        self.tmp = tmp
        right = subprocess.run(["openssl", "passwd", "-6", "right"], capture_output=True, text=True, check=True).stdout.strip()
        (tmp / "passwd").write_text("".join(f"{n}:x:{u}:{u}::/:/bin/sh\n" for n, u, _ in USERS))
        passwords = {"locked": "!" + right, "empty": "", "cairn-web": "!"}
        (tmp / "shadow").write_text("".join(f"{n}:{passwords.get(n, right)}:{rest}\n" for n, u, rest in USERS))
        (tmp / "group").write_text("".join(f"{n}:x:{u}:\n" for n, u, _ in USERS) + f"others:x:{GROUP}:alice\n")
        (tmp / "shadow").chmod(0o600)
        (tmp / "pam.d").mkdir()
        service = Path(ROOT, "tools/login/cairn-web.pam").read_text().replace("pam_nologin.so", f"pam_nologin.so file={tmp}/nologin")
        (tmp / "pam.d/cairn-web").write_text(service)
        (tmp / "pam.d/common-auth").write_text(PAM)
        (tmp / "pam.d/common-account").write_text("account required pam_unix.so\n")
        mounts = "".join(f'mount --bind "{tmp}/{name}" /etc/{name} && ' for name in ("passwd", "shadow", "group", "pam.d"))
        self.wrapper = ["unshare", "-m", "sh", "-c", mounts + 'exec "$@"', "sh"]
        self.log = tmp / "web.log"

    def serve(self, daemon, *args, **more):
        with open(self.log, "ab") as log:
            return Web(daemon, "--pam", *args, **{"wrapper": self.wrapper, "stderr": log, **more})


@contextlib.contextmanager
def host_with_daemon(vm_program=FAKE_VM):
    """A daemon in a folder that every user may enter, and users."""
    tmp = Path(tempfile.mkdtemp(prefix="login-"))
    tmp.chmod(0o755)
    (tmp / "etc").mkdir()
    try:
        with contextlib.closing(Daemon(tmp, vm_program)) as d:
            yield Host(tmp / "etc"), d
    finally:
        shutil.rmtree(tmp)


def children(pid, name):
    """Return the pids of a process's children of this name."""
    found = []
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{child}/comm").read_text().strip() == name[:15]:
                    found.append(int(child))
    return found


def ids(pid):
    """Return the real, effective, saved and file system uid, the same of the gid, the groups, and the capabilities."""
    rows = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return tuple([int(x) for x in rows[k].split()] for k in ("Uid", "Gid", "Groups")) + (rows["CapPrm"].strip(),)


def is_gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


__all__ = ["ALICE", "BOB", "GROUP", "Host", "children", "host_with_daemon", "ids", "is_gone", "until"]
