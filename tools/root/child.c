#include "tools/root/child.h"
#include "base/err.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define SAID_BYTES 65536 /* of the end of the output */
#define SAID_MAX (16 * MIB) /* of all output: sqfstar warns about each extended attribute that it does not know */
/* sqfstar keeps all extended attributes in memory, which an image may have without end. */
#define MEMORY_BYTES (4 * GIB)

/* Returns the errno of the failed step. */
static int program_become(char *const argv[], int in, int out, int err)
{
	sigset_t none;
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (setrlimit(RLIMIT_DATA, &(struct rlimit){ MEMORY_BYTES, MEMORY_BYTES }) < 0)
		return errno;
	if (dup2(in < 0 ? null : in, 0) < 0 || dup2(out < 0 ? err : out, 1) < 0 || dup2(err, 2) < 0)
		return errno;
	execvp(argv[0], argv);
	return errno;
}

/* Make the file for the output. Writes beyond its size fail. Returns it; -1 with errno. */
static int said_new(const char *name)
{
	int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd >= 0 && (ftruncate(fd, SAID_MAX) < 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_GROW) < 0)) {
		close(fd);
		fd = -1;
	}
	return fd;
}

/* The pipe tells whether exec() worked: it closes then. */
static int exec_await(struct child *c, int pipe_fd, const char *package, struct err *e)
{
	int error = 0;
	ssize_t n;

	do
		n = read(pipe_fd, &error, sizeof(error));
	while (n < 0 && errno == EINTR);
	if (n <= 0)
		return 0;
	child_done(c);
	if (error == ENOENT)
		return err_set(e, -ENOENT, ERR_HOST, "the program %s is missing; install the package %s", c->name, package);
	return err_set_errno(e, -error, "%s", c->name);
}

int child_start(struct child *c, const char *package, char *const argv[], int in, int out, struct err *e)
{
	pid_t parent = getpid();
	int p[2], r, error;

	*c = (struct child){ .name = argv[0], .said = said_new(argv[0]) };
	if (c->said < 0 || pipe2(p, O_CLOEXEC) < 0)
		return err_set_errno(e, -errno, "%s", argv[0]);
	c->pid = fork();
	if (!c->pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		error = getppid() == parent ? program_become(argv, in, out, c->said) : ESRCH;
		if (write(p[1], &error, sizeof(error)) < 0)
			_exit(126);
		_exit(127);
	}
	close(p[1]);
	r = c->pid < 0 ? err_set_errno(e, -errno, "fork") : exec_await(c, p[0], package, e);
	close(p[0]);
	return r;
}

/* skopeo writes: time="..." level=fatal msg="the reason, with \" in it" */
static char *log_unwrap(char *line)
{
	char *message = strstr(line, " msg=\""), *to;

	if (strncmp(line, "time=", 5) || !message)
		return line;
	message += 6;
	to = message;
	for (char *p = message; *p && *p != '"'; p++) {
		p += *p == '\\' && p[1];
		*to++ = *p;
	}
	*to = 0;
	return message;
}

/* Find the last line that says what has failed: tar's very last line does not. Each line begins with the program's
 * name. */
static const char *reason_find(const struct child *c, char *buf)
{
	size_t len = strlen(c->name);
	char *line = strrchr(buf, '\n');

	if (line && strstr(line, "Exiting with failure status")) {
		*line = 0;
		line = strrchr(buf, '\n');
	}
	line = log_unwrap(line ? line + 1 : buf);
	return !strncmp(line, c->name, len) && !strncmp(line + len, ": ", 2) ? line + len + 2 : line;
}

static const char *said_read(struct child *c, char buf[SAID_BYTES + 1])
{
	off_t end = lseek(c->said, 0, SEEK_CUR);
	off_t from = MAX(0, end - SAID_BYTES);
	ssize_t n = pread(c->said, buf, (size_t)(end - from), from);

	buf[n > 0 ? n : 0] = 0;
	while (n > 0 && (buf[n - 1] == '\n' || buf[n - 1] == ' '))
		buf[--n] = 0;
	return reason_find(c, buf);
}

static int child_error(struct child *c, int status, struct err *e)
{
	char buf[SAID_BYTES + 1];
	const char *line = said_read(c, buf);

	if (strstr(buf, "No space left on device") || strstr(buf, "no space left on device") || strstr(buf, "Disk quota exceeded"))
		return err_set(e, -ENOSPC, ERR_NO_SPACE, "no space left");
	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGXFSZ)
		return err_set_errno(e, -EFBIG, "%s", c->name);
	if (WIFSIGNALED(status))
		return err_set(e, -EIO, ERR_IO, "%s was killed by signal %d", c->name, WTERMSIG(status));
	return err_set(e, -EIO, ERR_IO, "%s: %.300s", c->name, *line ? line : "failed without a message");
}

int child_wait(struct child *c, struct err *e)
{
	int status;

	if (waitpid(c->pid, &status, 0) < 0)
		return err_set_errno(e, -errno, "%s", c->name);
	c->pid = 0;
	return WIFEXITED(status) && !WEXITSTATUS(status) ? 0 : child_error(c, status, e);
}

void child_done(struct child *c)
{
	if (c->pid > 0) {
		kill(c->pid, SIGKILL);
		while (waitpid(c->pid, NULL, 0) < 0 && errno == EINTR)
			;
	}
	if (c->said > 0)
		close(c->said);
	c->pid = 0;
	c->said = -1;
}
