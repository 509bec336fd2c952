"""cairn validate and the JSON Schemas of definitions: a schema and its parser must agree."""

import copy
import json
import os
import pathlib
import re
import subprocess

import jsonschema
import pytest

from conftest import BUILD, QmpError

ROOT = pathlib.Path(__file__).resolve().parents[4]
UUID = "2f1c0c0e-5d3a-4b53-9c39-0d8f1c6a7b11"
# Errors that only the parser finds: sums, duplicate ids and paths, lengths in bytes.
PARSER_ALONE = re.compile(
    r"topology: |is also the (id|address|image|boot_order|slot|mac|duid) of|is not a power of two|"
    r"bytes long; at most|is too little|is too much|not a multiple of|raw image|is less than delay|is less than average|is more than max_vcpus|there is no screen|"
    r"is also used by interfaces|is an address of a host|is not an address that the guest|cannot be a guest's network|"
    r"is neither an address such as|is no DNS name|boot: nothing to start|boot: initrd and cmdline are for a kernel|a firmware boots from a disk|"
    r"are for a VM with a firmware|has no effect without a menu|has no effect without a balloon|in huge pages cannot be (given back|reclaimed)|"
    r"a balloon cannot give the guest more|is (more|less) than cpu_shares, which is|is (more|less) than the VM starts with|is not an IPv[46] address such as|only a disk with \"bus\": \"scsi\"|"
    r"share a controller|there is nothing to show|is less than logical_block_size|a CD drive has blocks|does not boot as version|"
    r"is not more than (iops|bps)|iops_size: needs|a burst needs the limit|is not a processor model")


def cairn(*args, **kwargs):
    return subprocess.run([os.path.join(BUILD, "cairn"), *args], text=True,
                          capture_output=True, **kwargs)


@pytest.fixture(scope="module")
def schema():
    s = json.loads(cairn("validate", "--schema").stdout)
    jsonschema.Draft202012Validator.check_schema(s)
    return jsonschema.Draft202012Validator(s)


def examples():
    text = (ROOT / "docs/definition.md").read_text()
    return [json.loads(t) for t in re.findall(r"```json\n(.*?)```", text, re.S)]


def verdict(definition):
    """Return None, or the parser's message."""
    r = cairn("validate", "-", input=json.dumps(definition), cwd="/")
    assert r.returncode in (0, 2), r
    return r.stderr.splitlines()[1] if r.returncode else None


def places(value, path=()):
    """Yield every key below, and every element of an array."""
    if isinstance(value, dict):
        for k, v in value.items():
            yield path + (k,)
            yield from places(v, path + (k,))
    elif isinstance(value, list):
        for i, v in enumerate(value):
            yield from places(v, path + (i,))


def changed(definition, path, value):
    d = copy.deepcopy(definition)
    at = d
    for k in path[:-1]:
        at = at[k]
    if value is KeyError:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return d


def test_documented_examples_are_valid(schema):
    both = examples()
    assert len(both) >= 2
    for d in both:
        schema.validate(d)
        assert verdict(d) is None


def test_every_key_is_in_the_example(schema):
    """The documentation shows every key, and the next test changes each."""
    def names(s):
        for k, v in s.get("properties", {}).items():
            yield k
            yield from names(v)
            yield from names(v.get("items", {}))

    shown = {p[-1] for whole in examples()[1:3] for p in places(whole)}
    assert set(names(schema.schema)) - shown == {"data_file", "shutdown_deadline", "nvram_template"}


def test_every_processor_model_is_valid(schema, kvm):
    models = json.loads(cairn("cpu-models", "--format", "json").stdout)
    names = [name for m in models for name in (m["model"], *m["versions"])]
    assert len(names) > 40
    for name in names:
        d = {"name": "vm", "memory": 128, "cpu": name + ",-popcnt", "boot": {"kernel": "/k"}}
        schema.validate(d)
        assert verdict(d) is None


@pytest.mark.seconds(240)  # a process per try, and sanitizers make its start slow
def test_schema_and_parser_agree(schema):
    """Schema and parser accept the same definitions, except for what a schema cannot express."""
    values = [KeyError, None, True, 0, 1, -1, 2.5, 10**9, "", "x", "a\nb", "/a/b", "x" * 5000, [], {},
              [{}], {"unknown": 1}, UUID, "00000000-0000-0000-0000-000000000000", "52:54:00:00:00:01",
              "01:00:00:00:00:01", "128M", "qcow2", "raw", "-x", "..", "cdrom", "user", "bridge"]
    tried = []
    kernel, bios = examples()[1:3]
    for whole, path in [(kernel, p) for p in places(kernel)] + [(bios, p) for p in places(bios) if p[0] == "boot"]:
        tried += [(whole, path, v) for v in values]
        if isinstance(path[-1], str):
            tried.append((whole, path[:-1] + ("unknown",), 1))
    # Without CAIRN_VALIDATE_STEP, every fifth: in some place each value, and in each place some values.
    for whole, path, v in tried[::int(os.environ.get("CAIRN_VALIDATE_STEP", 5))]:
        d = changed(whole, path, v)
        said, fits = verdict(d), schema.is_valid(d)
        if said and fits:
            assert PARSER_ALONE.search(said), (path, v, said)
        assert said or fits, (path, v, list(schema.iter_errors(d)))


# ---- networks: the daemon's parser is asked ----

# Every key, in two definitions, since macvtap excludes most of them.
NETWORK = {
    "name": "lan", "uuid": UUID, "mode": "route", "bridge": "br-lan", "mac": "52:54:00:00:00:01", "mtu": 9000, "stp": True, "dev": "eth0",
    "domain": "vms.example", "domain_local": True,
    "ipv4": {"address": "10.0.0.1", "prefix": 24, "tftp_root": "/srv/tftp", "dhcp": {
        "ranges": [{"start": "10.0.0.10", "end": "10.0.0.20"}], "lease_seconds": 600, "boot_file": "pxelinux.0", "boot_server": "10.0.0.7",
        "hosts": [{"mac": "52:54:00:00:00:02", "name": "web1", "address": "10.0.0.5"}]}},
    "ipv6": {"address": "fd00::1", "prefix": 64, "nat": True, "dhcp": {
        "ranges": [{"start": "fd00::10", "end": "fd00::20"}], "lease_seconds": 600,
        "hosts": [{"duid": "00:03:00:01:52:54", "address": "fd00::5"}, {"mac": "52:54:00:00:00:03", "name": "web2"}]}},
    "dns": {"enable": True, "forwarders": ["192.0.2.1", "2001:db8::1"], "hosts": [{"address": "10.0.0.1", "names": ["gw", "gw.vms.example"]}]},
    "egress": {"default": "deny", "rules": [{"allow": "192.0.2.0/24", "protocol": "tcp", "ports": "80"}, {"deny": "any", "ports": 25}]},
    "users": [1000, 1001], "groups": [100], "filter": "clean-traffic", "isolated_ports": True}
MACVTAP = {"name": "direct", "mode": "vepa", "devs": ["eth0", "eth1"]}
NETWORK_PARSER_ALONE = re.compile(
    r" is missing|are missing|is outside the network|is the address of the network|is the broadcast address|is not an address for a host|"
    r"comes before start|includes .*, the host's own address|overlaps|is also (that|the name) of|is the host's own address|"
    r"has neither (ranges nor hosts|a name nor an address)|there is no domain|needs mode|need the network's DNS|is there twice|"
    r"uses a (link|bridge) that exists|has a bridge that exists|remove dev$|choose their addresses in networks of /64|"
    r"needs the name of|is not an IPv6 address such as|is not an IP address such as|too small for IPv6|has no ports|"
    r"must be an absolute path|is neither an address such as|is no DNS name|is a port|ports and ranges|has bits beyond")


@pytest.fixture(scope="module")
def network_schema():
    s = json.loads(pathlib.Path(BUILD, "network-definition.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(s)
    return jsonschema.Draft202012Validator(s)


def network_verdict(q, definition):
    """Return None, or the parser's message."""
    try:
        q.run("net-define", definition=definition, **{"validate-only": True})
    except QmpError as e:
        return str(e)
    return None


def objects(value, path=()):
    """Yield the place of each object."""
    if isinstance(value, dict):
        yield path
    for k, v in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from objects(v, path + (k,))


def test_network_schema_has_the_keys_of_the_parser(fake, network_schema):
    """The error of an unknown key lists all that the parser knows at its place."""
    q = fake.qmp()
    assert {"ipv4", "dns", "egress"} < network_schema.schema["properties"].keys()
    for whole, path in [(NETWORK, p) for p in objects(NETWORK)] + [(MACVTAP, ())]:
        at = network_schema.schema
        for k in path:
            at = at["items"] if isinstance(k, int) else at["properties"][k]
        said = network_verdict(q, changed(whole, path + ("unknown",), 1))
        assert at["additionalProperties"] is False, path
        assert set(said.split("known here: ")[1].split(", ")) == at["properties"].keys(), path
        for key, value in at["properties"].items():
            assert value["description"] and value.keys() & {"type", "enum", "anyOf"}, (path, key)
    # And each key is in one of the two, so that the next test changes it.
    assert network_schema.schema["properties"].keys() == NETWORK.keys() | MACVTAP.keys()
    q.close()


@pytest.mark.seconds(120)
def test_network_schema_and_parser_agree(fake, network_schema):
    q = fake.qmp()
    for d in (NETWORK, MACVTAP):
        network_schema.validate(d)
        assert network_verdict(q, d) is None
    values = [KeyError, None, True, 0, 1, -1, 2.5, 10**9, "", "x", "a\tb", "/a/b", "x" * 400, [], {}, [{}], ["x"], [1], {"unknown": 1}, UUID,
              "00000000-0000-0000-0000-000000000000", "52:54:00:00:00:01", "01:00:00:00:00:01", "10.0.0.7", "127.0.0.1", "10.0.0.256", "fd00::7",
              "::1", "12h", "ignore", "a.b", "a..b", "-x", "..", "all", "nat", "none", "any", "443", "80,443", "tcp"]
    tried = [(d, path, v) for d in (NETWORK, MACVTAP) for path in places(d) for v in values]
    for whole, path, v in tried[::int(os.environ.get("CAIRN_VALIDATE_STEP", 5))]:
        d = changed(whole, path, v)
        said, fits = network_verdict(q, d), network_schema.is_valid(d)
        if said and fits:
            assert NETWORK_PARSER_ALONE.search(said), (path, v, said)
        assert said or fits, (path, v, list(network_schema.iter_errors(d)))
    q.close()


def test_validate_reports_errors_without_a_daemon(tmp_path):
    good = tmp_path / "vm.json"
    good.write_text(json.dumps({"name": "a", "memory": "1G", "boot": {"kernel": "k"}}))
    r = cairn("validate", str(good))
    assert (r.returncode, r.stdout, r.stderr) == (0, f"{good} validates\n", "")
    good.write_text(json.dumps({"name": "a", "memory": "1G", "boot": {"kernel": "k"},
                                "interfaces": [{"type": "network", "source": "lan"}]}))
    r = cairn("validate", str(good))
    assert (r.stdout, r.stderr) == (f"{good} validates\n", "")
    said = json.loads(cairn("validate", str(good), "--format", "json").stdout)
    assert said == {"file": str(good), "valid": True, "warnings": []}

    good.write_bytes(b"\xef\xbb\xbf" + good.read_bytes())  # as some editors write it
    assert cairn("validate", str(good)).returncode == 0

    bad = tmp_path / "bad.json"
    for text, why in (("", " is empty; a definition is JSON or libvirt's domain XML"), (" \n", " is empty; "), ("name: a", ": neither JSON (starts with {) "),
                      ("[]", ": neither JSON (starts with {) "), ("\0{}", ": neither JSON (starts with {) "),
                      ('{"name":"a","memory":"1G",\n"memory":"2G","boot":{"kernel":"k"}}', ': line 2: duplicate key "memory"'),
                      ('{"name":"a","memory":"1G","disks":[{"id":"\\"}{","id":"vda"}]}', ': line 1: duplicate key "id"'),
                      ('{"name":"a","memory":99999999999999999999}', ": the number 99999999999999999999 is ")):
        bad.write_text(text)
        assert cairn("validate", str(bad)).stderr.startswith(f"error: Failed to validate {bad}\nerror: {bad}{why}"), text
    bad.write_bytes(b"QFI\xfb" + bytes(1 << 21))
    assert f"{bad} is a disk image; cairn new NAME --image {bad} makes a VM" in cairn("validate", str(bad)).stderr
    bad.write_text('{"name": "a",\n "memory": 1x}')
    r = cairn("validate", str(bad))
    assert r.returncode == 2 and r.stdout == ""
    assert r.stderr.startswith(f"error: Failed to validate {bad}\nerror: {bad}: not JSON: ")
    assert "line 2, column 13" in r.stderr
    said = json.loads(cairn("validate", str(bad), "--format", "json").stdout)
    assert said["valid"] is False and "line 2" in said["error"]
    r = cairn("validate", str(tmp_path / "none"))
    assert r.returncode == 3 and "No such file" in r.stderr
    assert cairn("validate").returncode == 2
