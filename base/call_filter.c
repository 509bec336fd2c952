#include "base/call_filter.h"
#include "base/util.h"

#include <assert.h>
#include <errno.h>
#include <linux/audit.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define REACH 255 /* greatest number of instructions that a conditional jump skips */
#define SEARCH_MAX 120 /* each value takes at most two instructions of a search, which one jump can skip */
#define X32_CALLS 0x40000000u /* the first number of the x32 mode's system calls */
/* The offset of the lower half of an argument (the processor is little-endian). A filter compares no more, and the
 * kernel reads no more of an int. */
#define ARGUMENT_OFFSET(n) (offsetof(struct seccomp_data, args) + (n) * sizeof(uint64_t))

static void put(struct call_filter *f, unsigned code, uint32_t k, unsigned on_equal, unsigned otherwise)
{
	assert(f->n < CALL_FILTER_INSNS_MAX);
	f->insn[f->n++] = (struct sock_filter)BPF_JUMP((uint16_t)code, k, (uint8_t)on_equal, (uint8_t)otherwise);
}

static void put_load(struct call_filter *f, size_t offset)
{
	put(f, BPF_LD | BPF_W | BPF_ABS, (uint32_t)offset, 0, 0);
}

static void put_load_call(struct call_filter *f)
{
	put_load(f, offsetof(struct seccomp_data, nr));
}

static void put_answer(struct call_filter *f, uint32_t answer)
{
	put(f, BPF_RET | BPF_K, answer, 0, 0);
}

/* Give the answer if the loaded value is one of these: one instruction for each value, because the kernel compiles each
 * instruction. */
static void put_any(struct call_filter *f, const unsigned *values, size_t n, uint32_t answer)
{
	while (n) {
		size_t part = MIN(n, (size_t)REACH);

		for (size_t i = 0; i + 1 < part; i++)
			put(f, BPF_JMP | BPF_JEQ | BPF_K, values[i], (unsigned)(part - 1 - i), 0);
		put(f, BPF_JMP | BPF_JEQ | BPF_K, values[part - 1], 0, 1);
		put_answer(f, answer);
		values += part;
		n -= part;
	}
}

/* Sort n values and drop duplicates; n is small. Returns the number of the remaining values. */
static unsigned sort_values(uint32_t *v, unsigned n)
{
	unsigned kept = 0;

	for (unsigned i = 0; i < n; i++) {
		uint32_t value = v[i];
		unsigned at = kept;

		while (at && v[at - 1] > value)
			at--;
		if (at && v[at - 1] == value)
			continue;
		memmove(&v[at + 1], &v[at], (kept++ - at) * sizeof(*v));
		v[at] = value;
	}
	return kept;
}

/* Search the bounds from lo to hi - 1. The loaded value is known to have reached the bounds before lo, and none from hi
 * on. If it has reached an odd number of all bounds, jump to the instruction `yes`, else to the one behind it. */
static void put_search(struct call_filter *f, const uint32_t *bounds, unsigned lo, unsigned hi, unsigned yes)
{
	unsigned mid = (lo + hi) / 2, next = f->n + 1u, below = next, above = next + mid - lo;

	if (mid == lo)
		below = lo % 2 ? yes : yes + 1;
	if (mid + 1 == hi)
		above = hi % 2 ? yes : yes + 1;
	put(f, BPF_JMP | BPF_JGE | BPF_K, bounds[mid], above - next, below - next);
	if (mid > lo)
		put_search(f, bounds, lo, mid, yes);
	if (mid + 1 < hi)
		put_search(f, bounds, mid + 1, hi, yes);
}

/* As put_any(), with a binary search for many values. */
static void put_any_call(struct call_filter *f, const int *calls, size_t n, uint32_t answer)
{
	uint32_t values[SEARCH_MAX], bounds[2 * SEARCH_MAX];
	unsigned nvalues, nbounds = 0;

	assert(n && n <= SEARCH_MAX);
	for (size_t i = 0; i < n; i++)
		values[i] = (uint32_t)calls[i];
	nvalues = sort_values(values, (unsigned)n);
	for (unsigned i = 0; i < nvalues; i++) {
		if (nbounds && bounds[nbounds - 1] == values[i])
			nbounds--;
		else
			bounds[nbounds++] = values[i];
		bounds[nbounds++] = values[i] + 1;
	}
	put_search(f, bounds, 0, nbounds, f->n + nbounds);
	put_answer(f, answer);
}

/* Unless the loaded value is k, jump to where put_target() is called. A conditional jump cannot reach that far. */
static unsigned put_unless(struct call_filter *f, uint32_t k)
{
	put(f, BPF_JMP | BPF_JEQ | BPF_K, k, 1, 0);
	put(f, BPF_JMP | BPF_JA, 0, 0, 0);
	return f->n - 1u;
}

static void put_target(struct call_filter *f, unsigned jump)
{
	f->insn[jump].k = f->n - 1u - jump;
}

void call_filter_init(struct call_filter *f)
{
	f->n = 0;
	put_load(f, offsetof(struct seccomp_data, arch));
	put(f, BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 0, 2);
	put_load_call(f);
	put(f, BPF_JMP | BPF_JGE | BPF_K, X32_CALLS, 0, 1);
	put_answer(f, SECCOMP_RET_KILL_PROCESS);
}

static void group_put(struct call_filter *f, const struct call_filter_ioctls *g)
{
	unsigned other_fd = 0;

	if (g->fd >= 0) {
		put_load(f, ARGUMENT_OFFSET(0));
		other_fd = put_unless(f, (uint32_t)g->fd);
	}
	put_load(f, ARGUMENT_OFFSET(1));
	put_any(f, g->requests, g->n, SECCOMP_RET_ALLOW);
	if (other_fd)
		put_target(f, other_fd);
}

void call_filter_ioctls(struct call_filter *f, const struct call_filter_ioctls *groups, size_t n)
{
	unsigned other_call;

	put_load_call(f);
	other_call = put_unless(f, SYS_ioctl);
	for (size_t i = 0; i < n; i++)
		group_put(f, &groups[i]);
	put_answer(f, SECCOMP_RET_TRAP);
	put_target(f, other_call);
}

void call_filter_calls(struct call_filter *f, uint32_t answer, const int *calls, size_t n)
{
	put_load_call(f);
	put_any_call(f, calls, n, answer);
}

/* Number of instructions that check a condition: load, mask and compare. */
static unsigned argument_insns(const struct call_filter_argument *a)
{
	return a->mask == UINT32_MAX ? 2 : 3;
}

void call_filter_rule(struct call_filter *f, int call, uint32_t answer, const struct call_filter_argument *args, size_t n)
{
	unsigned left = 1; /* instructions up to the rule's end */

	for (size_t i = 0; i < n; i++)
		left += argument_insns(&args[i]);
	put_load_call(f);
	put(f, BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)call, 0, left);
	for (size_t i = 0; i < n; i++) {
		put_load(f, ARGUMENT_OFFSET(args[i].at));
		if (args[i].mask != UINT32_MAX)
			put(f, BPF_ALU | BPF_AND | BPF_K, args[i].mask, 0, 0);
		left -= argument_insns(&args[i]);
		put(f, BPF_JMP | BPF_JEQ | BPF_K, args[i].value, 0, left);
	}
	put_answer(f, answer);
}

void call_filter_values(struct call_filter *f, int call, uint32_t answer, unsigned at, const uint32_t *values, size_t n)
{
	unsigned other_call;

	put_load_call(f);
	other_call = put_unless(f, (uint32_t)call);
	put_load(f, ARGUMENT_OFFSET(at));
	put_any(f, values, n, answer);
	put_target(f, other_call);
}

void call_filter_value(struct call_filter *f, int call, uint32_t answer, unsigned at, uint32_t value)
{
	const struct call_filter_argument a = CALL_FILTER_IS(at, value);

	call_filter_rule(f, call, answer, &a, 1);
}

int call_filter_install(struct call_filter *f, uint32_t otherwise, bool all_threads)
{
	struct sock_fprog program = { .filter = f->insn };
	long r;

	put_answer(f, otherwise);
	program.len = f->n;
	r = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, all_threads ? SECCOMP_FILTER_FLAG_TSYNC : 0, &program);
	return r < 0 ? -errno : r > 0 ? -ESRCH : 0; /* r > 0: the thread whose filters differ */
}
