"""The Debian packages as `make deb` builds them: reproducible, accepted by lintian, tested by autopkgtest, and
installed, upgraded, removed and purged in a clean Debian under its own systemd, in the emulated SVM host.
`make check-long`, part "packages"."""

import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess

import pytest

import guestlib
from conftest import ROOT
from deblib import deb_unpacked, debs_fetched, needed

HERE = os.path.dirname(__file__)
TESTS = pathlib.Path(ROOT, "tools/packaging/debian/tests")
SECONDS = 5400  # each, with two builds or an emulated host, which may get a tenth of a processor
HOST_SECONDS = 3600
# The clean Debian, unpacked in RAM. $1: how to go on in it.
OUTER = r"""
mount --make-rprivate /
mkdir /tmp/clean
mount -t tmpfs -o size=3G tmpfs /tmp/clean
tar -xf /host-share/clean.tar -C /tmp/clean || exit 1
cd /tmp/clean
mount --rbind /sys sys
mount --rbind /dev dev
mount -t proc proc proc
mkdir -p share old
mount --bind /host-share share
cp share/idle.elf share/interp.elf root/
cp share/package_checks.sh root/
chroot . sh /root/package_checks.sh chroot /share/chroot
mount -t tmpfs -o mode=755 tmpfs run
mkdir -p run/systemd/system run/lock
cat >run/systemd/system/checks.service <<END
[Unit]
DefaultDependencies=no
[Service]
Type=oneshot
ExecStart=/bin/sh /root/package_checks.sh systemd /share/result
ExecStopPost=/bin/systemctl exit 0
END
printf '[Unit]\nDefaultDependencies=no\nAllowIsolate=yes\nWants=checks.service systemd-journald.service\n' >run/systemd/system/checks.target
touch share/console
mount --bind share/console dev/console
export container=other
pivot_root . old
umount -l /old
exec /lib/systemd/systemd --system --unit=checks.target --log-target=console --show-status=no
"""


# autopkgtest in the clean Debian, unpacked in RAM, in which it installs what it needs. $1: the archive of that Debian.
# $2: an empty folder. The rest: what runs autopkgtest.
IN_CHROOT = r"""
set -e
mount --make-rprivate /
mount -t tmpfs -o mode=755,size=3G tmpfs "$2"
tar -xf "$1" -C "$2"
mount --rbind /dev "$2/dev"
mount -t proc proc "$2/proc"
cp /etc/resolv.conf /etc/hosts "$2/etc/"
root=$2
shift 2
exec "$@" -- chroot "$root"
"""


def build(where, **env):
    """Build the packages from scratch; return {file name: its checksum}, and the folder."""
    subprocess.run(["make", "-s", f"BUILD={where}", "deb"], cwd=ROOT, check=True, env={**os.environ, **env}, stdout=subprocess.DEVNULL)
    found = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in (where / "deb").iterdir()
             if p.suffix in (".deb", ".dsc", ".xz")}
    assert len(found) == 10, found  # five packages, three of debug symbols, two files of the source
    return found, where / "deb"


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    needed("dh")
    return build(tmp_path_factory.mktemp("first"))


def package(folder, name):
    path, = folder.glob(f"{name}_*.deb")
    return path


@pytest.mark.seconds(SECONDS)
def test_packages_are_reproducible(packages, tmp_path):
    second, _ = build(tmp_path, TZ="Asia/Tokyo", LC_ALL="C", TMPDIR=str(tmp_path), USER="somebody")
    assert second == packages[0]


@pytest.mark.seconds(SECONDS)
def test_lintian_accepts_packages(packages, tmp_path):
    needed("lintian")
    changes, = packages[1].glob("*.changes")
    r = subprocess.run(["lintian", "--pedantic", "--display-info", "--allow-root", "--fail-on", "error,warning,info,pedantic", changes],
                       capture_output=True, text=True, env={**os.environ, "TMPDIR": str(tmp_path)})
    assert r.returncode == 0 and not r.stdout, r.stdout + r.stderr


@pytest.mark.seconds(SECONDS)
def test_bill_of_materials_names_what_is_linked(packages, tmp_path):
    subprocess.run(["dpkg-deb", "-x", package(packages[1], "cairn"), tmp_path], check=True)
    bill = json.loads((tmp_path / "usr/share/doc/cairn/sbom.cdx.json").read_text())
    uses = {d["ref"]: {p.split("/")[-1].split("@")[0] for p in d["dependsOn"]} for d in bill["dependencies"]}
    assert {"libc6-dev", "liburing-dev", "libzstd-dev", "zlib1g-dev"} <= uses["cairn-vm"], uses["cairn-vm"]
    assert "libxml2" in str(uses["cairn-xml"]) and "libxml2" not in str(uses["cairnd"])
    assert "musl-dev" in uses["cairn-agent"]
    assert uses["Cairn"] >= {"cairn-vm", "cairnd", "nbdkit-cairn-plugin.so"}
    refs = {c["bom-ref"] for c in bill["components"]} | {"Cairn"}
    assert all(p in refs for d in bill["dependencies"] for p in d["dependsOn"])
    depends = subprocess.run(["dpkg-deb", "-f", package(packages[1], "cairn"), "Static-Built-Using"], capture_output=True, text=True).stdout
    assert {"glibc", "libzstd", "zlib", "musl"} <= {d.split()[0] for d in depends.split(", ")}


@pytest.mark.seconds(SECONDS)
def test_library_works_from_its_package(packages, tmp_path):
    """The example of the manual page compiles, with the flags that pkg-config gives."""
    subprocess.run(["dpkg-deb", "-x", package(packages[1], "libcairn-dev"), tmp_path], check=True)
    page, = tmp_path.rglob("libcairn.3.gz")
    text = subprocess.run(["man", "-l", page], capture_output=True, text=True, check=True, env={**os.environ, "MANWIDTH": "200"}).stdout
    program = text[text.index("EXAMPLES"):text.index("SEE ALSO")]
    (tmp_path / "program.c").write_text(program[program.index("#include"):])
    flags = subprocess.run(["pkg-config", "--cflags", "--libs", "cairn"], capture_output=True, text=True, check=True, env={
        **os.environ, "PKG_CONFIG_PATH": str(tmp_path / "usr/lib/x86_64-linux-gnu/pkgconfig")}).stdout.split()
    flags = [re.sub("^(-[IL])/usr/(include/cairn|lib)", rf"\1{tmp_path}/usr/\2", f) for f in flags]
    subprocess.run(["gcc", "-Wall", "-Wextra", "-Werror", "-o", tmp_path / "program", tmp_path / "program.c",
                    f"-L{tmp_path}/usr/lib/x86_64-linux-gnu", *flags], check=True)


def newer(path, folder):
    """Write the package again as a later version."""
    root = folder / "newer"
    subprocess.run(["dpkg-deb", "-R", path, root], check=True)
    control = root / "DEBIAN/control"
    control.write_text(re.sub("^Version: (.*)", r"Version: \1+newer", control.read_text(), flags=re.M))
    subprocess.run(["dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "-b", root, folder / "newer.deb"], check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(root)


@pytest.fixture(scope="module")
def clean(packages, tmp_path_factory):
    """A folder with the packages, and in clean.tar a minimal Debian 12 with what they depend on."""
    if os.geteuid():
        pytest.skip("needs root, for a clean Debian")
    needed("mmdebstrap")
    folder = tmp_path_factory.mktemp("clean")
    for name in ("cairn", "cairn-img", "cairn-web", "cairn-doc", "libcairn-dev"):
        shutil.copy(package(packages[1], name), folder / f"{name}.deb")
    clean_debian(folder)
    return folder


def clean_debian(share):
    """Make the clean Debian from this machine's mirrors."""
    depends = ", ".join(subprocess.run(["dpkg-deb", "-f", share / f"{name}.deb", "Depends"], capture_output=True, text=True,
                                       check=True).stdout.strip() for name in ("cairn", "cairn-img", "cairn-web", "libcairn-dev"))
    names = sorted({d.split()[0] for d in depends.split(",")} - {"cairn"} | {"systemd", "udev"})
    lines = subprocess.run(["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Identifier: Packages"],
                           capture_output=True, text=True, check=True).stdout.split("\n")
    sources = sorted({"deb " + line for line in lines if re.search(r" bookworm(-updates|-security)? main$", line)})
    config = subprocess.run(["apt-config", "dump"], capture_output=True, text=True).stdout
    (share / "apt.conf").write_text("".join(line + "\n" for line in config.splitlines() if line.startswith("Acquire::")))
    subprocess.run(["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(names)}", f"--aptopt={share}/apt.conf",
                    "bookworm", share / "clean.tar", "-"], input="\n".join(sources) + "\n", text=True, check=True)


@pytest.mark.seconds(SECONDS)
def test_autopkgtest_accepts_packages(packages, clean, tmp_path):
    """Debian's own runner takes the tests from the source package, and installs the packages that these need."""
    for deb in debs_fetched(tmp_path / "debs", "autopkgtest", "python3-debian"):
        deb_unpacked(deb, tmp_path / "tools")
    root = tmp_path / "root"
    root.mkdir()
    tools, out = tmp_path / "tools/usr", tmp_path / "out"
    # autopkgtest gives TMPDIR to the commands in the chroot, too.
    env = {**os.environ, "TMPDIR": "/tmp", "PATH": f"{tools}/bin:{os.environ['PATH']}",
           "PYTHONPATH": f"{tools}/share/autopkgtest/lib:{tools}/lib/python3/dist-packages"}
    source, = packages[1].glob("*.dsc")
    r = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", IN_CHROOT, "sh", clean / "clean.tar", root, "/usr/bin/python3",
         tools / "bin/autopkgtest", "--apt-upgrade", "--output-dir", out, clean / "cairn.deb", clean / "cairn-img.deb", source],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=env)
    assert r.returncode == 0, r.stdout[-4000:]
    names = [d.strip() for d in (TESTS / "control").read_text().splitlines() if d.startswith("Tests:")]
    assert [f"Tests: {line.split()[0]}" for line in (out / "summary").read_text().splitlines() if line.split()[1] == "PASS"] == names


@pytest.mark.seconds(SECONDS)
def test_packages_in_clean_debian(clean, tmp_path):
    for path in (*clean.glob("*.deb"), clean / "clean.tar"):
        os.link(path, tmp_path / path.name)
    newer(tmp_path / "cairn.deb", tmp_path)
    for name in ("idle.elf", "interp.elf"):
        shutil.copy(os.path.join(guestlib.BUILD, "guests", name), tmp_path)
    shutil.copy(os.path.join(HERE, "package_checks.sh"), tmp_path)
    shutil.copy(TESTS / "tools", tmp_path / "autopkgtest")
    (tmp_path / "outer").write_text(OUTER)
    run = subprocess.run(
        [*guestlib.SVMHOST, "--timeout", str(HOST_SECONDS), "--share", str(tmp_path), "--", "unshare", "--pid", "--fork", "--mount",
         "--kill-child", "sh", "/host-share/outer"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", timeout=HOST_SECONDS + 60)
    for part in ("chroot", "result"):
        result = tmp_path / part
        assert result.exists() and result.read_text().endswith("ok\n"), (part, run.stdout[-3000:], result.exists() and result.read_text()[-3000:])
