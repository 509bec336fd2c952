#!/bin/sh
# Fetch Debian's iperf3 and those of its libraries that the machine lacks, unpack them in the cache and print the
# folder. Installs nothing.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
base=${CAIRN_CACHE:-${XDG_CACHE_HOME:-${HOME:?HOME is not set}/.cache}/cairn}
version=$(apt-cache policy iperf3 | sed -n 's/ *Candidate: //p')
dir=$base/iperf3-$version
if [ ! -d "$dir" ]; then
	mkdir -p "$base"
	work=$(mktemp -d "$base/tmp.XXXXXX")
	trap 'rm -rf "$work"' EXIT
	. "$here/../apt.sh"
	mkdir -p "$work/lists/partial" "$work/root"
	apt_sources deb >"$work/sources.list"
	apt apt-get update -q >&2
	(cd "$work" && apt apt-get download -q iperf3 libiperf0 libsctp1 >&2)
	for f in "$work"/*.deb; do
		dpkg-deb -x "$f" "$work/root"
	done
	mv -T "$work/root" "$dir" 2>/dev/null || [ -d "$dir" ]
fi
echo "$dir"
