/* call_filter: seccomp filters that a thread writes and installs as its first act, without libseccomp: they allocate
 * no memory, and take microseconds. All filters of a thread are in force; the strictest answer of them decides. So a
 * filter need not repeat what another one checks, such as the processor's mode.
 *
 * The kernel asks a filter only for system calls whose arguments the filter looks at, so put the ioctls first. */
#ifndef CAIRN_BASE_CALL_FILTER_H
#define CAIRN_BASE_CALL_FILTER_H

#include <linux/filter.h>
#include <stdbool.h>
#include <stddef.h>

#define CALL_FILTER_INSNS_MAX 448

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

void call_filter_init(struct call_filter *f);
/* Allow these ioctls, the first ones at the lowest cost; all others raise SIGSYS. Call it once. */
void call_filter_ioctls(struct call_filter *f, const struct call_filter_ioctls *groups, size_t n);
/* Allow these system calls (SYS_*) with any arguments. */
void call_filter_calls(struct call_filter *f, const int *calls, size_t n);

/* Install the filter for the calling thread, and for the threads that it creates later. The process has no_new_privs.
 * others: allow system calls that are not in the filter; else the kernel raises SIGSYS instead of making them, which
 * kills the process unless it handles the signal.
 * Returns 0 or -errno. */
int call_filter_install(struct call_filter *f, bool others);

#endif
