#include "api/policy/hooks.h"
#include "api/access/spawn.h"
#include "api/schema/schema.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

#define MISPLACED_MAX 10 /* lines in the log */

/* A process that runs the hooks of one event. */
struct hook_process {
	struct hooks *of;
	int pidfd; /* -1: none */
	struct loop_watch *watch;
};

/* An event that waits. */
struct hook_event {
	struct hook_event *next;
	const char *name; /* static */
	struct json_object *o;
	/* The VMs take turns: this is the number of the event's turn. Each further event of a VM comes a turn later. */
	uint64_t turn;
};

struct hooks {
	struct loop *loop;
	const char *program, *folder;
	struct hook_process running[HOOKS_RUNNING_MAX];
	struct hook_event *first, **last;
	uint64_t turn; /* of the event taken last */
	unsigned nwaiting;
	unsigned left_out;
};

/* ---- which events have hooks ---- */

enum hook_name { STARTED, STOPPED, CRASHED, SNAPSHOT, SCHEDULE, THRESHOLD, DISK_SPACE, BEFORE_START, BEFORE_SHUTDOWN };

static const char *const names[] = { [STARTED] = "started", [STOPPED] = "stopped", [CRASHED] = "crashed", [SNAPSHOT] = "snapshot",
	[SCHEDULE] = "schedule", [THRESHOLD] = "threshold", [DISK_SPACE] = "disk-space", [BEFORE_START] = HOOK_START,
	[BEFORE_SHUTDOWN] = HOOK_SHUTDOWN };

static bool is_off(const char *state)
{
	return !strcmp(state, "shutoff") || !strcmp(state, "saved") || !strcmp(state, "crashed");
}

static const char *change_name(struct json_object *data)
{
	const char *from = js_get_str_or(data, "from", ""), *state = js_get_str_or(data, "state", "");

	if (!strcmp(state, "crashed"))
		return strcmp(from, "crashed") != 0 ? names[CRASHED] : NULL;
	if (is_off(from) == is_off(state))
		return NULL;
	return names[is_off(state) ? STOPPED : STARTED];
}

const char *hooks_event_of(struct json_object *event)
{
	const char *name = js_get_str_or(event, "event", "");
	struct json_object *data = js_get(event, "data");

	if (!strcmp(name, "VM_STATE_CHANGE"))
		return change_name(data);
	if (!strcmp(name, "SNAPSHOT_CREATED"))
		return names[SNAPSHOT];
	if (!strcmp(name, "SCHEDULE_RUN"))
		return names[SCHEDULE];
	if (!strcmp(name, "THRESHOLD"))
		return names[THRESHOLD];
	if (!strcmp(name, "POOL_SPACE") || !strcmp(name, "DISK_SPACE"))
		return strcmp(js_get_str_or(data, "state", ""), "low") ? NULL : names[DISK_SPACE];
	return !strcmp(name, "BLOCK_IO_ERROR") && js_get_bool(data, "nospace", false) ? names[DISK_SPACE] : NULL;
}

/* ---- the processes ---- */

static bool is_event(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (!strcmp(name, names[i]))
			return true;
	return false;
}

void hooks_check(const struct hooks *h)
{
	DIR *d = opendir(h->folder);
	unsigned n = 0;

	for (struct dirent *e; d && n < MISPLACED_MAX && (e = readdir(d));) {
		/* Also a folder can be "executed". */
		if (e->d_name[0] == '.' || is_event(e->d_name) || faccessat(dirfd(d), e->d_name, X_OK, 0) < 0)
			continue;
		log_warn("hook", "%s/%s never runs: a hook is an executable in the folder of its event, such as %s/started/NAME",
			h->folder, e->d_name, h->folder);
		n++;
	}
	if (d)
		closedir(d);
}

bool hooks_exist(const struct hooks *h, const char *name)
{
	char path[PATH_MAX];

	return snprintf(path, sizeof(path), "%s/%s", h->folder, name) < (int)sizeof(path) && access(path, F_OK) == 0;
}

int hooks_event_file(struct json_object *o)
{
	const char *text = json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN);
	CLEANUP_CLOSE int fd = memfd_create("event", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	size_t len = strlen(text);

	if (fd < 0)
		return -errno;
	if (write(fd, text, len) != (ssize_t)len || write(fd, "\n", 1) != 1)
		return -EIO;
	if (fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) < 0)
		return -errno;
	return steal_fd(&fd);
}

int hooks_start(struct hooks *h, const char *name, struct json_object *o, int out, void (*ended)(void *opaque, unsigned revents),
	void *opaque, int *ret_pidfd, struct loop_watch **ret_watch)
{
	CLEANUP_CLOSE int event = hooks_event_file(o);
	CLEANUP_CLOSE int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	char *const argv[] = { (char *)"cairn-hook", (char *)h->folder, (char *)name, NULL };

	if (event < 0 || null < 0)
		return event < 0 ? event : -errno;
	return spawn_watched(h->loop, &(struct spawn_spec){ .path = h->program, .argv = argv,
		.fds = (const int[]){ event, out < 0 ? null : out, -1 }, .nfds = 3 }, ended, opaque, ret_pidfd, ret_watch);
}

static void process_ended(void *opaque, unsigned revents);

static int process_start(struct hook_process *p, const char *name, struct json_object *o)
{
	return hooks_start(p->of, name, o, -1, process_ended, p, &p->pidfd, &p->watch);
}

/* ---- the queue ---- */

static const char *event_vm(struct json_object *event)
{
	return js_get_str_or(js_get(event, "data"), VM_UUID_KEY, "");
}

static uint64_t turn_of(const struct hooks *h, struct json_object *event)
{
	const char *vm = event_vm(event);
	uint64_t turn = h->turn;

	for (const struct hook_event *ev = h->first; ev; ev = ev->next)
		if (ev->turn >= turn && !strcmp(event_vm(ev->o), vm))
			turn = ev->turn + 1;
	return turn;
}

/* Take the event at this place out of the queue. */
static struct hook_event *event_take(struct hooks *h, struct hook_event **at)
{
	struct hook_event *ev = *at;

	*at = ev->next;
	if (!ev->next)
		h->last = at;
	h->nwaiting--;
	return ev;
}

/* Return the place of the oldest event of the first turn. */
static struct hook_event **event_next(struct hooks *h)
{
	struct hook_event **found = &h->first;

	for (struct hook_event **at = &h->first; *at; at = &(*at)->next)
		if ((*at)->turn < (*found)->turn)
			found = at;
	return found;
}

static void event_free(struct hook_event *ev)
{
	json_object_put(ev->o);
	free(ev);
}

/* Leave out the newest event of the VM with the most waiting ones, if its turn comes later than this one. The queue is
 * full. Returns whether it was left out. */
static bool room_make(struct hooks *h, uint64_t turn)
{
	struct hook_event **found = &h->first;

	for (struct hook_event **at = &h->first; *at; at = &(*at)->next)
		if ((*at)->turn >= (*found)->turn)
			found = at;
	if ((*found)->turn <= turn)
		return false;
	event_free(event_take(h, found));
	return true;
}

/* Start processes for events that wait. */
static void hooks_run_waiting(struct hooks *h)
{
	for (size_t i = 0; i < HOOKS_RUNNING_MAX && h->first; i++) {
		struct hook_event *ev;
		int r;

		if (h->running[i].pidfd >= 0)
			continue;
		ev = event_take(h, event_next(h));
		h->turn = ev->turn;
		r = process_start(&h->running[i], ev->name, ev->o);
		if (r < 0)
			log_error("hook", "cannot run the hooks of '%s': %s", ev->name, strerror(-r));
		event_free(ev);
	}
	if (!h->first && h->left_out) {
		log_warn("hook", "%u events came faster than their hooks ran, and were left out", h->left_out);
		h->left_out = 0;
	}
}

static void process_ended(void *opaque, unsigned revents)
{
	struct hook_process *p = opaque;
	siginfo_t si = { 0 };

	(void)revents;
	if (waitid(P_PIDFD, (id_t)p->pidfd, &si, WEXITED | WNOHANG) < 0 || !si.si_pid)
		return;
	if (si.si_code == CLD_EXITED && si.si_status == SPAWN_NO_PROGRAM)
		log_error("hook", "%s cannot be run", p->of->program);
	loop_unwatch(STEAL_PTR(p->watch));
	close(steal_fd(&p->pidfd));
	hooks_run_waiting(p->of);
}

void hooks_notify(struct hooks *h, struct json_object *event)
{
	const char *name = h ? hooks_event_of(event) : NULL;
	struct hook_event *ev;
	uint64_t turn;

	if (!name || !hooks_exist(h, name))
		return;
	turn = turn_of(h, event);
	if (h->nwaiting == HOOKS_WAITING_MAX) {
		h->left_out++;
		if (!room_make(h, turn))
			return;
	}
	ev = must_alloc(calloc(1, sizeof(*ev)));
	*ev = (struct hook_event){ .name = name, .o = json_object_get(event), .turn = turn };
	*h->last = ev;
	h->last = &ev->next;
	h->nwaiting++;
	hooks_run_waiting(h);
}

struct hooks *hooks_new(struct loop *l, const char *program, const char *folder)
{
	struct hooks *h = must_alloc(calloc(1, sizeof(*h)));

	*h = (struct hooks){ .loop = l, .program = program, .folder = folder };
	h->last = &h->first;
	for (size_t i = 0; i < HOOKS_RUNNING_MAX; i++)
		h->running[i] = (struct hook_process){ .of = h, .pidfd = -1 };
	return h;
}

void hooks_free(struct hooks *h)
{
	struct hook_event *ev;

	if (!h)
		return;
	for (size_t i = 0; i < HOOKS_RUNNING_MAX; i++)
		if (h->running[i].pidfd >= 0) {
			loop_unwatch(h->running[i].watch);
			close(h->running[i].pidfd);
		}
	while ((ev = h->first)) {
		h->first = ev->next;
		event_free(ev);
	}
	free(h);
}
