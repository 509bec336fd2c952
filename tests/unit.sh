#!/bin/sh
# Run one unit program: unit.sh BUILD RESULTS NAME. Prints its result in one write, and writes the counts
# "PASSED FAILED SKIPPED" to a file in RESULTS. NAME@epoll runs it with the loop on epoll. A program that crashes,
# reports fewer tests than planned, or skips a test without a line "skipped: REASON", has failed.
set -u
build=$1 results=$2 name=$3
base=$results/$(echo "$name" | tr / -)
program=$build/unit/${name%@*}
case $name in
*@*) export CAIRN_LOOP="${name##*@}" ;;
esac

lines() { # PATTERN
	grep -c "$1" "$base.out"
}

if [ ! -x "$program" ]; then
	echo "  $name FAILED: not built (make units)" | tee "$base.told"
	echo 0 1 0 >"$base.sum"
	exit 0
fi
export CMOCKA_MESSAGE_OUTPUT=TAP
# shellcheck disable=SC2016 # the inner shell expands these
timeout --foreground "$UNIT_SECONDS" sh -c '"$1" & pid=$!
	trap "tests/threads.py --kill $pid >\"$2\"; exit 1" TERM
	wait $pid' sh "$program" "$base.threads" >"$base.out" 2>"$base.err"
rc=$?
ok=$(lines '^ok ')
skip=$(lines '^not ok .*# SKIP')
bad=$(($(lines '^not ok ') - skip))
# As pytest does, one line for each reason.
skips=$(awk '/^skipped: / { why = substr($0, 10); next }
	/^not ok .*# SKIP/ { n[why ? why : "no reason"]++ }
	/^(not )?ok / { why = "" }
	END { for (why in n) print "SKIPPED [" n[why] "] " why }' "$base.out")
plan=$(sed -n 's/^1\.\.\([0-9]*\)$/\1/p' "$base.out" | awk '{ n += $1 } END { print n + 0 }')
how=
if [ $rc = 124 ] || [ $rc = 137 ]; then
	how="no end within $UNIT_SECONDS s"
elif [ $rc != 0 ] && [ "$bad" = 0 ]; then
	how="exit status $rc"
elif [ "$((ok + skip + bad))" = 0 ]; then
	how="ran no test"
elif [ "$((ok + skip + bad))" != "$plan" ]; then
	how="$((ok + skip + bad)) results of $plan tests"
elif printf '%s\n' "$skips" | grep -q '] no reason$'; then
	how="skipped without a reason"
fi
[ -z "$how" ] || bad=$((bad + 1))
{
	printf '  %-44s %s passed' "$name" "$ok"
	[ "$bad" = 0 ] || printf ', %s FAILED%s' "$bad" "${how:+ ($how)}"
	[ "$skip" = 0 ] || printf ', %s skipped' "$skip"
	echo
	if [ "$bad" != 0 ]; then
		# The rest of the output has the places of failed checks and the seeds.
		grep -v -e '^ok ' -e '^1\.\.' -e '# SKIP' "$base.out" | tail -n 40 | sed 's/^/    /'
		grep -v '^ok ' "$base.err" | tail -n 40 | sed 's/^/    /'
		[ ! -f "$base.threads" ] || sed 's/^/    /' "$base.threads"
	fi
	[ -z "$skips" ] || printf '%s\n' "$skips" | sed 's/^/    /'
} >"$base.told"
cat "$base.told"
echo "$ok $bad $skip" >"$base.sum"
