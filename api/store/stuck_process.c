#include "api/store/stuck_process.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/util.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <mntent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PF_EXITING 0x4 /* the kernel's flag of a thread that runs no user code any more */
#define STAT_BYTES 512
#define STATUS_BYTES 4096
#define COMM_BYTES 16 /* TASK_COMM_LEN */

struct thread {
	char comm[COMM_BYTES];
	char state;
	pid_t parent, group;
	unsigned long flags;
	uint64_t start_ticks;
	bool killed; /* SIGKILL is pending */
	uint64_t switches;
};

static int text_read(const char *path, char *buf, size_t size)
{
	CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, buf, size - 1);

	if (n < 0)
		return errno == ENOENT ? -ESRCH : -errno;
	buf[n] = 0;
	return 0;
}

/* Parse /proc/PID/stat: see proc_pid_stat(5). The name may contain spaces and brackets. */
static int stat_parse(const char *text, struct thread *t)
{
	const char *open = strchr(text, '('), *close = strrchr(text, ')');
	unsigned long long start;

	if (!open || !close || close < open ||
		sscanf(close + 1, " %c %d %d %*d %*d %*d %lu %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu", &t->state,
			&t->parent, &t->group, &t->flags, &start) != 5)
		return -EPROTO;
	snprintf(t->comm, sizeof(t->comm), "%.*s", (int)(close - open - 1), open + 1);
	t->start_ticks = start;
	return 0;
}

static uint64_t status_number(const char *text, const char *key, int base)
{
	const char *at = strstr(text, key);

	return at ? strtoull(at + strlen(key), NULL, base) : 0;
}

/* folder: /proc/PID, of the main thread, or /proc/PID/task/TID. */
static int thread_read(const char *folder, struct thread *t)
{
	char path[64], stat[STAT_BYTES], status[STATUS_BYTES];
	int r;

	*t = (struct thread){ 0 };
	snprintf(path, sizeof(path), "%s/stat", folder);
	r = text_read(path, stat, sizeof(stat));
	if (!r)
		r = stat_parse(stat, t);
	snprintf(path, sizeof(path), "%s/status", folder);
	if (!r)
		r = text_read(path, status, sizeof(status));
	if (r < 0)
		return r;
	t->killed = status_number(status, "\nSigPnd:", 16) >> (SIGKILL - 1) & 1;
	t->switches = status_number(status, "\nvoluntary_ctxt_switches:", 10) +
		status_number(status, "\nnonvoluntary_ctxt_switches:", 10);
	return 0;
}

/* ---- system calls ---- */

struct thread_call {
	long number; /* -1: none */
	unsigned long args[3];
};

/* Returns 0; -EPERM: not allowed; -errno. */
static int call_read(const char *folder, struct thread_call *c)
{
	char path[64], text[STAT_BYTES];
	int r;

	snprintf(path, sizeof(path), "%s/syscall", folder);
	r = text_read(path, text, sizeof(text));
	*c = (struct thread_call){ .number = -1 };
	if (!r && sscanf(text, "%ld %lx %lx %lx", &c->number, &c->args[0], &c->args[1], &c->args[2]) < 1)
		c->number = -1; /* "running" */
	return r;
}

/* Return whether the call opens, describes, reads or closes files, and changes none. */
static bool call_only_reads(const struct thread_call *c)
{
	static const int calls[] = { SYS_close, SYS_close_range, SYS_read, SYS_readv, SYS_pread64, SYS_preadv, SYS_lseek, SYS_stat,
		SYS_fstat, SYS_lstat, SYS_newfstatat, SYS_statx, SYS_access, SYS_faccessat, SYS_faccessat2, SYS_readlink,
		SYS_readlinkat, SYS_getdents64, SYS_statfs, SYS_fstatfs };
	unsigned long changes = O_CREAT | O_TRUNC | (O_TMPFILE & ~O_DIRECTORY);

	if (c->number == SYS_open)
		return !(c->args[1] & changes);
	if (c->number == SYS_openat)
		return !(c->args[2] & changes);
	for (size_t i = 0; i < ARRAY_SIZE(calls); i++)
		if (c->number == calls[i])
			return true;
	return false;
}

/* ---- the threads of a process ---- */

/* Call look() for each thread that has not ended, until it returns other than 0. Returns that; -ESRCH: the process has
 * ended. */
static int threads_each(pid_t pid, int (*look)(void *opaque, const char *folder, const struct thread *t, bool is_main),
	void *opaque)
{
	char path[64];
	const struct dirent *e;
	struct thread t;
	DIR *d;
	int r = 0;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	d = opendir(path);
	if (!d)
		return errno == ENOENT ? -ESRCH : -errno;
	while (!r && (e = readdir(d))) {
		if (e->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "/proc/%d/task/%.20s", (int)pid, e->d_name);
		r = thread_read(path, &t);
		if (!r && t.state != 'Z' && t.state != 'X')
			r = look(opaque, path, &t, strtol(e->d_name, NULL, 10) == pid);
		else if (r == -ESRCH)
			r = 0; /* the thread has ended */
	}
	closedir(d);
	return r;
}

struct threads_probe {
	struct process_probe look;
	unsigned alive; /* threads that are neither killed nor exiting */
};

static int thread_probe(void *opaque, const char *folder, const struct thread *t, bool is_main)
{
	struct threads_probe *all = opaque;
	struct process_probe *l = &all->look;
	struct thread_call c;

	if (t->state == 'D' && (t->killed || t->flags & PF_EXITING))
		l->stuck++;
	else
		l->free++;
	l->switches += t->switches;
	l->killed |= t->killed;
	all->alive += !t->killed && !(t->flags & PF_EXITING);
	if (!is_main)
		return 0;
	l->main_switches = t->switches;
	/* A wait for a file system may be interruptible: FUSE becomes deaf to signals only when a fatal one comes. */
	l->main_in_file_system = t->state == 'D' || (t->state == 'S' && call_read(folder, &c) == 0 && call_only_reads(&c));
	return 0;
}

int process_probe(pid_t pid, struct process_probe *ret)
{
	struct threads_probe all = { .alive = 0 };
	int r = threads_each(pid, thread_probe, &all);

	*ret = all.look;
	ret->killed |= !r && !all.alive;
	return r;
}

/* Print the path of a process's group of the freezer. Returns false if there is none, or it is not mounted here. */
static bool freezer_folder(pid_t pid, char *buf, size_t size)
{
	char path[64], text[STATUS_BYTES];
	const char *group;
	struct mntent *m;
	bool found = false;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/cgroup", (int)pid);
	if (text_read(path, text, sizeof(text)) < 0 || !(group = strstr(text, "freezer:/")))
		return false;
	group = strchr(group, '/');
	f = setmntent("/proc/self/mounts", "re");
	while (f && !found && (m = getmntent(f)))
		found = !strcmp(m->mnt_type, "cgroup") && hasmntopt(m, "freezer") &&
			snprintf(buf, size, "%s%.*s", m->mnt_dir, (int)strcspn(group, "\n"), group) < (int)size;
	if (f)
		endmntent(f);
	return found;
}

bool process_is_frozen(pid_t pid)
{
	char folder[PATH_MAX], path[PATH_MAX + 16], state[16];

	if (!freezer_folder(pid, folder, sizeof(folder)))
		return false;
	snprintf(path, sizeof(path), "%s/freezer.state", folder);
	return text_read(path, state, sizeof(state)) == 0 && !strncmp(state, "FROZEN", 6);
}

int process_start_time(pid_t pid, uint64_t *ret_ticks)
{
	char path[64];
	struct thread t;
	int r;

	snprintf(path, sizeof(path), "/proc/%d", (int)pid);
	r = thread_read(path, &t);
	if (!r)
		*ret_ticks = t.start_ticks;
	return r;
}

/* ---- the effects that a stuck process can still have ---- */

struct calls_check {
	const char *writer;
	struct err *e;
};

static int thread_check(void *opaque, const char *folder, const struct thread *t, bool is_main)
{
	const struct calls_check *k = opaque;
	struct thread_call c;
	int r;

	(void)is_main;
	if (t->flags & PF_EXITING)
		return 0; /* the thread only closes files */
	if (!strncmp(t->comm, k->writer, strlen(k->writer)))
		return err_set(k->e, -EBUSY, ERR_BUSY, "its thread '%s', which writes to the state folder, waits for a disk or a file "
			"system", t->comm);
	r = call_read(folder, &c);
	if (r == -ESRCH)
		return 0; /* the thread has ended */
	if (r < 0)
		return err_set(k->e, -EBUSY, ERR_BUSY, "it is unknown in which system call its thread '%s' waits: %s", t->comm, strerror(-r));
	return call_only_reads(&c) ? 0 : err_set(k->e, -EBUSY, ERR_BUSY,
		"its thread '%s' waits in system call %ld, which may still change a file", t->comm, c.number);
}

int process_check_calls(pid_t pid, const char *writer, struct err *e)
{
	struct calls_check k = { writer, e };
	int r = threads_each(pid, thread_check, &k);

	return r == -ESRCH ? 0 : r == -EBUSY || !r ? r : err_set_errno(e, r, "/proc/%d", (int)pid);
}

static bool is_helper(const struct thread *t, const char *daemon, const char *const *names)
{
	if (!strcmp(t->comm, daemon))
		return true;
	for (; *names; names++)
		if (!strcmp(t->comm, *names))
			return true;
	return false;
}

void process_kill_helpers(pid_t pid, const char *const *names)
{
	char path[64];
	const struct dirent *e;
	struct thread daemon, t;
	DIR *d;

	snprintf(path, sizeof(path), "/proc/%d", (int)pid);
	if (thread_read(path, &daemon) < 0 || !(d = opendir("/proc")))
		return;
	while ((e = readdir(d))) {
		pid_t child = (pid_t)strtol(e->d_name, NULL, 10);

		snprintf(path, sizeof(path), "/proc/%.20s", e->d_name);
		if (child <= 0 || thread_read(path, &t) < 0 || t.parent != pid || !is_helper(&t, daemon.comm, names))
			continue;
		if (t.group == child)
			kill(-child, SIGKILL);
		kill(child, SIGKILL);
	}
	closedir(d);
}
