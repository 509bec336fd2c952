#!/bin/sh
# Print the QEMU that emulates the SVM host: qemu.sh CACHE-FOLDER. Debian 12's QEMU 7.2 emulates SVM with
# faults (README.md), so the script fetches QEMU from the backports suite into the cache the first time; it
# installs nothing. Prints the installed QEMU when it is new enough, when the fetch fails,
# or when CAIRN_SVMHOST_QEMU is "installed".
set -eu
. "$(dirname "$0")/../apt.sh"

base=${1:?usage: qemu.sh CACHE-FOLDER}
good=10 # the lowest major version known to emulate SVM well
name=qemu-system-x86_64

major() { # PROGRAM
	"$1" --version 2>/dev/null | sed -n '1s/.*version \([0-9]*\).*/\1/p'
}

newest() { # sets $found: the newest one in the cache
	found=$(find "$base" -maxdepth 2 -path "$base/svmhost-qemu-*/$name" | sort -V | tail -n 1)
}

# Make $work/root with QEMU and the packages it needs that are missing or too old on this machine.
fetch() {
	mkdir -p "$work/lists/partial" "$work/archives/partial" "$work/debs" "$work/root"
	apt_sources deb -backports >"$work/sources.list"
	suite=$VERSION_CODENAME-backports # every mirror of the release has it, too
	apt apt-get -qq update
	packages=$(apt apt-get -qq -s --no-install-recommends -t "$suite" install qemu-system-x86 |
		sed -n 's/^Inst \([^ ]*\) .*(\([^ ]*\) .*/\1=\2/p')
	version=$(echo "$packages" | sed -n 's/^qemu-system-x86=\([0-9]*:\)*//p')
	[ "${version%%.*}" -ge $good ]
	# shellcheck disable=SC2086 # one word a package
	(cd "$work/debs" && apt apt-get -qq download $packages)
	for deb in "$work"/debs/*.deb; do
		dpkg-deb -x "$deb" "$work/root"
	done
	cat >"$work/root/$name" <<-'RUN'
		#!/bin/sh
		# Made by tests/svmhost/qemu.sh.
		root=${0%/*}/usr
		lib=$root/lib/x86_64-linux-gnu
		export LD_LIBRARY_PATH="$lib" QEMU_MODULE_DIR="$lib/qemu"
		exec "$root/bin/qemu-system-x86_64" -L "$root/share/qemu" -L "$root/share/seabios" "$@"
	RUN
	chmod 755 "$work/root/$name"
	[ "$(major "$work/root/$name")" -ge $good ]
	mv "$work/root" "$base/svmhost-qemu-$version"
}

installed=$(command -v $name || :)
if [ "${CAIRN_SVMHOST_QEMU-}" = installed ] || { [ -n "$installed" ] && [ "$(major "$installed")" -ge $good ]; }; then
	echo "$installed"
	exit
fi
mkdir -p "$base"
newest
if [ -z "$found" ]; then
	exec 9>"$base/svmhost.lock"
	flock 9
	newest
	# After a failed fetch, wait an hour before the next one.
	if [ -z "$found" ] && [ -z "$(find "$base/svmhost-no-qemu" -mmin -60 2>/dev/null)" ]; then
		work=$(mktemp -d "$base/tmp.XXXXXX")
		trap 'rm -rf "$work"' EXIT
		echo "svmhost: fetching QEMU" >&2
		set +e
		(set -e && fetch) >"$work/log" 2>&1 9>&-
		newest
		[ -n "$found" ] || {
			tail -n 5 "$work/log" >&2
			echo "svmhost: no QEMU $good can be fetched, so the installed one serves, which emulates SVM with faults" >&2
			touch "$base/svmhost-no-qemu"
		}
	fi
fi
echo "${found:-$installed}"
