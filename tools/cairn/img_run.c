#include "tools/cairn/img_run.h"
#include "api/store/paths.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <spawn.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define OUTPUT_MAX (1024 * 1024)
#define ARGS_MAX 16

static int img_spawn(const char *const *args, int out, pid_t *ret_pid, struct err *e)
{
	char program[PATH_MAX], *argv[ARGS_MAX + 2] = { (char *)"cairn-img" };
	posix_spawn_file_actions_t files;
	int r = paths_helper("cairn-img", program, sizeof(program), e);

	if (r < 0)
		return r;
	for (unsigned i = 0; i < ARGS_MAX && args[i]; i++)
		argv[i + 1] = (char *)args[i];
	posix_spawn_file_actions_init(&files);
	posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_adddup2(&files, out, 1);
	posix_spawn_file_actions_adddup2(&files, out, 2);
	r = -posix_spawn(ret_pid, program, &files, NULL, argv, environ);
	posix_spawn_file_actions_destroy(&files);
	return r < 0 ? err_set_errno(e, r, "%s", program) : 0;
}

/* Say what cairn-img has said, on one line. */
static int img_failed(char *text, struct err *e)
{
	static const char name[] = "cairn-img: ";
	char *end = text + strlen(text);

	while (end > text && end[-1] == '\n')
		*--end = 0;
	for (char *p = text; *p; p++)
		if (*p == '\n')
			*p = ' ';
	if (!strncmp(text, name, sizeof(name) - 1))
		text += sizeof(name) - 1;
	return err_set(e, -EIO, ERR_IO, "%.400s", *text ? text : "cairn-img has failed");
}

int img_run(const char *const *args, struct json_object **ret, struct err *e)
{
	CLEANUP_CLOSE int from = -1, to = -1;
	CLEANUP_FREE char *text = NULL;
	int pair[2], status, r;
	size_t len;
	pid_t pid;

	if (pipe2(pair, O_CLOEXEC) < 0)
		return err_set_errno(e, -errno, "cairn-img");
	from = pair[0];
	to = pair[1];
	r = img_spawn(args, to, &pid, e);
	if (r < 0)
		return r;
	close(steal_fd(&to));
	r = file_read_fd(from, "cairn-img", OUTPUT_MAX, &text, &len, e);
	close(steal_fd(&from)); /* cairn-img ends if it still writes */
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return err_set_errno(e, -errno, "cairn-img");
	if (r < 0)
		return r;
	if (status)
		return img_failed(text, e);
	return ret ? js_parse(text, len, "cairn-img", ret, e) : 0;
}
