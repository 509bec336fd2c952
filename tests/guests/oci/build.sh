#!/bin/sh
# Build container images of Debian packages: build.sh
# mmdebstrap makes a minimal Debian 12, apt adds packages to it, and umoci writes each step as a layer. The images are
# base, python3, node and gcc, in an OCI layout in a cache outside the tree. gcc has make and the source of zlib, whose
# libraries are compiled, in /src/zlib; a user of the image owns that. umoci and docker-registry are fetched into the
# same folder and not installed. Prints one line, the folder with layout/, umoci and docker-registry. The first build
# takes minutes and needs root and a mirror; later calls find its result in the cache. Exit status 77: it cannot be
# built here, and the last line says why.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
. "$here/../cached_build.sh"
cache_find oci
[ "$(id -u)" = 0 ] || lacks "only root can make the images"
need mmdebstrap dpkg-source
cache_begin "container images"

. "$here/../../apt.sh"
mkdir -p "$work/lists/partial" "$work/archives/partial" "$work/debs" "$work/tools"
# A mirror may lack the sources of security updates.
{ apt_sources deb && apt_sources deb-src | grep ' bookworm main$'; } >"$work/sources.list"
apt apt-get -qq update || exit 77
(cd "$work/debs" && apt apt-get -qq download umoci docker-registry) || exit 77
(cd "$work" && apt apt-get -qq --only-source --download-only source zlib && dpkg-source -x zlib_*.dsc zlib) || exit 77
for deb in "$work"/debs/*.deb; do
	dpkg-deb -x "$deb" "$work/tools"
done
mv "$work/tools/usr/bin/umoci" "$work/tools/usr/bin/docker-registry" "$work/cache/"
umoci=$work/cache/umoci
layout=$work/cache/layout

# Write what has changed in a root since it was unpacked as a layer of this image.
layer() { # IMAGE BUNDLE OPTION-OF-UMOCI-CONFIG...
	image=$1 bundle=$2
	shift 2
	$umoci repack --refresh-bundle --image "$layout:$image" "$bundle"
	$umoci config --image "$layout:$image" --config.env PATH=/usr/local/bin:/usr/bin:/bin --config.env LANG=C.UTF-8 "$@"
}

$umoci init --layout "$layout"
$umoci new --image "$layout:base"
$umoci unpack --image "$layout:base" "$work/base"
debian_install "$work/base/rootfs" --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
	--dpkgopt='path-exclude=/usr/share/locale/*'
layer base "$work/base"

# Add packages to the base as a container's build does: with the root's own apt, which finds the host's resolver.
packages() { # IMAGE PACKAGE...
	image=$1
	shift
	$umoci tag --image "$layout:base" "$image"
	$umoci unpack --image "$layout:$image" "$work/$image"
	root=$work/$image/rootfs
	cp "$root/etc/resolv.conf" "$work/resolv.conf"
	cat /etc/resolv.conf >"$root/etc/resolv.conf"
	cp "$work/apt.conf" "$root/etc/apt/apt.conf.d/99host"
	chroot "$root" apt-get -qq update
	DEBIAN_FRONTEND=noninteractive chroot "$root" apt-get -qq install --no-install-recommends -y "$@" || exit 77
	cat "$work/resolv.conf" >"$root/etc/resolv.conf"
	rm "$root/etc/apt/apt.conf.d/99host"
	find "$root/var/cache/apt" "$root/var/lib/apt/lists" "$root/var/log" -type f -delete
}

packages python3 python3
layer python3 "$work/python3" --config.cmd python3
packages node nodejs
layer node "$work/node" --config.cmd node
packages gcc gcc make libc6-dev
chroot "$root" useradd --create-home builder
mkdir "$root/src"
cp -r "$work/zlib" "$root/src/zlib"
chroot "$root" chown -R builder: /src
# A guest compiles slowly where KVM emulates kernel mode, so it gets what the tests link.
chroot "$root" su builder -c 'cd /src/zlib && ./configure && make libz.a libz.so.1.2.13'
layer gcc "$work/gcc" --config.user builder --config.workingdir /src/zlib --config.entrypoint make
$umoci gc --layout "$layout"

cache_end
