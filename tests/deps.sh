#!/bin/sh
# Install the missing packages of tests/packages.txt: deps.sh [build|demo|all], where demo means its list and those
# above it. When no package is missing, the script prints nothing and needs neither root nor network.
set -eu
cd "$(dirname "$0")"

want=${1:-all}
case $want in
build | demo | all) ;;
*)
	echo "usage: deps.sh [build|demo|all]" >&2
	exit 2
	;;
esac

# A package counts as present only when it is configured: "rc" is not enough.
missing() {
	names=$(awk -v want="[$want]" '/^#/ || !NF {next} /^\[/ {if (last) exit; last = $0 == want; next} 1' packages.txt)
	# shellcheck disable=SC2086 # one word a package
	present=" $(dpkg-query -W -f '${db:Status-Abbrev}${Package}\n' $names 2>/dev/null | sed -n 's/^ii //p' | tr '\n' ' ')"
	for p in $names; do
		case $present in *" $p "*) ;; *) echo "$p" ;; esac
	done
}

list=$(missing | tr '\n' ' ')
[ -n "$list" ] || exit 0
if [ "$(id -u)" != 0 ]; then
	echo "These packages are missing: $list" >&2
	echo "Install them as root: apt-get install $list" >&2
	exit 1
fi
echo "Installing $list"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update || echo "apt-get update failed (no network?); trying with the lists that are there" >&2
# shellcheck disable=SC2086
apt-get -qq install --no-install-recommends -y $list >"$log" 2>&1 || {
	tail -n 20 "$log" >&2
	echo "apt-get could not install them. Is the network there? The list is tests/packages.txt." >&2
	exit 1
}
list=$(missing | tr '\n' ' ')
[ -z "$list" ] || {
	echo "Still missing: $list" >&2
	exit 1
}
