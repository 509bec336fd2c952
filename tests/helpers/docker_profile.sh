#!/bin/sh
# Print the path of Docker's default seccomp profile: docker_profile.sh. It is that of Debian 13, which is fetched into
# the cache and not installed: Debian 12's still allows io_uring.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
base=${CAIRN_CACHE:-${XDG_CACHE_HOME:-${HOME:?HOME is not set}/.cache}/cairn}
profile=$base/docker-profile-$(sha256sum <"$0" | cut -c1-16).json
if [ ! -e "$profile" ]; then
	mkdir -p "$base"
	work=$(mktemp -d "$base/tmp.XXXXXX")
	trap 'rm -rf "$work"' EXIT
	. "$here/../apt.sh"
	. /etc/os-release
	mkdir -p "$work/lists/partial" "$work/debs" "$work/root"
	apt_sources deb | sed -n "s/ $VERSION_CODENAME main\$/ trixie main/p" >"$work/sources.list"
	apt apt-get -qq update >&2
	(cd "$work/debs" && apt apt-get -qq download golang-github-docker-docker-dev >&2)
	dpkg-deb -x "$work"/debs/*.deb "$work/root"
	mv "$work/root/usr/share/gocode/src/github.com/docker/docker/profiles/seccomp/default.json" "$profile"
fi
echo "$profile"
