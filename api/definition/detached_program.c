#include "api/definition/detached_program.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <sys/wait.h>
#include <unistd.h>

#define FDS_MAX 8
#define SAFE_FD (DETACHED_PROGRAM_FD + FDS_MAX) /* above the places that the files get */

/* Move the files to their numbers. Duplicate all of them first, so that none overwrites another one. */
static int files_place(const int *fds, unsigned nfds)
{
	int copies[FDS_MAX];

	for (unsigned i = 0; i < nfds; i++) {
		copies[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, SAFE_FD);
		if (copies[i] < 0)
			return -errno;
	}
	for (unsigned i = 0; i < nfds; i++)
		if (dup2(copies[i], DETACHED_PROGRAM_FD + (int)i) < 0)
			return -errno;
	return 0;
}

/* Become the program. Returns -errno only if that fails. */
static int become(const char *program, char *const *argv, const int *fds, unsigned nfds)
{
	int r = nfds <= FDS_MAX ? files_place(fds, nfds) : -E2BIG;

	/* The caller's process group may be killed, and not all of its fds are close-on-exec. */
	if (r < 0 || setsid() < 0 || close_range(DETACHED_PROGRAM_FD + nfds, ~0U, CLOSE_RANGE_CLOEXEC) < 0)
		return r < 0 ? r : -errno;
	execv(program, argv);
	return -errno;
}

int detached_program_start(const char *program, char *const *argv, const int *fds, unsigned nfds)
{
	int pipe_fds[2], error = 0;
	pid_t child;

	if (pipe2(pipe_fds, O_CLOEXEC) < 0)
		return -errno;
	child = fork();
	if (child == 0) {
		int report = fcntl(pipe_fds[1], F_DUPFD_CLOEXEC, SAFE_FD);
		pid_t own = fork();

		if (own == 0)
			error = become(program, argv, fds, nfds);
		else if (own < 0)
			error = -errno;
		if (own <= 0)
			(void)!write(report, &error, sizeof(error));
		_exit(0);
	}
	if (child < 0)
		error = -errno;
	close(pipe_fds[1]);
	if (child > 0) {
		while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
			;
		if (read(pipe_fds[0], &error, sizeof(error)) < 0)
			error = -errno;
	}
	close(pipe_fds[0]);
	return error;
}
