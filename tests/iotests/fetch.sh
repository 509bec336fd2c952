#!/bin/sh
# Print a folder with the tests of the block layer (iotests) of the installed QEMU: fetch.sh CACHE-FOLDER. The first
# time, the script gets the source of that version from Debian and keeps of it only tests/qemu-iotests and the Python
# modules that these tests import. Exit status 77 with a sentence on stderr when the source cannot be had.
set -eu
. "$(dirname "$0")/../apt.sh"

base=${1:?usage: fetch.sh CACHE-FOLDER}
keep='tests/qemu-iotests python/qemu'

no() { # SENTENCE
	echo "iotests: $1" >&2
	exit 77
}

for program in qemu-img patch xz; do
	command -v $program >/dev/null || no "$program is missing"
done
version=$(dpkg-query -W -f '${source:Version}' qemu-utils 2>/dev/null) || no "the installed QEMU is not Debian's"
dir=$base/iotests-${version#*:}

# Make $work/root. Debian's patches change tests, too: apply their parts that do.
fetch() {
	mkdir -p "$work/lists/partial" "$work/archives/partial" "$work/root"
	apt_sources deb-src >"$work/sources.list"
	apt apt-get -qq update
	(cd "$work" && apt apt-get -qq source --download-only "qemu=$version")
	for name in $keep; do
		printf '*/%s\n' "$name"
	done | tar -xJf "$work"/qemu_*.orig.tar.xz -C "$work/root" --strip-components=1 --wildcards -T -
	tar -xJf "$work"/qemu_*.debian.tar.xz -C "$work" debian/patches
	sed 's/#.*//' "$work/debian/patches/series" | while read -r name; do
		awk -v keep="^a/(${keep%% *}|${keep##* })/" '/^diff --git /{on = $3 ~ keep} on' "$work/debian/patches/$name" >"$work/patch"
		[ ! -s "$work/patch" ] || patch -d "$work/root" -p1 -s -f <"$work/patch"
	done
	[ -x "$work/root/tests/qemu-iotests/check" ]
	mv "$work/root" "$dir"
}

if [ ! -d "$dir" ]; then
	if ! mkdir -p "$base" 2>/dev/null || [ ! -w "$base" ]; then
		no "the folder $base for the source of QEMU cannot be written"
	fi
	exec 9>"$base/iotests.lock"
	flock 9
	# After a failed fetch, wait an hour before the next one.
	if [ ! -d "$dir" ]; then
		[ -z "$(find "$base/iotests-none" -mmin -60 2>/dev/null)" ] || no "the source of QEMU could not be fetched within the last hour"
		work=$(mktemp -d "$base/tmp.XXXXXX")
		trap 'rm -rf "$work"' EXIT
		echo "iotests: fetching the source of QEMU $version" >&2
		set +e
		(set -e && fetch) >"$work/log" 2>&1 9>&-
		[ -d "$dir" ] || {
			tail -n 5 "$work/log" >&2
			touch "$base/iotests-none"
			no "the source of QEMU $version cannot be fetched"
		}
	fi
fi
echo "$dir"
