"""Make container images and tar archives for the tests of roots, and look into squashfs images."""

import gzip
import hashlib
import io
import json
import os
import re
import subprocess
import tarfile

from conftest import BUILD

NOBODY = 65534
CONFIG = {"Entrypoint": ["/bin/sh"], "Cmd": ["-c", "id"], "Env": ["PATH=/bin", "A=b c"], "User": "daemon", "WorkingDir": "/srv"}
TYPES = {"index": "application/vnd.oci.image.index.v1+json", "manifest": "application/vnd.oci.image.manifest.v1+json",
         "config": "application/vnd.oci.image.config.v1+json", "layer": "application/vnd.oci.image.layer.v1.tar"}


def entry(name, data=b"", kind=None, mode=0o644, uid=0, gid=0, to="", xattrs=(), device=(0, 0), mtime=1000):
    """Return an entry of a tar archive: a file, or a folder if the name ends with /."""
    i = tarfile.TarInfo(name)
    i.type = kind or (tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE)
    i.mode = mode if i.type != tarfile.DIRTYPE or mode != 0o644 else 0o755
    i.uid, i.gid, i.linkname, i.mtime = uid, gid, to, mtime
    i.devmajor, i.devminor = device
    i.pax_headers = {"SCHILY.xattr." + k: v for k, v in dict(xattrs).items()}
    i.size = len(data)
    return i, data


def link(name, to):
    return entry(name, kind=tarfile.LNKTYPE, to=to)


def symlink(name, to):
    return entry(name, kind=tarfile.SYMTYPE, to=to)


def tar(*entries):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as t:
        for info, data in entries:
            t.addfile(info, io.BytesIO(data))
    return out.getvalue()


class Layout:
    """An OCI layout folder."""

    def __init__(self, path):
        self.path = path
        self.images, self.diff_ids = [], {}
        (path / "blobs" / "sha256").mkdir(parents=True)
        (path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')

    def blob_path(self, descriptor):
        return self.path / "blobs" / "sha256" / descriptor["digest"].split(":")[1]

    def blob(self, kind, data):
        data = data if isinstance(data, bytes) else json.dumps(data).encode()
        d = {"mediaType": TYPES.get(kind, kind), "digest": "sha256:" + hashlib.sha256(data).hexdigest(), "size": len(data)}
        self.blob_path(d).write_bytes(data)
        return d

    def layer(self, data, compress=True):
        d = self.blob(TYPES["layer"] + "+gzip", gzip.compress(data, 1)) if compress else self.blob("layer", data)
        self.diff_ids[d["digest"]] = "sha256:" + hashlib.sha256(data).hexdigest()
        return d

    def manifest(self, *layers, config=None, architecture="amd64", **more):
        """Return the descriptor of a manifest of layers, which are tar archives or descriptors."""
        layers = [d if isinstance(d, dict) else self.layer(d) for d in layers]
        ids = [self.diff_ids.get(d["digest"], d["digest"]) for d in layers]
        c = {"architecture": architecture, "os": "linux", "rootfs": {"type": "layers", "diff_ids": ids}, "config": CONFIG if config is None else config}
        return self.blob("manifest", {"schemaVersion": 2, "config": self.blob("config", c), "layers": layers, **more})

    def add(self, descriptor, tag=None):
        self.images.append({**descriptor, "annotations": {"org.opencontainers.image.ref.name": tag}} if tag else descriptor)
        self.write({"schemaVersion": 2, "manifests": self.images})
        return descriptor

    def write(self, index):
        (self.path / "index.json").write_text(json.dumps(index))


def make(source, cache, *options, user=None, ok=True, timeout=50, **kwargs):
    """Run cairn-root. Returns its answer, or its sentence, with ok=False."""
    as_user = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"] if user else []
    r = subprocess.run([*as_user, os.path.join(BUILD, "cairn-root"), *options, str(source)], text=True, capture_output=True,
                       timeout=timeout, env={**os.environ, "XDG_CACHE_HOME": str(cache), "HOME": str(cache)}, **kwargs)
    if ok:
        assert r.returncode == 0, r.stderr
        return json.loads(r.stdout)
    assert (r.returncode, r.stdout) == (1, ""), (r.stdout, r.stderr)
    assert len(r.stderr.splitlines()) == 1, r.stderr
    return r.stderr.strip()


def listing(image):
    """Return {path: "mode uid/gid size-or-device target"} of an image, by unsquashfs."""
    text = subprocess.run(["unsquashfs", "-lln", image], text=True, errors="surrogateescape", capture_output=True, check=True, timeout=50).stdout
    files = {}
    for line in text.splitlines():
        m = re.fullmatch(r"(\S+) (\S+) +(\d+(?:, *\d+)?) (\S+ \S+) squashfs-root(/.*)?", line)
        if m:
            path, _, target = (m[5] or "/").partition(" -> ")
            files[path] = " ".join(filter(None, (m[1], m[2], "" if m[1][0] in "dlp" else m[3].replace(" ", ""), target)))
    return files


def cat(image, path):
    return subprocess.run(["unsquashfs", "-cat", image, path], capture_output=True, check=True, timeout=50).stdout


def left(cache):
    """Return the names in the cache besides those that stay."""
    folder = cache / "cairn" / "roots"
    return sorted(set(os.listdir(folder)) - {"lock", "names"}) if folder.exists() else []
