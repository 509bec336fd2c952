#!/bin/sh
# Build the small Linux: build.sh [up|smp]
# Builds Debian's source package in a cache outside the tree. Prints one line, the folder with
# vmlinux (stripped ELF with PVH entry), bzImage, System.map and config. The first build takes two
# to three minutes; later calls find its result in the cache. Needs no network and no root.
set -eu

die() {
	echo "build.sh: $*" >&2
	exit 1
}

need() { # PROGRAM PACKAGE
	command -v "$1" >/dev/null || die "$1 is missing: install the package $2"
}

here=$(cd "$(dirname "$0")" && pwd)
variant=${1:-up}
case $variant in
up | smp) ;;
*) die "no variant '$variant': up or smp" ;;
esac
release=6.1 # Debian 12's
[ -f /usr/src/linux-source-6.1.tar.xz ] || [ ! -f /usr/src/linux-source-6.12.tar.xz ] || release=6.12 # Debian 13's
package=linux-source-$release
source=/usr/src/$package.tar.xz
[ -f "$source" ] || die "$source is missing: install the package linux-source-6.1 (Debian 12) or linux-source-6.12 (13)"
version=$(dpkg-query -W -f '${Version}' "$package" 2>/dev/null) || version=$(stat -c %s "$source")

base=${CAIRN_CACHE:-${XDG_CACHE_HOME:-${HOME:?HOME is not set}/.cache}/cairn}
hash=$({ cat "$here/config.fragment" "$here/config.$variant" "$here/config.$release" "$0" && echo "$version"; } | sha256sum | cut -c1-16)
dir=$base/linux-$variant-$hash
if [ -f "$dir/vmlinux" ]; then
	echo "$dir"
	exit
fi

need make make
need gcc gcc
need strip binutils
need flex flex
need bison bison
need bc bc
need lz4 lz4
need xz xz-utils
need flock util-linux
echo '#include <gelf.h>' | gcc -E - >/dev/null 2>&1 || die "gelf.h is missing: install the package libelf-dev"

mkdir -p "$base"
exec 9>"$base/linux-$variant.lock"
flock 9
if [ -f "$dir/vmlinux" ]; then # the one who held the lock has built it
	echo "$dir"
	exit
fi
log=$base/linux-$variant.log
work=$(mktemp -d "$base/tmp.XXXXXX")
finish() {
	rc=$?
	rm -rf "$work"
	if [ $rc -ne 0 ]; then
		tail -n 20 "$log" >&2
		echo "build.sh: the kernel was not built; all of it in $log" >&2
	fi
	exit $rc
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
echo "build.sh: building linux-$variant (minutes), log in $log" >&2
exec 3>&1 >"$log" 2>&1

# Unpacks only the Kconfig files of other architectures: this takes a quarter of the time and space.
mkdir "$work/src" "$work/out" "$work/cache"
tar -xJf "$source" -C "$work/src" --strip-components=1 \
	--exclude="$package/Documentation/*/*" --exclude="$package/arch/[!x]*/*.[chS]" \
	--exclude='*.dts' --exclude='*.dtsi' --exclude="$package/tools/testing" \
	--exclude="$package/drivers/gpu/drm/amd/include"

kmake() {
	# The option for head64.o: gcc would clear the BSS byte by byte there (rep stosb, 1 M times).
	# cmd_check_local_export: nm of each object checks Debian's own source, and takes an eighth of the time.
	make -C "$work/src" -s ARCH=x86_64 O="$work/out" LOCALVERSION= CFLAGS_head64.o=-fno-builtin-memset \
		cmd_check_local_export=: KBUILD_BUILD_USER=cairn KBUILD_BUILD_HOST=tests KBUILD_BUILD_VERSION=1 \
		KBUILD_BUILD_TIMESTAMP='2024-01-01 00:00:00 UTC' "$@"
}
cat "$here/config.fragment" "$here/config.$variant" "$here/config.$release" >"$work/fragment"
kmake KCONFIG_ALLCONFIG="$work/fragment" allnoconfig
# A line of the fragment that Kconfig dropped is a mistake; the build fails here, not the guest later.
bad=0
while IFS= read -r line; do
	case $line in
	'# CONFIG_'*' is not set')
		name=${line#\# } name=${name%% *}
		! grep "^$name=" "$work/out/.config" || { echo "fragment: $line" && bad=1; }
		;;
	CONFIG_*) grep -qxF -- "$line" "$work/out/.config" || { echo "fragment: $line did not hold" && bad=1; } ;;
	esac
done <"$work/fragment"
[ $bad = 0 ]
kmake -j"$(nproc)" vmlinux bzImage

strip -o "$work/cache/vmlinux" "$work/out/vmlinux"
cp "$work/out/arch/x86/boot/bzImage" "$work/out/System.map" "$work/cache/"
cp "$work/out/.config" "$work/cache/config"
mv "$work/cache" "$dir"
echo "$dir" >&3
