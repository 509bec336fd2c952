"""Permissions that apply although they cannot be stored, and stored permissions of a VM whose name another VM has."""

import json
import os
import signal

from conftest import until
from daemonlib import NOBODY, allowed, as_nobody, shared  # noqa: F401


def blocked(shared):  # noqa: F811
    """Make a folder in the place of the temporary file, so that the daemon cannot write permissions.json."""
    p = shared.state / "permissions.json.tmp"
    p.mkdir()
    return p


def stored(shared):  # noqa: F811
    return [(e["role"], e.get("vm"), e.get("vm-uuid"))
            for e in json.loads((shared.state / "permissions.json").read_text())["permissions"]]


def uuid_of(shared, name):  # noqa: F811
    return json.loads(shared.cairn("dumpjson", name).stdout)["uuid"]


def may_start(shared, name):  # noqa: F811
    os.chmod(shared.socket, 0o666)  # without entries, the daemon closes it
    a, = as_nobody(shared, ["vm-start", {"vm": name}])
    return allowed(a)


def test_grant_that_is_not_stored_is_not_in_force(shared):  # noqa: F811
    shared.cairn("grant", "viewer", "mine", "--user", "nobody")
    block = blocked(shared)
    shared.cairn("grant", "owner", "mine", "--user", "nobody", ok=False)
    shared.cairn("grant", "admin", "--user", "nobody", ok=False)
    assert not may_start(shared, "mine")
    assert [p["role"] for p in json.loads(shared.cairn("permissions", "--format", "json").stdout)] == ["viewer"]
    block.rmdir()
    # The daemon stores the table again, without the refused roles.
    until(lambda: "tries again" in shared.log.read_text())
    shared.cairn("grant", "operator", "other", "--user", "nobody")
    assert {(r, vm) for r, vm, _ in stored(shared)} == {("viewer", "mine"), ("operator", "other")}
    assert may_start(shared, "other") and not may_start(shared, "mine")


def test_revoke_that_is_not_stored_is_in_force_and_repeated(shared):  # noqa: F811
    shared.cairn("grant", "owner", "mine", "--user", "nobody")
    block = blocked(shared)
    r = shared.cairn("revoke", "mine", "--user", "nobody", ok=False)
    assert "the permission is revoked, but this is not stored yet" in r.stderr
    assert not may_start(shared, "mine")
    assert len(stored(shared)) == 1
    block.rmdir()
    until(lambda: stored(shared) == [])


def test_permission_of_undefined_vm_does_not_return_with_its_name(shared):  # noqa: F811
    shared.cairn("grant", "owner", "mine", "--user", "nobody")
    block = blocked(shared)
    shared.cairn("undefine", "mine")
    assert len(stored(shared)) == 1
    shared.define("mine")
    shared.stop(signal.SIGKILL)
    block.rmdir()
    shared.start()
    assert not may_start(shared, "mine")
    until(lambda: stored(shared) == [])


def test_permissions_of_older_cairn_get_uuids(shared):  # noqa: F811
    uuid = uuid_of(shared, "mine")
    shared.stop()
    (shared.state / "permissions.json").write_text(json.dumps({"version": 1, "permissions": [
        {"user": NOBODY, "role": "owner", "vm": "mine"}, {"user": NOBODY, "role": "owner", "vm": "gone"},
        {"group": 7, "role": "viewer"}]}))
    shared.start()
    until(lambda: stored(shared) == [("owner", "mine", uuid), ("viewer", None, None)])
    assert may_start(shared, "mine") and not may_start(shared, "other")


def test_permission_follows_a_renamed_vm(shared):  # noqa: F811
    shared.cairn("grant", "operator", "mine", "--user", "nobody")
    uuid = uuid_of(shared, "mine")
    shared.cairn("domrename", "mine", "ours")
    shared.define("mine")
    for restart in (False, True):
        if restart:
            shared.stop()
            shared.start()
        assert stored(shared) == [("operator", "ours", uuid)]
        assert allowed(as_nobody(shared, ["vm-info", {"vm": "ours"}])[0])
        assert not may_start(shared, "mine")
