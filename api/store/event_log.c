#include "api/store/event_log.h"
#include "api/schema/schema.h"
#include "api/wire/json.h"
#include "base/boot_id.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/log.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FILE_NAME "events.jsonl"
#define OLD_NAME "events.old.jsonl"
#define NEW_NAME "events.new.jsonl" /* becomes the old one when it is complete */
#define LINE_MAX_BYTES (64 * 1024)
/* Keeps a page below 64 KiB, the longest line that some clients read. */
#define PAGE_BYTES (40 * 1024)
#define PAGE_LOOKED_AT 500 /* entries; bounds the time that a filter without matches takes on the loop */
/* Numbers that are skipped after a boot of the host: more than the events that a power cut can lose. */
#define POWER_CUT_GAP (1ULL << 20)
/* A VM may have more events than these only while there is room: no user of a VM shall push out events of others. */
#define SHARE_MAX (EVENT_LOG_MAX / 4)
#define DROPPED_AT_ONCE 500 /* because to count events takes some milliseconds */

struct entry {
	uint64_t seq;
	char *line; /* JSON without white space; owned; the texts of about follow it in the same memory */
	struct event_log_subject about; /* for filters, which parse no line */
};

struct event_log {
	int dir_fd, fd;
	uint64_t last; /* last number assigned */
	uint64_t dropped; /* highest number of an event that was dropped although older ones stayed; 0: none */
	unsigned lines; /* number of lines in the current file */
	unsigned uncounted; /* events since events were counted */
	bool rewrites; /* the files still have events that were dropped */
	bool failed;	/* the last write failed, and the error was logged */
	struct entry ring[EVENT_LOG_MAX];
	unsigned first, n;
};

/* ---- events in memory ---- */

/* Copy a text to *at, and move *at behind it. Returns the copy; NULL for NULL. */
static const char *text_put(char **at, const char *text)
{
	char *copy = *at;

	if (!text)
		return NULL;
	*at = stpcpy(copy, text) + 1;
	return copy;
}

static size_t text_bytes(const char *text)
{
	return text ? strlen(text) + 1 : 0;
}

/* Print an event, with the texts of its subject behind its line. */
static struct entry entry_make(uint64_t seq, struct json_object *o)
{
	struct json_object *data = js_get(o, "data");
	size_t len;
	const char *line = must_alloc((void *)json_object_to_json_string_length(o,
		JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE, &len)),
		   *event = js_get_str_or(o, "event", ""), *vm = js_get_str(data, "vm"), *uuid = js_get_str(data, VM_UUID_KEY);
	char *copy = must_alloc(malloc(len + 1 + text_bytes(event) + text_bytes(vm) + text_bytes(uuid))),
	     *at = (char *)mempcpy(copy, line, len + 1);

	return (struct entry){ seq, copy,
		{ .event = text_put(&at, event), .vm = text_put(&at, vm), .uuid = text_put(&at, uuid) } };
}

static struct entry *ring_at(struct event_log *l, unsigned i)
{
	return &l->ring[(l->first + i) % EVENT_LOG_MAX];
}

static int by_text(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Subjects of events beside the UUIDs of VMs. */
#define NO_VM "" /* such as denied commands */
#define GONE "gone" /* all undefined VMs together: clients that define VMs and undefine them push out no other events */

/* Return the UUIDs of the VMs that were undefined, in order. The caller frees the list. */
static const char **gone_find(struct event_log *l, size_t *ret_n)
{
	const char **gone = must_alloc(calloc(l->n + 1, sizeof(*gone)));

	*ret_n = 0;
	for (unsigned i = 0; i < l->n; i++)
		if (!strcmp(ring_at(l, i)->about.event, "VM_UNDEFINED") && ring_at(l, i)->about.uuid)
			gone[(*ret_n)++] = ring_at(l, i)->about.uuid;
	qsort(gone, *ret_n, sizeof(*gone), by_text);
	return gone;
}

/* Return the subject of each event; NULL: an older daemon wrote it, without the UUID. The caller frees the list. */
static const char **subjects_find(struct event_log *l)
{
	const char **subjects = must_alloc(calloc(l->n + 1, sizeof(*subjects)));
	size_t n;
	CLEANUP_FREE const char **gone = gone_find(l, &n);

	for (unsigned i = 0; i < l->n; i++) {
		const struct event_log_subject *about = &ring_at(l, i)->about;

		subjects[i] = about->uuid || about->vm ? about->uuid : NO_VM;
		if (subjects[i] && bsearch(&subjects[i], gone, n, sizeof(*gone), by_text))
			subjects[i] = GONE;
	}
	return subjects;
}

/* Return the subject with the most events; NULL: none has more than SHARE_MAX, or one has all. */
static const char *busiest_find(const char *const *subjects, unsigned count)
{
	CLEANUP_FREE const char **sorted = must_alloc(calloc(count + 1, sizeof(*sorted)));
	const char *found = NULL;
	unsigned most = SHARE_MAX, n = 0;

	for (unsigned i = 0; i < count; i++)
		if (subjects[i])
			sorted[n++] = subjects[i];
	qsort(sorted, n, sizeof(*sorted), by_text);
	for (unsigned i = 0, first = 0; i < n; i++) {
		if (strcmp(sorted[i], sorted[first]) != 0)
			first = i;
		if (i - first + 1 > most) {
			most = i - first + 1;
			found = sorted[i];
		}
	}
	return most < count ? found : NULL;
}

/* Drop the oldest events of the subject with the most, if it has more than SHARE_MAX. */
static void busiest_drop(struct event_log *l)
{
	CLEANUP_FREE const char **subjects = subjects_find(l);
	const char *busiest = busiest_find(subjects, l->n);
	unsigned kept = 0, dropped = 0;

	l->uncounted = 0;
	if (!busiest)
		return;
	for (unsigned i = 0; i < l->n; i++) /* before the first line is freed, whose texts the subjects may be */
		if (dropped < DROPPED_AT_ONCE && subjects[i] && !strcmp(subjects[i], busiest))
			dropped++;
		else
			subjects[i] = NULL;
	for (unsigned i = 0; i < l->n; i++) {
		const struct entry *entry = ring_at(l, i);

		if (subjects[i]) {
			l->dropped = entry->seq;
			free(entry->line);
		} else {
			*ring_at(l, kept++) = *entry;
		}
	}
	l->n = kept;
	l->rewrites = true;
}

static void ring_add(struct event_log *l, const struct entry *entry)
{
	unsigned at;

	if (++l->uncounted >= DROPPED_AT_ONCE && l->n == EVENT_LOG_MAX)
		busiest_drop(l);
	at = (l->first + l->n) % EVENT_LOG_MAX;
	if (l->n == EVENT_LOG_MAX) {
		free(l->ring[l->first].line);
		l->first = (l->first + 1) % EVENT_LOG_MAX;
	} else {
		l->n++;
	}
	l->ring[at] = *entry;
}

/* Return the index of the first event numbered above `since`. */
static unsigned ring_after(struct event_log *l, uint64_t since)
{
	unsigned lo = 0, hi = l->n;

	while (lo < hi) {
		unsigned mid = lo + (hi - lo) / 2;

		if (ring_at(l, mid)->seq <= since)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* ---- events in the file ---- */

static int file_open(struct event_log *l, int flags)
{
	l->fd = openat(l->dir_fd, FILE_NAME, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW | flags,
		0600);
	return l->fd < 0 ? -errno : 0;
}

static void line_write(struct event_log *l, const char *text)
{
	size_t n;
	int r = line_append(l->fd, text, &n);

	if (r < 0 && !l->failed)
		log_error("events", "cannot write %s: %s", FILE_NAME, strerror(-r));
	l->failed = r < 0;
	l->lines++;
}

/* Write the host's boot and the last number, so that numbers are skipped although no event follows. */
static void boot_write(struct event_log *l, const char *id)
{
	char line[160];

	snprintf(line, sizeof(line), "{\"boot\":\"%.60s\",\"seq\":%" PRIu64 ",\"dropped\":%" PRIu64 "}", id, l->last, l->dropped);
	line_write(l, line);
}

/* Write the events in memory to a new file. Returns whether it is complete. */
static bool ring_write(struct event_log *l)
{
	int fd = openat(l->dir_fd, NEW_NAME, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	FILE *f = fd < 0 ? NULL : fdopen(fd, "we");
	bool good = f;

	for (unsigned i = 0; good && i < l->n; i++)
		good = fputs(ring_at(l, i)->line, f) >= 0 && fputc('\n', f) >= 0;
	if (f)
		good = !fclose(f) && good;
	else if (fd >= 0)
		close(fd);
	if (!good)
		unlinkat(l->dir_fd, NEW_NAME, 0);
	return good;
}

static void file_turn(struct event_log *l)
{
	const char *name = l->rewrites && ring_write(l) ? NEW_NAME : FILE_NAME;
	char id[BOOT_ID_TEXT];

	l->rewrites = false;
	close(l->fd);
	if (renameat(l->dir_fd, name, l->dir_fd, OLD_NAME) < 0)
		log_warn("events", "%s: %s", OLD_NAME, strerror(errno));
	l->lines = 0;
	if (file_open(l, O_TRUNC) < 0)
		log_error("events", "%s: %s", FILE_NAME, strerror(errno));
	boot_id_read(id);
	boot_write(l, id);
}

/* Load a line. Skips a line that does not parse, such as one that a power cut truncated. */
static void line_load(struct event_log *l, const char *line, size_t len, char boot[BOOT_ID_TEXT])
{
	CLEANUP_JS struct json_object *o = NULL;
	struct entry entry;
	const char *id;
	uint64_t seq;

	if (js_parse(line, len, FILE_NAME, &o, NULL) < 0)
		return;
	id = js_get_str(o, "boot");
	if (id) {
		snprintf(boot, 64, "%s", id);
		l->dropped = MAX(l->dropped, (uint64_t)js_get_int(o, "dropped", 0));
	}
	seq = (uint64_t)js_get_int(o, "seq", 0);
	if (seq <= l->last || seq > INT64_MAX || !(id || js_get_str(o, "event")))
		return;
	l->last = seq;
	if (id)
		return;
	entry = entry_make(seq, o);
	ring_add(l, &entry);
}

/* Load the file's events. Returns whether the file exists. */
static bool file_load(struct event_log *l, const char *name, char boot[BOOT_ID_TEXT], unsigned *lines)
{
	CLEANUP_CLOSE int fd = openat(l->dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	FILE *f = fd < 0 ? NULL : fdopen(dup(fd), "re");
	char *line = NULL;
	size_t cap = 0;
	ssize_t len;

	while (f && (len = getline(&line, &cap, f)) > 0) {
		++*lines;
		if (line[len - 1] != '\n' || len > LINE_MAX_BYTES)
			continue;
		line[--len] = 0;
		line_load(l, line, (size_t)len, boot);
	}
	free(line);
	if (f)
		fclose(f);
	return fd >= 0;
}

int event_log_open(const char *dir, struct event_log **ret_l, struct err *e)
{
	struct event_log *l = calloc(1, sizeof(*l));
	char before[64] = "", now[64];
	bool existed = false, is_first;
	unsigned unused = 0;
	int r = 0;

	if (!l)
		return err_set_errno(e, -ENOMEM, "events");
	l->fd = -1;
	l->dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (l->dir_fd >= 0) {
		existed = file_load(l, OLD_NAME, before, &unused);
		existed = file_load(l, FILE_NAME, before, &l->lines) || existed;
		r = file_open(l, 0);
	}
	if (l->dir_fd < 0 || r < 0) {
		r = err_set_errno(e, r < 0 ? r : -errno, "%s/%s", dir, FILE_NAME);
		event_log_close(l);
		return r;
	}
	boot_id_read(now);
	is_first = !existed || strcmp(before, now) != 0;
	/* A power cut may have left an empty file, or a truncated line: write a line break, so that the next event
	 * begins a new line. */
	if (existed && is_first) {
		l->last += POWER_CUT_GAP;
		line_write(l, "");
	}
	boot_write(l, now);
	/* Otherwise the start after another power cut would skip the same numbers again. */
	if (is_first && (fsync(l->fd) < 0 || fsync(l->dir_fd) < 0))
		log_error("events", "cannot sync %s: %s", FILE_NAME, strerror(errno));
	*ret_l = l;
	return 0;
}

void event_log_close(struct event_log *l)
{
	if (!l)
		return;
	for (unsigned i = 0; i < l->n; i++)
		free(ring_at(l, i)->line);
	if (l->fd >= 0)
		close(l->fd);
	if (l->dir_fd >= 0)
		close(l->dir_fd);
	free(l);
}

/* ---- adding and reading events ---- */

void event_log_add(struct event_log *l, struct json_object *o)
{
	struct entry entry;

	if (l->lines >= EVENT_LOG_MAX)
		file_turn(l);
	js_put_uint(o, "seq", ++l->last);
	entry = entry_make(l->last, o);
	line_write(l, entry.line);
	ring_add(l, &entry);
}

void event_log_backwards(struct event_log *l, const char *text,
	bool (*look)(void *opaque, struct json_object *ev), void *opaque)
{
	bool more = true;

	for (unsigned i = l->n; i-- && more;) {
		const char *line = ring_at(l, i)->line;
		CLEANUP_JS struct json_object *ev = NULL;

		if (strstr(line, text) && !js_parse(line, strlen(line), FILE_NAME, &ev, NULL))
			more = look(opaque, ev);
	}
}

struct json_object *event_log_page(struct event_log *l, uint64_t since,
	bool (*wanted)(void *opaque, const struct event_log_subject *s), void *opaque)
{
	struct json_object *page = json_object_new_object(), *list = json_object_new_array();
	bool is_beyond = since > l->last; /* the client knows another log than this one */
	unsigned i, looked = 0;
	size_t bytes = 0;

	js_put_bool(page, "lost", is_beyond || since < l->dropped || (l->n && since + 1 < ring_at(l, 0)->seq));
	since = MIN(since, l->last);
	i = ring_after(l, since);
	for (; i < l->n && bytes < PAGE_BYTES && looked < PAGE_LOOKED_AT; i++, looked++) {
		const struct entry *entry = ring_at(l, i);

		since = entry->seq;
		if (!wanted(opaque, &entry->about))
			continue;
		json_object_array_add(list, js_text(entry->line));
		/* JSON escapes may triple the size: \u00e4 for two bytes of UTF-8. */
		bytes += 3 * strlen(entry->line);
	}
	js_put(page, "events", list);
	js_put_uint(page, "next", since);
	js_put_uint(page, "last", l->last);
	js_put_bool(page, "more", i < l->n);
	return page;
}
