#include "api/jobs/outfile.h"
#include "base/err.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

int outfile_check(int fd, int access, const char *what, struct err *e)
{
	int flags = fcntl(fd, F_GETFL);
	struct stat st;

	if (flags < 0 || fstat(fd, &st) < 0)
		return err_set_errno(e, -errno, "the file");
	if (!S_ISREG(st.st_mode))
		return err_set(e, -EINVAL, ERR_INVALID, "%s needs a regular file", what);
	if (access == O_RDWR && (flags & O_ACCMODE) != O_RDWR)
		return err_set(e, -EINVAL, ERR_INVALID, "the file must be open for reading and writing");
	if ((flags & O_ACCMODE) == O_RDONLY)
		return err_set(e, -EINVAL, ERR_INVALID, "the file must be open for writing");
	if (flags & O_APPEND)
		return err_set(e, -EINVAL, ERR_INVALID, "the file must not be open for appending, because it is not "
			"written in order");
	if (st.st_size)
		return err_set(e, -EEXIST, ERR_EXISTS, "the file is not empty");
	return 0;
}
