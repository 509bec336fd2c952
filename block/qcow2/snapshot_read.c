/* Reads the snapshot table. */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/util.h"
#include "block/qcow2/impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Largest entry. */
#define ENTRY_BYTES_MAX (QCOW2_SNAPSHOT_HEADER_BYTES + QCOW2_SNAPSHOT_EXTRA_MAX + 2 * 65535u)
/* The first read, which is enough for some ten entries; each later one is twice as long, up to BUFFER_BYTES. */
#define FIRST_READ_BYTES 16384u
#define BUFFER_BYTES (4 * ROUND_UP(ENTRY_BYTES_MAX, 4096))

void qcow2_snapshots_free(struct qcow2_snapshot_info *list, size_t n)
{
	for (size_t i = 0; list && i < n; i++) {
		free(list[i].id);
		free(list[i].name);
		free(list[i].extra);
	}
	free(list);
}

static char *take_string(struct cursor *c, size_t n)
{
	const char *p = cursor_take(c, n);
	char *s = p ? malloc(n + 1) : NULL;

	if (s) {
		memcpy(s, p, n);
		s[n] = 0;
	}
	return s;
}

static void extra_parse(struct cursor *c, uint32_t len, struct qcow2_snapshot_info *s)
{
	const uint8_t *p = cursor_take(c, len);

	s->extra = p ? malloc(len + 1u) : NULL;
	if (!s->extra)
		return;
	memcpy(s->extra, p, len);
	s->extra_len = len;
	if (len >= 8)
		s->vm_state_bytes = load_be64(p);
	if (len >= 16)
		s->disk_bytes = load_be64(p + 8);
	if (len >= 24) {
		s->icount = load_be64(p + 16);
		s->has_icount = s->icount != UINT64_MAX;
	}
}

static int entry_parse(struct cursor *c, const struct qcow2_header *h, struct qcow2_snapshot_info *s,
	struct err *e)
{
	uint32_t extra, id_len, name_len;

	s->l1_offset = cursor_be64(c);
	s->l1_size = cursor_be32(c);
	id_len = cursor_be16(c);
	name_len = cursor_be16(c);
	s->sec = cursor_be32(c);
	s->nsec = cursor_be32(c);
	s->vm_clock_ns = cursor_be64(c);
	s->vm_state_bytes = cursor_be32(c);
	extra = cursor_be32(c);
	s->disk_bytes = h->size_bytes;
	if (extra > QCOW2_SNAPSHOT_EXTRA_MAX)
		return err_set(e, -EINVAL, ERR_CORRUPT, "a snapshot has %u bytes of extra data; at most %u "
			"are supported", extra, QCOW2_SNAPSHOT_EXTRA_MAX);
	extra_parse(c, extra, s);
	s->id = take_string(c, id_len);
	s->name = take_string(c, name_len);
	s->id_len = (uint16_t)id_len;
	s->name_len = (uint16_t)name_len;
	if (!cursor_ok(c))
		return err_set(e, -EINVAL, ERR_CORRUPT, "the snapshot table ends inside an entry");
	return s->id && s->name && s->extra ? 0 : err_set_errno(e, -ENOMEM, "snapshot table");
}

struct table_reader {
	int fd;
	uint64_t base, end; /* offsets in the file */
	uint8_t *buf;
	uint64_t buf_at;
	size_t buf_len, next_len;
};

/* Get a cursor over [off, off + len). len: at most ENTRY_BYTES_MAX. */
static int reader_at(struct table_reader *t, uint64_t off, size_t len, struct cursor *ret)
{
	if (!t->buf_len || off < t->buf_at || off + len > t->buf_at + t->buf_len) {
		uint64_t at = ROUND_DOWN(off, 4096);
		size_t n = MAX(t->next_len, ROUND_UP(off + len - at, 4096));
		int r = qcow2_pread(t->fd, t->buf, n, at);

		if (r < 0)
			return r;
		t->buf_at = at;
		t->buf_len = n;
		t->next_len = MIN(2 * n, BUFFER_BYTES);
	}
	*ret = cursor_over(t->buf + (off - t->buf_at), (size_t)MIN(len, MAX(t->end, off) - off));
	return 0;
}

/* Get a cursor over the entry at off. It ends early if the file does or if the entry is longer than ENTRY_BYTES_MAX. */
static int reader_entry(struct table_reader *t, uint64_t off, struct cursor *ret)
{
	int r = reader_at(t, off, QCOW2_SNAPSHOT_HEADER_BYTES, ret);
	const uint8_t *head;
	uint64_t len;

	if (r < 0 || cursor_left(ret) < QCOW2_SNAPSHOT_HEADER_BYTES)
		return r;
	head = t->buf + (off - t->buf_at);
	len = QCOW2_SNAPSHOT_HEADER_BYTES + (uint64_t)load_be32(head + QCOW2_SNAPSHOT_AT_EXTRA_LEN) +
		load_be16(head + QCOW2_SNAPSHOT_AT_ID_LEN) + load_be16(head + QCOW2_SNAPSHOT_AT_NAME_LEN);
	return reader_at(t, off, (size_t)MIN(len, ENTRY_BYTES_MAX), ret);
}

static int table_parse(struct table_reader *t, const struct qcow2_header *h,
	struct qcow2_snapshot_info *list, struct err *e)
{
	uint64_t off = t->base;

	for (uint32_t i = 0; i < h->nb_snapshots; i++) {
		struct cursor c;
		int r;

		if (off - t->base > QCOW2_SNAPSHOT_TABLE_BYTES_MAX)
			return err_set(e, -EINVAL, ERR_CORRUPT, "the snapshot table is larger than %u MiB",
				QCOW2_SNAPSHOT_TABLE_BYTES_MAX >> 20);
		r = reader_entry(t, off, &c);
		if (r < 0)
			return err_set_errno(e, r, "cannot read the snapshot table");
		r = entry_parse(&c, h, &list[i], e);
		if (r < 0)
			return r;
		list[i].table_bytes = off - t->base + c.pos;
		off += ROUND_UP((uint64_t)c.pos, 8);
	}
	return 0;
}

int qcow2_snapshots_read(int fd, const struct qcow2_header *h,
	struct qcow2_snapshot_info **ret_list, size_t *ret_n, struct err *e)
{
	CLEANUP_FREE uint8_t *buf = io_buffer_new(BUFFER_BYTES);
	off_t end = lseek(fd, 0, SEEK_END);
	struct table_reader t = { .fd = fd, .base = h->snapshots_offset, .buf = buf, .next_len = FIRST_READ_BYTES };
	struct qcow2_snapshot_info *list = calloc(h->nb_snapshots + 1u, sizeof(*list));
	int r;

	if (!list || !buf) {
		free(list);
		return err_set_errno(e, -ENOMEM, "snapshot table");
	}
	t.end = end < 0 ? 0 : (uint64_t)end;
	r = table_parse(&t, h, list, e);
	if (r < 0) {
		qcow2_snapshots_free(list, h->nb_snapshots);
		return r;
	}
	*ret_list = list;
	*ret_n = h->nb_snapshots;
	return 0;
}
