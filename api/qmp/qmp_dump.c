/* QMP handlers for dump-guest-memory, into a file that the client opened (getfd, fd:NAME) or that the daemon opens with
 * the client's rights (file:PATH), and for screendump into a file of the latter kind. */
#include "api/access/client_file.h"
#include "api/access/fork_as.h"
#include "api/access/rights.h"
#include "api/commands/command_screen.h"
#include "api/jobs/dump.h"
#include "api/jobs/job_owner.h"
#include "api/qmp/qmp_handler.h"
#include "api/vm/vm.h"
#include "api/wire/conn.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define REMOVE_TIMEOUT_NS (10 * 1000000000ULL)

/* ---- fds by name ---- */

void qmp_getfd(struct call *c)
{
	struct err e;

	if (conn_file_store(c->conn, js_get_str(c->args, "fdname"), c->file, &e) < 0) {
		call_fail(c, &e);
		return;
	}
	c->file = NULL;
	call_return(c, NULL);
}

void qmp_closefd(struct call *c)
{
	struct client_file *file = conn_file_take(c->conn, js_get_str(c->args, "fdname"));
	struct err e;

	if (file) {
		client_file_free(file);
		call_return(c, NULL);
		return;
	}
	err_set(&e, -ENOENT, ERR_NOT_FOUND, "File descriptor named '%.60s' not found", js_get_str(c->args, "fdname"));
	call_fail(c, &e);
}

/* ---- requesting a dump ---- */

struct request {
	struct vm_host *host;
	uint8_t uuid[16];
	struct call *call; /* NULL: already answered */
	void (*start)(struct request *x); /* begins the work; file is there */
	bool detach;
	bool replaces; /* a regular file with content is emptied; otherwise it is refused */
	enum vm_image_format format; /* of a screendump */
	bool made; /* the file was created; remove it when the dump fails */
	char path[PATH_MAX];
	struct rights *rights;
	struct client_file *file; /* to dump into; NULL: the dump has it, or there is none yet */
	struct fork_as *helper; /* removes the file; NULL: none */
	struct err failure; /* the answer after that */
};

static void request_free(struct request *x)
{
	fork_as_free(x->helper);
	client_file_free(x->file);
	free(x->rights);
	free(x);
}

static void request_fail(struct request *x, const struct err *e)
{
	if (x->call)
		call_fail(x->call, e);
	x->call = NULL;
}

static int file_remove(const void *arg, struct fork_as_result *out, struct err *e)
{
	(void)out;
	return unlink(arg) < 0 ? err_set_errno(e, -errno, "%s", (const char *)arg) : 0;
}

static void file_removed(void *opaque, int r, const struct fork_as_result *res, const struct err *e)
{
	struct request *x = opaque;

	(void)r;
	(void)res;
	(void)e;
	x->helper = NULL;
	request_fail(x, &x->failure);
	request_free(x);
}

/* Answer with the error, and free the request. If the file was created, remove it first. */
static void request_abort(struct request *x, const struct err *e)
{
	struct fork_as_spec s = { .rights = x->rights, .of_client = true, .run = file_remove, .arg = x->path,
		.what = "removing the file", .timeout_ns = REMOVE_TIMEOUT_NS, .done = file_removed, .opaque = x };

	x->failure = *e;
	if (x->made && fork_as_begin(x->host->helpers, &s, &x->helper, NULL) == 0)
		return;
	request_fail(x, e);
	request_free(x);
}

static void dump_over(void *opaque, int r, const struct err *e)
{
	struct request *x = opaque;

	if (r < 0) {
		request_abort(x, e);
		return;
	}
	if (x->call)
		call_return(x->call, NULL);
	request_free(x);
}

static void dump_start(struct request *x)
{
	struct dump_request q = { .file = &x->file, .over = dump_over, .opaque = x };
	struct vm *vm = vm_find_uuid(x->host, x->uuid);
	struct job *j;
	struct err e;
	/* Opening the file may have taken long. */
	int r = vm ? call_check_role(x->call, x->call->command->role, vm, &e) : err_set(&e, -ESRCH, ERR_WRONG_STATE, "the VM is gone");

	if (!r)
		r = dump_begin(vm, &q, &j, &e);
	if (r < 0) {
		request_abort(x, &e);
		return;
	}
	job_owner_set(j, x->call);
	if (x->detach) {
		call_return(x->call, NULL);
		x->call = NULL;
	}
}

/* ---- a dump into file:PATH ---- */

/* Open the file; runs in the forked process. O_NONBLOCK keeps open() from blocking if the path is a pipe. */
static int file_open(const void *arg, struct fork_as_result *out, struct err *e)
{
	const struct request *x = arg;
	const char *path = x->path;
	int flags = O_WRONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, fd = open(path, flags | O_CREAT | O_EXCL, 0600);
	struct stat st;

	out->count = fd >= 0;
	if (fd < 0 && errno == EEXIST)
		fd = open(path, flags);
	if (fd < 0 || fstat(fd, &st) < 0)
		return err_set_errno(e, -errno, "%s", path);
	if (!S_ISREG(st.st_mode) || (st.st_size && !x->replaces))
		return err_set(e, -EEXIST, ERR_EXISTS, "%s exists and is not %s regular file", path, x->replaces ? "a" : "an empty");
	if (st.st_size && ftruncate(fd, 0) < 0)
		return err_set_errno(e, -errno, "%s", path);
	if (fcntl(fd, F_SETFL, 0) < 0)
		return err_set_errno(e, -errno, "%s", path);
	out->held[0] = fd;
	out->nheld = 1;
	return 0;
}

static void file_opened(void *opaque, int r, const struct fork_as_result *res, const struct err *e)
{
	struct request *x = opaque;

	x->made = res->count;
	if (r < 0) {
		request_abort(x, e);
		return;
	}
	x->start(x);
}

static int begin_file(struct request *x, const char *path, struct err *e)
{
	struct client_file_spec s = { .run = file_open, .arg = x, .what = "opening the file", .done = file_opened,
		.opaque = x };
	int r = rights_of_peer(&x->call->who, &x->rights, e);

	if (r < 0)
		return r;
	if (path[0] != '/' || snprintf(x->path, sizeof(x->path), "%s", path) >= (int)sizeof(x->path))
		return err_set(e, -EINVAL, ERR_INVALID, "%s needs an absolute path", x->replaces ? "filename:" : "protocol: file:PATH");
	s.rights = x->rights;
	return client_file_new(x->host->helpers, &s, &x->file, e);
}

static int begin_fd(struct request *x, const char *name, struct err *e)
{
	x->file = conn_file_take(x->call->conn, name);
	if (!x->file)
		return err_set(e, -ENOENT, ERR_NOT_FOUND, "File descriptor named '%.60s' not found", name);
	x->start(x);
	return 0;
}

static int check_args(struct call *c, struct err *e)
{
	const char *format = js_get_str(c->args, "format");

	if (js_get_bool(c->args, "paging", false))
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "paging: true is not supported; a dump has physical "
			"addresses, and crash translates virtual ones itself");
	if (js_get(c->args, "begin") || js_get(c->args, "length"))
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED,
			"begin, length: are not supported; a dump has all memory");
	if (format && strcmp(format, "elf"))
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "format: \"%.40s\" is not supported; use elf", format);
	return 0;
}

void qmp_dump(struct call *c)
{
	const char *protocol = js_get_str(c->args, "protocol");
	struct request *x = must_alloc(calloc(1, sizeof(*x)));
	struct err e;
	int r = check_args(c, &e);

	*x = (struct request){ .host = c->host, .call = c, .start = dump_start, .detach = js_get_bool(c->args, "detach", false) };
	memcpy(x->uuid, c->vm->def->uuid, sizeof(x->uuid));
	if (!r && !strncmp(protocol, "file:", 5))
		r = begin_file(x, protocol + 5, &e);
	else if (!r && !strncmp(protocol, "fd:", 3))
		r = begin_fd(x, protocol + 3, &e);
	else if (!r)
		r = err_set(&e, -EINVAL, ERR_INVALID, "protocol must start with 'file:' or 'fd:'");
	if (r < 0) {
		request_fail(x, &e);
		request_free(x);
	}
}

void qmp_query_dump(struct call *c)
{
	call_return(c, dump_state_to_json(c->vm));
}

void qmp_query_dump_capability(struct call *c)
{
	struct json_object *o = json_object_new_object(), *formats = json_object_new_array();

	json_object_array_add(formats, json_object_new_string("elf"));
	js_put(o, "formats", formats);
	call_return(c, o);
}

/* ---- a picture of the screen ---- */

static void screen_saved(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	(void)a;
	dump_over(opaque, r, e);
}

static void screen_start(struct request *x)
{
	struct vm *vm = vm_find_uuid(x->host, x->uuid);
	struct err e;
	int r = vm ? call_check_role(x->call, x->call->command->role, vm, &e) : err_set(&e, -ESRCH, ERR_WRONG_STATE, "the VM is gone");

	if (!r)
		r = screen_save(vm, x->format, &x->file, screen_saved, x, &e);
	if (r < 0)
		dump_over(x, r, &e);
}

void qmp_screendump(struct call *c)
{
	const char *format = js_get_str_or(c->args, "format", "ppm");
	struct request *x = must_alloc(calloc(1, sizeof(*x)));
	struct err e;
	int r = 0;

	*x = (struct request){ .host = c->host, .call = c, .start = screen_start, .replaces = true,
		.format = !strcmp(format, "png") ? VM_IMAGE_PNG : VM_IMAGE_PPM };
	memcpy(x->uuid, c->vm->def->uuid, sizeof(x->uuid));
	if (strcmp(format, "png") != 0 && strcmp(format, "ppm") != 0)
		r = err_set(&e, -EINVAL, ERR_INVALID, "format: \"%.40s\" is not supported; use ppm or png", format);
	if (!r)
		r = begin_file(x, js_get_str(c->args, "filename"), &e);
	if (r < 0) {
		request_fail(x, &e);
		request_free(x);
	}
}
