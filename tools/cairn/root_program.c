#include "tools/cairn/root_program.h"
#include "api/store/paths.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/util.h"
#include "tools/cairn/helper.h"

#include <errno.h>
#include <limits.h>
#include <spawn.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PROGRAM "cairn-root"
#define ANSWER_MAX (8 * MIB)
#define SENTENCE_MAX 4096
#define EXIT_BUSY 3 /* tools/root/main.c */

extern char **environ;

static int program_start(char *const argv[], int out, int err, pid_t *ret_pid, struct err *e)
{
	posix_spawn_file_actions_t files;
	char program[PATH_MAX];
	int r = paths_helper(PROGRAM, program, sizeof(program), e);

	if (r < 0)
		return r;
	posix_spawn_file_actions_init(&files);
	posix_spawn_file_actions_adddup2(&files, out, 1);
	posix_spawn_file_actions_adddup2(&files, err, 2);
	r = -posix_spawn(ret_pid, program, &files, NULL, argv, environ);
	posix_spawn_file_actions_destroy(&files);
	return r < 0 ? err_set_errno(e, r, "%s", program) : 0;
}

/* Take the sentence that the program has printed. */
static int program_blame(int fd, const char *source, bool is_busy, struct err *e)
{
	CLEANUP_FREE char *text = NULL;
	size_t len;

	lseek(fd, 0, SEEK_SET);
	if (file_read_fd(fd, PROGRAM, SENTENCE_MAX, &text, &len, e) == 0)
		text[strcspn(text, "\n")] = 0;
	return err_set(e, is_busy ? -EBUSY : -EIO, is_busy ? ERR_BUSY : ERR_GENERIC, "%.200s: %s", source,
		text && *text ? text : PROGRAM " failed without a message");
}

int root_program_run(char *const argv[], const char *source, struct json_object **ret, struct err *e)
{
	CLEANUP_CLOSE int out = memfd_create("answer", MFD_CLOEXEC), err = memfd_create("errors", MFD_CLOEXEC);
	CLEANUP_FREE char *text = NULL;
	int r, status;
	size_t len;
	pid_t pid;

	if (out < 0 || err < 0)
		return err_set_errno(e, -errno, "memfd");
	r = program_start(argv, out, err, &pid, e);
	if (!r)
		r = helper_wait(PROGRAM, pid, &status, e);
	if (r < 0)
		return r;
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		return program_blame(err, source, WIFEXITED(status) && WEXITSTATUS(status) == EXIT_BUSY, e);
	if (!ret)
		return 0;
	lseek(out, 0, SEEK_SET);
	r = file_read_fd(out, PROGRAM, ANSWER_MAX, &text, &len, e);
	return r < 0 ? r : js_parse(text, len, PROGRAM, ret, e);
}
