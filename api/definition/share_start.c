#include "api/definition/share_start.h"
#include "api/definition/definition.h"
#include "api/definition/detached_program.h"
#include "api/store/paths.h"
#include "base/cleanup.h"
#include "base/err.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/socket.h>
#include <unistd.h>

/* If the user may read the folder, suggest a share that is read-only. folder: -1: it cannot be opened. */
static int folder_failed(int folder, const char *key, const char *path, bool write, struct err *e)
{
	int error = errno;
	bool helps = write && (error == EACCES || error == EROFS) && folder >= 0 && !faccessat(folder, ".", R_OK | X_OK, AT_EACCESS);

	if (!helps)
		return err_set_errno(e, -error, "%s: %s", key, path);
	return err_set(e, -error, err_class_of_errno(error), "%s: %s: the user may read it, but not write to it; for a read-only share, set its "
		"\"readonly\" to true (cairn run: %s:/PLACE:ro)", key, path, path);
}

int share_start(const struct definition *d, const char *key, const char *path, bool write, struct err *e)
{
	CLEANUP_CLOSE int folder = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	char program[PATH_MAX];
	char *argv[] = { "cairn-share", (char *)d->name, (char *)(write ? "rw" : "ro"), NULL };
	int pair[2], r = paths_helper("cairn-share", program, sizeof(program), e);

	if (r < 0)
		return r;
	if (folder < 0 && errno == ENOTDIR)
		return err_set(e, -ENOTDIR, ERR_INVALID, "%s: %s is not a folder; only folders can be shared", key, path);
	if (folder < 0 || faccessat(folder, ".", write ? R_OK | W_OK | X_OK : R_OK | X_OK, AT_EACCESS) < 0)
		return folder_failed(folder, key, path, write, e);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return err_set_errno(e, -errno, "%s", key);
	r = detached_program_start(program, argv, (const int[]){ pair[1], folder }, 2);
	close(pair[1]);
	if (r < 0) {
		close(pair[0]);
		return err_set_errno(e, r, "%s: cannot start %s", key, program);
	}
	return pair[0];
}
