"""Starts and updates of networks that fail halfway, or cannot be stored. A stand-in for cairn-net (fake_net.py in
tests/helpers) shows the daemon's requests."""

import json

from conftest import until
from test_network import host, lan  # noqa: F401 (fixtures)


def full(d, yes):
    """Let the daemon fail to store the network: a folder is in the place of its file."""
    file, aside = d.state / "networks/net-lan.json", d.tmp / "aside"
    if yes:
        file.rename(aside)
        (file / "x").mkdir(parents=True)
    else:
        (file / "x").rmdir()
        file.rmdir()
        aside.rename(file)


def test_failed_update_is_undone(host):  # noqa: F811
    host.define_net()
    host.cairn("net-start", "lan")
    before, shown = host.requests()[-1]["network"], host.cairn("net-dumpjson", "lan").stdout
    unwell = {"error": {"class": "HostError", "desc": "the host is unwell"}}
    a_host, deny = ("dns-host", '{"address": "10.77.0.9", "names": ["nine"]}'), ("egress", '{"default": "deny"}')
    for fails, what, verbs in (("update", a_host, ["update"] * 2), ("up", deny, ["update", "up"] * 2), (None, a_host, ["update"] * 2)):
        n = len(host.verbs())
        if fails:
            host.tell(fails, "json", unwell)
        else:
            full(host, True)
        r = host.cairn("net-update", "lan", "add", *what, "--live", ok=False)
        assert ("the host is unwell" if fails else "directory") in r.stderr
        assert host.verbs()[n:] == verbs and host.requests()[-1]["network"] == before != host.requests()[n]["network"]
        if fails:
            host.untell(fails, "json")
        else:
            full(host, False)
        assert host.cairn("net-dumpjson", "lan").stdout == shown
    host.cairn("net-update", "lan", "add", *deny, "--live")


def test_start_that_cannot_be_stored_is_undone(host, lan):  # noqa: F811
    """The next daemon would take the network down under the VMs that run by then."""
    host.define_net()
    host.write("vm1", interfaces=[{"type": "network", "source": "lan"}])
    host.cairn("define", str(host.tmp / "vm1.json"))
    host.tell("up", "hold")
    q = host.qmp()
    q.send(json.dumps({"execute": "net-start", "arguments": {"network": "lan"}}).encode())
    until(lambda: "up" in host.verbs())
    full(host, True)
    waits = host.qmp()
    waits.send(json.dumps({"execute": "vm-start", "arguments": {"vm": "vm1"}}).encode())
    host.cairn("list")
    host.untell("up", "hold")
    assert "directory" in q.answer()["error"]["desc"]
    full(host, False)
    # A start that waited for the network gets no tap on a bridge that is being removed.
    assert "network 'lan'" in waits.answer()["error"]["desc"] and not lan.taps()
    assert host.verbs() == ["up", "down"] and host.states() == {"lan": "inactive"}
    host.cairn("net-start", "lan")
