#!/bin/sh
# Print the folder of Debian's Bochs: bochs.sh CACHE-FOLDER. The first call fetches the packages that Bochs needs and
# this machine lacks into the cache, and unpacks them there; it installs nothing.
set -eu
. "$(dirname "$0")/../apt.sh"

base=${1:?usage: bochs.sh CACHE-FOLDER}
mkdir -p "$base"
exec 9>"$base/vmxhost.lock"
flock 9
found=$(find "$base" -maxdepth 1 -name 'vmxhost-bochs-*' | sort -V | tail -n 1)
if [ -z "$found" ]; then
	work=$(mktemp -d "$base/tmp.XXXXXX")
	trap 'rm -rf "$work"' EXIT
	mkdir -p "$work/lists/partial" "$work/archives/partial" "$work/debs" "$work/root"
	apt_sources deb >"$work/sources.list"
	apt apt-get -qq update >&2
	own='bochs bochs-term bochsbios vgabios' # these even if they are installed
	missing=$(apt apt-get -qq -s --no-install-recommends install bochs bochs-term | sed -n 's/^Inst \([^ ]*\) .*/\1/p')
	# shellcheck disable=SC2086 # one word a package
	packages=$(printf '%s\n' $own $missing | sort -u)
	# shellcheck disable=SC2086
	(cd "$work/debs" && apt apt-get -qq download $packages >&2)
	for deb in "$work"/debs/*.deb; do
		dpkg-deb -x "$deb" "$work/root"
	done
	found=$base/vmxhost-bochs-$(dpkg-deb -f "$work"/debs/bochs_*.deb Version)
	mv "$work/root" "$found"
fi
echo "$found"
