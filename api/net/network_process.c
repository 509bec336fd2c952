#include "api/net/network_process.h"
#include "api/access/spawn.h"
#include "api/net/network.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/utf8.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

#define PROGRAM "cairn-net"
#define ANSWER_MAX_BYTES (1024 * 1024)

struct network_process {
	int pidfd, out; /* out: a file in memory, with its answer */
	struct loop_watch *watch;
	struct loop_timer *timer;
	bool timed_out;
	void (*done)(void *opaque, int r, struct json_object *answer, const struct err *e);
	void *opaque;
};

void network_process_free(struct network_process *p)
{
	if (!p)
		return;
	loop_unwatch(p->watch);
	if (p->pidfd >= 0) {
		pidfd_send_signal(p->pidfd, SIGKILL, NULL, 0);
		waitid(P_PIDFD, (id_t)p->pidfd, &(siginfo_t){ 0 }, WEXITED);
		close(p->pidfd);
	}
	loop_timer_free(p->timer);
	if (p->out >= 0)
		close(p->out);
	free(p);
}

/* ---- the answer ---- */

static enum err_class class_of_word(const char *word)
{
	for (unsigned c = 0; word && c < ERR_CLASS_COUNT; c++)
		if (!strcmp(err_class_name(c), word))
			return c;
	return ERR_GENERIC;
}

static int errno_of_class(enum err_class c)
{
	switch (c) {
	case ERR_INVALID:
		return -EINVAL;
	case ERR_NOT_FOUND:
		return -ENOENT;
	case ERR_EXISTS:
		return -EEXIST;
	case ERR_BUSY:
		return -EBUSY;
	case ERR_PERMISSION:
		return -EPERM;
	default:
		return -EIO;
	}
}

/* Get the answer, or the error that the program reports. Returns 0; -errno. */
static int answer_take(struct json_object *o, struct json_object **ret, struct err *e)
{
	struct json_object *error = js_get(o, "error"), *value = js_get(o, "return");
	const char *desc = js_get_str(error, "desc");
	enum err_class cls = class_of_word(js_get_str(error, "class"));
	char text[ERR_SENTENCE_MAX];

	if (json_object_is_type(value, json_type_object)) {
		*ret = json_object_get(value);
		return 0;
	}
	if (!desc)
		return err_set(e, -EIO, ERR_HOST, PROGRAM " gave a malformed answer; see the daemon's log");
	snprintf(text, sizeof(text), "%s", desc);
	utf8_clean(text);
	return err_set(e, errno_of_class(cls), cls, "%s%s", text, cls == ERR_PERMISSION ?
		"; an interface of type user needs no network and no privileges" : "");
}

static int answer_read(struct network_process *p, const siginfo_t *si, struct json_object **ret, struct err *e)
{
	CLEANUP_JS struct json_object *o = NULL;
	CLEANUP_FREE char *text = NULL;
	size_t len;

	if (p->timed_out)
		return err_set(e, -ETIMEDOUT, ERR_TIMEOUT, PROGRAM " did not end in time and was killed; see the daemon's log, and try again");
	if (si->si_code == CLD_EXITED && (si->si_status == SPAWN_NO_PROGRAM || si->si_status > 1))
		return err_set(e, -ENOENT, ERR_HOST, PROGRAM " cannot be run; install it beside cairn-vm");
	if (lseek(p->out, 0, SEEK_SET) < 0 || file_read_fd(p->out, "answer", ANSWER_MAX_BYTES, &text, &len, NULL) < 0 ||
		js_parse(text, len, "answer", &o, NULL) < 0)
		return err_set(e, -EIO, ERR_HOST, PROGRAM " ended without an answer; see the daemon's log");
	return answer_take(o, ret, e);
}

/* ---- the process ---- */

static void process_ended(void *opaque, unsigned revents)
{
	struct network_process *p = opaque;
	CLEANUP_JS struct json_object *answer = NULL;
	siginfo_t si = { 0 };
	struct err e;
	int r;

	(void)revents;
	if (waitid(P_PIDFD, (id_t)p->pidfd, &si, WEXITED | WNOHANG) < 0 || !si.si_pid)
		return;
	loop_unwatch(STEAL_PTR(p->watch));
	close(steal_fd(&p->pidfd));
	r = answer_read(p, &si, &answer, &e);
	p->done(p->opaque, r, answer, &e);
	network_process_free(p);
}

static void process_timed_out(void *opaque)
{
	struct network_process *p = opaque;

	p->timed_out = true;
	pidfd_send_signal(p->pidfd, SIGKILL, NULL, 0);
}

static int input_make(struct json_object *request)
{
	const char *text = json_object_to_json_string_ext(request, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
	CLEANUP_CLOSE int fd = memfd_create(PROGRAM, MFD_CLOEXEC);
	int r = fd < 0 ? -errno : pwrite_full(fd, text, strlen(text), 0);

	return r < 0 ? r : steal_fd(&fd);
}

static int process_spawn(struct network_process *p, struct loop *l, const char *program, int in)
{
	char *argv[] = { (char *)PROGRAM, NULL };
	int fds[] = { in, p->out, -1 };
	struct spawn_spec s = { .path = program, .argv = argv, .fds = fds, .nfds = ARRAY_SIZE(fds), .death_signal = SIGKILL };

	return p->out < 0 ? -errno : spawn_watched(l, &s, process_ended, p, &p->pidfd, &p->watch);
}

int network_request_make(const struct network *n, const char *verb, const struct network_definition *d, struct json_object **ret, struct err *e)
{
	struct json_object *o;
	char folder[PATH_MAX];
	int r = network_folder_make(n, folder, e);

	if (r < 0)
		return r;
	*ret = o = json_object_new_object();
	js_put_str(o, "verb", verb);
	js_put(o, "network", network_definition_for_program(d));
	js_put_str(o, "folder", folder);
	return 0;
}

int network_process_start(struct loop *l, const char *program, struct json_object *request, uint64_t timeout_ns,
	void (*done)(void *opaque, int r, struct json_object *answer, const struct err *e), void *opaque,
	struct network_process **ret_p, struct err *e)
{
	struct network_process *p = must_alloc(calloc(1, sizeof(*p)));
	CLEANUP_CLOSE int in = input_make(request);
	int r = in < 0 ? in : 0;

	*p = (struct network_process){ .pidfd = -1, .out = memfd_create(PROGRAM, MFD_CLOEXEC), .done = done, .opaque = opaque };
	if (!r)
		r = loop_timer_new(l, process_timed_out, p, &p->timer);
	if (!r)
		r = process_spawn(p, l, program, in);
	if (r < 0) {
		network_process_free(p);
		return err_set_errno(e, r, "cannot start " PROGRAM);
	}
	loop_timer_arm(p->timer, loop_now_ns() + timeout_ns);
	*ret_p = p;
	return 0;
}
