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

# The lines of the lists that are wanted, without spaces: "A|B" names a package and another release's name of it.
lines=$(awk -v want="[$want]" '/^#/ || !NF {next} /^\[/ {if (last) exit; last = $0 == want; next} {gsub(/ /, ""); print}' packages.txt)

# Print the lines of which no package is present. Present means configured: "rc" is not enough.
missing() {
	# shellcheck disable=SC2046 # one word a package
	present=" $(dpkg-query -W -f '${db:Status-Abbrev}${Package}\n' $(echo "$lines" | tr '|' ' ') 2>/dev/null | sed -n 's/^ii //p' | tr '\n' ' ')"
	for line in $lines; do
		case $present in *" ${line%|*} "* | *" ${line#*|} "*) ;; *) echo "$line" ;; esac
	done
}

# Does apt have a package of this name?
has() {
	apt-cache show "$1" 2>/dev/null | grep -q '^Package:'
}

# Replace each "A|B" by the name that apt has.
known() {
	while IFS='|' read -r name other; do
		[ -z "$other" ] || has "$name" || ! has "$other" || name=$other
		echo "$name"
	done
}

[ -n "$(missing)" ] || exit 0
if [ "$(id -u)" != 0 ]; then
	list=$(missing | known | tr '\n' ' ')
	echo "These packages are missing: $list" >&2
	echo "Install them as root: apt-get install $list" >&2
	exit 1
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update || echo "apt-get update failed (no network?); trying with the lists that are there" >&2
list=$(missing | known | tr '\n' ' ')
echo "Installing $list"
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
