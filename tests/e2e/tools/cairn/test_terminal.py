"""No text of a definition, of a file or of an older daemon gives orders to the terminal that shows it."""

import hashlib
import io
import json
import os
import subprocess
import tarfile

import pytest

from conftest import BUILD, QmpError

ESC, C1 = "\x1b]0;owned\x07", "\x9b31m"
REVERSE = "\u202e"  # the text that follows runs from right to left
TEXTS = [ESC, C1, "\x7f", "\n", REVERSE, "\u2028"]


def controls(text):
    """Return the characters of a text that a terminal obeys, without the ends of lines."""
    return {c for c in text if c != "\n" and (ord(c) < 0x20 or 0x7f <= ord(c) < 0xa0 or c in REVERSE + "\u2028")}


def with_text(key, text):
    definition = {"name": "a", "memory": "32M", "boot": {"kernel": "/kernel"}}
    if key == "kernel":
        definition["boot"]["kernel"] = "/k" + text
    elif key == "disk":
        definition["disks"] = [{"path": "/d" + text, "format": "raw"}]
    else:
        definition[key] = "t" + text
    return definition


@pytest.mark.parametrize("key", ["name", "title", "description", "kernel", "disk"])
def test_definition_with_control_characters_is_refused(fake, key):
    q = fake.qmp()
    for text in TEXTS:
        with pytest.raises(QmpError, match=f"{key if key != 'disk' else 'path'}: must .*control characters"):
            q.run("vm-define", definition=with_text(key, text))
    # A terminal shows these as they are, so only the files are missing.
    with pytest.raises(QmpError, match="NotFound: .*kernel"):
        q.run("vm-define", definition=with_text(key, "\xe4\u20ac\U0001f600"))


def test_name_that_looks_like_another_one_is_refused(fake):
    for name in ("web1\u200b", "we\xadb1", "web\xa01", "web1 ", " web1", "\ufeffweb1"):
        with pytest.raises(QmpError, match="name: must not have invisible characters, or begin or end with a space"):
            fake.qmp().run("vm-define", definition={**with_text("title", ""), "name": name})


@pytest.fixture
def old(fake):
    """A VM whose definition an older daemon accepted, with control characters in each text."""
    (fake.tmp / "d").write_bytes(bytes(512))
    fake.define("a", disks=[{"path": "d", "format": "raw", "readonly": True}])
    fake.stop()
    path = fake.state / "vms/a/definition.json"
    o = json.loads(path.read_text())
    o["title"], o["description"] = "t" + C1 + REVERSE, "d\x85" + C1 + REVERSE
    o["boot"]["kernel"] = str(fake.tmp / "k") + ESC + C1
    o["disks"][0]["path"] += ESC + C1
    path.write_text(json.dumps(o))
    fake.start()
    return fake


@pytest.mark.parametrize("args", [
    ["list", "--all", "--title"], ["dominfo", "a"], ["domblklist", "a"], ["desc", "a", "--title"], ["desc", "a"],
    ["dumpjson", "a"], ["dumpxml", "a"], ["dominfo", "a", "--format", "json"], ["list", "--all", "--format", "csv"],
    ["list", "--all", "--format", "yaml"]], ids=" ".join)
def test_stored_texts_are_shown_without_control_characters(old, args):
    r = old.cairn(*args)
    assert not controls(r.stdout + r.stderr) and r.stdout


def test_errors_logs_and_events_have_no_control_characters(old):
    r = old.cairn("start", "a", ok=False)
    assert not controls(r.stderr) and "k?]0;owned???31m" in r.stderr
    path = old.tmp / "forged.json"
    path.write_text(json.dumps({"name": "b", "title" + ESC: 1}), encoding="utf-8")
    r = old.cairn("define", str(path), ok=2)
    assert not controls(r.stderr) and "title?]0;owned?" in r.stderr
    assert not controls(old.cairn("audit", "--format", "json").stdout)
    assert not controls(old.log.read_text())


def test_warnings_about_an_xml_have_no_control_characters(tmp_path):
    (tmp_path / "a.xml").write_text('<domain type="kvm"><name>a</name><memory>32768</memory><os><type>hvm</type><kernel>/k</kernel></os>'
                                    '<devices><serial type="&#x9b;31m&#x7f;"/></devices></domain>')
    r = subprocess.run([os.path.join(BUILD, "cairn"), "validate", tmp_path / "a.xml"], capture_output=True, text=True)
    assert '"??31m?" has no effect' in r.stderr and not controls(r.stdout + r.stderr)


def test_archive_is_shown_without_control_characters(tmp_path):
    """The definition in it may be an older Cairn's, or anybody's."""
    text = json.dumps({"format": 1, "definition": {"name": "a", "title\x85": "t" + C1, "description": "\0\x7f" + ESC}, "files": []}).encode()
    sums = json.dumps({"sha256": {"manifest.json": hashlib.sha256(bytes(8) + text).hexdigest()}}).encode()
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as t:
        for name, data in (("manifest.json", text), ("sums.json", sums)):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            t.addfile(info, io.BytesIO(data))
    for form in ("json", "yaml", "table"):
        r = subprocess.run([os.path.join(BUILD, "cairn"), "import", "--dry-run", "--format", form, tmp_path / "a.tar"], capture_output=True,
                           text=True, cwd=tmp_path, check=True)
        assert not controls(r.stdout + r.stderr) and "a" in r.stdout
        assert form != "json" or json.loads(r.stdout)["definition"] == {"name": "a", "title??": "t??31m", "description": "???]0;owned?"}


@pytest.mark.parametrize("args", [["info"], ["info", "--backing-chain", "-U"], ["info", "--output", "json"], ["snapshot", "-l"],
                                  ["map"], ["check"], ["commit", "-f", "qcow2"]], ids=" ".join)
def test_names_in_images_are_shown_without_control_characters(tmp_path, args):
    """An image names its snapshots, its backing file and that file's format: whatever its author has written there."""
    image, name = tmp_path / "a.qcow2", "b" + ESC + C1 + REVERSE
    base = tmp_path / "base".ljust(len(name.encode()), "_")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", base, "1M"], check=True)
    subprocess.run(["qemu-io", "-c", "write 0 64k", base], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", base.name, "-F", "qcow2", image], check=True)
    if args[0] != "commit":  # which is refused then
        subprocess.run(["qemu-img", "snapshot", "-c", "s" + ESC + C1, image], check=True)
    base.rename(tmp_path / name)
    image.write_bytes(image.read_bytes().replace(base.name.encode(), name.encode()))
    r = subprocess.run([os.path.join(BUILD, "cairn-img"), *args, image], capture_output=True, text=True, cwd=tmp_path)
    assert not controls(r.stdout + r.stderr) and r.returncode == 0 and r.stdout
    if "json" in args:
        shown = json.loads(r.stdout)
        assert shown["backing-filename"] == name and shown["snapshots"][0]["name"] == "s" + ESC + C1
