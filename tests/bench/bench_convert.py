"""convert: raw to qcow2 and back, on a tmpfs; half data, half hole."""

from imgbench import converting


def run(bench):
    converting(bench, [("raw to qcow2", ["-f", "raw", "-O", "qcow2", "src.raw"]),
                       ("qcow2 to raw", ["-f", "qcow2", "-O", "raw", "src.qcow2"])], 256, 1.5)
