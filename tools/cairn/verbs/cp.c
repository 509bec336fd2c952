/* cp: copy a file or folder into the guest or out of it, with cairn-agent if that answers (cp_agent.c), otherwise a
 * file with the file commands of QEMU's guest agent. */
#include "tools/cairn/cli.h"
#include "api/wire/json.h"
#include "base/base64.h"
#include "base/cleanup.h"
#include "base/util.h"
#include "tools/cairn/guest_agent.h"
#include "tools/cairn/guest_session.h"
#include "tools/cairn/verbs/cp.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* A command's text has at most 64 KiB, with the data in base64. */
#define WRITE_BYTES (45 * 1024)
#define READ_BYTES (1024 * 1024)
#define FILE_TIMEOUT_S 60
#define CHMOD_POLLS 1000
#define CHMOD_POLL_NS 5000000

struct copy {
	struct cli *c;
	char vm[256]; /* name of the VM */
	const char *there; /* path in the guest */
	int64_t handle; /* of the open file in the guest; -1: none */
	int fd; /* the file here */
};

static int call(struct copy *k, const char *name, struct json_object *args, bool looks, struct json_object **ret_v, struct err *e)
{
	return guest_agent_call(k->c, k->vm, name, args, looks, FILE_TIMEOUT_S, ret_v, e);
}

static struct json_object *handle_args(const struct copy *k)
{
	struct json_object *args = json_object_new_object();

	js_put_int(args, "handle", k->handle);
	return args;
}

static int guest_open(struct copy *k, const char *mode, struct err *e)
{
	CLEANUP_JS struct json_object *v = NULL;
	struct json_object *args = json_object_new_object();
	int r;

	js_put_str(args, "path", k->there);
	js_put_str(args, "mode", mode);
	r = call(k, "guest-file-open", args, false, &v, e);
	if (!r && !json_object_is_type(v, json_type_int))
		r = guest_agent_malformed("guest-file-open", e);
	if (!r)
		k->handle = json_object_get_int64(v);
	return r;
}

/* Close the file in the guest; the agent keeps it open otherwise, as long as it runs. e: of the copy so far, if r <
 * 0. */
static int guest_close(struct copy *k, int r, struct err *e)
{
	CLEANUP_JS struct json_object *v = NULL;
	struct err own;
	int closed;

	if (k->handle < 0)
		return r;
	closed = call(k, "guest-file-close", handle_args(k), true, &v, r < 0 ? &own : e);
	return r < 0 ? r : closed;
}

/* ---- into the guest ---- */

/* Write a block, in as many commands as the guest takes. */
static int block_write(struct copy *k, const char *data, size_t len, struct err *e)
{
	while (len) {
		CLEANUP_JS struct json_object *v = NULL;
		CLEANUP_FREE char *text = base64_encode(data, len);
		struct json_object *args = handle_args(k);
		int64_t n;
		int r;

		js_put_str(args, "buf-b64", text);
		r = call(k, "guest-file-write", args, true, &v, e);
		if (r < 0)
			return r;
		n = js_get_int(v, "count", -1);
		if (n <= 0 || n > (int64_t)len)
			return guest_agent_malformed("guest-file-write", e);
		data += n;
		len -= (size_t)n;
	}
	return 0;
}

static int all_write(struct copy *k, struct err *e)
{
	CLEANUP_FREE char *buf = must_alloc(malloc(WRITE_BYTES));
	CLEANUP_JS struct json_object *v = NULL;
	int r = 0;

	while (!r) {
		ssize_t n = read(k->fd, buf, WRITE_BYTES);

		if (n < 0)
			return err_set_errno(e, -errno, "cannot read the file");
		if (!n)
			break;
		r = block_write(k, buf, (size_t)n, e);
	}
	return r < 0 ? r : call(k, "guest-file-flush", handle_args(k), true, &v, e);
}

/* Wait until a program in the guest has ended, so that the next command finds its effect. Returns whether it
 * succeeded. */
static bool program_succeeds(struct copy *k, int64_t pid)
{
	for (unsigned i = 0; i < CHMOD_POLLS; i++) {
		CLEANUP_JS struct json_object *v = NULL;
		struct json_object *args = json_object_new_object();
		struct err e;

		js_put_int(args, "pid", pid);
		if (call(k, "guest-exec-status", args, true, &v, &e) < 0)
			return false;
		if (js_get_bool(v, "exited", false))
			return js_get_int(v, "exitcode", -1) == 0;
		nanosleep(&(struct timespec){ .tv_nsec = CHMOD_POLL_NS }, NULL);
	}
	return false;
}

/* Give the file in the guest the permissions of the one here. The agent has no command for that, so the guest's
 * chmod(1) does it. */
static void mode_set(struct copy *k, mode_t mode)
{
	CLEANUP_JS struct json_object *v = NULL;
	struct json_object *args = json_object_new_object(), *words = json_object_new_array();
	char text[8];
	struct err e = { .msg = "chmod in the guest failed" };

	snprintf(text, sizeof(text), "%03o", (unsigned)(mode & 0777));
	js_put_str(args, "path", "chmod");
	json_object_array_add(words, json_object_new_string(text));
	json_object_array_add(words, json_object_new_string("--"));
	json_object_array_add(words, json_object_new_string(k->there));
	js_put(args, "arg", words);
	if (call(k, "guest-exec", args, false, &v, &e) < 0 || !program_succeeds(k, js_get_int(v, "pid", -1)))
		fprintf(stderr, "warning: the file is in the guest, but its permissions are not set: %s\n", e.msg);
}

static int copy_in(struct copy *k, const char *from, struct err *e)
{
	struct stat st;
	int r = 0;

	k->fd = strcmp(from, "-") ? open(from, O_RDONLY | O_CLOEXEC) : dup(0);
	if (k->fd < 0 || fstat(k->fd, &st) < 0)
		return err_set_errno(e, -errno, "cannot open %s", from);
	if (S_ISDIR(st.st_mode))
		return err_set(e, -EISDIR, ERR_INVALID, "%s is a folder, which needs cairn-agent in the guest (docs/agent.md); or pack it with tar, and unpack it with cairn exec",
			from);
	r = guest_open(k, "w", e);
	if (!r)
		r = all_write(k, e);
	r = guest_close(k, r, e);
	if (!r && S_ISREG(st.st_mode))
		mode_set(k, st.st_mode);
	return r;
}

/* ---- out of the guest ---- */

/* Read a block and write it here. *ret_end: the file in the guest has no more. */
static int block_read(struct copy *k, bool *ret_end, struct err *e)
{
	CLEANUP_JS struct json_object *v = NULL;
	CLEANUP_FREE char *data = NULL;
	struct json_object *args = handle_args(k);
	size_t len = 0;
	int r;

	js_put_int(args, "count", READ_BYTES);
	r = call(k, "guest-file-read", args, true, &v, e);
	if (r < 0)
		return r;
	data = base64_decode(js_get_str_or(v, "buf-b64", ""), &len);
	*ret_end = js_get_bool(v, "eof", false);
	/* Without data and without an end, this would continue for ever. */
	if (!data || len > READ_BYTES || (!len && !*ret_end))
		return guest_agent_malformed("guest-file-read", e);
	r = cp_data_write(k->fd, (const uint8_t *)data, len);
	return r < 0 ? err_set_errno(e, r, "cannot write the file") : 0;
}

static int all_read(struct copy *k, struct err *e)
{
	bool end = false;
	int r = 0;

	while (!r && !end)
		r = block_read(k, &end, e);
	return r;
}

/* Open the file here only when the guest has the other one: a mistyped name must not empty a file. */
static int copy_out(struct copy *k, const char *to, bool nofollow, struct err *e)
{
	int flags = O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | (nofollow ? O_NOFOLLOW : 0), r = guest_open(k, "r", e);

	if (r < 0)
		return r;
	k->fd = strcmp(to, "-") ? open(to, flags, 0666) : dup(1);
	if (k->fd < 0)
		r = err_set_errno(e, -errno, "cannot open %s", to);
	if (!r)
		r = all_read(k, e);
	return guest_close(k, r, e);
}

/* ---- the verb ---- */

/* Split "VM:/path". A path here that has a colon is written with a slash before it, as with scp; but a socket is the
 * vsock socket of a VM. */
static bool guest_path_parse(struct copy *k, const char *word)
{
	const char *colon = strchr(word, ':'), *slash = strchr(word, '/');
	struct stat st;

	if (!colon || colon == word || (size_t)(colon - word) >= sizeof(k->vm))
		return false;
	snprintf(k->vm, sizeof(k->vm), "%.*s", (int)(colon - word), word);
	k->there = colon + 1;
	return !slash || slash > colon || (stat(k->vm, &st) == 0 && S_ISSOCK(st.st_mode));
}

/* Put the name of the source after a target that is a folder here. */
static const char *target_of(const char *to, const char *from, char *buf, size_t size)
{
	const char *name = strrchr(from, '/') ? strrchr(from, '/') + 1 : from;
	struct stat st;

	if (!strcmp(to, "-") || stat(to, &st) < 0 || !S_ISDIR(st.st_mode))
		return to;
	snprintf(buf, size, "%s/%s", to, name);
	return buf;
}

/* A name in the guest that ends with a slash is a folder's. */
static const char *guest_target_of(const char *there, const char *from, char *buf, size_t size)
{
	const char *name = strrchr(from, '/') ? strrchr(from, '/') + 1 : from;

	if (!*there || there[strlen(there) - 1] != '/')
		return there;
	snprintf(buf, size, "%s%s", there, name);
	return buf;
}

static int qga_copy(struct copy *k, bool in, const char *from, const char *to, struct err *e)
{
	char path[PATH_MAX];
	const char *target;
	int r;

	if (in) {
		k->there = guest_target_of(k->there, from, path, sizeof(path));
		r = copy_in(k, from, e);
	} else {
		target = target_of(to, k->there, path, sizeof(path));
		r = copy_out(k, target, target != to, e);
	}
	if (k->fd >= 0 && close(k->fd) < 0 && !r)
		r = err_set_errno(e, -errno, "cannot write the file");
	return r;
}

/* The last part of a path, without slashes at the end; NULL: it names nothing, such as "." and "/". */
static const char *base_name(const char *path, char buf[PATH_MAX])
{
	size_t n = strlen(path);
	const char *name;

	while (n && path[n - 1] == '/')
		n--;
	if (n >= PATH_MAX)
		return NULL;
	memcpy(buf, path, n);
	buf[n] = 0;
	name = strrchr(buf, '/') ? strrchr(buf, '/') + 1 : buf;
	return !*name || !strcmp(name, ".") || !strcmp(name, "..") ? NULL : name;
}

/* Copy with cairn-agent. */
static int agent_copy(struct cli *c, const struct guest_link *link, bool in, const char *there, const char *from, const char *to, struct err *e)
{
	const char *source = in ? from : there, *name;
	char buf[PATH_MAX], target[PATH_MAX];
	struct stat st;

	name = base_name(source, buf);
	if (!name)
		return err_set(e, -EINVAL, ERR_INVALID, "%s has no name of its own; name the folder", source);
	if (in)
		return cp_agent_send(c, link, from, there, name, e);
	if (!strcmp(to, "-") || stat(to, &st) < 0 || !S_ISDIR(st.st_mode))
		return cp_agent_receive(c, link, there, to, false, e);
	if (snprintf(target, sizeof(target), "%s/%s", to, name) >= (int)sizeof(target))
		return err_set(e, -ENAMETOOLONG, ERR_INVALID, "%s/%s is too long", to, name);
	return cp_agent_receive(c, link, there, target, true, e);
}

int verb_cp(struct cli *c)
{
	struct copy k = { .c = c, .handle = -1, .fd = -1 }, other = { 0 };
	const char *from = c->pos[0], *to = c->pos[1], *agent = option_value(c, "agent");
	bool in = guest_path_parse(&k, to), asks_cairn = !agent || !strcmp(agent, "cairn");
	CLEANUP(guest_link_close) struct guest_link link = { .sock = -1 };
	struct err no_agent, e = { 0 };
	const struct err *why = &e;
	int r = -ENOTSUP;

	if (in ? guest_path_parse(&other, from) : !guest_path_parse(&k, from))
		return cli_usage(c, "one of SRC and DST must be VM:PATH, and only one");
	if (k.there[0] != '/')
		return cli_usage(c, "the path in the guest must be absolute, such as %s:/tmp/file", k.vm);
	if (asks_cairn) {
		r = guest_link_open(c, k.vm, &link, &no_agent);
		why = r < 0 ? &no_agent : &e;
	}
	if (!r) {
		r = agent_copy(c, &link, in, k.there, from, to, &e);
	} else if (!asks_cairn || (!agent && !strchr(k.vm, '/'))) {
		r = qga_copy(&k, in, from, to, &e);
		why = guest_link_error(asks_cairn ? &no_agent : NULL, &e);
	}
	return r < 0 ? cli_fail(why, "Failed to copy %s to %s", from, to) : CLI_OK;
}
