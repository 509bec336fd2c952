"""Changes of forwards that cairn-slirp does not answer; tests/helpers/slirp.py stands in for it."""

import pytest

from conftest import FAKE_VM, Daemon, QmpError, until
from test_usernet import libexec, user  # noqa: F401


def is_added(q, to):
    try:
        q.run("forward-add", vm="a", to=to)
    except QmpError as e:
        assert "does not answer" in str(e)
        return False
    return True


def test_answer_that_is_no_json_is_none(tmp_path, libexec):  # noqa: F811
    d = Daemon(tmp_path, vm_program=FAKE_VM, env=libexec)
    try:
        d.define("a", interfaces=[user()])
        d.cairn("start", "a")
        with pytest.raises(QmpError, match="does not answer"):
            d.qmp().run("forward-add", vm="a", to=998)
    finally:
        d.close()


def test_change_that_is_lost_fails_alone(tmp_path, libexec):  # noqa: F811
    """The process answers a later message, so it will not answer the change, and gets the next ones."""
    d = Daemon(tmp_path, vm_program=FAKE_VM, env=libexec)
    try:
        d.define("a", interfaces=[user()])
        d.cairn("start", "a")
        q = d.qmp()
        with pytest.raises(QmpError, match="does not answer"):
            q.run("forward-add", vm="a", to=999)
        until(lambda: is_added(q, 22))
        assert [f["to"] for f in q.run("vm-dump-definition", vm="a")["definition"]["interfaces"][0]["forwards"]] == [22]
        q.run("vm-set-interface", vm="a", interface="net0", egress={"default": "deny"})
    finally:
        d.close()
