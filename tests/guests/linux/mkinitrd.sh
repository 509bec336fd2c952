#!/bin/sh
# Build the guest's init and pack it: mkinitrd.sh OUTDIR writes OUTDIR/init and OUTDIR/initrd.
# The archive is not compressed, because the guest's kernel would have to unpack it, which is slow where
# kernel mode is emulated.
set -eu

[ $# -eq 1 ] || { echo "usage: mkinitrd.sh OUTDIR" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
out=$1
# musl's init is a tenth of glibc's in size. The kernel of the guest copies all of it: 0.8 s where
# kernel mode is emulated. Without musl the script uses glibc: the guest works but starts slower.
if [ -z "${GUEST_CC:-}" ] && command -v musl-gcc >/dev/null; then
	GUEST_CC="musl-gcc -idirafter /usr/include/$(gcc -print-multiarch) -idirafter /usr/include"
fi

command -v cpio >/dev/null || { echo "mkinitrd.sh: cpio is missing: install the package cpio" >&2; exit 1; }
mkdir -p "$out"
tmp=$(mktemp -d "$out/mkinitrd.XXXXXX")
trap 'rm -rf "$tmp"' EXIT

mkdir "$tmp/root"
# shellcheck disable=SC2086 # lists
${GUEST_CC:-cc} -std=gnu11 -Os -Wall -Wextra -Wshadow -Werror -static -pthread -s -ffunction-sections -Wl,--gc-sections \
	${GUEST_CFLAGS:-} -o "$tmp/root/init" \
	"$here/init.c" "$here/file.c" "$here/disk.c" "$here/ram.c" "$here/info.c" "$here/power.c" "$here/agent.c" "$here/net.c" "$here/vectors.c"
(
	cd "$tmp/root"
	mkdir dev proc sys mnt tmp
	# The kernel opens /dev/console for init before anything is mounted. mknod needs root,
	# so the node is written into the archive by hand (newc, one header of 110 bytes).
	printf '%s\n' . dev init mnt proc sys tmp | cpio --quiet -o -H newc -R 0:0 --reproducible >../tree
)
# ino mode uid gid nlink mtime size devmajor devminor rdevmajor rdevminor namesize check
node() { # NAME MODE RDEVMAJOR RDEVMINOR; the record is padded to 4 bytes
	len=$((${#1} + 1))
	printf '070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\0' \
		$((0x7000 + $4)) "$2" 0 0 1 0 0 0 0 "$3" "$4" "$len" 0 "$1"
	pad=$(((4 - (110 + len) % 4) % 4))
	[ "$pad" -eq 0 ] || head -c "$pad" /dev/zero
}
# The kernel unpacks archives that follow one another; each must start at a multiple of 4.
{
	cat "$tmp/tree"
	node dev/console $((0020600)) 5 1
	node 'TRAILER!!!' 0 0 0
} >"$tmp/initrd"
mv "$tmp/root/init" "$out/init"
mv "$tmp/initrd" "$out/initrd"
