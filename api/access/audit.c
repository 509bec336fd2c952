#include "api/access/audit.h"
#include "api/access/audit_file.h"
#include "api/access/audit_share.h"
#include "api/access/audit_sync.h"
#include "api/access/journal.h"
#include "api/wire/json.h"
#include "api/wire/peer.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/utf8.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LINE_BYTES_MAX 4096 /* with the newline */
#define LINE_FORMAT (JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE)
#define FIELD_BYTES_MAX 255
#define LEFT_OUT_BYTES 32 /* room for the text with the number of omitted members */
#define DEPTH_MAX 16
#define READ_BYTES (256u * 1024)
/* A page ends with the line that reaches this size, where each byte of the log counts as three: in the answer, \uXXXX
 * escapes may take that much. So an answer stays below 64 KiB, since some clients read no longer lines. */
#define PAGE_BYTES (20 * 1024)
/* Time from the first omitted line to the line that counts it. */
#define LEFT_OUT_NS (600 * CLOCK_NS_PER_S)

/* The classes of lines, each with files of its own, so that no user's lines push out root's. */
enum class {
	CLASS_ROOT, /* root, the daemon's user and the daemon's own acts */
	CLASS_USERS,
	CLASSES,
};
_Static_assert(CLASSES == AUDIT_CLASSES, "each class has a file");

static const char *const names[CLASSES] = { "audit.log", "audit-users.log" };

struct audit {
	int dir_fd;
	struct audit_file files[CLASSES];
	struct audit_sync sync;
	struct journal journal;
	bool required; /* refuse calls that cannot be recorded */
	struct loop_timer *timer; /* armed while a line was omitted that no line counts yet */
	bool armed;
	struct audit_share shares[AUDIT_SHARES];
};

/* ---- making lines short and free of secrets ---- */

static bool is_secret(const char *key)
{
	static const char *const words[] = { "password", "secret", "token", "passphrase" };

	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		if (strcasestr(key, words[i]))
			return true;
	return false;
}

/* Copy a URL without user, password, path, query and fragment, which may hold a token. Owned by the caller. */
static char *url_mask(const char *url)
{
	const char *colon = strstr(url, "://"), *from = colon ? colon + 3 : url, *end = from + strcspn(from, "/?#");
	const char *at = memrchr(from, '@', (size_t)(end - from)), *host = at ? at + 1 : from;
	char *masked;

	if (asprintf(&masked, "%.*s%s%.*s%s", (int)(from - url), url, at ? "(masked)@" : "", (int)(end - host), host,
		    *end ? "/(masked)" : "") < 0)
		abort();
	return masked;
}

/* Return a copy of a member without its secret, which the caller owns; NULL: it has none. */
static struct json_object *secret_mask(const char *key, struct json_object *member)
{
	CLEANUP_FREE char *url = NULL;

	if (is_secret(key))
		return json_object_new_string("(masked)");
	if (strcmp(key, "url") != 0 || !json_object_is_type(member, json_type_string))
		return NULL;
	url = url_mask(json_object_get_string(member));
	return json_object_new_string(url);
}

/* Copy a text of len bytes without its control characters. A copy that would be longer than FIELD_BYTES_MAX is cut
 * between two characters, and ends with the text's length. */
static void text_cut(const char *s, size_t len, char buf[FIELD_BYTES_MAX + 1])
{
	char mark[40] = "";
	size_t n = len;

	if (len > FIELD_BYTES_MAX) {
		n = FIELD_BYTES_MAX - (size_t)snprintf(mark, sizeof(mark), "...(%zu bytes)", len);
		while (n && ((unsigned char)s[n] & 0xc0) == 0x80)
			n--;
	}
	for (size_t i = 0; i < n; i++)
		buf[i] = s[i] ? s[i] : '?';
	snprintf(buf + n, FIELD_BYTES_MAX + 1 - n, "%s", mark);
	utf8_clean(buf);
}

static size_t json_bytes(struct json_object *v)
{
	size_t n = 0;

	json_object_to_json_string_length(v, LINE_FORMAT, &n);
	return n;
}

static struct json_object *scalar_cut(struct json_object *v)
{
	char buf[FIELD_BYTES_MAX + 1];

	if (json_object_is_type(v, json_type_string)) {
		text_cut(json_object_get_string(v), (size_t)json_object_get_string_len(v), buf);
		return json_object_new_string(buf);
	}
	/* json-c keeps a number's text as the client wrote it, with any number of digits. */
	if (json_object_is_type(v, json_type_double))
		return json_object_new_double(json_object_get_double(v));
	return json_object_get(v);
}

/* Reserve n of the remaining bytes of the line. Returns whether enough bytes remained. */
static bool bytes_take(size_t *left, size_t n)
{
	if (*left < n)
		return false;
	*left -= n;
	return true;
}

static bool value_cut(struct json_object *v, size_t *left, unsigned depth, struct json_object **ret);

static struct json_object *object_cut(struct json_object *v, size_t *left, unsigned depth)
{
	struct json_object *o = json_object_new_object(), *copy;
	char name[FIELD_BYTES_MAX + 1];
	int rest = json_object_object_length(v);

	json_object_object_foreach(v, key, member)
	{
		CLEANUP_JS struct json_object *masked = secret_mask(key, member);

		text_cut(key, strlen(key), name);
		/* A name needs its quotes, a colon, a comma, and a backslash before each byte at worst. */
		if (!bytes_take(left, 2 * strlen(name) + 4) || !value_cut(masked ? masked : member, left, depth, &copy))
			break;
		js_put(o, name, copy);
		rest--;
	}
	if (rest)
		js_put_int(o, "...", rest);
	return o;
}

static struct json_object *array_cut(struct json_object *v, size_t *left, unsigned depth)
{
	struct json_object *list = json_object_new_array(), *copy;
	size_t n = json_object_array_length(v), i;
	char mark[LEFT_OUT_BYTES];

	for (i = 0; i < n && value_cut(json_object_array_get_idx(v, i), left, depth, &copy); i++)
		json_object_array_add(list, copy);
	if (i < n) {
		snprintf(mark, sizeof(mark), "...(%zu more)", n - i);
		json_object_array_add(list, json_object_new_string(mark));
	}
	return list;
}

/* Copy a value for the line, cut and without secrets. A list or an object takes as many members as there is room for.
 * left: bytes that the line has left.
 * Returns whether there was room. */
static bool value_cut(struct json_object *v, size_t *left, unsigned depth, struct json_object **ret)
{
	bool is_object = json_object_is_type(v, json_type_object);

	if (depth < DEPTH_MAX && (is_object || json_object_is_type(v, json_type_array))) {
		if (!bytes_take(left, LEFT_OUT_BYTES))
			return false;
		*ret = is_object ? object_cut(v, left, depth + 1) : array_cut(v, left, depth + 1);
		return true;
	}
	*ret = depth < DEPTH_MAX ? scalar_cut(v) : json_object_new_string("...");
	if (bytes_take(left, json_bytes(*ret) + 1))
		return true;
	json_object_put(*ret);
	return false;
}

/* Copy a line. Its arguments get the room that its other members leave: at least 1.5 KiB, since a line has four other
 * texts. */
static struct json_object *line_cut(struct json_object *line)
{
	struct json_object *o = json_object_new_object(), *args = NULL;
	size_t left;

	json_object_object_foreach(line, key, v)
		js_put(o, key, strcmp(key, "arguments") ? scalar_cut(v) : NULL);
	left = LINE_BYTES_MAX - MIN(json_bytes(o) + 1, LINE_BYTES_MAX);
	if (!js_get(line, "arguments"))
		return o;
	if (!value_cut(js_get(line, "arguments"), &left, 0, &args))
		args = json_object_new_string("...");
	js_put(o, "arguments", args);
	return o;
}

/* ---- writing the log ---- */

/* line: the text as an object, without control characters. */
static int line_write(struct audit *a, enum class c, struct json_object *line, const char *text, void (*stored)(void *opaque, int r),
	void *opaque)
{
	journal_send(&a->journal, text, js_get_int(line, "uid", -1), js_get_str(line, "vm"));
	return audit_sync_append(&a->sync, c, text, stored, opaque);
}

/* Return the bucket that the line is charged to; NULL: a line of root or of the daemon's user, which has no limit. */
static struct audit_share *line_share(struct audit *a, struct json_object *line)
{
	int64_t uid = js_get_int(line, "uid", -1);

	if (uid >= 0 && uid_is_root_or_own((uid_t)uid))
		return NULL;
	return audit_share_of(a->shares, uid, !strcmp(js_get_str_or(line, "outcome", ""), err_class_name(ERR_PERMISSION)),
		loop_now_ns());
}

/* Count a line that is not written. A line that counts others itself (api/access/denial_log.h) adds its number. */
static void left_out_note(struct audit *a, struct audit_share *s, struct json_object *line)
{
	if (!s->left_out)
		s->since_ns = js_get_int(line, "since", js_get_int(line, "time", 0));
	s->left_out += (uint64_t)js_get_int(line, "left-out", 1);
	if (!a->armed)
		loop_timer_arm(a->timer, loop_now_ns() + LEFT_OUT_NS);
	a->armed = true;
}

/* Write the line that counts a bucket's omitted lines, however full the bucket is; the bucket is charged afterwards. */
static void left_out_write(struct audit *a, struct audit_share *s)
{
	CLEANUP_JS struct json_object *line = json_object_new_object();
	const char *text;
	size_t len;

	js_put_int(line, "time", (int64_t)clock_realtime_ns());
	if (s != &a->shares[AUDIT_SHARES - 1])
		js_put_int(line, "uid", s->uid);
	js_put_str(line, "outcome", "any");
	js_put_uint(line, "left-out", s->left_out);
	js_put_int(line, "since", s->since_ns);
	text = json_object_to_json_string_length(line, LINE_FORMAT, &len);
	line_write(a, CLASS_USERS, line, text, NULL, NULL);
	s->spent_bytes += len + 1;
	s->left_out = 0;
}

static void left_out_write_all(void *opaque)
{
	struct audit *a = opaque;

	a->armed = false;
	for (unsigned i = 0; i < AUDIT_SHARES; i++)
		if (a->shares[i].left_out)
			left_out_write(a, &a->shares[i]);
}

int audit_add_call(struct audit *a, struct json_object *line, bool promised, void (*stored)(void *opaque, int r),
	void *opaque)
{
	CLEANUP_JS struct json_object *cut = line_cut(line);
	struct audit_share *share = line_share(a, line);
	size_t len;
	const char *text = json_object_to_json_string_length(cut, LINE_FORMAT, &len);
	int r;

	if (share && !audit_share_take(share, len + 1)) {
		if (!promised) {
			left_out_note(a, share, line);
			return 0;
		}
		share->spent_bytes += len + 1;
	}
	r = line_write(a, share ? CLASS_USERS : CLASS_ROOT, cut, text, stored, opaque);
	return r < 0 ? r : 1;
}

void audit_add(struct audit *a, struct json_object *line)
{
	audit_add_call(a, line, false, NULL, NULL);
}

int audit_check(struct audit *a, uid_t uid, struct err *e)
{
	const struct audit_share *share;
	int r = a->required ? audit_sync_check(&a->sync) : 0;

	if (r < 0)
		return err_set(e, r, err_class_of_errno(r), "the audit log cannot be written (%s), and cairnd runs with "
			"--audit-required. Next: make room on the file system of the state folder, or repair it; the daemon tries "
			"again each second", strerror(-r));
	if (!a->required || uid_is_root_or_own(uid))
		return 0;
	share = audit_share_of(a->shares, uid, false, loop_now_ns());
	/* Several users have the last share together, so one could use it up for the others: it refuses no line. */
	if (share == &a->shares[AUDIT_SHARES - 1] || share->spent_bytes + LINE_BYTES_MAX <= AUDIT_SHARE_BYTES)
		return 0;
	return err_set(e, -EDQUOT, ERR_QUOTA, "your share of the audit log is used up, and cairnd runs with "
		"--audit-required; try again in a minute");
}

int audit_open(struct loop *loop, const char *dir, struct audit **ret_a, struct err *e)
{
	struct audit *a = calloc(1, sizeof(*a));
	int r = a ? loop_timer_new(loop, left_out_write_all, a, &a->timer) : -ENOMEM;

	if (r < 0) {
		free(a);
		return err_set_errno(e, r, "audit");
	}
	for (unsigned i = 0; i < CLASSES; i++)
		a->files[i].fd = -1;
	journal_open(&a->journal, "copies of audit lines", NULL);
	a->dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (a->dir_fd < 0)
		r = err_set_errno(e, -errno, "%s", dir);
	for (unsigned i = 0; i < CLASSES && !r; i++) {
		r = audit_file_open(&a->files[i], a->dir_fd, names[i]);
		if (r < 0)
			err_set_errno(e, r, "%s/%s", dir, names[i]);
	}
	if (!r)
		r = audit_sync_open(&a->sync, loop, a->files, a->dir_fd, e);
	if (r < 0) {
		audit_close(a);
		return r;
	}
	*ret_a = a;
	return 0;
}

void audit_require(struct audit *a)
{
	struct err e;

	a->required = true;
	for (unsigned i = 0; i < CLASSES; i++)
		a->files[i].wants_room = true;
	audit_check(a, 0, &e); /* allocate the blocks now */
}

bool audit_is_required(const struct audit *a)
{
	return a->required;
}

bool audit_owes(const struct audit *a)
{
	return a && audit_sync_owes(&a->sync);
}

void audit_copy_to_journal(struct audit *a, const char *path)
{
	journal_close(&a->journal);
	journal_open(&a->journal, "copies of audit lines", path);
}

void audit_close(struct audit *a)
{
	if (!a)
		return;
	audit_sync_end(&a->sync);
	if (a->sync.files)
		left_out_write_all(a);
	audit_sync_close(&a->sync);
	loop_timer_free(a->timer);
	for (unsigned i = 0; i < CLASSES; i++)
		audit_file_close(&a->files[i]);
	journal_close(&a->journal);
	if (a->dir_fd >= 0)
		close(a->dir_fd);
	free(a);
}

/* ---- reading the log ---- */

/* A cursor is the lower bits of each class's place, and CURSOR_MARK. They are enough to find the place: the files of a
 * class hold less than 2^PLACE_BITS bytes. A cursor is below 2^53, since many clients keep numbers as doubles. */
#define PLACE_BITS 26
_Static_assert(AUDIT_FILES * (AUDIT_FILE_BYTES + 2 * LINE_BYTES_MAX) < 1 << PLACE_BITS, "a cursor finds its place");
#define PLACE_MASK ((UINT64_C(1) << PLACE_BITS) - 1)
#define CURSOR_MARK (UINT64_C(1) << 2 * PLACE_BITS)

/* Reads the matching lines of one class, in the order of the file. */
struct reader {
	const struct audit_query *query;
	uint64_t place, end; /* of buf's first byte that was not taken; of the class */
	char *buf;
	size_t at, len;
	struct json_object *line; /* owned; the next line; NULL: none in the rest of buf */
	size_t bytes; /* of that line */
};

static uint64_t cursor_make(const struct reader r[CLASSES])
{
	return CURSOR_MARK | (r[CLASS_ROOT].place & PLACE_MASK) << PLACE_BITS | (r[CLASS_USERS].place & PLACE_MASK);
}

/* Return the greatest place up to `end` with these lower bits. */
static uint64_t place_of(uint64_t lower, uint64_t end)
{
	uint64_t place = (end & ~PLACE_MASK) | lower;

	return place <= end ? place : place > PLACE_MASK ? place - PLACE_MASK - 1 : 0;
}

/* A cursor of an older Cairn is a place in root's class, which had the lines of all users. */
static uint64_t cursor_place(uint64_t cursor, enum class c, uint64_t end)
{
	if (!(cursor & CURSOR_MARK))
		return c == CLASS_ROOT ? cursor : 0;
	return place_of(cursor >> (c == CLASS_ROOT ? PLACE_BITS : 0) & PLACE_MASK, end);
}

static bool line_wanted(struct json_object *o, const struct audit_query *q)
{
	const char *vm = js_get_str(o, "vm");

	return js_get_str(o, "outcome") && js_get_int(o, "time", 0) >= q->since_ns &&
		(q->uid < 0 || js_get_int(o, "uid", -1) == q->uid) &&
		(!q->vm || (vm && !strcmp(vm, q->vm)));
}

static void reader_skip(struct reader *r, size_t n)
{
	r->at += n;
	r->place += n;
}

/* Find the next matching line in the buffer. */
static void reader_next(struct reader *r)
{
	char *end;

	while (!r->line && (end = memchr(r->buf + r->at, '\n', r->len - r->at))) {
		r->bytes = (size_t)(end - (r->buf + r->at)) + 1;
		*end = 0;
		if (js_parse(r->buf + r->at, r->bytes - 1, "audit.log", &r->line, NULL) == 0 && line_wanted(r->line, r->query))
			return;
		json_object_put(r->line);
		r->line = NULL;
		reader_skip(r, r->bytes);
	}
	/* A buffer without a whole line is skipped: otherwise clients would ask for the same place again and again. */
	if (!r->line && !r->at)
		reader_skip(r, r->len);
}

static void reader_open(struct reader *r, const struct audit *a, enum class c, const struct audit_query *q)
{
	ssize_t n;

	*r = (struct reader){ .query = q, .end = audit_file_end(&a->files[c]), .buf = must_alloc(malloc(READ_BYTES + 1)) };
	r->place = cursor_place(q->from, c, r->end);
	n = audit_file_read(&a->files[c], &r->place, r->buf, READ_BYTES);
	if (n <= 0)
		r->end = r->place;
	r->len = n > 0 ? (size_t)n : 0;
	reader_next(r);
}

static void reader_close(struct reader *r)
{
	json_object_put(r->line);
	free(r->buf);
}

/* Return whether lines follow that are not in the buffer. */
static bool reader_has_more(const struct reader *r)
{
	return !r->line && r->place < r->end;
}

/* Return the reader with the older line; NULL: none has a line, or an older one may follow that is not in a buffer. */
static struct reader *reader_choose(struct reader r[CLASSES])
{
	struct reader *root = &r[CLASS_ROOT], *users = &r[CLASS_USERS];

	if (reader_has_more(root) || reader_has_more(users))
		return NULL;
	if (root->line && users->line)
		return js_get_int(users->line, "time", 0) < js_get_int(root->line, "time", 0) ? users : root;
	return root->line ? root : users->line ? users : NULL;
}

struct json_object *audit_page(struct audit *a, const struct audit_query *q)
{
	struct json_object *page = json_object_new_object(), *list = json_object_new_array();
	struct reader readers[CLASSES], *r;
	size_t bytes = 0;

	for (unsigned i = 0; i < CLASSES; i++)
		reader_open(&readers[i], a, i, q);
	while (bytes < PAGE_BYTES && (r = reader_choose(readers))) {
		json_object_array_add(list, STEAL_PTR(r->line));
		bytes += 3 * r->bytes;
		reader_skip(r, r->bytes);
		reader_next(r);
	}
	js_put(page, "lines", list);
	js_put_uint(page, "next", cursor_make(readers));
	js_put_bool(page, "more", readers[CLASS_ROOT].place < readers[CLASS_ROOT].end ||
		readers[CLASS_USERS].place < readers[CLASS_USERS].end);
	for (unsigned i = 0; i < CLASSES; i++)
		reader_close(&readers[i]);
	return page;
}
