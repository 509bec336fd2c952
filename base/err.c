#include "base/err.h"
#include "base/utf8.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static const char *const class_names[ERR_CLASS_COUNT] = {
	[ERR_GENERIC] = "GenericError",
	[ERR_INVALID] = "InvalidArgument",
	[ERR_NOT_FOUND] = "NotFound",
	[ERR_EXISTS] = "AlreadyExists",
	[ERR_WRONG_STATE] = "WrongState",
	[ERR_PERMISSION] = "PermissionDenied",
	[ERR_BUSY] = "Busy",
	[ERR_HOST] = "HostError",
	[ERR_NO_SPACE] = "NoSpace",
	[ERR_IO] = "IOError",
	[ERR_CORRUPT] = "Corrupt",
	[ERR_UNSUPPORTED] = "Unsupported",
	[ERR_TIMEOUT] = "Timeout",
	[ERR_CANCELLED] = "Cancelled",
	[ERR_QUOTA] = "QuotaExceeded",
	[ERR_APPROVAL] = "ApprovalRequired",
};

const char *err_class_name(enum err_class cls)
{
	if ((unsigned)cls >= ERR_CLASS_COUNT)
		return class_names[ERR_GENERIC];
	return class_names[cls];
}

enum err_class err_class_of_errno(int error)
{
	switch (error < 0 ? -error : error) {
	case EINVAL:
	case EISDIR:
	case ENOTDIR:
	case ENAMETOOLONG:
		return ERR_INVALID;
	case ENOENT:
	case ENODEV:
		return ERR_NOT_FOUND;
	case EEXIST:
		return ERR_EXISTS;
	case EACCES:
	case EPERM:
		return ERR_PERMISSION;
	case EBUSY:
	case EAGAIN:
		return ERR_BUSY;
	case ENOMEM:
	case EMFILE:
	case ENFILE:
		return ERR_HOST;
	case ENOSPC:
	case EDQUOT:
		return ERR_NO_SPACE;
	case EIO:
		return ERR_IO;
	case ENOTSUP:
		return ERR_UNSUPPORTED;
	case ETIMEDOUT:
		return ERR_TIMEOUT;
	case ECANCELED:
		return ERR_CANCELLED;
	default:
		return ERR_GENERIC;
	}
}

/* Format the sentence. Names of files and other texts of users are in sentences, and sentences
 * reach terminals and logs, so replace control characters. */
static void sentence_set(struct err *e, const char *fmt, va_list ap)
{
	vsnprintf(e->msg, sizeof(e->msg), fmt, ap);
	utf8_clean(e->msg);
}

int err_set(struct err *e, int neg_errno, enum err_class cls, const char *fmt, ...)
{
	va_list ap;

	if (!e)
		return neg_errno;
	e->cls = cls;
	va_start(ap, fmt);
	sentence_set(e, fmt, ap);
	va_end(ap);
	return neg_errno;
}

/* Return what the user can do about an error, to append to its sentence: "; raise ...", or "". */
static const char *remedy(int neg_errno)
{
	switch (neg_errno) {
	case -EMFILE:
		return "; raise this process's limit of open files (ulimit -n, or LimitNOFILE= of its service)";
	case -EAGAIN:
		return "; the limit of processes and threads may be reached: raise it (ulimit -u, pids.max, or TasksMax= of the service)";
	case -EROFS:
		return "; mount it for writing again; after an error of the disk, the kernel's log (dmesg) says why it is read-only";
	case -EFBIG:
		return "; the limit of file sizes may be reached: raise it (ulimit -f, or LimitFSIZE= of the service)";
	default:
		return "";
	}
}

int err_set_errno(struct err *e, int neg_errno, const char *fmt, ...)
{
	va_list ap;
	size_t n;

	if (!e)
		return neg_errno;
	e->cls = err_class_of_errno(neg_errno);
	va_start(ap, fmt);
	sentence_set(e, fmt, ap);
	va_end(ap);
	n = strlen(e->msg);
	snprintf(e->msg + n, sizeof(e->msg) - n, ": %s%s", strerror(-neg_errno), remedy(neg_errno));
	return neg_errno;
}

void err_prefix(struct err *e, const char *fmt, ...)
{
	char old[ERR_SENTENCE_MAX];
	va_list ap;
	size_t n;

	if (!e)
		return;
	memcpy(old, e->msg, sizeof(old));
	va_start(ap, fmt);
	sentence_set(e, fmt, ap);
	va_end(ap);
	n = strlen(e->msg);
	snprintf(e->msg + n, sizeof(e->msg) - n, ": %s", old);
	utf8_clean(e->msg); /* the end may be cut within a character */
}
