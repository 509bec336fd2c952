#!/bin/sh
# Print systemd's ssh proxy, which is a client of Firecracker's vsock sockets ("vsock-mux", since systemd 257):
# ssh_proxy.sh. This machine's own if it is new enough; otherwise it is fetched from Debian 13 into the cache, with the
# libraries that it needs, and not installed. Exit status 77: it cannot be fetched, and the last line says why.
set -eu
. "$(dirname "$0")/../apt.sh"

own=/usr/lib/systemd/systemd-ssh-proxy
if [ -x $own ] && grep -qF vsock-mux $own; then
	echo $own
	exit
fi
base=${CAIRN_CACHE:-${XDG_CACHE_HOME:-${HOME:?HOME is not set}/.cache}/cairn}
dir=$base/ssh-proxy-$(sha256sum <"$0" | cut -c1-16)
if [ -x "$dir/systemd-ssh-proxy" ]; then
	echo "$dir/systemd-ssh-proxy"
	exit
fi

fetch() {
	mkdir -p "$work/lists/partial" "$work/archives/partial" "$work/debs" "$work/root"
	. /etc/os-release
	apt_sources deb | sed -n "s/ $VERSION_CODENAME main\$/ trixie main/p" >"$work/sources.list"
	apt apt-get -qq update
	(cd "$work/debs" && apt apt-get -qq download systemd libsystemd-shared libc6 libssl3t64 libmount1 libblkid1)
	for deb in "$work"/debs/*.deb; do
		dpkg-deb -x "$deb" "$work/root"
	done
	cat >"$work/root/systemd-ssh-proxy" <<-'RUN'
		#!/bin/sh
		# Made by tests/clients/ssh_proxy.sh.
		root=${0%/*}/usr/lib
		lib=$root/x86_64-linux-gnu
		exec "$lib/ld-linux-x86-64.so.2" --library-path "$lib:$lib/systemd" "$root/systemd/systemd-ssh-proxy" "$@"
	RUN
	chmod 755 "$work/root/systemd-ssh-proxy"
	"$work/root/systemd-ssh-proxy" 2>&1 | grep -q 'Expected two arguments'
	chmod 755 "$work/root"
	mv "$work/root" "$dir"
}

mkdir -p "$base"
exec 9>"$base/ssh-proxy.lock"
flock 9
failed=$base/ssh-proxy-failed
# After a failed fetch, wait an hour before the next one.
if [ ! -x "$dir/systemd-ssh-proxy" ] && [ -z "$(find "$failed" -mmin -60 2>/dev/null)" ]; then
	work=$(mktemp -d "$base/tmp.XXXXXX")
	trap 'rm -rf "$work"' EXIT
	set +e
	(set -e && fetch) >"$work/log" 2>&1 9>&-
	set -e
	[ -x "$dir/systemd-ssh-proxy" ] || tail -n 1 "$work/log" | tee "$failed" >&2
fi
[ -x "$dir/systemd-ssh-proxy" ] || {
	echo "ssh_proxy.sh: Debian 13's systemd cannot be fetched" >&2
	exit 77
}
echo "$dir/systemd-ssh-proxy"
