"""cairn permissions-review: who may do what, since when, by whom, and when it was last used."""

import json
import os
import signal
import time

from daemonlib import NOBODY, as_nobody, shared  # noqa: F401

DAY = 24 * 3600 * 10**9


def review(shared, *options):  # noqa: F811
    rows = json.loads(shared.cairn("permissions-review", *options, "--format", "json").stdout)
    return [r for r in rows if "socket" not in r]


def stored(shared):  # noqa: F811
    return json.loads((shared.state / "permissions.json").read_text())


def test_review_tells_origin_and_last_use_across_restarts(shared):  # noqa: F811
    before = time.time_ns()
    shared.cairn("grant", "viewer", "mine", "--user", "nobody")
    shared.cairn("grant", "operator", "other", "--group", "7")
    mine, other = review(shared)
    assert mine["role"] == "viewer" and mine["vm"] == "mine" and mine["by"] == os.geteuid()
    assert before <= mine["since"] <= time.time_ns() and "last-used" not in mine and mine["unused"] >= 0
    as_nobody(shared, ["vm-info", {"vm": "mine"}], ["vm-destroy", {"vm": "mine"}])
    mine, other = review(shared)
    assert mine["since"] <= mine["last-used"] <= time.time_ns() and "last-used" not in other
    assert "used" not in stored(shared)["permissions"][0]  # the daemon does not write the file at each use
    shared.stop()
    assert stored(shared)["permissions"][0]["used"] == mine["last-used"]
    shared.start()
    assert review(shared)[0]["last-used"] == mine["last-used"]
    # The same role again keeps the date, another one does not.
    shared.cairn("grant", "viewer", "mine", "--user", "nobody")
    assert review(shared)[0]["since"] == mine["since"]
    shared.cairn("grant", "owner", "mine", "--user", "nobody")
    assert review(shared)[0]["since"] > mine["since"]
    text = shared.cairn("permissions-review").stdout
    assert "never" in text and "Nobody used" not in text


def test_unused_roles_are_found(shared):  # noqa: F811
    shared.cairn("grant", "viewer", "mine", "--user", "nobody")
    shared.cairn("grant", "viewer", "other", "--user", "nobody")
    shared.stop()
    table, now = stored(shared), time.time_ns()
    table["uses-since"] = now - 400 * DAY
    for e, used in zip(table["permissions"], (100, 10)):
        e["since"], e["used"] = now - 200 * DAY, now - used * DAY
    (shared.state / "permissions.json").write_text(json.dumps(table))
    shared.start()
    old, = review(shared, "--unused-for", "90")
    assert old["vm"] == "mine" and old["unused"] // DAY == 100
    assert len(review(shared, "--unused-for", "9")) == 2 and not review(shared, "--unused-for", "101")
    assert "Nobody used 1 of these roles for 90 days" in shared.cairn("permissions-review").stdout
    for bad in ("-1", "x", "", "99999999999999999999", "5d"):
        assert "--unused-for" in shared.cairn("permissions-review", "--unused-for", bad, ok=2).stderr


def test_entries_of_older_cairn_have_no_date(shared):  # noqa: F811
    shared.stop()
    (shared.state / "permissions.json").write_text(json.dumps({"version": 2, "permissions": [{"group": 7, "role": "viewer"}]}))
    shared.start()
    one, = review(shared)
    assert "since" not in one and "by" not in one and one["unused"] < DAY
    shared.stop()
    since = stored(shared)["uses-since"]
    shared.start()
    shared.cairn("permissions-review")
    shared.stop(signal.SIGKILL)
    shared.start()
    shared.stop()
    assert stored(shared)["uses-since"] == since


def test_users_see_their_own_and_those_of_their_vms(shared):  # noqa: F811
    for role, vm, uid in (("owner", "mine", NOBODY), ("viewer", "other", NOBODY), ("viewer", "mine", 4711), ("viewer", "other", 4711)):
        shared.cairn("grant", role, vm, "--user", str(uid))
    shared.cairn("grant", "viewer", "--user", "4712")
    answer, = as_nobody(shared, ["query-permissions-review", {}])
    assert [(e["vm"], e["user"]) for e in answer["return"]["permissions"]] == [
        ("mine", NOBODY), ("other", NOBODY), ("mine", 4711)]
    assert "error" in as_nobody(shared, ["query-permissions-review", {}], user=4713, group=4713)[0]
    # A page may be empty, and hostile bounds do no harm.
    for args in ({"from": 10**15}, {"from": -1}, {"unused-for": -(2**63)}, {"unused-for": 2**63 - 1}):
        answer, = as_nobody(shared, ["query-permissions-review", args])
        assert "next" not in answer["return"]


def test_review_of_a_full_table_has_pages(shared):  # noqa: F811
    shared.stop()
    (shared.state / "permissions.json").write_text(json.dumps({"version": 2, "permissions": [
        {"user": 100000 + n, "role": "viewer"} for n in range(600)] + [{"user": NOBODY, "role": "viewer"}]}))
    shared.start()
    assert len(review(shared)) == 601
    seen, at = [], 0
    while at is not None:
        answer, = as_nobody(shared, ["query-permissions-review", {"from": at}])
        seen += answer["return"]["permissions"]
        at = answer["return"].get("next")
    assert [e["user"] for e in seen] == [NOBODY]
