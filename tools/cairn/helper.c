#include "tools/cairn/helper.h"
#include "api/store/paths.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"

#include <errno.h>
#include <limits.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>

/* Pass the input as a memory file, so that neither process blocks on a full pipe. */
static int input_make(const char *name, const char *text, size_t len, struct err *e)
{
	CLEANUP_CLOSE int fd = memfd_create(name, MFD_CLOEXEC);

	if (fd < 0 || pwrite_full(fd, text, len, 0) < 0)
		return err_set_errno(e, -errno, "cannot store the input of %s", name);
	return steal_fd(&fd);
}

int helper_spawn(const char *name, const char *mode, const char *text, size_t len, int out, int err, pid_t *ret_pid,
	struct err *e)
{
	CLEANUP_CLOSE int in = input_make(name, text, len, e);
	char program[PATH_MAX];
	char *const argv[] = { (char *)name, (char *)mode, NULL };
	char *const none[] = { NULL };
	posix_spawn_file_actions_t files;
	int r = in < 0 ? in : paths_helper(name, program, sizeof(program), e);

	if (r < 0)
		return r;
	posix_spawn_file_actions_init(&files);
	posix_spawn_file_actions_adddup2(&files, in, 0);
	posix_spawn_file_actions_adddup2(&files, out, 1);
	if (err >= 0)
		posix_spawn_file_actions_adddup2(&files, err, 2);
	r = -posix_spawn(ret_pid, program, &files, NULL, argv, none);
	posix_spawn_file_actions_destroy(&files);
	return r < 0 ? err_set_errno(e, r, "%s", program) : 0;
}

int helper_wait(const char *name, pid_t pid, int *ret_status, struct err *e)
{
	while (waitpid(pid, ret_status, 0) < 0)
		if (errno != EINTR)
			return err_set_errno(e, -errno, "%s", name);
	return 0;
}
