#!/bin/sh
# run.sh BUILD SECONDS: build each fuzzer of this folder on top of BUILD's libraries and run it.
# Its corpus stays in BUILD/fuzz/NAME, its finds in BUILD/fuzz/finds-NAME; `BUILD/fuzz/image_tool text FIND`
# turns a find into a row for image_finds.c. Exit status 1 when something was found.
set -eu
cd "$(dirname "$0")/../.."
build=$(realpath "$1") seconds=$2
flags="-std=gnu11 -D_GNU_SOURCE -I. -O1 -g -Wall -Wextra -Wshadow -Werror -fno-sanitize-recover=all"
shared="tests/fuzz/image_run.c tests/fuzz/image_seed.c tests/fuzz/image_mutate.c tests/fuzz/image_finds.c"
libs="$build/libsnapshot.a $build/libblock.a $build/libbase.a -luring -lzstd -lz"
# Freed memory is kept for less time, which the many large buffers want.
export ASAN_OPTIONS=quarantine_size_mb=32
mkdir -p "$build/fuzz"

# shellcheck disable=SC2086
clang $flags -fsanitize=address,undefined,fuzzer-no-link -o "$build/fuzz/image_tool" tests/fuzz/image_tool.c $shared $libs

found=0
for source in tests/fuzz/fuzz_*.c; do
	name=$(basename "$source" .c)
	name=${name#fuzz_}
	corpus=$build/fuzz/$name finds=$build/fuzz/finds-$name more= longest=524288
	mkdir -p "$corpus" "$finds"
	if [ "$name" = qcow2 ]; then
		more=$shared
		"$build/fuzz/image_tool" seeds "$corpus"
	elif [ "$name" = state ]; then
		more="tests/fuzz/state_run.c tests/fuzz/state_seed.c"
		# shellcheck disable=SC2086
		clang $flags -fsanitize=address,undefined,fuzzer-no-link -o "$build/fuzz/state_tool" tests/fuzz/state_tool.c $more $libs
		"$build/fuzz/state_tool" "$corpus"
	elif [ "$name" = xml ]; then
		more="$(ls tools/xml/*.c | grep -v /main.c) $(pkg-config --cflags libxml-2.0)"
		more="$more $build/libapi.a $build/libbase.a -lxml2 -ljson-c -lseccomp"
		cp tests/data/xml/*.xml "$corpus"
	elif [ "$name" = wire ]; then
		longest=4096
		more="tests/fuzz/wire_run.c $build/libapi.a $build/libbase.a -ljson-c"
		cp tests/data/wire/* "$corpus"
	elif [ "$name" = config ]; then
		longest=193
		more="tests/fuzz/config_run.c $build/vmm/vm_msg.o"
	elif [ "$name" = script ]; then
		longest=8192
		more="tests/fuzz/script_run.c tests/fuzz/script_vm.c tests/fuzz/script_mutate.c"
		more="$more -Wl,--wrap=vm_process_spawn,--wrap=vm_socket_peek_pid,--wrap=loop_run_once"
		more="$more $build/vmm/vm_msg.o $build/libapi.a $build/libbase.a -ljson-c"
		cp tests/data/script/* "$corpus"
	fi
	# shellcheck disable=SC2086
	clang $flags -fsanitize=address,undefined,fuzzer -o "$build/fuzz/fuzz_$name" "$source" $more $libs
	FUZZ_KEEP=$build TMPDIR=$build "$build/fuzz/fuzz_$name" -fork=1 -ignore_crashes=1 -ignore_ooms=1 -ignore_timeouts=1 \
		-print_funcs=0 -max_len="$longest" -rss_limit_mb=1024 -malloc_limit_mb=256 -timeout=10 -max_total_time="$seconds" \
		-artifact_prefix="$finds/" "$corpus" || true
	n=$(find "$finds" -type f | wc -l)
	echo "fuzz_$name: $n finds in $finds"
	[ "$n" = 0 ] || found=1
done
exit $found
