#include "api/jobs/outfile.h"
#include "api/access/client_file.h"
#include "api/access/fork_as.h"
#include "base/err.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

int outfile_check(const struct client_file *f, int access, const char *what, struct err *e)
{
	const struct fork_as_file *is = client_file_facts(f);
	int flags = is->flags;

	if (!S_ISREG(is->mode))
		return err_set(e, -EINVAL, ERR_INVALID, "%s needs a regular file", what);
	if (access == O_RDWR && (flags & O_ACCMODE) != O_RDWR)
		return err_set(e, -EINVAL, ERR_INVALID, "the file must be open for reading and writing");
	if ((flags & O_ACCMODE) == O_RDONLY)
		return err_set(e, -EINVAL, ERR_INVALID, "the file must be open for writing");
	if (flags & O_APPEND)
		return err_set(e, -EINVAL, ERR_INVALID, "the file must not be open for appending, because it is not "
			"written in order");
	if (is->bytes)
		return err_set(e, -EEXIST, ERR_EXISTS, "the file is not empty");
	return 0;
}
