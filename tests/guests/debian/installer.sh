#!/bin/sh
# Run a command with Debian's installer in CAIRN_INSTALLER, a folder with its kernel (linux) and initrd.gz:
# installer.sh COMMAND... They come from the package debian-installer-12-netboot-amd64, which is fetched into a cache
# outside the tree and not installed. If it cannot be fetched, the command runs without CAIRN_INSTALLER.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
base=${CAIRN_CACHE:-${XDG_CACHE_HOME:-${HOME:?HOME is not set}/.cache}/cairn}
dir=$base/debian-installer-$(sha256sum <"$0" | cut -c1-16)

fetch() {
	. "$here/../../apt.sh"
	mkdir -p "$work/lists/partial" "$work/debs" "$work/root"
	apt_sources deb >"$work/sources.list"
	apt apt-get -qq update
	(cd "$work/debs" && apt apt-get -qq download debian-installer-12-netboot-amd64)
	dpkg-deb -x "$work"/debs/*.deb "$work/root"
	mv "$work/root/usr/lib/debian-installer/images/12/amd64/text/debian-installer/amd64" "$work/installer"
	mv -T "$work/installer" "$dir" # another one may have been quicker
}

if [ ! -d "$dir" ]; then
	mkdir -p "$base"
	work=$(mktemp -d "$base/tmp.XXXXXX")
	set +e
	(set -e && fetch) >"$work/log" 2>&1
	[ -d "$dir" ] || tail -n 5 "$work/log" >&2
	set -e
	rm -rf "$work"
fi
if [ -d "$dir" ]; then
	export CAIRN_INSTALLER="$dir"
fi
exec "$@"
