#include "api/jobs/sysprep.h"
#include "api/access/fork_as.h"
#include "api/definition/definition.h"
#include "base/err.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define PROGRAM "virt-sysprep"
#define OPERATIONS "machine-id,ssh-hostkeys,net-hostname,udev-persistent-net,customize"
#define HOSTNAME_MAX 63
#define ARGS_MAX (16 + 4 * VM_DISKS_MAX)

struct sysprep {
	const struct definition *def;
	char hostname[HOSTNAME_MAX + 1];
};

static int program_find(char path[PATH_MAX])
{
	const char *at = getenv("PATH");

	for (size_t n; at && *at; at += n + (at[n] == ':')) {
		n = strcspn(at, ":");
		if (n && snprintf(path, PATH_MAX, "%.*s/%s", (int)n, at, PROGRAM) < PATH_MAX && access(path, X_OK) == 0)
			return 0;
	}
	return -ENOENT;
}

int sysprep_check(struct err *e)
{
	char path[PATH_MAX];

	if (program_find(path) == 0)
		return 0;
	return err_set(e, -ENOENT, ERR_HOST,
		"--reset-identity needs " PROGRAM ", which is not installed; install the package guestfs-tools, or "
			"omit --reset-identity and let the guest's cloud-init do the work");
}

/* Make a host name from a VM's name: everything except letters, digits and dots becomes a dash. It is cut to
 * HOSTNAME_MAX characters, begins with x instead of a dash or dot, and does not end with either. */
static void hostname_make(const char *name, char ret[HOSTNAME_MAX + 1])
{
	size_t n = 0;

	for (; name[n] && n < HOSTNAME_MAX; n++)
		ret[n] = isalnum((unsigned char)name[n]) || (name[n] == '.' && n) ? name[n] : '-';
	while (n > 1 && (ret[n - 1] == '-' || ret[n - 1] == '.'))
		n--;
	ret[n] = 0;
	if (ret[0] == '-')
		ret[0] = 'x';
}

/* ---- functions that run in the forked process ---- */

static void args_make(const struct sysprep *s, const char **args)
{
	unsigned n = 0;

	args[n++] = PROGRAM;
	args[n++] = "-q";
	args[n++] = "--operations";
	args[n++] = OPERATIONS;
	args[n++] = "--no-network";
	args[n++] = "--hostname";
	args[n++] = s->hostname;
	for (uint32_t i = 0; i < s->def->ndisks; i++) {
		const struct definition_disk *d = &s->def->disks[i];

		if (d->read_only)
			continue;
		/* Never let virt-sysprep probe the format: a raw disk's content could look like any format. */
		args[n++] = "--format";
		args[n++] = definition_format_name(d->layers[0].format);
		args[n++] = "-a";
		args[n++] = d->layers[0].path;
	}
	args[n] = NULL;
}

static _Noreturn void program_run(const struct sysprep *s, int output)
{
	const char *args[ARGS_MAX];
	int null = open("/dev/null", O_RDONLY);

	args_make(s, args);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (null < 0 || dup2(null, 0) < 0 || dup2(output, 1) < 0 || dup2(output, 2) < 0 || close_range(3, ~0U, 0) < 0)
		_exit(126);
	setenv("LIBGUESTFS_BACKEND", "direct", 0);
	execvp(PROGRAM, (char **)(uintptr_t)args);
	_exit(127);
}

/* Read a program's output until its end, and keep the last part, without trailing white space, as a string. */
static void output_read(int fd, char *buf, size_t cap)
{
	size_t have = 0;
	ssize_t n;

	for (;;) {
		if (have == cap - 1) {
			memmove(buf, buf + cap / 2, have - cap / 2);
			have -= cap / 2;
		}
		n = read(fd, buf + have, cap - 1 - have);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		have += (size_t)n;
	}
	while (have && isspace((unsigned char)buf[have - 1]))
		have--;
	buf[have] = 0;
}

/* Return the line of virt-sysprep's output that has the error; else the last line. Advice on reporting bugs may follow
 * the error. */
static char *why_find(char *said)
{
	char *last = strrchr(said, '\n'), *error = strstr(said, PROGRAM ": error: ");

	last = error ? error : last ? last + 1 : said;
	last[strcspn(last, "\n")] = 0;
	return last;
}

static int program_result(int status, char *said, struct err *e)
{
	char *line;

	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return 0;
	line = why_find(said);
	for (char *p = line; *p; p++)
		if (iscntrl((unsigned char)*p))
			*p = ' ';
	if (WIFEXITED(status) && WEXITSTATUS(status) == 127 && !*line)
		return err_set(e, -ENOENT, ERR_HOST, PROGRAM " cannot be started; install the package guestfs-tools");
	return err_set(e, -EIO, ERR_GENERIC, PROGRAM " failed; no clone remains: %.300s", *line ? line : "it "
		"gave no reason");
}

static void daemon_has_died(int sig)
{
	(void)sig;
	kill(0, SIGKILL);
}

/* Have the whole process group killed when the daemon ends: virt-sysprep starts other programs, which a parent-death
 * signal to virt-sysprep alone would not reach. Use SIGUSR2, not SIGTERM, because the process inherits the daemon's
 * signal mask, which blocks SIGTERM. */
static int group_end_with_daemon(void)
{
	if (sigaction(SIGUSR2, &(struct sigaction){ .sa_handler = daemon_has_died }, NULL) < 0)
		return -errno;
	return prctl(PR_SET_PDEATHSIG, SIGUSR2) < 0 ? -errno : 0;
}

static int sysprep_run(const void *arg, struct fork_as_result *out, struct err *e)
{
	int pipes[2], status = 0, r = group_end_with_daemon();
	char said[1024];
	pid_t pid;

	(void)out;
	if (r < 0)
		return err_set_errno(e, r, PROGRAM);
	if (pipe2(pipes, O_CLOEXEC) < 0)
		return err_set_errno(e, -errno, PROGRAM);
	pid = fork();
	if (pid < 0)
		return err_set_errno(e, -errno, PROGRAM);
	if (pid == 0)
		program_run(arg, pipes[1]);
	close(pipes[1]);
	output_read(pipes[0], said, sizeof(said));
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return program_result(status, said, e);
}

/* ---- starting virt-sysprep ---- */

int sysprep_begin(struct helpers *h, const struct definition *def,
	void (*done)(void *opaque, int r, const struct fork_as_result *res, const struct err *e), void *opaque,
	struct fork_as **ret, struct err *e)
{
	struct sysprep s = { .def = def };
	struct fork_as_spec spec = { .rights = def->rights, .run = sysprep_run, .arg = &s, .what = PROGRAM,
		.timeout_ns = FORK_AS_NO_TIMEOUT, .done = done, .opaque = opaque };

	hostname_make(def->name, s.hostname);
	return fork_as_begin(h, &spec, ret, e);
}

void sysprep_cancel(struct fork_as *x)
{
	fork_as_kill(x);
}
