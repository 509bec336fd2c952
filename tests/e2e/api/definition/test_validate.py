"""cairn validate and the JSON Schema: the schema and the parser must agree."""

import copy
import json
import os
import pathlib
import re
import subprocess

import jsonschema
import pytest

from conftest import BUILD

ROOT = pathlib.Path(__file__).resolve().parents[4]
UUID = "2f1c0c0e-5d3a-4b53-9c39-0d8f1c6a7b11"
# Errors that only the parser finds: sums, duplicate ids and paths, lengths in bytes.
PARSER_ALONE = re.compile(
    r"topology: |is also the (id|address|image) of|is also that of|is not a power of two|"
    r"bytes long; at most|is too little|is too much|not a multiple of|raw image|is less than delay|is less than average|is more than max_vcpus|there is no screen|"
    r"is also used by interfaces|is an address of a host|is not an address that the guest|cannot be a guest's network|"
    r"is neither an address such as|is no DNS name|boot: nothing to start|a firmware boots from a disk|"
    r"are for a VM with a firmware|has no effect without a menu|has no effect without a balloon|in huge pages cannot be given back|"
    r"a balloon cannot give the guest more|is not an IPv[46] address such as|only a disk with \"bus\": \"scsi\"|"
    r"share a controller|there is nothing to show|is less than logical_block_size|a CD drive has blocks|does not boot as version|"
    r"is not more than (iops|bps)|of which there is none|a burst needs the limit")


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
    for whole, path, v in tried:
        d = changed(whole, path, v)
        said, fits = verdict(d), schema.is_valid(d)
        if said and fits:
            assert PARSER_ALONE.search(said), (path, v, said)
        assert said or fits, (path, v, list(schema.iter_errors(d)))


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
                      ('{"name":"a","memory":"1G","disks":[{"id":"\\"}{","id":"vda"}]}', ': line 1: duplicate key "id"')):
        bad.write_text(text)
        assert cairn("validate", str(bad)).stderr.startswith(f"error: Failed to validate {bad}\nerror: {bad}{why}"), text
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
