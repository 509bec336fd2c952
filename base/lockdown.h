/* lockdown: the common part of the programs' sandboxes. Each program lists its allowed system calls itself, most of
 * them in a file sandbox.c. */
#ifndef CAIRN_BASE_LOCKDOWN_H
#define CAIRN_BASE_LOCKDOWN_H

#include "base/call_filter.h"
#include "base/loop.h"

#include <linux/seccomp.h>
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
/* The same, but keep those of these capabilities that the process has, until lockdown_drop().
 * keep: CAP_TO_MASK() of capabilities below 32. */
int lockdown_drop_but(uint32_t keep, struct err *e);

/* Lower resource limits of the process, the soft and the hard ones. A lower limit stays. Returns 0; -errno with a
 * sentence. */
struct lockdown_limit {
	int what; /* RLIMIT_* */
	rlim_t most;
};
int lockdown_limits(const struct lockdown_limit *limits, size_t n, struct err *e);

/* The first steps of a helper program, before it installs its filter: lower the limits, forbid core files, read the
 * time zone, and lockdown_drop(). The flags add further steps. Returns 0; -errno with a sentence. */
enum {
	LOCKDOWN_NOBODY = 1,  /* root becomes nobody: it owns the host's files even without capabilities */
	LOCKDOWN_OUTSIDE = 2, /* lockdown_outside() */
};
int lockdown_begin(unsigned flags, const struct lockdown_limit *limits, size_t n, struct err *e);

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

/* lockdown_files() in steps, for files and folders that become known one by one. The rights of a file are among those
 * of reading, writing and executing files. */
/* Returns the new rules, owned, which allow nothing; -ENOSYS: landlock is missing; -errno. */
int lockdown_rules_new(void);
/* Returns 0; -EBADFD: landlock does not restrict the file, such as a pipe; -errno. */
int lockdown_rules_allow(int rules, const struct lockdown_folder *f);
/* Returns 0 or -errno. */
int lockdown_rules_apply(int rules);

/* Forbid with landlock to open any file, and to reach TCP ports, abstract sockets and processes outside. Call
 * lockdown_drop() before.
 * Returns the kernel's version of landlock, on which the restricted operations depend (version 1: files); 0: it has
 * no landlock; -errno. */
int lockdown_outside(void);
/* The same, but files beneath a folder stay accessible with these rights (LANDLOCK_ACCESS_FS_*), of which the kernel's
 * version may lack some.
 * folder: borrowed. Returns as lockdown_outside(). */
int lockdown_inside(int folder, uint64_t rights);

/* Allow fcntl() on open files: flags, locks, seals, duplication. */
void lockdown_allow_fcntl(struct call_filter *f);
/* Allow these ioctls. */
void lockdown_allow_ioctls(struct call_filter *f, const uint32_t *ioctls, size_t n);
/* Allow memory mappings that are not executable. */
void lockdown_allow_memory(struct call_filter *f);
/* Allow new threads, but no new processes. */
void lockdown_allow_threads(struct call_filter *f);
/* Allow the system calls that existing loops need besides common ones (read(), write(), fdatasync() and others, which
 * the caller allows itself), except those that create threads.
 * kinds: of the loops, as loop_kinds() returns them. */
void lockdown_allow_loops(struct call_filter *f, unsigned kinds);
/* Answer the system calls that only loops of other kinds need with a SECCOMP_RET_* value. */
void lockdown_forbid_other_loops(struct call_filter *f, uint32_t answer, unsigned kinds);

/* Install the filter (call_filter_install()). Call lockdown_drop() before. Returns 0; -errno with a sentence. */
int lockdown_calls(struct call_filter *f, uint32_t otherwise, bool all_threads, struct err *e);

#endif
