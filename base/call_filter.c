#include "base/call_filter.h"

#include <assert.h>
#include <errno.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The kernel takes the lower halves of an ioctl's fd and request (the processor is little-endian). */
#define CALL_OFFSET offsetof(struct seccomp_data, nr)
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

static void put_answer(struct call_filter *f, uint32_t answer)
{
	put(f, BPF_RET | BPF_K, answer, 0, 0);
}

static void put_allowed(struct call_filter *f, const unsigned *values, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		put(f, BPF_JMP | BPF_JEQ | BPF_K, values[i], 0, 1);
		put_answer(f, SECCOMP_RET_ALLOW);
	}
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
	put_load(f, CALL_OFFSET);
}

static void group_put(struct call_filter *f, const struct call_filter_ioctls *g)
{
	unsigned other_fd = 0;

	if (g->fd >= 0) {
		put_load(f, ARGUMENT_OFFSET(0));
		other_fd = put_unless(f, (uint32_t)g->fd);
	}
	put_load(f, ARGUMENT_OFFSET(1));
	put_allowed(f, g->requests, g->n);
	if (other_fd)
		put_target(f, other_fd);
}

void call_filter_ioctls(struct call_filter *f, const struct call_filter_ioctls *groups, size_t n)
{
	unsigned other_call = put_unless(f, SYS_ioctl);

	for (size_t i = 0; i < n; i++)
		group_put(f, &groups[i]);
	put_answer(f, SECCOMP_RET_TRAP);
	put_target(f, other_call);
}

void call_filter_calls(struct call_filter *f, const int *calls, size_t n)
{
	for (size_t i = 0; i < n; i++)
		put_allowed(f, &(unsigned){ (unsigned)calls[i] }, 1);
}

int call_filter_install(struct call_filter *f, bool others)
{
	struct sock_fprog program = { .filter = f->insn };

	put_answer(f, others ? SECCOMP_RET_ALLOW : SECCOMP_RET_TRAP);
	program.len = f->n;
	return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) < 0 ? -errno : 0;
}
