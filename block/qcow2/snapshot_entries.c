/* The entries of the snapshot table: reads and serializes them. */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/util.h"
#include "block/qcow2/snapshot_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Largest entry. */
#define ENTRY_BYTES_MAX (QCOW2_SNAPSHOT_HEADER_BYTES + QCOW2_SNAPSHOT_EXTRA_MAX + 2 * 65535u)
/* The first read, which is enough for some ten entries; each later one is twice as long, up to BUFFER_BYTES. */
#define FIRST_READ_BYTES 16384u
#define BUFFER_BYTES (4 * ROUND_UP(ENTRY_BYTES_MAX, 4096))

void snapshot_entry_done(struct qcow2_snapshot_info *s)
{
	free(s->id);
	free(s->name);
	free(s->extra);
	*s = (struct qcow2_snapshot_info){ 0 };
}

int snapshot_entry_extra(struct qcow2_snapshot_info *s, uint64_t icount, const uint8_t *extra, size_t n)
{
	uint8_t *p = malloc(QCOW2_SNAPSHOT_QEMU_BYTES + n);

	if (!p)
		return -ENOMEM;
	store_be64(p, s->vm_state_bytes);
	store_be64(p + 8, s->disk_bytes);
	store_be64(p + 16, icount);
	if (n)
		memcpy(p + QCOW2_SNAPSHOT_QEMU_BYTES, extra, n);
	free(s->extra);
	s->extra = p;
	s->extra_len = (uint32_t)(QCOW2_SNAPSHOT_QEMU_BYTES + n);
	return 0;
}

void qcow2_snapshots_free(struct qcow2_snapshot_info *list, size_t n)
{
	for (size_t i = 0; list && i < n; i++) {
		free(list[i].id);
		free(list[i].name);
		free(list[i].extra);
	}
	free(list);
}

/* ---- reading ---- */

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

struct table_reader {
	int fd;
	uint64_t base, end; /* offsets in the file */
	uint8_t *buf; /* owned, of buf_cap bytes: a small table needs no large buffer */
	uint64_t buf_at;
	size_t buf_cap, buf_len, next_len;
	bool damaged; /* see qcow2_snapshots_read_damaged() */
	bool cut; /* the file ends before the part that was read last */
};

static int reader_grow(struct table_reader *t, size_t n)
{
	if (n <= t->buf_cap)
		return 0;
	free(t->buf);
	t->buf = io_buffer_new(n);
	t->buf_cap = t->buf ? n : 0;
	return t->buf ? 0 : -ENOMEM;
}

/* Get a cursor over [off, off + len). len: at most ENTRY_BYTES_MAX. */
static int reader_at(struct table_reader *t, uint64_t off, size_t len, struct cursor *ret)
{
	if (!t->buf_len || off < t->buf_at || off + len > t->buf_at + t->buf_len) {
		uint64_t at = ROUND_DOWN(off, 4096);
		size_t n = MAX(t->next_len, ROUND_UP(off + len - at, 4096));
		int r = reader_grow(t, n);

		t->buf_len = 0;
		if (!r)
			r = qcow2_pread(t->fd, t->buf, n, at);
		if (r < 0)
			return r;
		t->buf_at = at;
		t->buf_len = n;
		t->next_len = MIN(2 * n, BUFFER_BYTES);
	}
	*ret = cursor_over(t->buf + (off - t->buf_at), (size_t)MIN(len, MAX(t->end, off) - off));
	return 0;
}

static int table_is_cut(struct err *e)
{
	return err_set(e, -EINVAL, ERR_CORRUPT, "the image's file ends inside its snapshot table; `cairn-img check -r all` discards the "
		"snapshots that are lost");
}

/* Get a cursor over [off, off + len), which fails if the file ends before. */
static int part_at(struct table_reader *t, uint64_t off, size_t len, struct cursor *ret, struct err *e)
{
	int r;

	t->cut = !range_inside(off, len, t->end);
	if (t->cut)
		return table_is_cut(e);
	r = reader_at(t, off, len, ret);
	return r < 0 ? err_set_errno(e, r, "cannot read the snapshot table") : 0;
}

/* Parse the entry at off. Returns 0 or -errno with a sentence; s has the parts that were read. */
static int entry_parse(struct table_reader *t, const struct qcow2_header *h, uint64_t off, struct qcow2_snapshot_info *s,
	struct err *e)
{
	struct cursor c;
	int r = part_at(t, off, QCOW2_SNAPSHOT_HEADER_BYTES, &c, e);

	if (r < 0)
		return r;
	s->l1_offset = cursor_be64(&c);
	s->l1_size = cursor_be32(&c);
	s->id_len = cursor_be16(&c);
	s->name_len = cursor_be16(&c);
	s->sec = cursor_be32(&c);
	s->nsec = cursor_be32(&c);
	s->vm_clock_ns = cursor_be64(&c);
	s->vm_state_bytes = cursor_be32(&c);
	s->extra_in_file = cursor_be32(&c);
	s->disk_bytes = h->size_bytes;
	if (s->extra_in_file > QCOW2_SNAPSHOT_EXTRA_MAX && !t->damaged)
		return err_set(e, -EINVAL, ERR_CORRUPT, "a snapshot has %u bytes of extra data; at most %u "
			"are supported; `cairn-img check -r all` cuts it", s->extra_in_file, QCOW2_SNAPSHOT_EXTRA_MAX);
	s->extra_len = MIN(s->extra_in_file, QCOW2_SNAPSHOT_EXTRA_MAX);
	off += QCOW2_SNAPSHOT_HEADER_BYTES;
	r = part_at(t, off, s->extra_len, &c, e);
	if (r < 0)
		return r;
	extra_parse(&c, s->extra_len, s);
	r = part_at(t, off + s->extra_in_file, (size_t)s->id_len + s->name_len, &c, e);
	if (r < 0)
		return r;
	s->id = take_string(&c, s->id_len);
	s->name = take_string(&c, s->name_len);
	return s->id && s->name && s->extra ? 0 : err_set_errno(e, -ENOMEM, "snapshot table");
}

/* Returns the number of entries, which of a damaged table may be less than the header has; -errno. */
static int table_parse(struct table_reader *t, const struct qcow2_header *h, struct qcow2_snapshot_info *list, struct err *e)
{
	uint64_t off = t->base, bytes = 0; /* bytes: without the extra data that is cut off */
	uint32_t n = MIN(h->nb_snapshots, QCOW2_SNAPSHOTS_MAX);

	for (uint32_t i = 0; i < n; i++) {
		struct qcow2_snapshot_info *s = &list[i];
		uint64_t len;
		int r = entry_parse(t, h, off, s, e);

		if (r < 0 && t->cut && t->damaged)
			return (int)i;
		if (r < 0)
			return r;
		len = QCOW2_SNAPSHOT_HEADER_BYTES + (uint64_t)s->extra_in_file + s->id_len + s->name_len;
		bytes += ROUND_UP(len - s->extra_in_file + s->extra_len, 8);
		if (bytes > QCOW2_SNAPSHOT_TABLE_BYTES_MAX && t->damaged)
			return (int)i;
		if (bytes > QCOW2_SNAPSHOT_TABLE_BYTES_MAX)
			return err_set(e, -EINVAL, ERR_CORRUPT, "the snapshot table is larger than %u MiB; `cairn-img check -r all` "
				"discards the last %u snapshots", QCOW2_SNAPSHOT_TABLE_BYTES_MAX >> 20, h->nb_snapshots - i);
		s->table_bytes = off - t->base + len;
		off += ROUND_UP(len, 8);
	}
	return (int)n;
}

static int snapshots_read(int fd, const struct qcow2_header *h, bool damaged, struct qcow2_snapshot_info **ret_list,
	size_t *ret_n, struct err *e)
{
	off_t end = lseek(fd, 0, SEEK_END);
	struct table_reader t = { .fd = fd, .base = h->snapshots_offset, .next_len = FIRST_READ_BYTES,
		.damaged = damaged };
	uint32_t n = MIN(h->nb_snapshots, QCOW2_SNAPSHOTS_MAX);
	struct qcow2_snapshot_info *list;
	int r;

	if (!damaged && end >= 0 && !range_inside(h->snapshots_offset, (uint64_t)n * QCOW2_SNAPSHOT_HEADER_BYTES, (uint64_t)end))
		return table_is_cut(e);
	list = calloc(n + 1u, sizeof(*list));
	if (!list)
		return err_set_errno(e, -ENOMEM, "snapshot table");
	t.end = end < 0 ? 0 : (uint64_t)end;
	r = table_parse(&t, h, list, e);
	free(t.buf);
	if (r < 0) {
		qcow2_snapshots_free(list, n);
		return r;
	}
	if ((uint32_t)r < n)
		snapshot_entry_done(&list[r]); /* the entry exceeds the limit, or the file's end */
	*ret_list = list;
	*ret_n = (size_t)r;
	return 0;
}

int qcow2_snapshots_read(int fd, const struct qcow2_header *h, struct qcow2_snapshot_info **ret_list, size_t *ret_n,
	struct err *e)
{
	return snapshots_read(fd, h, false, ret_list, ret_n, e);
}

int qcow2_snapshots_read_damaged(int fd, const struct qcow2_header *h, struct qcow2_snapshot_info **ret_list, size_t *ret_n,
	struct err *e)
{
	return snapshots_read(fd, h, true, ret_list, ret_n, e);
}

/* ---- writing ---- */

static uint64_t entry_bytes(const struct qcow2_snapshot_info *s)
{
	return QCOW2_SNAPSHOT_HEADER_BYTES + s->extra_len + s->id_len + s->name_len;
}

static uint64_t entry_put(const struct qcow2_snapshot_info *s, uint8_t *p, uint64_t cap)
{
	struct cursor c = cursor_over(p, cap);

	cursor_put_be64(&c, s->l1_offset);
	cursor_put_be32(&c, s->l1_size);
	cursor_put_be16(&c, s->id_len);
	cursor_put_be16(&c, s->name_len);
	cursor_put_be32(&c, s->sec);
	cursor_put_be32(&c, s->nsec);
	cursor_put_be64(&c, s->vm_clock_ns);
	/* Above 4 GiB, this field is 0 and the extra data has the size. */
	cursor_put_be32(&c, s->vm_state_bytes > UINT32_MAX ? 0 : (uint32_t)s->vm_state_bytes);
	cursor_put_be32(&c, s->extra_len);
	cursor_put_bytes(&c, s->extra, s->extra_len);
	cursor_put_bytes(&c, s->id, s->id_len);
	cursor_put_bytes(&c, s->name, s->name_len);
	return ROUND_UP((uint64_t)c.pos, 8);
}

int snapshots_serialize(struct qcow2_snapshot_info *list, size_t n, uint32_t cluster_bytes, uint8_t **ret_buf,
	uint64_t *ret_bytes)
{
	uint64_t bytes = 0, at = 0;
	uint8_t *buf;

	for (size_t i = 0; i < n; i++) {
		/* QEMU, too, completes entries of version 2, where the extra data may lack sizes. */
		if (list[i].extra_len < QCOW2_SNAPSHOT_QEMU_BYTES && snapshot_entry_extra(&list[i], UINT64_MAX, NULL, 0) < 0)
			return -ENOMEM;
		list[i].table_bytes = ROUND_UP(bytes, 8) + entry_bytes(&list[i]);
		bytes = list[i].table_bytes;
	}
	if (bytes > QCOW2_SNAPSHOT_TABLE_BYTES_MAX)
		return -EFBIG;
	*ret_bytes = ROUND_UP(ROUND_UP(bytes, 8), cluster_bytes);
	*ret_buf = NULL;
	if (!*ret_bytes)
		return 0;
	buf = io_buffer_new(*ret_bytes);
	if (!buf)
		return -ENOMEM;
	memset(buf, 0, *ret_bytes);
	for (size_t i = 0; i < n; i++)
		at += entry_put(&list[i], buf + at, *ret_bytes - at);
	*ret_buf = buf;
	return 0;
}
