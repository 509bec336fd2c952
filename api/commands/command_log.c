/* vm-log: pages of a VM's log, which cairn-log writes (tools/log). The client gets text and no file: a client that
 * keeps files of removed logs open would fill the disk. */
#include "api/commands/command.h"
#include "api/store/store.h"
#include "api/vm/vm.h"
#include "api/vm/vm_host.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/utf8.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* A character takes at most three times its bytes in the answer, which stays below 64 KiB. */
#define PAGE_BYTES 16384

/* A place in a log: `next` of a page. The file's inode tells the file "log" from "log.1", which it becomes when it is
 * full. */
struct place {
	uint64_t file, at;
};

struct log_file {
	int fd; /* -1: there is none */
	uint64_t file, bytes;
};

static int log_file_open(const struct call *c, const char *name, struct log_file *ret, struct err *e)
{
	struct stat st;
	int fd = store_open_file(c->context->host->store, c->vm->def->name, name, O_RDONLY | O_NONBLOCK, e);

	*ret = (struct log_file){ .fd = -1 };
	if (fd == -ENOENT)
		return 0;
	if (fd < 0)
		return fd;
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
		close(fd);
		return err_set(e, -EIO, ERR_GENERIC, "%s is no file", name);
	}
	*ret = (struct log_file){ .fd = fd, .file = st.st_ino, .bytes = (uint64_t)st.st_size };
	return 0;
}

static int place_parse(const char *text, struct place *ret, struct err *e)
{
	int n = -1;

	if (sscanf(text, "%" SCNu64 "-%" SCNu64 "%n", &ret->file, &ret->at, &n) != 2 || n < 0 || text[n])
		return err_set(e, -EINVAL, ERR_INVALID, "from: \"%.40s\" is not the `next` of a page", text);
	return 0;
}

/* Returns how many of the bytes form whole lines; all of them if there is no end of a line, but no part of a
 * character. */
static size_t lines_cut(const char *text, size_t len)
{
	const char *end = memrchr(text, '\n', len);

	if (end)
		return (size_t)(end - text) + 1;
	while (len > PAGE_BYTES - 4 && ((unsigned char)text[len - 1] & 0xc0) == 0x80)
		len--;
	return len > PAGE_BYTES - 4 && (unsigned char)text[len - 1] >= 0xc0 ? len - 1 : len;
}

static void page_return(struct call *c, const char *text, size_t len, struct place next, bool more, bool lost)
{
	struct json_object *o = json_object_new_object();
	char place[48];

	snprintf(place, sizeof(place), "%" PRIu64 "-%" PRIu64, next.file, next.at);
	js_put(o, "text", json_object_new_string_len(text, (int)len));
	js_put_str(o, "next", place);
	js_put_bool(o, "more", more);
	js_put_bool(o, "lost", lost);
	call_return(c, o);
}

/* Return the page at a place. newer: the file that follows when this one has ended; NULL: none. */
static void page_read(struct call *c, const struct log_file *f, const struct log_file *newer, uint64_t at, bool lost)
{
	char text[PAGE_BYTES];
	struct place next = { f->file, at };
	ssize_t n = f->fd < 0 ? 0 : pread(f->fd, text, sizeof(text), (off_t)at);
	size_t len = n > 0 ? (size_t)n : 0;
	bool more;

	if (n < 0) {
		struct err e;

		err_set_errno(&e, -errno, "the log of VM '%s'", c->vm->def->name);
		call_fail(c, &e);
		return;
	}
	if (len == sizeof(text))
		len = lines_cut(text, len);
	next.at += len;
	more = next.at < f->bytes;
	if (!more && newer && newer->fd >= 0) {
		next = (struct place){ newer->file, 0 };
		more = newer->bytes > 0;
	}
	utf8_stream_clean(&(struct utf8_stream){ 0 }, text, len, "\n\t");
	page_return(c, text, len, next, more, lost);
}

void command_vm_log(struct call *c)
{
	const char *from = js_get_str(c->args, "from");
	struct log_file log = { .fd = -1 }, older = { .fd = -1 };
	struct place place = { 0 };
	struct err e;
	int r = from ? place_parse(from, &place, &e) : 0;

	if (!r)
		r = log_file_open(c, "log", &log, &e);
	if (!r)
		r = log_file_open(c, "log.1", &older, &e);
	if (r)
		call_fail(c, &e);
	else if (from && log.fd >= 0 && place.file == log.file && place.at <= log.bytes)
		page_read(c, &log, NULL, place.at, false);
	else if (from && older.fd >= 0 && place.file == older.file && place.at <= older.bytes)
		page_read(c, &older, &log, place.at, false);
	else if (older.fd >= 0)
		page_read(c, &older, &log, 0, place.file != 0);
	else
		page_read(c, &log, NULL, 0, place.file != 0);
	if (log.fd >= 0)
		close(log.fd);
	if (older.fd >= 0)
		close(older.fd);
}
