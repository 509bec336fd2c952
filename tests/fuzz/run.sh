#!/bin/sh
# run.sh BUILD SECONDS: build each fuzzer of this folder on top of BUILD's libraries and let it run. Finds
# stay in BUILD/fuzz; seeds are made by qemu-img. Exit status 1 when one was found.
set -eu
cd "$(dirname "$0")/../.."
build=$1 seconds=$2
mkdir -p "$build/fuzz/qcow2"

seed() {
	f=$build/fuzz/qcow2/seed-$(echo "$1" | tr ',=' '--')
	[ -e "$f" ] && return
	qemu-img create -q -f qcow2 -o "$1" "$f" 256k
	qemu-io -c 'write -P 1 0 8k' -c 'write -P 2 100k 4k' -c 'write -z 40k 20k' "$f" >/dev/null
	qemu-img snapshot -c one "$f"
	qemu-io -c 'write -P 4 0 8k' "$f" >/dev/null
	qemu-img snapshot -c two "$f"
}
for o in cluster_size=512 cluster_size=512,refcount_bits=64 cluster_size=4k cluster_size=16k,extended_l2=on \
	compat=0.10,cluster_size=512; do
	seed "$o"
done

for source in tests/fuzz/fuzz_*.c; do
	name=$(basename "$source" .c)
	clang -std=gnu11 -D_GNU_SOURCE -I. -O1 -g -Wall -Wextra -Werror -fsanitize=address,undefined,fuzzer \
		-o "$build/fuzz/$name" "$source" "$build/libblock.a" "$build/libbase.a" -luring -lzstd -lz
	"$build/fuzz/$name" -max_len=65536 -rss_limit_mb=1024 -timeout=10 -max_total_time="$seconds" \
		-print_final_stats=1 -artifact_prefix="$build/fuzz/$name-" "$build/fuzz/${name#fuzz_}"
done
