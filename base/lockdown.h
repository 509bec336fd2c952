/* lockdown: what the sandboxes of our programs have in common. Which calls are allowed each says itself
 * (sandbox.c in vmm, tools/archive, tools/slirp, tools/xml). Who uses it links libseccomp and libcap-ng. */
#ifndef CAIRN_BASE_LOCKDOWN_H
#define CAIRN_BASE_LOCKDOWN_H

#include <seccomp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;

/* A sanitizer's shadow is larger than limits are, and its runtime needs calls of its own, at any time, and /proc to
 * look for leaks: such a build has no limit of memory, and lockdown_files() and lockdown_calls() do nothing. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define LOCKDOWN_SANITIZED true
#else
#define LOCKDOWN_SANITIZED false
#endif

/* Every capability, and the way to new privileges. Before any thread is made: capabilities belong to
 * threads. Returns 0; -EPERM with a sentence. */
int lockdown_drop(struct err *e);

/* Of all files only those beneath these folders, each with its rights (LANDLOCK_ACCESS_FS_*). After
 * lockdown_drop(). A kernel without landlock leaves what seccomp does. fd: -1: none; borrowed. Returns 0; -errno. */
struct lockdown_folder {
	int fd;
	uint64_t rights;
};
int lockdown_files(const struct lockdown_folder *folders, size_t n);

/* Rules for a filter. Return 0 or -errno, as libseccomp does. */

/* These calls, with any arguments. */
int lockdown_allow(scmp_filter_ctx ctx, const int *calls, size_t n);
/* What is asked of a file that is open: flags, locks, seals, another number. */
int lockdown_allow_fcntl(scmp_filter_ctx ctx);
/* Memory, but never memory that can be executed. */
int lockdown_allow_memory(scmp_filter_ctx ctx);
/* Threads, but never processes. */
int lockdown_allow_threads(scmp_filter_ctx ctx);

/* Makes the filter and puts it in force, for all threads or this one and those it makes. otherwise: what
 * befalls other calls (SCMP_ACT_*). add: adds the rules. Returns 0; -errno with a sentence. */
int lockdown_calls(uint32_t otherwise, bool all_threads, int (*add)(scmp_filter_ctx ctx, void *opaque),
	void *opaque, struct err *e);

#endif
