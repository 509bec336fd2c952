#include "api/store/trend_file.h"
#include "api/store/store_file.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/crc32c.h"
#include "base/err.h"
#include "base/file.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* All numbers are little-endian.
 *
 * Header:
 *      0  "CAIRNTRD"
 *      8  u32 version, 1
 *     12  u32 number of series, 15
 *     16  of each of the three ranges: u32 step in seconds, u32 number of rows
 *     40  of each series: 16 bytes, its name
 *   1020  u32 CRC32C of the bytes before
 *   2048  heads: u64 generation; of each range u32 sequence number of the next row, from 1; u32 CRC32C
 *   3072  heads, likewise; the ones of the higher generation count
 *   4096  rows of the seconds, then of the minutes, then of the hours
 * Row:
 *      0  u32 sequence number; its place in the ring is this number - 1, modulo the number of rows
 *      4  u32 time, u32 span, u32 covered
 *     16  of each series: f32 average
 *         of each series: f32 maximum; not in the range of seconds
 *         u32 CRC32C of the bytes before */
#define MAGIC "CAIRNTRD"
#define VERSION 1
#define HEADER_BYTES 4096
#define CRC_AT 1020
#define HEADS_AT(generation) (((generation) & 1) ? 3072 : 2048)
#define HEADS_BYTES 24
#define NAME_BYTES 16
#define ROW_BYTES_MAX (20 + 8 * TREND_SERIES)
/* Rows that are read at once. */
#define READ_ROWS 256

struct heads {
	uint64_t generation;
	uint32_t next[TREND_RANGES];
};

_Static_assert(TREND_FILE_BYTES <= 4 * 1024 * 1024, "a VM's trends take at most 4 MiB");

static size_t row_bytes(enum trend_range range)
{
	return 20 + (range == TREND_SECONDS ? 4 : 8) * (size_t)TREND_SERIES;
}

static off_t row_offset(enum trend_range range, uint32_t seq)
{
	off_t at = HEADER_BYTES;

	for (enum trend_range i = TREND_SECONDS; i < range; i++)
		at += (off_t)trend_steps[i].rows * (off_t)row_bytes(i);
	return at + (off_t)((seq - 1) % trend_steps[range].rows) * (off_t)row_bytes(range);
}

/* ---- rows ---- */

static uint32_t float_bits(float f)
{
	uint32_t bits;

	memcpy(&bits, &f, sizeof(bits));
	return bits;
}

/* All unknown values become the same NAN, and so do numbers that a VM cannot have. */
static float float_of(uint32_t bits)
{
	float f;

	memcpy(&f, &bits, sizeof(f));
	return isfinite(f) && f >= 0 ? f : NAN;
}

static void row_encode(enum trend_range range, uint32_t seq, const struct trend_row *row, uint8_t *p)
{
	size_t bytes = row_bytes(range);

	store_le32(p, seq);
	store_le32(p + 4, row->time);
	store_le32(p + 8, row->span);
	store_le32(p + 12, row->covered);
	for (unsigned i = 0; i < TREND_SERIES; i++) {
		store_le32(p + 16 + 4 * i, float_bits(row->average[i]));
		if (range != TREND_SECONDS)
			store_le32(p + 16 + 4 * (TREND_SERIES + i), float_bits(row->maximum[i]));
	}
	store_le32(p + bytes - 4, crc32c(0, p, bytes - 4));
}

/* Returns whether the row with this number is there and whole. */
static bool row_decode(enum trend_range range, uint32_t seq, const uint8_t *p, struct trend_row *ret)
{
	size_t bytes = row_bytes(range);

	if (load_le32(p) != seq || load_le32(p + bytes - 4) != crc32c(0, p, bytes - 4))
		return false;
	ret->time = load_le32(p + 4);
	ret->span = load_le32(p + 8);
	ret->covered = load_le32(p + 12);
	for (unsigned i = 0; i < TREND_SERIES; i++) {
		ret->average[i] = float_of(load_le32(p + 16 + 4 * i));
		ret->maximum[i] = range == TREND_SECONDS ? ret->average[i] : float_of(load_le32(p + 16 + 4 * (TREND_SERIES + i)));
	}
	return ret->span && ret->span <= ret->time && ret->covered && ret->covered <= trend_steps[range].step_s;
}

/* ---- the header ---- */

static void header_encode(uint8_t *p)
{
	memset(p, 0, HEADER_BYTES);
	memcpy(p, MAGIC, 8);
	store_le32(p + 8, VERSION);
	store_le32(p + 12, TREND_SERIES);
	for (unsigned i = 0; i < TREND_RANGES; i++) {
		store_le32(p + 16 + 8 * i, trend_steps[i].step_s);
		store_le32(p + 20 + 8 * i, trend_steps[i].rows);
	}
	for (unsigned i = 0; i < TREND_SERIES; i++)
		strncpy((char *)p + 40 + (size_t)NAME_BYTES * i, trend_names[i].name, NAME_BYTES - 1);
	store_le32(p + CRC_AT, crc32c(0, p, CRC_AT));
}

static bool heads_decode(const uint8_t *p, struct heads *ret)
{
	if (load_le32(p + HEADS_BYTES - 4) != crc32c(0, p, HEADS_BYTES - 4))
		return false;
	ret->generation = load_le64(p);
	for (unsigned i = 0; i < TREND_RANGES; i++) {
		ret->next[i] = load_le32(p + 8 + 4 * i);
		if (!ret->next[i])
			return false;
	}
	return true;
}

static int heads_write(int fd, const struct heads *h)
{
	uint8_t p[HEADS_BYTES];

	store_le64(p, h->generation);
	for (unsigned i = 0; i < TREND_RANGES; i++)
		store_le32(p + 8 + 4 * i, h->next[i]);
	store_le32(p + HEADS_BYTES - 4, crc32c(0, p, HEADS_BYTES - 4));
	return pwrite_full(fd, p, sizeof(p), HEADS_AT(h->generation));
}

/* Read a number of rows that lie behind each other in the file. A part beyond its end is zeros. */
static int rows_read(int fd, enum trend_range range, uint32_t seq, uint32_t n, uint8_t *buf)
{
	size_t bytes = n * row_bytes(range), have = 0;

	while (have < bytes) {
		ssize_t r = pread(fd, buf + have, bytes - have, row_offset(range, seq) + (off_t)have);

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return -errno;
		if (!r)
			break;
		have += (size_t)r;
	}
	memset(buf + have, 0, bytes - have);
	return 0;
}

/* Return the number of rows from seq on, at most max, that lie behind each other in the file. */
static uint32_t rows_together(enum trend_range range, uint32_t seq, uint32_t max)
{
	return MIN(max, trend_steps[range].rows - (seq - 1) % trend_steps[range].rows);
}

/* Go on from *next to the first row that does not exist: the header may be older than the rows. */
static int head_advance(int fd, enum trend_range range, uint32_t *next)
{
	uint8_t p[ROW_BYTES_MAX];
	struct trend_row row;
	int r;

	while (!(r = rows_read(fd, range, *next, 1, p)) && row_decode(range, *next, p, &row))
		++*next;
	return r;
}

/* Both heads are damaged: find the newest row among all. */
static int head_search(int fd, enum trend_range range, uint32_t *next)
{
	uint8_t buf[READ_ROWS * ROW_BYTES_MAX];
	struct trend_row row;
	uint32_t n;

	*next = 1;
	for (uint32_t at = 1; at <= trend_steps[range].rows; at += n) {
		n = MIN(READ_ROWS, trend_steps[range].rows - at + 1);
		int r = rows_read(fd, range, at, n, buf);

		if (r < 0)
			return r;
		for (uint32_t i = 0; i < n; i++) {
			const uint8_t *p = buf + i * row_bytes(range);
			uint32_t seq = load_le32(p);

			if (seq >= *next && seq < UINT32_MAX && seq % trend_steps[range].rows == (at + i) % trend_steps[range].rows &&
				row_decode(range, seq, p, &row))
				*next = seq + 1;
		}
	}
	return 0;
}

static int heads_read(int fd, struct heads *ret)
{
	uint8_t p[HEADS_BYTES];
	bool found = false;
	int r = 0;

	for (unsigned i = 0; !r && i < 2; i++) {
		struct heads h;

		r = pread_full(fd, p, sizeof(p), HEADS_AT(i));
		if (!r && heads_decode(p, &h) && (!found || h.generation > ret->generation)) {
			*ret = h;
			found = true;
		}
	}
	if (!found)
		ret->generation = 0;
	for (enum trend_range i = TREND_SECONDS; !r && i < TREND_RANGES; i++)
		r = found ? head_advance(fd, i, &ret->next[i]) : head_search(fd, i, &ret->next[i]);
	return r;
}

/* ---- the file ---- */

static int header_check(int fd, const char *path, struct err *e)
{
	uint8_t p[HEADER_BYTES], ours[HEADER_BYTES];
	int r = pread_full(fd, p, sizeof(p), 0);

	header_encode(ours);
	if (r == -EIO || (!r && (memcmp(p, MAGIC, 8) || load_le32(p + CRC_AT) != crc32c(0, p, CRC_AT))))
		return err_set(e, -EINVAL, ERR_CORRUPT, "%s is damaged", path);
	if (r < 0)
		return err_set_errno(e, r, "%s", path);
	if (load_le32(p + 8) > VERSION)
		return err_set(e, -ENOTSUP, ERR_INVALID, "%s was written by a newer Cairn, and stays as it is", path);
	if (memcmp(p, ours, CRC_AT) != 0)
		return err_set(e, -EINVAL, ERR_CORRUPT, "%s is damaged", path);
	return 0;
}

static int file_begin(int fd, const char *path, struct err *e)
{
	uint8_t p[HEADER_BYTES];
	struct heads h = { 0, { 1, 1, 1 } };
	int r;

	header_encode(p);
	r = pwrite_full(fd, p, sizeof(p), 0);
	if (!r)
		r = heads_write(fd, &h);
	return r < 0 ? err_set_errno(e, r, "%s", path) : 0;
}

static int file_open(const char *path, bool create, struct err *e)
{
	CLEANUP_CLOSE int fd = open(path, (create ? O_RDWR | O_CREAT : O_RDWR) | O_CLOEXEC | O_NOFOLLOW, 0600);
	struct stat st;
	int r;

	if (fd < 0 || fstat(fd, &st) < 0)
		return err_set_errno(e, -errno, "%s", path);
	/* A daemon that was killed while it created the file left an empty one. */
	r = create && !st.st_size ? file_begin(fd, path, e) : header_check(fd, path, e);
	return r < 0 ? r : steal_fd(&fd);
}

int trend_file_open(const char *path, bool create, struct err *e)
{
	int r = file_open(path, create, e);

	if (r != -EINVAL || !create)
		return r;
	store_put_aside(path, e->msg);
	return file_open(path, create, e);
}

static int range_append(int fd, enum trend_range range, const struct trend_rows *rows, uint32_t *next)
{
	uint8_t buf[READ_ROWS * ROW_BYTES_MAX];
	uint32_t k;

	for (size_t done = 0; done < rows->n; done += k) {
		int r;

		k = rows_together(range, *next, (uint32_t)MIN(rows->n - done, READ_ROWS));
		for (uint32_t i = 0; i < k; i++)
			row_encode(range, *next + i, &rows->list[done + i], buf + i * row_bytes(range));
		r = pwrite_full(fd, buf, k * row_bytes(range), row_offset(range, *next));
		if (r < 0)
			return r;
		*next += k;
	}
	return 0;
}

int trend_file_append(int fd, const struct trend_rows rows[TREND_RANGES], struct err *e)
{
	struct heads h;
	int r = heads_read(fd, &h);

	for (enum trend_range i = TREND_SECONDS; !r && i < TREND_RANGES; i++)
		r = range_append(fd, i, &rows[i], &h.next[i]);
	h.generation++;
	if (!r)
		r = heads_write(fd, &h);
	return r < 0 ? err_set_errno(e, r, "cannot write the VM's trends") : 0;
}

void trend_rows_paint(struct trend_rows *rows, const struct trend_row *row, uint32_t step_s)
{
	uint32_t begin = row->time - row->span;

	if (rows->n && trend_row_merge(&rows->list[rows->n - 1], row, step_s))
		return;
	while (rows->n && rows->list[rows->n - 1].time > begin) {
		struct trend_row *last = &rows->list[rows->n - 1];

		if (last->time - last->span < begin) {
			last->span -= last->time - begin;
			last->time = begin;
			break;
		}
		rows->n--;
	}
	trend_rows_add(rows, row, SIZE_MAX);
}

/* Remove the rows outside of the time. */
static void rows_cut(struct trend_rows *rows, uint32_t from, uint32_t to)
{
	size_t n = 0;

	for (size_t i = 0; i < rows->n; i++)
		if (rows->list[i].time > from && rows->list[i].time - rows->list[i].span < to)
			rows->list[n++] = rows->list[i];
	rows->n = n;
}

/* Find a row from which on the file has to be read: one that ended at `from` or before. It has replaced all that
 * earlier rows say of the time behind its beginning, so these matter only before. Looks at each READ_ROWS-th row, the
 * newest first. *seq: the file's oldest row; kept if there is none. */
static int begin_find(int fd, enum trend_range range, uint32_t next, uint32_t from, uint32_t *seq)
{
	uint8_t p[ROW_BYTES_MAX];
	struct trend_row row;

	for (uint32_t at = next; at > *seq && at - *seq > READ_ROWS;) {
		int r;

		at -= READ_ROWS;
		r = rows_read(fd, range, at, 1, p);
		if (r < 0)
			return r;
		if (row_decode(range, at, p, &row) && row.time <= from) {
			*seq = at;
			break;
		}
	}
	return 0;
}

int trend_file_read(int fd, enum trend_range range, uint32_t from, uint32_t to, struct trend_rows *ret, struct err *e)
{
	uint8_t buf[READ_ROWS * ROW_BYTES_MAX];
	struct heads h;
	uint32_t seq, k;
	int r = heads_read(fd, &h);

	*ret = (struct trend_rows){ 0 };
	if (r < 0)
		return err_set_errno(e, r, "cannot read the VM's trends");
	seq = h.next[range] > trend_steps[range].rows ? h.next[range] - trend_steps[range].rows : 1;
	r = begin_find(fd, range, h.next[range], from, &seq);
	if (r < 0)
		return err_set_errno(e, r, "cannot read the VM's trends");
	for (; seq < h.next[range]; seq += k) {
		k = rows_together(range, seq, MIN(h.next[range] - seq, READ_ROWS));
		r = rows_read(fd, range, seq, k, buf);
		if (r < 0)
			return err_set_errno(e, r, "cannot read the VM's trends");
		for (uint32_t i = 0; i < k; i++) {
			struct trend_row row;

			if (row_decode(range, seq + i, buf + i * row_bytes(range), &row))
				trend_rows_paint(ret, &row, trend_steps[range].step_s);
		}
	}
	if (ret->n && h.next[range] > trend_steps[range].rows + 1)
		ret->begin = ret->list[0].time - ret->list[0].span;
	rows_cut(ret, from, to);
	return 0;
}
