#include "api/access/audit_sync.h"
#include "api/access/audit_file.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RETRY_NS CLOCK_NS_PER_S

/* A caller of audit_sync_append() that waits for stored(). */
struct audit_waiter {
	struct audit_waiter *next;
	unsigned class;
	void (*stored)(void *opaque, int r);
	void *opaque;
};

/* Note that n lines are lost. n: 0: none is yet, but the next one would be. */
static void lines_lost(struct audit_sync *s, struct audit_file *f, uint64_t n, int r)
{
	if (!f->error)
		log_error("audit", "%s cannot be written: %s; the daemon tries again each second", f->name, strerror(-r));
	if (!f->lost)
		f->lost_since_ns = (int64_t)clock_realtime_ns();
	f->error = r;
	f->lost += n;
	f->told = false;
	if (!s->ends)
		loop_timer_arm(s->retry, loop_now_ns() + RETRY_NS);
}

/* ---- syncing ---- */

/* Runs on the thread, which alone uses s->parts until sync_done(). */
static void sync_run(struct store_work *w)
{
	struct audit_sync *s = container_of(w, struct audit_sync, work);

	for (unsigned i = 0; i < AUDIT_CLASSES; i++) {
		struct sync_part *p = &s->parts[i];

		if (p->fd < 0 && !p->lines)
			continue;
		if (fsync(p->fd) < 0 || (p->has_name && fsync(s->dir_fd) < 0))
			p->r = -errno;
	}
}

/* Take the new lines of a file for the sync that begins. A full file is rotated now, so that no later line needs a sync
 * of the old file. */
static void part_begin(struct audit_sync *s, struct audit_file *f, struct sync_part *p)
{
	int r;

	*p = (struct sync_part){ .fd = -1 };
	if (!f->unsynced && !f->told)
		return;
	*p = (struct sync_part){ .fd = f->fd, .has_name = f->is_new, .told = f->told, .lines = f->unsynced };
	f->unsynced = 0;
	f->is_new = false;
	f->sync_fd = f->fd;
	if (f->size < AUDIT_FILE_BYTES)
		return;
	audit_file_rotate(f);
	p->has_name = true;
	r = audit_file_ready(f);
	if (r < 0)
		lines_lost(s, f, 0, r);
}

static void sync_begin(struct audit_sync *s)
{
	bool any = false;

	if (s->runs || s->ends)
		return;
	for (unsigned i = 0; i < AUDIT_CLASSES; i++)
		any |= s->files[i].unsynced || s->files[i].told;
	if (!any)
		return;
	for (unsigned i = 0; i < AUDIT_CLASSES; i++)
		part_begin(s, &s->files[i], &s->parts[i]);
	s->runs = true;
	s->syncing = STEAL_PTR(s->waiters);
	store_writer_work(&s->writer, PENDING_RUN, "", NULL, &s->work);
}

static void part_end(struct audit_sync *s, struct audit_file *f, const struct sync_part *p)
{
	if (p->fd >= 0 && p->fd != f->fd)
		close(p->fd);
	f->sync_fd = -1;
	if (p->r < 0) {
		f->is_new |= p->has_name;
		lines_lost(s, f, p->lines, p->r);
	} else if (p->told && f->told) {
		log_info("audit", "%s can be written again", f->name);
		f->error = 0;
		f->lost = 0;
		f->told = false;
	}
}

static void sync_done(struct store_work *w)
{
	struct audit_sync *s = container_of(w, struct audit_sync, work);
	struct audit_waiter *list = STEAL_PTR(s->syncing);
	int r[AUDIT_CLASSES];

	s->runs = false;
	for (unsigned i = 0; i < AUDIT_CLASSES; i++) {
		part_end(s, &s->files[i], &s->parts[i]);
		r[i] = s->parts[i].r;
	}
	sync_begin(s);
	while (list) {
		struct audit_waiter *next = list->next;

		list->stored(list->opaque, r[list->class]);
		free(list);
		list = next;
	}
}

int audit_sync_append(struct audit_sync *s, unsigned class, const char *text, void (*stored)(void *opaque, int r),
	void *opaque)
{
	struct audit_file *f = &s->files[class];
	int r = audit_file_append(f, text);
	struct audit_waiter *w;

	if (r < 0) {
		log_error("audit", "cannot write this line (%s): %s", strerror(-r), text);
		lines_lost(s, f, 1, r);
		return r;
	}
	if (stored) {
		w = must_alloc(malloc(sizeof(*w)));
		*w = (struct audit_waiter){ s->waiters, class, stored, opaque };
		s->waiters = w;
	}
	sync_begin(s);
	return 0;
}

bool audit_sync_owes(const struct audit_sync *s)
{
	return s->runs;
}

/* ---- errors ---- */

int audit_sync_check(struct audit_sync *s)
{
	for (unsigned i = 0; i < AUDIT_CLASSES; i++) {
		struct audit_file *f = &s->files[i];
		int r = f->error ? f->error : audit_file_ready(f);

		if (r < 0 && !f->error)
			lines_lost(s, f, 0, r);
		if (r < 0)
			return r;
	}
	return 0;
}

/* Write the line that counts the lost lines of a file. */
static int lost_write(struct audit_file *f)
{
	CLEANUP_JS struct json_object *line = json_object_new_object();
	int r;

	js_put_int(line, "time", (int64_t)clock_realtime_ns());
	js_put_str(line, "outcome", err_class_name(err_class_of_errno(f->error)));
	js_put_uint(line, "left-out", f->lost);
	js_put_int(line, "since", f->lost_since_ns);
	r = audit_file_append(f, json_object_to_json_string_ext(line, JSON_C_TO_STRING_PLAIN));
	if (!r)
		f->unsynced--; /* if its sync fails, the line is no further loss */
	return r;
}

static void retry_fire(void *opaque)
{
	struct audit_sync *s = opaque;
	bool again = false;

	for (unsigned i = 0; i < AUDIT_CLASSES; i++) {
		struct audit_file *f = &s->files[i];
		int r;

		if (!f->error)
			continue;
		again = true;
		if (f->sync_fd >= 0 || f->told)
			continue;
		r = audit_file_ready(f);
		if (!r && f->lost)
			r = lost_write(f);
		if (r < 0)
			f->error = r;
		f->told = !r;
	}
	sync_begin(s);
	if (again)
		loop_timer_arm(s->retry, loop_now_ns() + RETRY_NS);
}

/* ---- opening and closing ---- */

int audit_sync_open(struct audit_sync *s, struct loop *loop, struct audit_file *files, int dir_fd, struct err *e)
{
	int r;

	*s = (struct audit_sync){ .loop = loop, .files = files, .dir_fd = dir_fd };
	s->work = (struct store_work){ .done = sync_done, .run = sync_run, .loop = loop };
	store_writer_init(&s->writer, "audit", NULL);
	r = loop_timer_new(loop, retry_fire, s, &s->retry);
	if (r < 0)
		return err_set_errno(e, r, "audit");
	for (unsigned i = 0; i < AUDIT_CLASSES; i++)
		if (files[i].error)
			loop_timer_arm(s->retry, loop_now_ns() + RETRY_NS);
	return store_writer_start(&s->writer, e);
}

void audit_sync_end(struct audit_sync *s)
{
	s->ends = true;
}

void audit_sync_close(struct audit_sync *s)
{
	if (!s->files)
		return;
	audit_sync_end(s);
	store_writer_done(&s->writer);
	if (s->runs)
		sync_done(&s->work);
	for (unsigned i = 0; i < AUDIT_CLASSES; i++)
		part_begin(s, &s->files[i], &s->parts[i]);
	s->syncing = STEAL_PTR(s->waiters);
	sync_run(&s->work);
	sync_done(&s->work);
	loop_timer_free(s->retry);
}
