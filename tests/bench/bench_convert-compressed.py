"""convert-compressed: raw to compressed qcow2, on all CPUs."""

from imgbench import converting


def run(bench):
    target = ["-f", "raw", "-O", "qcow2", "src.raw"]
    converting(bench, [("zlib", ["-c", *target]), ("zstd", ["-c", "-o", "compression_type=zstd", *target])], 48, 1.5, plain=False)
