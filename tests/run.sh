#!/bin/sh
# Run the tests: run.sh BUILD [unit|e2e|style|all]. The last line is the sum of all of them:
# "N passed, N failed, N skipped". Exit status 1 when something failed.
set -u
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root" || exit 1

build=${1:?usage: run.sh BUILD [unit|e2e|style|all]}
what=${2:-all}
build=$(cd "$build" && pwd) || exit 1
UNIT_SECONDS=${UNIT_SECONDS:-130}
E2E_SECONDS=${E2E_SECONDS:-1800}

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
passed=0 failed=0 skipped=0

count() { # PASSED FAILED SKIPPED
	passed=$((passed + $1)) failed=$((failed + $2)) skipped=$((skipped + $3))
}

lines() { # PATTERN FILE
	grep -c "$1" "$2"
}

# One program: its tests' results in TAP. A program that dies or says nothing has failed.
unit_run() { # NAME
	timeout -k 5 $UNIT_SECONDS env CMOCKA_MESSAGE_OUTPUT=TAP "$build/unit/$1" >"$tmp/out" 2>"$tmp/err"
	rc=$?
	ok=$(lines '^ok ' "$tmp/out")
	skip=$(lines '^not ok .*# SKIP' "$tmp/out")
	bad=$(($(lines '^not ok ' "$tmp/out") - skip))
	how=
	if [ $rc = 124 ] || [ $rc = 137 ]; then
		how="no end within $UNIT_SECONDS s"
	elif [ $rc != 0 ] && [ "$bad" = 0 ]; then
		how="exit status $rc"
	elif [ "$((ok + skip + bad))" = 0 ]; then
		how="ran no test"
	fi
	[ -z "$how" ] || bad=$((bad + 1))
	count "$ok" "$bad" "$skip"
	printf '  %-32s %s passed' "$1" "$ok"
	[ "$bad" = 0 ] || printf ', %s FAILED%s' "$bad" "${how:+ ($how)}"
	[ "$skip" = 0 ] || printf ', %s skipped' "$skip"
	echo
	if [ "$bad" != 0 ]; then
		grep '^not ok ' "$tmp/out" | grep -v '# SKIP' | sed 's/^/    /'
		grep -v '^ok ' "$tmp/err" | tail -n 40 | sed 's/^/    /'
	fi
	if [ "$skip" != 0 ]; then
		grep -h -e '# SKIP' -e '^skip' "$tmp/out" "$tmp/err" | sort -u | sed 's/^/    /'
	fi
}

run_unit() {
	echo "Unit tests"
	for src in $(find tests/unit -name "test_*.c" | sort); do
		[ -e "$src" ] || continue
		name=${src#tests/unit/}
		name=${name%.c}
		if [ -x "$build/unit/$name" ]; then
			unit_run "$name"
		else
			echo "  $name FAILED: not built (make units)"
			count 0 1 0
		fi
	done
}

# pytest writes what happened as XML; the sum, and why tests were skipped, come from there.
e2e_sum() {
	/usr/bin/python3 - "$1" <<'END'
import collections, sys
import xml.etree.ElementTree as xml

cases = xml.parse(sys.argv[1]).getroot().iter("testcase")
n = collections.Counter()
for case in cases:
    kinds = {child.tag for child in case}
    n["failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"] += 1
print(n["passed"], n["failed"], n["skipped"])
END
}

# Debian's pytest belongs to /usr/bin/python3; another python may stand first in PATH.
run_e2e() {
	echo "End-to-end tests"
	CAIRN_BUILD=$build timeout -k 10 $E2E_SECONDS /usr/bin/python3 -m pytest -q -rs --tb=short --no-header \
		-p no:cacheprovider --durations=5 --junitxml="$tmp/e2e.xml" ${E2E_ARGS:-tests/e2e}
	rc=$?
	[ $rc != 124 ] || echo "  no end within $E2E_SECONDS s"
	if [ -s "$tmp/e2e.xml" ]; then
		sum=$(e2e_sum "$tmp/e2e.xml") || sum="0 1 0"
		# shellcheck disable=SC2086
		count $sum
	fi
	case $rc in
	0 | 1 | 5) ;; # all passed, some failed, there are none
	*) count 0 1 0 ;;
	esac
}

run_style() {
	echo "Style"
	if tests/style.sh >"$tmp/style" 2>&1; then
		count 1 0 0
	else
		count 0 1 0
	fi
	sed 's/^/  /' "$tmp/style"
}

echo "Host: $(tests/hostkind.sh) (vmx, svm, pvm, or none without a usable /dev/kvm), $(nproc) CPUs, $(uname -r)"
case $what in
unit) run_unit ;;
e2e) run_e2e ;;
style) run_style ;;
all)
	run_style
	run_unit
	run_e2e
	;;
*)
	echo "run.sh: no tests named '$what': unit, e2e, style or all" >&2
	exit 2
	;;
esac
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
