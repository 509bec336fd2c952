/* err: why something failed, as a class that a program can switch on and a
 * sentence that a person can act on.
 *
 * Functions return 0 or -errno; the optional last argument `struct err *`
 * (NULL is allowed) is set once, where the fault is found. Callers that add
 * context prepend to it. */
#ifndef CAIRN_BASE_ERR_H
#define CAIRN_BASE_ERR_H

#include <stdarg.h>

enum err_class {
	ERR_GENERIC = 0,
	ERR_INVALID,	 /* the request or definition is malformed */
	ERR_NOT_FOUND,	 /* no such VM, disk, file */
	ERR_EXISTS,	 /* name or uuid taken */
	ERR_WRONG_STATE, /* not legal in the present state */
	ERR_PERMISSION,
	ERR_BUSY,	/* locked by another, or a job excludes it */
	ERR_HOST,	/* the host lacks something: KVM, memory, a capability */
	ERR_NO_SPACE,
	ERR_IO,
	ERR_CORRUPT,	/* an image or a stream contradicts its format */
	ERR_UNSUPPORTED, /* well-formed, but we do not do it */
	ERR_TIMEOUT,
	ERR_CANCELLED,
	ERR_CLASS_COUNT,
};

#define ERR_SENTENCE_MAX 480

struct err {
	enum err_class cls;
	char msg[ERR_SENTENCE_MAX]; /* no final full stop or newline */
};

/* Set *e (NULL allowed) and return neg_errno, so that callers can write
 * `return err_set(e, -EINVAL, ERR_INVALID, "...")`. */
int err_set(struct err *e, int neg_errno, enum err_class cls, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

/* The same, with ": <strerror>" appended and the class derived from the errno. */
int err_set_errno(struct err *e, int neg_errno, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* Put "prefix: " before the sentence that is there. */
void err_prefix(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Class as a stable word for programs ("NotFound"); never NULL. */
const char *err_class_name(enum err_class cls);

/* The class that an errno value (positive or negative) stands for. */
enum err_class err_class_of_errno(int error);

#endif
