#include "api/access/audit.h"
#include "api/access/audit_share.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/file.h"
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
#define LEFT_OUT_BYTES 32 /* room for the text that counts what a list or an object lost */
#define DEPTH_MAX 16
#define READ_BYTES (256u * 1024)
/* A page ends with the line that reaches this size, where each byte of the log counts as three: in the answer, \uXXXX
 * escapes may take that much. So an answer stays below 64 KiB, since some clients read no longer lines. */
#define PAGE_BYTES (20 * 1024)
/* Time from the first omitted line to the line that counts it. */
#define LEFT_OUT_NS (600 * CLOCK_NS_PER_S)

struct audit {
	int dir_fd, fd;
	uint64_t base; /* offset of the current file's first byte in the whole log */
	uint64_t size; /* of the current file, in bytes */
	struct loop_timer *timer; /* armed while a line was omitted that no line counts yet */
	bool armed;
	struct audit_share shares[AUDIT_SHARES];
};

static void file_name(unsigned i, char buf[24])
{
	if (i)
		snprintf(buf, 24, "audit.log.%u", i);
	else
		snprintf(buf, 24, "audit.log");
}

/* ---- making lines short and free of secrets ---- */

static bool is_secret(const char *key)
{
	static const char *const words[] = { "password", "secret", "token", "passphrase" };

	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		if (strcasestr(key, words[i]))
			return true;
	return false;
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

/* Take n bytes of those that are left for the line. Returns whether there were as many. */
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
		CLEANUP_JS struct json_object *masked = is_secret(key) ? json_object_new_string("(masked)") : NULL;

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

static void text_write(struct audit *a, const char *text)
{
	size_t n = 0;
	int r = line_append(a->fd, text, &n);

	/* Remove a part of the line that a full disk took: the next line would continue it. */
	if (r < 0 && a->fd >= 0 && ftruncate(a->fd, (off_t)a->size) < 0)
		log_error("audit", "cannot remove a part of a line: %s", strerror(errno));
	if (r < 0)
		log_error("audit", "cannot write this line (%s): %s", strerror(-r), text);
	a->size += n;
}

/* End a last line of which a power cut left only a part: the next line would continue it. */
static void torn_line_end(struct audit *a)
{
	char last = '\n';

	if (pread(a->fd, &last, 1, (off_t)a->size - 1) == 1 && last != '\n')
		text_write(a, "");
}

/* Read from a file's first line the offset that the file's first byte has in the whole log. Returns 0; -EINVAL: the
 * file is no audit log; -errno. */
static int base_read(int fd, uint64_t *ret)
{
	char head[64] = "";
	unsigned long long base;

	if (pread(fd, head, sizeof(head) - 1, 0) < 0)
		return -errno;
	if (sscanf(head, "{\"base\":%llu}\n", &base) != 1)
		return -EINVAL;
	*ret = base;
	return 0;
}

static int present_open(struct audit *a, uint64_t base)
{
	char name[24], head[48];
	struct stat st;
	int r;

	file_name(0, name);
	a->fd = openat(a->dir_fd, name, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (a->fd < 0 || fstat(a->fd, &st) < 0)
		return -errno;
	a->size = (uint64_t)st.st_size;
	a->base = base;
	if (a->size) {
		r = base_read(a->fd, &a->base);
		if (r == 0)
			torn_line_end(a);
		return r;
	}
	snprintf(head, sizeof(head), "{\"base\":%llu}", (unsigned long long)base);
	text_write(a, head);
	return 0;
}

static void files_turn(struct audit *a)
{
	char from[24], to[24];

	close(a->fd);
	a->fd = -1;
	for (unsigned i = AUDIT_FILES - 1; i; i--) {
		file_name(i - 1, from);
		file_name(i, to);
		if (renameat(a->dir_fd, from, a->dir_fd, to) < 0 && errno != ENOENT)
			log_error("audit", "%s: %s", to, strerror(errno));
	}
}

/* Begin a new file when the present one is full. If that fails, the next line tries it again, without another rotation,
 * which would remove the oldest file. */
static void file_ready(struct audit *a)
{
	int r;

	if (a->fd >= 0 && a->size < AUDIT_FILE_BYTES)
		return;
	if (a->fd >= 0)
		files_turn(a);
	r = present_open(a, a->base + a->size);
	if (r < 0)
		log_error("audit", "cannot begin a new file: %s", strerror(-r));
}

/* Return the bucket that the line is charged to; NULL: a line of root or of the daemon's user, which has no limit. */
static struct audit_share *line_share(struct audit *a, struct json_object *line)
{
	int64_t uid = js_get_int(line, "uid", -1);

	if (uid == 0 || uid == geteuid())
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

	js_put_int(line, "time", (int64_t)clock_realtime_ns());
	if (s != &a->shares[AUDIT_SHARES - 1])
		js_put_int(line, "uid", s->uid);
	js_put_str(line, "outcome", "any");
	js_put_uint(line, "left-out", s->left_out);
	js_put_int(line, "since", s->since_ns);
	file_ready(a);
	text_write(a, json_object_to_json_string_ext(line, LINE_FORMAT));
	s->spent_bytes += json_bytes(line) + 1;
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

void audit_add(struct audit *a, struct json_object *line)
{
	CLEANUP_JS struct json_object *cut = line_cut(line);
	struct audit_share *share = line_share(a, line);

	if (share && !audit_share_take(share, json_bytes(cut) + 1)) {
		left_out_note(a, share, line);
		return;
	}
	file_ready(a);
	text_write(a, json_object_to_json_string_ext(cut, LINE_FORMAT));
}

/* Return the offset in the whole log at which the newest rotated file ends, the greatest of all; 1 if there is none. */
static uint64_t old_end(struct audit *a)
{
	uint64_t end = 1, base;

	for (unsigned i = 1; i < AUDIT_FILES; i++) {
		CLEANUP_CLOSE int fd = -1;
		char name[24];
		struct stat st;

		file_name(i, name);
		fd = openat(a->dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
		if (fd >= 0 && fstat(fd, &st) == 0 && base_read(fd, &base) == 0)
			end = MAX(end, base + (uint64_t)st.st_size);
	}
	return end;
}

int audit_open(struct loop *loop, const char *dir, struct audit **ret_a, struct err *e)
{
	struct audit *a = calloc(1, sizeof(*a));
	int r = a ? loop_timer_new(loop, left_out_write_all, a, &a->timer) : -ENOMEM;

	if (r < 0) {
		free(a);
		return err_set_errno(e, r, "audit");
	}
	a->fd = -1;
	a->dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	r = a->dir_fd < 0 ? -errno : present_open(a, old_end(a));
	if (r == -EINVAL) { /* the file is no audit log: rotate it, and begin a new one */
		files_turn(a);
		r = present_open(a, old_end(a));
	}
	if (r < 0) {
		audit_close(a);
		return err_set_errno(e, r, "%s/audit.log", dir);
	}
	*ret_a = a;
	return 0;
}

void audit_close(struct audit *a)
{
	if (!a)
		return;
	left_out_write_all(a);
	loop_timer_free(a->timer);
	if (a->fd >= 0)
		close(a->fd);
	if (a->dir_fd >= 0)
		close(a->dir_fd);
	free(a);
}

/* ---- reading the log ---- */

/* Open the file that holds the byte at *place. If that file is gone, open the next newer one, and set *place to its
 * first byte. Returns an owned fd; -ENOENT: *place is at or behind the end of the log. */
static int file_at(struct audit *a, uint64_t *place, uint64_t *ret_base)
{
	for (unsigned i = AUDIT_FILES; i--;) {
		CLEANUP_CLOSE int fd = -1;
		char name[24];
		struct stat st;

		file_name(i, name);
		fd = openat(a->dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
		if (fd < 0 || fstat(fd, &st) < 0 || base_read(fd, ret_base) < 0 ||
			*place >= *ret_base + (uint64_t)st.st_size)
			continue;
		*place = MAX(*place, *ret_base);
		return steal_fd(&fd);
	}
	return -ENOENT;
}

static bool line_wanted(struct json_object *o, const struct audit_query *q)
{
	const char *vm = js_get_str(o, "vm");

	return js_get_str(o, "outcome") && js_get_int(o, "time", 0) >= q->since_ns &&
		(q->uid < 0 || js_get_int(o, "uid", -1) == q->uid) &&
		(!q->vm || (vm && !strcmp(vm, q->vm)));
}

/* Add the matching whole lines of buf to list, until the page is full. Returns the number of bytes consumed. */
static size_t lines_take(char *buf, size_t len, const struct audit_query *q, struct json_object *list)
{
	size_t at = 0, bytes = 0;
	char *end;

	while (bytes < PAGE_BYTES && (end = memchr(buf + at, '\n', len - at))) {
		size_t n = (size_t)(end - (buf + at));
		struct json_object *o = NULL;

		*end = 0;
		if (js_parse(buf + at, n, "audit.log", &o, NULL) == 0 && line_wanted(o, q)) {
			json_object_array_add(list, json_object_get(o));
			bytes += 3 * n;
		}
		json_object_put(o);
		at += n + 1;
	}
	return at;
}

struct json_object *audit_page(struct audit *a, const struct audit_query *q)
{
	struct json_object *page = json_object_new_object(), *list = json_object_new_array();
	CLEANUP_FREE char *buf = malloc(READ_BYTES + 1);
	CLEANUP_CLOSE int fd = -1;
	uint64_t place = q->from, base, end = a->base + a->size;
	size_t used = 0;
	ssize_t n = 0;

	fd = file_at(a, &place, &base);
	if (fd >= 0 && buf)
		n = pread(fd, buf, READ_BYTES, (off_t)(place - base));
	if (n > 0) {
		used = lines_take(buf, (size_t)n, q, list);
		/* If buf has no whole line, skip its bytes: otherwise clients would ask for the same place again and
		 * again. */
		place += used ? used : (size_t)n;
	}
	js_put(page, "lines", list);
	js_put_uint(page, "next", place);
	js_put_bool(page, "more", n > 0 && place < end);
	return page;
}
