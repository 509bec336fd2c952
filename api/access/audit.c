#include "api/access/audit.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/log.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LINE_BYTES_MAX 8192u
#define READ_BYTES (256u * 1024)
/* A page ends with the line that reaches this size, where each byte of the log counts as three: in the answer, \uXXXX
 * escapes may take that much. So an answer stays below 64 KiB, since some clients read no longer lines. */
#define PAGE_BYTES (20 * 1024)
#define MASK_DEPTH_MAX 16

struct audit {
	int dir_fd, fd;
	uint64_t base; /* offset of the current file's first byte in the whole log */
	uint64_t size; /* of the current file, in bytes */
};

static void file_name(unsigned i, char buf[24])
{
	if (i)
		snprintf(buf, 24, "audit.log.%u", i);
	else
		snprintf(buf, 24, "audit.log");
}

/* ---- writing the log ---- */

static void text_write(struct audit *a, const char *text)
{
	size_t n = 0;
	int r = line_append(a->fd, text, &n);

	if (r < 0)
		log_error("audit", "cannot write this line (%s): %s", strerror(-r), text);
	a->size += n;
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

	file_name(0, name);
	a->fd = openat(a->dir_fd, name, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (a->fd < 0 || fstat(a->fd, &st) < 0)
		return -errno;
	a->size = (uint64_t)st.st_size;
	a->base = base;
	if (a->size)
		return base_read(a->fd, &a->base);
	snprintf(head, sizeof(head), "{\"base\":%llu}", (unsigned long long)base);
	text_write(a, head);
	return 0;
}

static void files_turn(struct audit *a)
{
	uint64_t base = a->base + a->size;
	char from[24], to[24];
	int r;

	close(a->fd);
	a->fd = -1;
	for (unsigned i = AUDIT_FILES - 1; i; i--) {
		file_name(i - 1, from);
		file_name(i, to);
		if (renameat(a->dir_fd, from, a->dir_fd, to) < 0 && errno != ENOENT)
			log_error("audit", "%s: %s", to, strerror(errno));
	}
	r = present_open(a, base);
	if (r < 0)
		log_error("audit", "cannot begin a new file: %s", strerror(-r));
}

void audit_add(struct audit *a, struct json_object *line)
{
	const char *text = json_object_to_json_string_ext(line,
		JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);

	if (strlen(text) > LINE_BYTES_MAX) {
		json_object_object_del(line, "arguments");
		js_put_bool(line, "arguments-left-out", true);
		text = json_object_to_json_string_ext(line,
			JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
	}
	if (a->size >= AUDIT_FILE_BYTES)
		files_turn(a);
	text_write(a, text);
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

int audit_open(const char *dir, struct audit **ret_a, struct err *e)
{
	struct audit *a = calloc(1, sizeof(*a));
	int r = 0;

	if (!a)
		return err_set_errno(e, -ENOMEM, "audit");
	a->fd = -1;
	a->dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	r = a->dir_fd < 0 ? -errno : present_open(a, old_end(a));
	if (r == -EINVAL) { /* the file is no audit log: rotate it, and begin a new one */
		a->base = old_end(a);
		files_turn(a);
		r = a->fd < 0 ? -EIO : 0;
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

/* ---- masking secrets ---- */

static bool is_secret(const char *key)
{
	static const char *const words[] = { "password", "secret", "token", "passphrase" };

	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		if (strcasestr(key, words[i]))
			return true;
	return false;
}

static struct json_object *secrets_mask(struct json_object *v, unsigned depth)
{
	struct json_object *o;

	if (depth > MASK_DEPTH_MAX)
		return json_object_new_string("...");
	if (json_object_is_type(v, json_type_object)) {
		o = json_object_new_object();
		json_object_object_foreach(v, key, member)
			js_put(o, key, is_secret(key) ? json_object_new_string("(masked)") :
							secrets_mask(member, depth + 1));
		return o;
	}
	if (!json_object_is_type(v, json_type_array))
		return json_object_get(v);
	o = json_object_new_array();
	for (size_t i = 0; i < json_object_array_length(v); i++)
		json_object_array_add(o, secrets_mask(json_object_array_get_idx(v, i), depth + 1));
	return o;
}

struct json_object *audit_mask(struct json_object *args)
{
	return secrets_mask(args, 0);
}
