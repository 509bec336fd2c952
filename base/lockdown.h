/* lockdown: the common part of the programs' sandboxes. Each program's own sandbox.c (in vmm,
 * tools/archive, tools/slirp, tools/xml) lists its allowed system calls. A user of this header
 * links libseccomp. */
#ifndef CAIRN_BASE_LOCKDOWN_H
#define CAIRN_BASE_LOCKDOWN_H

#include "base/loop.h"

#include <seccomp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/resource.h>

struct err;

/* A sanitizer's shadow memory exceeds the sandboxes' memory limits. Its runtime makes system calls of its own at any
 * time and reads /proc to find leaks. So a sanitized build has no memory limit, and
 * lockdown_files() and lockdown_calls() do nothing. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define LOCKDOWN_SANITIZED true
#else
#define LOCKDOWN_SANITIZED false
#endif

/* Drop every capability of the calling thread, and set its no_new_privs. Threads that it creates later start in the
 * same state; others are unchanged, so call this function before the first thread is created, or on each thread. The
 * only system calls are capset() and prctl().
 * Returns 0; -EPERM with a sentence. */
int lockdown_drop(struct err *e);
/* The same, but keep CAP_IPC_LOCK, if the process has it, until lockdown_drop(). */
int lockdown_drop_but_memory(struct err *e);

/* Lower resource limits of the process, the soft and the hard ones. A lower limit stays. Returns 0; -errno with a
 * sentence. */
struct lockdown_limit {
	int what; /* RLIMIT_* */
	rlim_t most;
};
int lockdown_limits(const struct lockdown_limit *limits, size_t n, struct err *e);

/* Turn the calling thread's effective capabilities off, or on again: all that are permitted. Returns 0; -errno. */
int lockdown_effective(bool on);
/* Become the user and the group of that number, without other groups. The permitted capabilities stay, and none is
 * effective: call one of the functions above next. Returns 0; -errno with a sentence. */
int lockdown_become(uid_t uid, struct err *e);

/* Restrict file access to files beneath the given folders, each with its rights
 * (LANDLOCK_ACCESS_FS_*). Call lockdown_drop() before. On a kernel without landlock, lockdown_files() does
 * nothing, and only seccomp restricts access.
 * fd: a folder, borrowed; -1: skip the row.
 * Returns 0; -errno. */
struct lockdown_folder {
	int fd;
	uint64_t rights;
};
int lockdown_files(const struct lockdown_folder *folders, size_t n);

/* Forbid with landlock to open any file, and to reach TCP ports, abstract sockets and processes outside. Call
 * lockdown_drop() before.
 * Returns the kernel's version of landlock, which decides what of that it forbids (version 1: files); 0: it has no
 * landlock; -errno. */
int lockdown_outside(void);

/* The lockdown_allow functions add rules to a filter. Each returns 0 or -errno, like libseccomp. */

/* Allow the given system calls with any arguments. */
int lockdown_allow(scmp_filter_ctx ctx, const int *calls, size_t n);
/* Allow fcntl() on open files: flags, locks, seals, duplication. */
int lockdown_allow_fcntl(scmp_filter_ctx ctx);
/* Allow these ioctls. */
int lockdown_allow_ioctls(scmp_filter_ctx ctx, const scmp_datum_t *ioctls, size_t n);
/* Allow memory mappings that are not executable. */
int lockdown_allow_memory(scmp_filter_ctx ctx);
/* Allow new threads, but no new processes. */
int lockdown_allow_threads(scmp_filter_ctx ctx);
/* Allow the system calls that an existing loop needs besides common ones (read(), write(), fdatasync() and others,
 * which the caller allows itself), except those that create threads. */
int lockdown_allow_loop(scmp_filter_ctx ctx, enum loop_kind kind);

/* Build a seccomp filter and install it. Call lockdown_drop() before.
 * otherwise: the action for all other calls (SCMP_ACT_*). A call of another processor mode (int 0x80, x32) always kills
 * the process.
 * all_threads: install it for all threads; else for the calling thread and the threads that it creates later.
 * add: adds the rules.
 * Returns 0; -errno with a sentence. */
int lockdown_calls(uint32_t otherwise, bool all_threads, int (*add)(scmp_filter_ctx ctx, void *opaque),
	void *opaque, struct err *e);

#endif
