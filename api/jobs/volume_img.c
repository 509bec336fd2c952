#include "api/jobs/volume_img.h"
#include "api/access/spawn.h"
#include "base/err.h"
#include "base/utf8.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define TERM_SECONDS 3 /* from a SIGTERM until a program that continues is killed */
#define FILES_AT 3 /* fd of the first file in cairn-img */

void volume_img_begin(struct volume_img *v, const char *program, const char *verb, int progress)
{
	v->program = program;
	v->progress = progress;
	v->nargs = v->nfiles = 0;
	volume_img_add(v, "cairn-img");
	volume_img_add(v, verb);
	volume_img_add(v, progress < 0 ? "-q" : "-p");
}

void volume_img_add(struct volume_img *v, const char *arg)
{
	assert(v->nargs < VOLUME_IMG_ARGS);
	v->args[v->nargs++] = arg;
}

void volume_img_names(struct volume_img *v, const char *first, const char *second)
{
	v->names[0] = first;
	v->names[1] = second;
}

void volume_img_add_file(struct volume_img *v, int fd, const char *path)
{
	assert(v->nfiles < VOLUME_IMG_FILES);
	snprintf(v->given[v->nfiles], sizeof(v->given[0]), "%u=%s", FILES_AT + v->nfiles, path);
	volume_img_add(v, "--fd");
	volume_img_add(v, v->given[v->nfiles]);
	v->files[v->nfiles++] = fd;
}

/* ---- the child ---- */

static _Noreturn void program_main(const struct volume_img *v, int errors)
{
	static char *const envp[] = { (char *)"PATH=/usr/sbin:/usr/bin:/sbin:/bin", (char *)"LC_ALL=C.UTF-8", NULL };
	int null = open("/dev/null", O_RDWR), fds[FILES_AT + VOLUME_IMG_FILES] = { null, v->progress < 0 ? null : v->progress, errors };
	sigset_t none;

	memcpy(fds + FILES_AT, v->files, v->nfiles * sizeof(int));
	sigemptyset(&none);
	/* The user may trace the program from now on, so it keeps no other fd of the daemon. */
	if (null < 0 || spawn_place_fds(fds, FILES_AT + v->nfiles) < 0)
		_exit(1);
	signal(SIGPIPE, SIG_DFL);
	signal(SIGTERM, SIG_DFL);
	sigprocmask(SIG_SETMASK, &none, NULL);
	execve(v->program, (char *const *)(uintptr_t)v->args, envp);
	_exit(127);
}

/* ---- the parent ---- */

/* Return whether the message is about a locked image (block/lock.c): the exit status is that of other failures. */
static bool is_busy(const char *text)
{
	return strstr(text, " is in use by another process; ") || strstr(text, " is open for writing in another process; ");
}

/* Fail with the program's message, without its name. */
static int program_failed(char *said, int status, struct err *e)
{
	static const char name[] = "cairn-img: ";
	const char *text = said;

	said[strcspn(said, "\n")] = 0;
	utf8_clean(said);
	if (!strncmp(text, name, sizeof(name) - 1))
		text += sizeof(name) - 1;
	if (!*text)
		return err_set(e, -EIO, ERR_HOST, "cairn-img %s", WIFEXITED(status) && WEXITSTATUS(status) == 127 ? "is not installed; on Debian, install the package cairn-img" : "has failed");
	return is_busy(text) ? err_set(e, -EBUSY, ERR_BUSY, "%s", text) : err_set(e, -EIO, ERR_IO, "%s", text);
}

static bool term_is_pending(void)
{
	sigset_t pending;

	sigemptyset(&pending);
	sigpending(&pending);
	return sigismember(&pending, SIGTERM);
}

/* Wait until the program prints something or ends. Kill a program that ignores SIGTERM before the daemon kills this
 * process, which could then not remove the program's file. */
static void said_await(int fd, pid_t pid, unsigned *waited_s)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	while (poll(&p, 1, 1000) == 0)
		if (term_is_pending() && ++*waited_s == TERM_SECONDS)
			kill(pid, SIGKILL);
}

/* Read the program's output to its end. said: gets the beginning; size: of said. */
static void said_read(int fd, pid_t pid, char *said, size_t size)
{
	unsigned waited_s = 0;
	char rest[256];
	size_t used = 0;
	ssize_t n;

	for (;;) {
		said_await(fd, pid, &waited_s);
		n = used < size - 1 ? read(fd, said + used, size - 1 - used) : read(fd, rest, sizeof(rest));
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		if (used < size - 1)
			used += (size_t)n;
	}
	said[used] = 0;
}

/* A SIGTERM that is pending here, because it came before the program began, is for the program. */
static void term_pass(pid_t pid)
{
	if (term_is_pending())
		kill(pid, SIGTERM);
}

int volume_img_run(struct volume_img *v, struct err *e)
{
	char said[400] = "";
	int pair[2], status;
	pid_t pid;

	v->args[v->nargs] = "--";
	v->args[v->nargs + 1] = v->names[0];
	v->args[v->nargs + 2] = v->names[1];
	v->args[v->nargs + 3] = NULL;
	if (pipe2(pair, O_CLOEXEC) < 0)
		return err_set_errno(e, -errno, "cairn-img");
	pid = fork();
	if (pid == 0)
		program_main(v, pair[1]);
	close(pair[1]);
	if (pid > 0) {
		term_pass(pid);
		said_read(pair[0], pid, said, sizeof(said));
	}
	close(pair[0]);
	if (pid < 0)
		return err_set_errno(e, -errno, "cairn-img");
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return err_set_errno(e, -errno, "cairn-img");
	return status ? program_failed(said, status, e) : 0;
}
