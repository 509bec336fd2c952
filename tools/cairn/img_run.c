#include "tools/cairn/img_run.h"
#include "api/store/paths.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define OUTPUT_MAX (1024 * 1024)
#define ARGS_MAX 96

/* Signals that this process ignores or blocks end the program. */
static int program_spawn(const char *program, const char *const *args, int out, pid_t *ret_pid)
{
	char *argv[ARGS_MAX + 2] = { (char *)(strrchr(program, '/') ? strrchr(program, '/') + 1 : program) };
	posix_spawn_file_actions_t files;
	posix_spawnattr_t attr;
	sigset_t all, none;
	int r;

	for (unsigned i = 0; i < ARGS_MAX && args[i]; i++)
		argv[i + 1] = (char *)args[i];
	posix_spawn_file_actions_init(&files);
	posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_adddup2(&files, out, 1);
	posix_spawn_file_actions_adddup2(&files, out, 2);
	sigfillset(&all);
	sigemptyset(&none);
	posix_spawnattr_init(&attr);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
	posix_spawnattr_setsigdefault(&attr, &all);
	posix_spawnattr_setsigmask(&attr, &none);
	r = -posix_spawnp(ret_pid, program, &files, &attr, argv, environ);
	posix_spawnattr_destroy(&attr);
	posix_spawn_file_actions_destroy(&files);
	return r;
}

/* Put the program's message on one line, without the lines that advise options of that program. */
static void message_join(char *text)
{
	char *to = text, *next;

	for (char *line = text; line; line = next) {
		next = strchr(line, '\n');
		if (next)
			*next++ = 0;
		if (!*line || !strncmp(line, "Try ", strlen("Try ")))
			continue;
		if (to > text)
			*to++ = ' ';
		memmove(to, line, strlen(line) + 1);
		to += strlen(to);
	}
	*to = 0;
}

static int program_failed(const char *program, char *text, struct err *e)
{
	const char *name = strrchr(program, '/') ? strrchr(program, '/') + 1 : program;

	message_join(text);
	if (!strncmp(text, name, strlen(name)) && text[strlen(name)] == ':')
		text += strlen(name) + 1 + strspn(text + strlen(name) + 1, " ");
	return *text ? err_set(e, -EIO, ERR_IO, "%.400s", text) : err_set(e, -EIO, ERR_IO, "%s has failed", name);
}

int program_run(const char *program, const char *const *args, struct json_object **ret, struct err *e)
{
	CLEANUP_CLOSE int from = -1, to = -1;
	CLEANUP_FREE char *text = NULL;
	int pair[2], status, r;
	size_t len;
	pid_t pid;

	if (pipe2(pair, O_CLOEXEC) < 0)
		return err_set_errno(e, -errno, "%s", program);
	from = pair[0];
	to = pair[1];
	r = program_spawn(program, args, to, &pid);
	if (r < 0)
		return err_set_errno(e, r, "%s", program);
	close(steal_fd(&to));
	r = file_read_fd(from, program, OUTPUT_MAX, &text, &len, e);
	close(steal_fd(&from)); /* the program ends if it still writes */
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return err_set_errno(e, -errno, "%s", program);
	if (r < 0)
		return r;
	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGINT)
		return err_set(e, -EINTR, ERR_CANCELLED, "interrupted by Ctrl-C");
	if (status)
		return program_failed(program, text, e);
	return ret ? js_parse(text, len, program, ret, e) : 0;
}

int img_run(const char *const *args, struct json_object **ret, struct err *e)
{
	char program[PATH_MAX];
	int r = paths_helper("cairn-img", program, sizeof(program), e);

	return r < 0 ? r : program_run(program, args, ret, e);
}
