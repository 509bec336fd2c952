/* fork_as: runs a function in a short-lived process with a user's rights (rights.h). The kernel checks every path with
 * these rights, so a symbolic link gives no access that the user lacks, even if the link changes meanwhile. A file
 * system that hangs, or a large file whose removal takes long, does not block the daemon's loop.
 * A file system that hangs also keeps the process, which is not killable by SIGKILL then. The limits below bound how
 * many such processes a user leaves behind. Processes that still work are bounded by the commands and jobs that wait
 * for them.
 * Threading: the daemon's loop, except for run(). */
#ifndef CAIRN_API_ACCESS_FORK_AS_H
#define CAIRN_API_ACCESS_FORK_AS_H

#include "base/channel.h"
#include "base/file.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct closer;
struct err;
struct fork_as;
struct groups;
struct helpers;
struct loop;
struct rights;

#define FORK_AS_NO_TIMEOUT UINT64_MAX

/* Of the processes with one user's rights, at most so many may be overdue: killed at their time limit, or not ended
 * 10 seconds after they had nothing left to do. Then the user gets no further process. No limit applies to root and the
 * daemon's own user. */
#define HELPERS_OVERDUE_MAX 8
/* The same for processes that have answered, overdue or not. Most of them hold no file for others, and end within
 * milliseconds if their file systems answer. */
#define HELPERS_ENDING_MAX 128

#define FORK_AS_DATA_MAX 16384
#define FORK_AS_SIZES_MAX 24

struct fork_as_file {
	struct file_id id;
	uint64_t bytes;
	uint32_t mode; /* st_mode */
	int32_t flags; /* of the open file: O_RDWR … */
};

/* The result that run() passes to done(). */
struct fork_as_result {
	int fds[CHANNEL_FDS_MAX]; /* done() owns them; none when run() failed */
	unsigned nfds;
	/* count, bytes, notes and sizes: run() and done() agree on their meaning. They also arrive when run() fails,
	 * but are 0 when the process was killed. */
	unsigned count;
	uint64_t bytes;
	uint8_t notes[CHANNEL_FDS_MAX];
	uint64_t sizes[FORK_AS_SIZES_MAX]; /* likewise */
	const atomic_bool *given_up; /* nobody waits for run() any more; NULL: it will be killed then */
	/* Files that the process holds for another process (base/relay.h), which has the other end of the spec's relay.
	 * done() gets only their identities. */
	int input; /* set before run(): the spec's input; run() sets -1 when it closes it */
	int held[CHANNEL_FDS_MAX];
	uint16_t held_at[CHANNEL_FDS_MAX];
	unsigned nheld;
	struct fork_as_file files[CHANNEL_FDS_MAX];
	const void *data; /* bytes for done(), at most FORK_AS_DATA_MAX; borrowed */
	size_t ndata;
};

struct fork_as_spec {
	const struct rights *rights; /* NULL: the daemon's own; borrowed for the call */
	/* The rights were read from a client's connection just now, so their groups are used. If false, the process
	 * gets the groups that the user has now (groups.h), and waits for them if they have to be looked up. */
	bool of_client;
	/* Runs in the forked process, which has a copy of the daemon's memory and its fds 0 to 2, but no other fd and
	 * thread of the daemon. So it may make system calls but take no lock. Returns 0 or -errno with an error. */
	int (*run)(const void *arg, struct fork_as_result *out, struct err *e);
	const void *arg; /* borrowed for the call */
	const char *who; /* static text for errors, about the user; NULL: "who defined the VM" */
	const char *what; /* static text for errors: "opening its files" */
	uint64_t timeout_ns; /* of run(): then the process is killed, and done() gets -ETIMEDOUT; FORK_AS_NO_TIMEOUT: none */
	/* A socket, borrowed for the call, with which the process serves the held files after its answer. done() is
	 * called at the answer then. The process runs until it has served the files or the other end is closed, even
	 * if the daemon ends before. 0: none */
	int relay;
	/* A further fd, borrowed for the call, which run() finds as out->input and closes or holds. 0: none */
	int input;
	/* Not NULL, with the daemon's own rights: a thread runs run() in place of a process (file_thread.h), which
	 * costs a tenth. Then run() works on a copy of arg, and keeps all files in out->held. copy() makes the copy;
	 * drop() frees it, on any thread. */
	void *(*copy)(const void *arg);
	void (*drop)(void *copy);
	/* *ret stays valid until fork_as_free(). With a relay: the process serves the files more than once. */
	bool keep;
	/* Called once on the loop; never after fork_as_free(). */
	void (*done)(void *opaque, int r, const struct fork_as_result *res, const struct err *e);
	void *opaque;
};

/* Create the list of the daemon's helper processes. l, closer: borrowed. groups_program: the path of cairn-groups
 * (groups.h); borrowed. */
struct helpers *helpers_new(struct loop *l, struct closer *closer, const char *groups_program);
/* Forget the processes that have not ended; done() is not called. The caller has freed all users of a struct fork_as.
 * NULL allowed. */
void helpers_free(struct helpers *h);
struct loop *helpers_loop(const struct helpers *h);
struct closer *helpers_closer(const struct helpers *h);
struct groups *helpers_groups(const struct helpers *h);
/* Return whether a process works or is about to end. A process that only holds files does neither. */
bool helpers_are_busy(const struct helpers *h);

/* Start the process. *ret is valid until done() is called or fork_as_free(); with spec->keep, until fork_as_free().
 * Returns 0; -EBUSY: too many processes of the user have not ended; -errno. On errors, done() is not called. */
int fork_as_begin(struct helpers *h, const struct fork_as_spec *s, struct fork_as **ret, struct err *e);
/* Send SIGTERM to the process and its process group. The process itself has the signal blocked, as the daemon has. */
void fork_as_terminate(struct fork_as *x);
/* Kill the process and its process group; done() then reports a failure. NULL allowed. */
void fork_as_kill(struct fork_as *x);
/* Kill the process, and do not wait for its end any more, as after a time-out: call done() with -ETIMEDOUT. Only a
 * process that a file system keeps survives the kill; it counts against its user's limit until it has ended. */
void fork_as_give_up(struct fork_as *x);
/* Describe the held files in out->files. Runs where run() does. Returns 0 or -errno. */
int fork_as_identify(struct fork_as_result *out, struct err *e);
/* Kill the process and its process group; done() is not called. NULL allowed. */
void fork_as_free(struct fork_as *x);

#endif
