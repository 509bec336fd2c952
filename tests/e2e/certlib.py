"""Certificates by openssl."""

import subprocess

# `openssl ca` sets both dates in all versions; `openssl x509` cannot, or refuses -days -1 (from 3.4 on).
CONFIG = """
[ca]
default_ca = tests
[tests]
database = index
new_certs_dir = .
rand_serial = yes
unique_subject = no
default_md = sha256
copy_extensions = copy
policy = names
[names]
commonName = supplied
"""
NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


def openssl(folder, *args):
    subprocess.run(["openssl", *args], cwd=folder, check=True, capture_output=True)


def authority(folder, name):
    """Make NAME.crt and NAME.key of an authority."""
    openssl(folder, "req", "-x509", *NEW_KEY, "-keyout", f"{name}.key", "-out", f"{name}.crt", "-subj", "/CN=ours", "-days", "30")


def certificate(folder, name, owners, signer=None, expired=False):
    """Make NAME.crt and NAME.key.

    owners: names and addresses, as in subjectAltName. signer: an authority [the certificate itself]."""
    (folder / "ca.conf").write_text(CONFIG)
    (folder / "index").write_text("")
    signed_by = ["-cert", f"{signer}.crt", "-keyfile", f"{signer}.key"] if signer else ["-selfsign", "-keyfile", f"{name}.key"]
    dates = ["-startdate", "20200101000000Z", "-enddate", "20200201000000Z"] if expired else ["-days", "30"]
    openssl(folder, "req", "-new", *NEW_KEY, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", "/CN=x", "-addext", "subjectAltName=" + owners)
    openssl(folder, "ca", "-batch", "-config", "ca.conf", *signed_by, *dates, "-in", f"{name}.csr", "-out", f"{name}.crt", "-notext")
