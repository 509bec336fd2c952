#!/bin/sh
# Print a folder with Debian's Chromium, its driver and selenium for Python: browser.sh. The first time, the script
# fetches these packages, and those that they need and the machine lacks, into the cache. It installs nothing. In the
# folder, `chromedriver` is a command for root: it starts the driver in a mount namespace where /usr and /etc also have
# the packages' files. `python` has selenium. Exit status 1: they cannot be had, and stderr says why.
set -eu
. "$(dirname "$0")/../../../apt.sh"

base=${CAIRN_CACHE:-${XDG_CACHE_HOME:-${HOME:?HOME is not set}/.cache}/cairn}
. /etc/os-release
# The folder lacks what the machine has, so a machine with other packages gets another one.
dir=$base/browser-$VERSION_CODENAME-$({
	cat "$0"
	dpkg-query -W -f '${Package}\n'
} | sha256sum | cut -c1-16)

fetch() {
	mkdir -p "$work/lists/partial" "$work/archives/partial" "$work/root/usr/bin" "$work/root/usr/sbin" "$work/root/usr/lib" "$work/root/usr/lib64" "$work/root/etc"
	for name in bin sbin lib lib64; do
		ln -s usr/$name "$work/root/$name"
	done
	apt_sources deb >"$work/sources.list"
	apt apt-get -qq update
	apt apt-get -qq install --download-only --yes --no-install-recommends chromium chromium-driver python3-selenium
	for deb in "$work"/archives/*.deb; do
		dpkg-deb --fsys-tarfile "$deb" | tar -x --keep-directory-symlink -C "$work/root"
		rm "$deb"
	done
	ln -s usr/lib/python3/dist-packages "$work/root/python"
	cat >"$work/root/chromedriver" <<-'RUN'
		#!/bin/sh
		# Made by tests/e2e/tools/web/browser.sh.
		exec unshare --mount sh -c '
			for name in usr etc; do
				mount -t overlay -o "lowerdir=$0/$name:/$name" overlay "/$name" || exit 1
			done
			exec chromedriver "$@"' "${0%/*}" "$@"
	RUN
	chmod 755 "$work/root/chromedriver"
	"$work/root/chromedriver" --version >&2
	chmod 755 "$work/root"
	mv "$work/root" "$dir"
}

mkdir -p "$base"
exec 9>"$base/browser.lock"
flock 9
if [ ! -d "$dir" ]; then
	work=$(mktemp -d "$base/tmp.XXXXXX")
	trap 'rm -rf "$work"' EXIT
	set +e
	(set -e && fetch) >"$work/log" 2>&1 9>&-
	set -e
	[ -d "$dir" ] || {
		tail -n 5 "$work/log" >&2
		exit 1
	}
fi
echo "$dir"
