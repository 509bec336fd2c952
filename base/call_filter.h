/* call_filter: seccomp filters of the sandboxes (lockdown.h) and of single threads. Writing one allocates no memory and
 * takes microseconds: libseccomp took 0.2 to 0.3 ms of each start of a VM. All filters of a thread are in effect; the
 * strictest answer of them decides. A call of another processor mode (int 0x80, x32) always kills the process.
 *
 * A filter is a list of rules, and the first rule that fits a call decides. The kernel asks a filter only for system
 * calls whose arguments the filter looks at, so put the ioctls first. */
#ifndef CAIRN_BASE_CALL_FILTER_H
#define CAIRN_BASE_CALL_FILTER_H

#include <linux/filter.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CALL_FILTER_INSNS_MAX 640

struct call_filter {
	unsigned short n;
	struct sock_filter insn[CALL_FILTER_INSNS_MAX];
};

/* Ioctls of one fd, or of any. */
struct call_filter_ioctls {
	int fd; /* -1: any */
	const unsigned *requests;
	size_t n;
};

/* A condition: the lower half of the argument and the mask are the value. */
struct call_filter_argument {
	unsigned at; /* from 0 on */
	uint32_t mask, value;
};
#define CALL_FILTER_IS(at, value) { (at), UINT32_MAX, (uint32_t)(value) }

void call_filter_init(struct call_filter *f);
/* Allow these ioctls, the first ones at the lowest cost; all others raise SIGSYS. */
void call_filter_ioctls(struct call_filter *f, const struct call_filter_ioctls *groups, size_t n);
/* Answer these system calls (SYS_*), at least one and at most 120, with a SECCOMP_RET_* value, for any arguments. The
 * filter searches the list in some seven steps: when a filter is installed, the kernel runs it for each system call
 * that there is. */
void call_filter_calls(struct call_filter *f, uint32_t answer, const int *calls, size_t n);

/* Answer a system call (SYS_*) whose arguments meet all n conditions with a SECCOMP_RET_* value. */
void call_filter_rule(struct call_filter *f, int call, uint32_t answer, const struct call_filter_argument *args, size_t n);
/* Answer a system call of which argument `at` has one of these values. */
void call_filter_values(struct call_filter *f, int call, uint32_t answer, unsigned at, const uint32_t *values, size_t n);
/* Answer a system call of which argument `at` has this value. */
void call_filter_value(struct call_filter *f, int call, uint32_t answer, unsigned at, uint32_t value);

/* Install the filter for the calling thread, and for the threads that it creates later. The process has no_new_privs.
 * otherwise: the answer to calls that fit no rule (SECCOMP_RET_*). SECCOMP_RET_TRAP: the kernel raises SIGSYS instead
 * of making them, which kills the process unless it handles the signal.
 * all_threads: install it for all threads.
 * Returns 0 or -errno. */
int call_filter_install(struct call_filter *f, uint32_t otherwise, bool all_threads);

#endif
