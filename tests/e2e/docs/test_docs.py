"""Files and targets named in the pages exist, and the README's commands work."""

import functools
import glob
import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from conftest import BUILD, ROOT

PAGES = {p.relative_to(ROOT): p.read_text() for p in [Path(ROOT, "README.md"), *sorted(Path(ROOT, "docs").glob("*.md"))]}
MANUALS = sorted(Path(ROOT, "docs", "man").glob("*.[13]"))
assert MANUALS
FOLDERS = "|".join(p.name for p in Path(ROOT).iterdir() if p.is_dir() and not p.name.startswith((".", "build")))
# Placeholders.
PATTERN = re.compile(r"<[a-z]+>|[A-Z]{4,}")


def there(path):
    return glob.glob(os.path.join(ROOT, PATTERN.sub("*", path)))


def code(text):
    return re.findall(r"`([^`\n]+)`", text)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_linked_files_exist(page):
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", PAGES[page]) if "://" not in link]
    assert not [link for link in links if not (Path(ROOT, page).parent / link).exists()]
    files = [c.split()[0] for c in code(PAGES[page]) if re.match(rf"({FOLDERS})/[^\s]", c)]
    files += re.findall(r"\bdocs/[\w.-]+\.md\b", PAGES[page])
    assert not [f for f in files if not there(f)]
    tests = re.findall(r"`(test_\w+\.py)", PAGES[page])
    assert not [t for t in tests if not glob.glob(os.path.join(ROOT, "tests", "e2e", "**", t), recursive=True)]


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_named_targets_and_verbs_exist(page):
    targets = re.findall(r"^([a-z-]+):", Path(ROOT, "Makefile").read_text(), re.M)
    verbs = {v["name"] for v in json.loads(subprocess.check_output([os.path.join(BUILD, "cairn"), "help", "--format", "json"]))}
    for c in code(PAGES[page]):
        target = re.match(r"make ([a-z-]+)(\s|$)", c)
        assert not target or target[1] in targets, c
        verb = re.match(r"(?:build/)?cairn ([a-z-]+)", c)
        assert not verb or verb[1] in verbs, c


@functools.cache
def words_of_sources():
    """Return the names of files without endings, and the words in them, in the folders of the tree."""
    files = [p for top in FOLDERS.split("|") if top != "docs" for p in Path(ROOT, top).rglob("*") if p.suffix in (".c", ".h", ".py", ".sh")]
    return {p.stem for p in files}.union(*(re.findall(r"\w+", p.read_text()) for p in files))


@pytest.mark.parametrize("page", [*PAGES, *(p.relative_to(ROOT) for p in MANUALS)], ids=str)
def test_named_tests_functions_and_constants_exist(page):
    text = Path(ROOT, page).read_text().replace("\\-", "-")
    named = re.findall(r"\b(?:test|long)_\w+|\b\w+(?=\(\))|\b(?:VM|CAIRN)_[A-Z_]+\b", text)
    assert not set(named) - words_of_sources() - {"noun_verb"}


def test_make_help_has_every_target():
    made = re.search(r"^\.PHONY: (all .*)$", Path(ROOT, "Makefile").read_text(), re.M)[1].split()
    helped = subprocess.check_output(["make", "-s", "help"], cwd=ROOT, text=True)
    assert not [t for t in made if t != "help" and not re.search(rf"\b{t}\b", helped)]


def test_architecture_lists_every_file():
    """docs/ARCHITECTURE.md: the tables of nouns and the folders list every file."""
    tables = re.findall(r"^### (\w+)/, by noun\n[^|]*(\|.*?)\n\n", PAGES[Path("docs/ARCHITECTURE.md")], re.M | re.S)
    assert {top for top, _ in tables} == {"vmm", "api"}
    for top, table in tables:
        named = set()
        for row in table.splitlines()[2:]:
            files, folder = (cell.strip() for cell in row.split("|")[1:3])
            for name in files.split(", "):
                found = {f.name for f in Path(ROOT, folder).glob(name.replace("[ch]", "c"))}
                assert found, f"{folder} has no {name}"
                named |= found
        assert {f.name for f in Path(ROOT, top).rglob("*.c")} - named == {"main.c"}


def test_manual_macros_keep_words_apart():
    """.BR and the like join their arguments without spaces, so text after one has to start a new line."""
    for page in MANUALS:
        for line in page.read_text().splitlines():
            macro = re.match(r"\.(?:BR|RB|BI|IB|IR|RI) (.*)", line)
            words = re.findall(r'"[^"]*"|\S+', macro[1]) if macro else []
            prose = [a for a, b in zip(words, words[1:]) if re.fullmatch("[a-z]+,?", a) and re.fullmatch("[a-z]+[,.]?", b)]
            assert not prose, (page.name, line)


def test_manual_macros_have_balanced_quotes():
    """An unbalanced quote in a macro's line is printed and breaks the grouping of arguments."""
    for page in MANUALS:
        for line in page.read_text().splitlines():
            macro = re.match(r"\.(?:[BIR]|BR|RB|BI|IB|IR|RI) (.*)", line)
            words = re.findall(r'"[^"]*"(?!\S)|\S+', macro[1]) if macro else []
            assert not [w for w in words if '"' in w.strip('"') or w.count('"') % 2], (page.name, line)
            if re.match(r"\S+ +[a-z-]+ .*[\[{]", line):
                assert all(line.count(a) == line.count(b) for a, b in ("[]", "{}")), (page.name, line)


def test_howto_commands_work(kvm, guest, daemon):
    """The blocks without a language run one after the other; those of "sh" need another host or its network."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", PAGES[Path("docs/howto.md")], re.M | re.S)
    typed = "".join(block for language, block in blocks if not language)
    for said, done in (("cairn define deb.json\n", "touch debian.iso\ncairn define deb.json\n"),
                       ("cairn start deb --boot cdrom\ncairn vncdisplay deb\n", "")):  # no ISO here has a boot record
        assert said in typed
        typed = typed.replace(said, done)
    subprocess.run([os.path.join(BUILD, "cairn-img"), "create", "-q", "-f", "qcow2", "web1.qcow2", "64M"], cwd=daemon.tmp, check=True)
    daemon.define("web1", boot={"kernel": guest("idle.elf")}, disks=[{"path": str(daemon.tmp / "web1.qcow2"), "format": "qcow2"}])
    daemon.cairn("start", "web1")
    r = subprocess.run(["sh", "-ex"], input=typed, env={**daemon.env, "PATH": BUILD + ":" + os.environ["PATH"]}, cwd=daemon.tmp,
                       capture_output=True, text=True, timeout=50)
    assert r.returncode == 0, r.stdout + r.stderr
    assert "Own size:" in r.stdout and not daemon.cairn("snapshot-list", "web1", "--name").stdout.split()
    assert daemon.cairn("list", "--all", "--name").stdout.split() == ["web1", "deb", "web1-tue"]


# Before that the guest ignores the power button.
UP = "until build/cairn dominfo vm1 --format json | grep -q '\"idle\": *true'; do :; done\n"


def test_readme_commands_work(kvm, guest, daemon):
    """From the first VM to the last line, with a guest that builds and boots faster."""
    page = PAGES[Path("README.md")]
    blocks = re.findall(r"^```\n(.*?)^```$", page[page.index("## The first VM by hand"):], re.M | re.S)
    assert blocks.pop(0) == "make -j$(nproc)\nbuild/cairnd &\n"  # done by the fixture
    typed = "".join(blocks)
    for said, done in (("kernel=$(tests/guests/linux/build.sh)/vmlinux\n", f"kernel={guest('idle.elf')}\n"),
                       ("make guests\n", ""), ("start vm1 --console\n", "start vm1\n" + UP)):
        assert said in typed
        typed = typed.replace(said, done)
    (daemon.tmp / "build").symlink_to(BUILD)
    (daemon.tmp / "tests").symlink_to(os.path.join(ROOT, "tests"))
    r = subprocess.run(["sh", "-ex"], input=typed, env=daemon.env, cwd=daemon.tmp, capture_output=True, text=True, timeout=50)
    assert r.returncode == 0, r.stdout + r.stderr
    assert "Domain 'vm1' is shut off" in r.stdout and "shut off (shutdown)\n" in r.stdout
    assert daemon.proc.wait(50) == 0
    assert (daemon.tmp / "disk.qcow2").exists()
    assert not list(daemon.tmp.glob("copy-*")) and not list(daemon.tmp.glob("vm[23]*/*")) and not list(daemon.tmp.glob("vm2*"))
