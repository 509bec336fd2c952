#include "api/store/store_lock.h"
#include "api/store/stuck_process.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/file.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define LOCK_TRIES 200
#define TRY_US 50000
#define STUCK_NS (10 * CLOCK_NS_PER_S) /* so long without an answer, or in one system call */
#define END_NS (10 * CLOCK_NS_PER_S)   /* for the end of a killed daemon */
#define SETTLE_NS (CLOCK_NS_PER_S / 2) /* so long without progress, a killed daemon is stuck */

/* The content of the lock file. */
struct owner {
	pid_t pid;	      /* 0: unknown */
	uint64_t start_ticks; /* 0: unknown, as that of an older daemon */
	char socket[PATH_MAX]; /* "": unknown */
};

static void owner_read(int fd, struct owner *o)
{
	char text[PATH_MAX + 64];
	ssize_t n = pread(fd, text, sizeof(text) - 1, 0);
	const char *line;

	*o = (struct owner){ 0 };
	text[n > 0 ? n : 0] = 0;
	o->pid = (pid_t)strtol(text, NULL, 10);
	line = strchr(text, '\n');
	if (!line)
		return;
	o->start_ticks = strtoull(line + 1, NULL, 10);
	line = strchr(line + 1, '\n');
	if (line)
		snprintf(o->socket, sizeof(o->socket), "%.*s", (int)strcspn(line + 1, "\n"), line + 1);
}

/* Write the path so that it leads to the socket from every folder. */
static void socket_path(const char *socket, char path[PATH_MAX])
{
	size_t n = 0;

	if (socket[0] && socket[0] != '/' && getcwd(path, PATH_MAX - 1)) {
		n = strlen(path);
		path[n++] = '/';
	}
	snprintf(path + n, PATH_MAX - n, "%s", socket);
}

static int owner_write(int fd, const char *socket, struct err *e)
{
	char text[PATH_MAX + 64], path[PATH_MAX];
	uint64_t ticks = 0;

	if (process_start_time(getpid(), &ticks) < 0)
		log_warn("store", "cannot read /proc; if this daemon gets stuck, no other one takes over from it");
	socket_path(socket, path);
	snprintf(text, sizeof(text), "%d\n%" PRIu64 "\n%s\n", (int)getpid(), ticks, path);
	if (ftruncate(fd, 0) < 0 || pwrite_full(fd, text, strlen(text), 0) < 0)
		return err_set_errno(e, -errno, "the lock of the state folder");
	return 0;
}

static bool owner_is_gone(const struct owner *o)
{
	return o->pid > 0 && kill(o->pid, 0) < 0 && errno == ESRCH;
}

/* Take the lock. If the owner's process is gone, retry for 10 s: a child that a killed daemon was spawning holds
 * the lock until its exec() closes the fd, and a busy host may let it wait for a processor. */
static int lock_try(int fd, struct owner *o)
{
	for (unsigned i = 0;; i++) {
		if (flock(fd, LOCK_EX | LOCK_NB) == 0)
			return 0;
		owner_read(fd, o);
		if (i == LOCK_TRIES || !owner_is_gone(o))
			return -EBUSY;
		usleep(TRY_US);
	}
}

/* Return whether the path still leads to the open file. */
static bool is_current(int fd, const char *path)
{
	struct stat ours, there;

	return fstat(fd, &ours) == 0 && stat(path, &there) == 0 && ours.st_ino == there.st_ino && ours.st_dev == there.st_dev;
}

/* ---- deciding whether the owner is stuck ---- */

/* Whether the daemon of that control socket sends its greeting, or hangs up, before that time. A stuck daemon's socket
 * still accepts connections. */
static bool answers_until(const char *path, uint64_t until_ns)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	char byte;

	/* A daemon cannot be asked at a path that leads elsewhere from here, so it may be healthy. */
	if (path[0] != '/' || strlen(path) >= sizeof(sa.sun_path))
		return true;
	strcpy(sa.sun_path, path);
	for (uint64_t now; (now = clock_monotonic_ns()) < until_ns; usleep(TRY_US)) {
		CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		struct pollfd p = { .fd = fd, .events = POLLIN };

		/* A daemon that starts does not listen yet. */
		if (fd < 0 || connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0)
			continue;
		if (poll(&p, 1, (int)((until_ns - now) / 1000000)) > 0 && recv(fd, &byte, 1, MSG_DONTWAIT) >= 0)
			return true;
	}
	return false;
}

/* Whether the owner's main thread, which runs its loop, stays in one system call on a file. Returns at once if the
 * thread works or waits for events. */
static bool hangs_in_file_system(const struct owner *o)
{
	uint64_t until = clock_monotonic_ns() + STUCK_NS;
	struct process_probe first, now;

	if (process_probe(o->pid, &first) < 0 || !first.main_in_file_system || process_is_frozen(o->pid))
		return false;
	log_warn("start", "another cairnd (pid %d) waits for a file system; taking over if that lasts", (int)o->pid);
	while (clock_monotonic_ns() < until) {
		usleep(TRY_US);
		if (process_probe(o->pid, &now) < 0 || !now.main_in_file_system || now.main_switches != first.main_switches)
			return false;
	}
	return !process_is_frozen(o->pid);
}

/* Its threads may still be on their way to the end, or to where they are stuck. */
static bool was_killed(const struct owner *o)
{
	struct process_probe l;

	return process_probe(o->pid, &l) == 0 && l.killed;
}

/* Decide whether the owner may be killed. Returns 0; -EBUSY. */
static int owner_check(const struct owner *o, const struct store_takeover *t, const char *dir, struct err *e)
{
	const char *socket = o->socket[0] ? o->socket : t->socket;

	if (was_killed(o) || hangs_in_file_system(o))
		return 0;
	if (!t->replace)
		return err_set(e, -EBUSY, ERR_BUSY, "another cairnd (pid %d) serves %s; stop it, or use --state-dir", (int)o->pid, dir);
	if (answers_until(socket, clock_monotonic_ns() + STUCK_NS))
		return err_set(e, -EBUSY, ERR_BUSY, "another cairnd (pid %d) serves %s and answers, so --replace does not kill it; stop it, "
			"or use --state-dir", (int)o->pid, dir);
	return 0;
}

/* ---- ending it ---- */

/* Wait until the lock is free (returns 1), or until no thread of the killed owner can run the program's code again
 * (returns 0). -ETIMEDOUT: neither. */
static int owner_await(int fd, const struct owner *o)
{
	uint64_t now = clock_monotonic_ns(), until = now + END_NS, since = now;
	struct process_probe last = { 0 }, l;

	for (; now < until; usleep(TRY_US)) {
		if (flock(fd, LOCK_EX | LOCK_NB) == 0)
			return 1;
		now = clock_monotonic_ns();
		if (process_probe(o->pid, &l) < 0 || l.free || !l.stuck || l.switches != last.switches)
			since = now;
		else if (now - since >= SETTLE_NS)
			return 0;
		last = l;
	}
	return -ETIMEDOUT;
}

static int owner_end(int fd, int pidfd, const struct owner *o, struct err *e)
{
	int r;

	if (!was_killed(o)) {
		log_warn("start", "killing the stuck cairnd (pid %d)", (int)o->pid);
		if (pidfd_send_signal(pidfd, SIGKILL, NULL, 0) < 0 && errno != ESRCH)
			return err_set_errno(e, -errno, "cannot kill the stuck cairnd (pid %d)", (int)o->pid);
	}
	r = owner_await(fd, o);
	if (r == -ETIMEDOUT)
		return err_set(e, -EBUSY, ERR_BUSY, "the stuck cairnd (pid %d) was killed and has not ended; try again in a moment", (int)o->pid);
	if (r)
		return r;
	r = process_check_calls(o->pid, STORE_THREAD, e);
	if (r < 0) {
		struct err why = *e;

		return err_set(e, r, ERR_BUSY, "cannot take over from the stuck cairnd (pid %d), which was killed: %.200s; make the "
			"file system answer, or unmount it with umount -f", (int)o->pid, why.msg);
	}
	return 0;
}

/* Put a new lock file in the place of the one that the stuck daemon keeps locked. */
static int lock_replace(const char *path, int *ret_fd, struct err *e)
{
	char fresh[PATH_MAX];
	CLEANUP_CLOSE int fd = -1;

	if (snprintf(fresh, sizeof(fresh), "%s.new", path) >= (int)sizeof(fresh))
		return err_set_errno(e, -ENAMETOOLONG, "%s", path);
	if (unlink(fresh) < 0 && errno != ENOENT)
		return err_set_errno(e, -errno, "%s", fresh);
	fd = open(fresh, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0 || rename(fresh, path) < 0)
		return err_set_errno(e, -errno, "%s", fresh);
	*ret_fd = steal_fd(&fd);
	return 0;
}

/* Take over from a stuck owner. fd: its lock file. Returns 1: fd is locked now; 0: *ret_fd is; -EAGAIN: look at the
 * lock file again; -EBUSY; -errno. */
static int take_over(const char *path, int fd, const struct owner *o, const struct store_takeover *t, const char *dir, int *ret_fd,
	struct err *e)
{
	/* programs with a death signal (struct spawn_spec) */
	static const char *const helpers[] = { "cairn-archive", "cairn-diff", "cairn-groups", "cairn-net", "cairn-scope", NULL };
	char guard_path[PATH_MAX];
	CLEANUP_CLOSE int pidfd = pidfd_open(o->pid, 0), guard = -1;
	uint64_t ticks;
	int r;

	/* From here on the pid is that of pidfd: if another process has it, the start times differ. */
	if (pidfd < 0 || process_start_time(o->pid, &ticks) < 0 || ticks != o->start_ticks)
		return err_set(e, -EBUSY, ERR_BUSY, "another cairnd (pid %d) serves %s; stop it, or use --state-dir", (int)o->pid, dir);
	r = owner_check(o, t, dir, e);
	if (r < 0)
		return r;
	if (snprintf(guard_path, sizeof(guard_path), "%s.takeover", path) >= (int)sizeof(guard_path))
		return err_set_errno(e, -ENAMETOOLONG, "%s", path);
	guard = open(guard_path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (guard < 0)
		return err_set_errno(e, -errno, "%s", guard_path);
	if (flock(guard, LOCK_EX | LOCK_NB) < 0)
		return err_set(e, -EBUSY, ERR_BUSY, "another cairnd is taking over from the stuck one (pid %d)", (int)o->pid);
	if (!is_current(fd, path))
		return -EAGAIN;
	r = owner_end(fd, pidfd, o, e);
	if (r)
		return r;
	process_kill_helpers(o->pid, helpers);
	r = lock_replace(path, ret_fd, e);
	if (!r)
		log_warn("start", "took over from cairnd (pid %d), which was killed and waits for a file system; it changes nothing any more",
			(int)o->pid);
	return r;
}

int store_lock(const char *dir, const struct store_takeover *t, int *ret_fd, bool *ret_replaced, struct err *e)
{
	char path[PATH_MAX];
	CLEANUP_CLOSE int fd = -1;
	int fresh = -1, r;

	*ret_replaced = false;
	if (snprintf(path, sizeof(path), "%s/lock", dir) >= (int)sizeof(path))
		return err_set_errno(e, -ENAMETOOLONG, "%s", dir);
	do {
		struct owner o;

		if (fd >= 0)
			close(fd);
		fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
		if (fd < 0)
			return err_set_errno(e, -errno, "%s", path);
		r = lock_try(fd, &o);
		if (r < 0)
			r = t && o.pid > 0 ? take_over(path, fd, &o, t, dir, &fresh, e) : err_set(e, -EBUSY, ERR_BUSY,
				"another cairnd (pid %d) serves %s; stop it, or use --state-dir", (int)o.pid, dir);
		/* Another daemon may have replaced the file after it was opened. */
		if (r >= 0 && fresh < 0 && !is_current(fd, path))
			r = -EAGAIN;
	} while (r == -EAGAIN);
	if (r < 0)
		return r;
	*ret_replaced = fresh >= 0;
	if (fresh >= 0) {
		close(fd);
		fd = fresh;
	}
	r = owner_write(fd, t ? t->socket : "", e);
	if (!r)
		*ret_fd = steal_fd(&fd);
	return r;
}
