/* err: the reason of a failure, as a class for programs and a sentence for people.
 *
 * Functions return 0 or -errno. Their optional last argument `struct err *` (NULL allowed) is set
 * once, by the function that finds the fault. Callers may prepend context with err_prefix(). */
#ifndef CAIRN_BASE_ERR_H
#define CAIRN_BASE_ERR_H

#include <stdarg.h>

enum err_class {
	ERR_GENERIC = 0,
	ERR_INVALID,	 /* the request or definition is malformed */
	ERR_NOT_FOUND,	 /* there is no such VM, disk or file */
	ERR_EXISTS,	 /* the name or UUID is taken */
	ERR_WRONG_STATE, /* the VM's state does not allow the request */
	ERR_PERMISSION,
	ERR_BUSY,	/* another process or job holds the resource */
	ERR_HOST,	/* the host lacks something: KVM, memory, a capability */
	ERR_NO_SPACE,
	ERR_IO,
	ERR_CORRUPT,	/* an image or a stream contradicts its format */
	ERR_UNSUPPORTED, /* well-formed, but Cairn does not support it */
	ERR_TIMEOUT,
	ERR_CANCELLED,
	ERR_QUOTA,	/* the quota of the user or group leaves no room (api/access/quotas.h) */
	ERR_APPROVAL,	/* another user has to approve the act (api/policy/approver.h) */
	ERR_CLASS_COUNT,
};

#define ERR_SENTENCE_MAX 1024

struct err {
	enum err_class cls;
	char msg[ERR_SENTENCE_MAX]; /* sentence without a final full stop, and without control characters */
};

/* Set *e (e: NULL allowed) to a class and a formatted sentence.
 * Returns neg_errno, so that callers can write `return err_set(e, -EINVAL, ERR_INVALID, "...")`. */
int err_set(struct err *e, int neg_errno, enum err_class cls, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

/* Like err_set(), but append ": <strerror>" and derive the class from the errno. */
int err_set_errno(struct err *e, int neg_errno, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* Prepend "prefix: " to the sentence in *e. */
void err_prefix(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Returns the class as a stable word for programs ("NotFound"); never NULL. */
const char *err_class_name(enum err_class cls);

/* Returns the class for an errno value, positive or negative. */
enum err_class err_class_of_errno(int error);

#endif
