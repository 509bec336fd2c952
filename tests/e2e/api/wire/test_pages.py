"""Lists in pages: an entry that is removed between two pages hides no other."""

import contextlib
import json

import pytest

from conftest import FAKE_VM, Daemon
from plainlib import qcow2
from test_network import NetDaemon


@pytest.fixture
def fake(tmp_path):
    with contextlib.closing(Daemon(tmp_path, FAKE_VM)) as d:
        yield d


def everything(q, command, rows, cursor, args):
    page = q.run(command, **args)
    all_rows = page[rows]
    while "next" in page:
        page = q.run(command, **{cursor: page["next"]}, **args)
        all_rows += page[rows]
    return all_rows


def key(row):
    return [row.get(k) for k in ("vm", "user", "group", "name", "address")]


def check_removal(q, command, rows, cursor, remove, **args):
    """Read a list, and remove the first and the last entry of each page before the next page. Return the keys of the
    entries that are left."""
    want = [key(r) for r in everything(q, command, rows, cursor, args)]
    page = q.run(command, **args)
    seen, gone = [], []
    while True:
        seen += [key(r) for r in page[rows]]
        if "next" not in page:
            break
        for row in page[rows][0], page[rows][-1]:
            remove(row)
            gone.append(key(row))
        page = q.run(command, **{cursor: page["next"]}, **args)
    assert seen == want and len(gone) > 1
    left = [key(r) for r in everything(q, command, rows, cursor, args)]
    assert left == [k for k in want if k not in gone]
    return left


def check_pages(q, command, rows, cursor, remove, **args):
    left = check_removal(q, command, rows, cursor, remove, **args)
    # A client may also count the entries itself.
    assert key(q.run(command, **{cursor: 1}, **args)[rows][0]) == left[1]
    assert q.run(command, **{cursor: 2**53 - 1}, **args)[rows] == []


def with_long_names(fake, n=127):
    """Define three VMs with names that are long in JSON. Return the names."""
    names = [f"{i}" + "\u00e9" * n for i in range(3)]
    for name in names:
        fake.define(name)
    return names


def test_schedule_removed_between_pages_hides_no_other(fake):
    with contextlib.closing(fake.qmp()) as q:
        names = with_long_names(fake, 80)
        for vm in names:
            for n in range(32):
                q.run("schedule-add", vm=vm, action="export", on="yearly", name=f"{n:03}" if n % 2 else f"z{n}", folder="/" + 511 * "\u00e9")
        check_removal(q, "query-schedules", "schedules", "after", lambda row: q.run("schedule-remove", vm=row["vm"], name=row["name"]))
        rows = everything(q, "query-schedules", "schedules", "after", {})
        assert everything(q, "query-schedules", "schedules", "after", {"vm": names[1]}) == [r for r in rows if r["vm"] == names[1]]
        assert q.run("query-schedules", after=names[0])["schedules"][0] == next(r for r in rows if r["vm"] == names[1])
        assert json.loads(fake.cairn("schedule-list", "--format", "json").stdout) == rows


def test_threshold_removed_between_pages_hides_no_other(fake):
    with contextlib.closing(fake.qmp()) as q:
        for vm in with_long_names(fake):
            for n in range(32):
                q.run("threshold-set", vm=vm, measure="cpu", above="90", name=f"{n:03}" + 60 * "x", then="suspend")
        check_removal(q, "query-thresholds", "thresholds", "after", lambda row: q.run("threshold-remove", vm=row["vm"], name=row["name"]))


def test_approval_rule_removed_between_pages_hides_no_other(fake):
    with contextlib.closing(fake.qmp()) as q:
        vm = with_long_names(fake)[0]
        for n in range(100):
            q.run("approval-rule-set", vm=vm, user=100000 + n, acts=["destroy"])
        assert len(json.loads(fake.cairn("approval-rule", "--format", "json").stdout)) == 100
        check_pages(q, "query-approval-rules", "rules", "after", lambda row: q.run("approval-rule-set", vm=vm, user=row["user"], acts=[]))


def test_web_hook_removed_between_pages_hides_no_other(fake):
    with contextlib.closing(fake.qmp()) as q:
        for n in range(60):
            q.run("web-hook-set", name=f"h{n}", url="https://hooks.example/" + 960 * "x")
        check_pages(q, "query-web-hooks", "hooks", "after", lambda row: q.run("web-hook-remove", name=row["name"]))


@pytest.mark.parametrize("command", ["query-permissions", "query-permissions-review"])
def test_permission_revoked_between_pages_hides_no_other(fake, command):
    with contextlib.closing(fake.qmp()) as q:
        for n in range(60):
            q.run("permission-grant", user=100000 + n, role="viewer")
        check_pages(q, command, "permissions", "from", lambda row: q.run("permission-revoke", user=row["user"]))


def test_quota_removed_between_pages_hides_no_other(fake):
    with contextlib.closing(fake.qmp()) as q:
        for n in range(60):
            q.run("quota-set", user=100000 + n, vms=1)
            q.run("quota-set", group=100000 + n, vms=1)
        check_pages(q, "query-quotas", "quotas", "from", lambda row: q.run("quota-remove", **{k: row[k] for k in ("user", "group") if k in row}))


def test_snapshot_deleted_between_pages_hides_no_other(tmp_path):
    with contextlib.closing(Daemon(tmp_path)) as d, contextlib.closing(d.qmp()) as q:
        qcow2(tmp_path / "d.qcow2", "16M")
        d.define("vm1", disks=[{"path": str(tmp_path / "d.qcow2"), "format": "qcow2"}])
        for n in range(30):
            d.cairn("snapshot-create-as", "vm1", f"s{n}", 500 * "x")
        check_pages(q, "snapshot-list", "snapshots", "from", lambda row: d.cairn("snapshot-delete", "vm1", row["name"]), vm="vm1")


def test_lease_that_ends_between_pages_hides_no_other(tmp_path):
    with contextlib.closing(NetDaemon(tmp_path, None)) as d, contextlib.closing(d.qmp()) as q:
        d.define_net()
        addresses = [f"10.77.0.{n}" for n in range(2, 90)] + [f"fd00::ff:{n:x}" for n in range(2, 90)]

        def tell():
            d.tell("leases", "json", {"return": {"leases": [
                {"expires": 0, "mac": None, "address": a, "prefix": 24, "family": "ipv6" if ":" in a else "ipv4", "name": None,
                 "client_id": None} for a in reversed(addresses)]}})

        def remove(row):
            addresses.remove(row["address"])
            tell()

        tell()
        check_pages(q, "net-dhcp-leases", "leases", "from", remove, network="lan")
