/* cairn-hook FOLDER EVENT [SECONDS]: run the hooks of one event, one after the other. cairnd starts it
 * (api/policy/hooks.h) with the event as JSON in a file on standard input, and with its own log as standard error.
 *
 * The hooks are the executable files in FOLDER/EVENT, in the order of their names. FOLDER, FOLDER/EVENT and a hook
 * must belong to root or to the daemon's user, and nobody else may have write permission. Other hooks are refused,
 * with a line in the log. A hook of root's daemon runs as the user cairn-hook, or nobody if there is no such user,
 * without capabilities and groups, in a PID namespace of its own; a hook of another daemon runs as that user. After
 * SECONDS [30], a hook is killed with all processes that it has started. Processes that a hook leaves at its end are
 * killed, too. Its output goes to the log, HOOK_LINES lines of it.
 *
 * The hooks of an event whose name begins with "before-" decide whether that may happen. If a hook fails, or is
 * refused, the answer is no: cairn-hook runs no further hook, writes a line with the reason to standard output, and
 * ends with the status 1. The exit status 75 (EX_TEMPFAIL) of a hook requests a delay. Then the line begins with the
 * seconds to wait, which are those at the beginning of the hook's first line or DELAY_SECONDS, and cairn-hook's
 * status is 75. */
#include "base/cleanup.h"
#include "base/err.h"
#include "base/log.h"
#include "base/oom.h"
#include "base/program.h"
#include "base/utf8.h"
#include "base/util.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <poll.h>
#include <pwd.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#define HOOK_SECONDS 30
#define HOOK_SECONDS_MAX 3600
#define HOOK_LINES 20
#define HOOK_LINE_BYTES 400
#define HOOKS_MAX 32 /* of an event */
#define HOOK_USER "cairn-hook"
#define BEFORE "before-"
#define DELAY_SECONDS 10
#define NOBODY 65534
#define HOOK_PROCESSES 256 /* of the hooks' user */
#define HOOK_FILES 256
#define HOOK_FILE_BYTES (64ULL << 20)
#define KILLS_MAX 100000

struct who {
	uid_t uid;
	gid_t gid;
	bool drops; /* the hooks run as another user than this process */
	unsigned seconds; /* how long each may run */
	bool decide;
};

/* ---- which files are hooks ---- */

/* Return whether the file is one that only root or this user can change. path: for the log. */
static bool is_trusted(const struct stat *st, const char *path)
{
	if (st->st_uid != 0 && st->st_uid != geteuid())
		log_error("hook", "%s is refused: it belongs to user %u; let root own it", path, st->st_uid);
	else if (st->st_mode & (S_IWGRP | S_IWOTH))
		log_error("hook", "%s is refused: others may write to it; next: chmod go-w %s", path, path);
	else
		return true;
	return false;
}

static int folder_open(int at, const char *name, const char *path)
{
	struct stat st;
	int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0) {
		if (errno != ENOENT)
			log_error("hook", "%s: %s", path, strerror(errno));
		return -1;
	}
	if (fstat(fd, &st) == 0 && is_trusted(&st, path))
		return fd;
	close(fd);
	return -1;
}

static int name_compare(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* List the folder's files, without those that begin with a dot or end with a tilde. Returns their number. */
static size_t names_list(int fd, const char *path, char *names[HOOKS_MAX])
{
	DIR *dir = fdopendir(dup(fd));
	struct dirent *de;
	size_t n = 0;

	while (dir && (de = readdir(dir))) {
		size_t len = strlen(de->d_name);

		if (de->d_name[0] == '.' || de->d_name[len - 1] == '~')
			continue;
		if (n == HOOKS_MAX) {
			log_error("hook", "%s has more than %d hooks; some are left out", path, HOOKS_MAX);
			break;
		}
		names[n++] = must_alloc(strdup(de->d_name));
	}
	if (dir)
		closedir(dir);
	qsort(names, n, sizeof(names[0]), name_compare);
	return n;
}

/* ---- the hook's process ---- */

static void limit_set(int what, rlim_t value)
{
	setrlimit(what, &(struct rlimit){ value, value });
}

/* Return the number of all tasks of the host, RLIM_INFINITY if it is unknown. */
static rlim_t host_tasks(void)
{
	FILE *f = fopen("/proc/loadavg", "re");
	unsigned long n;
	bool known = f && fscanf(f, "%*s %*s %*s %*u/%lu", &n) == 1;

	if (f)
		fclose(f);
	return known ? n : RLIM_INFINITY;
}

/* Limit the user's processes. Without a user of their own, hooks share the limit with all other processes of the user,
 * which are not counted anywhere. The number of all tasks of the host is not less. */
static void processes_limit(const struct who *who)
{
	rlim_t others = who->drops ? 0 : host_tasks();
	struct rlimit now;

	if (others != RLIM_INFINITY && getrlimit(RLIMIT_NPROC, &now) == 0)
		limit_set(RLIMIT_NPROC, MIN(others + HOOK_PROCESSES, now.rlim_cur));
}

/* Drop all privileges of the daemon that the hook must not have. Returns 0 or -errno. */
static int rights_drop(const struct who *who)
{
	limit_set(RLIMIT_CORE, 0);
	limit_set(RLIMIT_NOFILE, HOOK_FILES);
	limit_set(RLIMIT_FSIZE, HOOK_FILE_BYTES);
	limit_set(RLIMIT_CPU, who->seconds);
	processes_limit(who);
	if (who->drops && (setgroups(0, NULL) < 0 || setresgid(who->gid, who->gid, who->gid) < 0 || setresuid(who->uid, who->uid, who->uid) < 0))
		return -errno;
	/* A change of ids takes the signal back, so it comes last. */
	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 ? -errno : 0;
}

/* Execute the hook. file: opened by the caller, so that the checked file is executed. */
__attribute__((noreturn)) static void hook_become(const struct who *who, int file, int input, int output, const char *name,
	const char *event)
{
	char variable[64];
	char *const argv[] = { (char *)name, (char *)event, NULL };
	char *const env[] = { (char *)"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", (char *)"LANG=C.UTF-8", variable, NULL };
	int r;

	snprintf(variable, sizeof(variable), "CAIRN_EVENT=%s", event);
	setsid();
	signal(SIGPIPE, SIG_DFL);
	if (chdir("/") < 0 || lseek(input, 0, SEEK_SET) < 0 || dup2(input, STDIN_FILENO) < 0 || dup2(output, STDOUT_FILENO) < 0 ||
		dup2(output, STDERR_FILENO) < 0)
		_exit(126);
	r = rights_drop(who);
	if (r < 0) {
		dprintf(STDERR_FILENO, "cannot give up privileges: %s\n", strerror(-r));
		_exit(126);
	}
	/* A script is opened again by its interpreter through this fd, so the hook keeps it, and no other. */
	dup2(file, 3);
	close_range(4, ~0U, 0);
	fexecve(3, argv, env);
	dprintf(STDERR_FILENO, "cannot be run: %s\n", strerror(errno));
	_exit(126);
}

/* ---- its output and its end ---- */

struct output {
	const char *name;
	char line[HOOK_LINE_BYTES + 1];
	size_t len;
	unsigned lines;
	unsigned long long left_out;
	char first[HOOK_LINE_BYTES + 1]; /* the first line that is not empty */
};

static void line_end(struct output *o)
{
	o->line[o->len] = 0;
	utf8_clean(o->line);
	o->len = 0;
	if (!o->first[0])
		snprintf(o->first, sizeof(o->first), "%s", o->line);
	if (o->lines++ >= HOOK_LINES)
		o->left_out += strlen(o->line);
	else if (o->line[0])
		log_info("hook", "%s: %s", o->name, o->line);
}

static void output_take(struct output *o, const char *data, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (data[i] == '\n' || o->len == HOOK_LINE_BYTES)
			line_end(o);
		if (data[i] != '\n')
			o->line[o->len++] = data[i] ? data[i] : '?';
	}
}

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000LL + ts.tv_nsec / 1000000;
}

/* Kill and reap all children. With a PID namespace, its processes end with their first one. Otherwise this process
 * becomes the parent of processes that a hook leaves (PR_SET_CHILD_SUBREAPER). */
static void children_kill(void)
{
	for (unsigned i = 0; i < KILLS_MAX; i++) {
		FILE *f = fopen("/proc/thread-self/children", "re");
		int pid, n = 0;

		while (f && fscanf(f, "%d", &pid) == 1) {
			kill(pid, SIGKILL);
			n++;
		}
		if (f)
			fclose(f);
		while ((pid = waitpid(-1, NULL, n ? 0 : WNOHANG)) > 0 && n-- > 1)
			;
		if (pid < 0 && errno == ECHILD)
			return;
	}
	log_error("hook", "a hook starts processes faster than they can be killed");
}

static volatile sig_atomic_t abandoned;

static void hook_abandon(int sig)
{
	(void)sig;
	abandoned = 1;
}

/* Read the hook's output until it ends, its time is over, or it is abandoned. Returns its wait status; -1: it runs. */
static int hook_watch(pid_t pid, int pipe_fd, unsigned seconds, struct output *o)
{
	int64_t until = now_ms() + seconds * 1000LL;
	bool open = true, ended = false;
	int status = -1;
	char buf[4096];

	while (!ended) {
		struct pollfd p = { open ? pipe_fd : -1, POLLIN, 0 };
		int64_t left = until - now_ms();

		if (left <= 0 || abandoned)
			return -1;
		/* Look for the end each 50 ms: a process that the hook has left may keep the pipe open. */
		if (poll(&p, 1, (int)MIN(left, 50)) > 0) {
			ssize_t n = read(pipe_fd, buf, sizeof(buf));

			if (n > 0)
				output_take(o, buf, (size_t)n);
			else
				open = false;
		} else {
			ended = waitpid(pid, &status, WNOHANG) == pid;
		}
		if (!open && !ended)
			ended = waitpid(pid, &status, WNOHANG) == pid || (usleep(1000), false);
	}
	return status;
}

/* Return whether a hook that decides requests a delay. */
static bool is_later(const struct who *who, int status)
{
	return who->decide && status != -1 && WIFEXITED(status) && WEXITSTATUS(status) == EX_TEMPFAIL;
}

static void hook_report(const struct output *o, const struct who *who, int status)
{
	if (o->left_out || o->lines > HOOK_LINES)
		log_warn("hook", "%s: %llu more bytes of output are left out", o->name, o->left_out);
	if (status == -1)
		log_error("hook", "%s did not end within %u s and was killed", o->name, who->seconds);
	else if (WIFSIGNALED(status))
		log_error("hook", "%s was ended by signal %d", o->name, WTERMSIG(status));
	else if (WEXITSTATUS(status) && !is_later(who, status))
		log_error("hook", "%s failed with exit status %d", o->name, WEXITSTATUS(status));
}

/* Start the hook in a PID namespace of its own, if this process is root's. Returns its pid; -1 with errno. */
static pid_t hook_fork(const struct who *who)
{
	if (who->drops && unshare(CLONE_NEWPID) < 0)
		return -1;
	return fork();
}

/* Print the reason of a hook's refusal. */
static void hook_say_no(const struct output *o, const char *name)
{
	printf("hook %s: %s\n", name, o->first[0] ? o->first : "it failed, and the daemon's log says why");
	fflush(stdout);
}

/* Say for how long to wait, and why. */
static void hook_say_later(const struct output *o, const char *name)
{
	unsigned long seconds = DELAY_SECONDS;
	const char *why = o->first;
	char *end;

	if (*why >= '0' && *why <= '9') {
		seconds = strtoul(why, &end, 10);
		why = end + strspn(end, " ");
	}
	printf("%lu hook %s: %s\n", seconds, name, *why ? why : "not now");
	fflush(stdout);
}

/* Run one hook, in a process of its own, because each needs another PID namespace. Returns 0: it succeeded; 1;
 * EX_TEMPFAIL. */
static int hook_run(const struct who *who, int file, const char *path, const char *name, const char *event)
{
	struct output o = { .name = path };
	pid_t runner = fork(), pid;
	int fds[2], status = 1;

	if (runner != 0) {
		while (runner > 0 && waitpid(runner, &status, 0) < 0 && errno == EINTR)
			;
		return runner > 0 && WIFEXITED(status) ? WEXITSTATUS(status) : 1;
	}
	prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
	/* The daemon kills cairn-hook to end a hook. Only this process can then find the processes that the hook has
	 * started. */
	signal(SIGTERM, hook_abandon);
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (pipe2(fds, O_CLOEXEC) < 0 || (pid = hook_fork(who)) < 0) {
		log_error("hook", "%s cannot be started: %s", path, strerror(errno));
		_exit(1);
	}
	if (!pid)
		hook_become(who, file, STDIN_FILENO, fds[1], name, event);
	close(fds[1]);
	status = hook_watch(pid, fds[0], who->seconds, &o);
	children_kill();
	if (abandoned)
		_exit(1);
	/* Read output that came between the last look and the end. */
	if (fcntl(fds[0], F_SETFL, O_NONBLOCK) == 0) {
		char buf[4096];
		ssize_t n;

		for (unsigned i = 0; i < 64 && (n = read(fds[0], buf, sizeof(buf))) > 0; i++)
			output_take(&o, buf, (size_t)n);
	}
	if (o.len)
		line_end(&o);
	hook_report(&o, who, status);
	if (is_later(who, status)) {
		hook_say_later(&o, name);
		_exit(EX_TEMPFAIL);
	}
	if (status && who->decide)
		hook_say_no(&o, name);
	_exit(status ? 1 : 0);
}

static struct who who_find(unsigned seconds)
{
	struct who who = { geteuid(), getegid(), geteuid() == 0, seconds, false };
	struct passwd *user = who.drops ? getpwnam(HOOK_USER) : NULL;

	if (user && user->pw_uid)
		who = (struct who){ user->pw_uid, user->pw_gid, true, seconds, false };
	else if (who.drops)
		who = (struct who){ NOBODY, NOBODY, true, seconds, false };
	return who;
}

/* Returns as hook_run(). */
static int hook_try(const struct who *who, int folder, const char *path, const char *name, const char *event)
{
	CLEANUP_CLOSE int file = openat(folder, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	char full[PATH_MAX];
	struct stat st;

	snprintf(full, sizeof(full), "%s/%s", path, name);
	if (file < 0 || fstat(file, &st) < 0) {
		log_error("hook", "%s: %s", full, strerror(errno));
	} else if (is_trusted(&st, full)) {
		if (S_ISREG(st.st_mode) && st.st_mode & S_IXUSR)
			return hook_run(who, file, full, name, event);
		log_error("hook", "%s is refused: it is no executable file; next: chmod +x %s", full, full);
	}
	if (who->decide)
		printf("hook %s cannot be run, and the daemon's log says why\n", name);
	return 1;
}

int main(int argc, char **argv)
{
	CLEANUP_CLOSE int top = -1;
	CLEANUP_CLOSE int folder = -1;
	char path[PATH_MAX], *names[HOOKS_MAX];
	unsigned long seconds;
	struct who who;
	struct err e;
	size_t n;

	seconds = argc == 4 ? strtoul(argv[3], NULL, 10) : HOOK_SECONDS;
	if (argc < 3 || argc > 4 || strchr(argv[2], '/') || !seconds || seconds > HOOK_SECONDS_MAX) {
		fputs("usage: cairn-hook FOLDER EVENT [SECONDS]\n", stderr);
		return 2;
	}
	log_set_owner("cairn-hook");
	if (program_begin(&e) < 0) {
		log_error("hook", "%s", e.msg);
		return 1;
	}
	oom_protection_drop();
	signal(SIGCHLD, SIG_DFL);
	top = folder_open(AT_FDCWD, argv[1], argv[1]);
	snprintf(path, sizeof(path), "%s/%s", argv[1], argv[2]);
	folder = top < 0 ? -1 : folder_open(top, argv[2], path);
	who = who_find((unsigned)seconds);
	who.decide = !strncmp(argv[2], BEFORE, strlen(BEFORE));
	if (folder < 0 && (!who.decide || (top >= 0 ? faccessat(top, argv[2], F_OK, 0) : access(argv[1], F_OK)) < 0))
		return 0;
	if (folder < 0) {
		printf("the folder of its hooks, %s, cannot be used, and the daemon's log says why\n", path);
		return 1;
	}
	n = names_list(folder, path, names);
	for (size_t i = 0; i < n; i++) {
		int r = hook_try(&who, folder, path, names[i], argv[2]);

		if (r && who.decide)
			return r;
		free(names[i]);
	}
	return 0;
}
