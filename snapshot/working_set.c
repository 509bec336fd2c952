#include "snapshot/working_set.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/crc32c.h"
#include "base/file.h"
#include "base/util.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HEADER_BYTES 16u
#define SET_BYTES 12u
#define FILE_BYTES_MAX (HEADER_BYTES + WORKING_SETS * (SET_BYTES + 4ULL * WORKING_SET_BLOCKS_MAX))

const struct working_set *working_sets_find(const struct working_sets *w, uint64_t key)
{
	for (unsigned i = 0; i < WORKING_SETS && w->set[i].blocks; i++)
		if (w->set[i].key == key)
			return &w->set[i];
	return w->set[0].blocks ? &w->set[0] : NULL;
}

void working_sets_put(struct working_sets *w, uint64_t key, const uint32_t *blocks, uint32_t n)
{
	struct working_set s = { .key = key, .n = MIN(n, WORKING_SET_BLOCKS_MAX) };
	unsigned i = 0;

	s.blocks = n ? malloc(s.n * sizeof(*s.blocks)) : NULL;
	if (!s.blocks)
		return;
	memcpy(s.blocks, blocks, s.n * sizeof(*s.blocks));
	while (i < WORKING_SETS - 1 && w->set[i].blocks && w->set[i].key != key)
		i++;
	free(w->set[i].blocks);
	memmove(w->set + 1, w->set, i * sizeof(s));
	w->set[0] = s;
}

void working_sets_done(struct working_sets *w)
{
	for (unsigned i = 0; i < WORKING_SETS; i++)
		free(w->set[i].blocks);
	memset(w, 0, sizeof(*w));
}

/* ---- reading and writing the file ---- */

/* Parse the set at *pos and advance *pos. Returns 0; -EINVAL; -ENOMEM. */
static int set_parse(const uint8_t *buf, size_t len, size_t *pos, uint64_t blocks, struct working_set *s)
{
	if (len - *pos < SET_BYTES)
		return -EINVAL;
	s->key = load_le64(buf + *pos);
	s->n = load_le32(buf + *pos + 8);
	*pos += SET_BYTES;
	if (!s->n || s->n > WORKING_SET_BLOCKS_MAX || len - *pos < 4ULL * s->n)
		return -EINVAL;
	s->blocks = malloc(s->n * sizeof(*s->blocks));
	if (!s->blocks)
		return -ENOMEM;
	for (uint32_t i = 0; i < s->n; i++, *pos += 4) {
		s->blocks[i] = load_le32(buf + *pos);
		if (s->blocks[i] >= blocks)
			return -EINVAL;
	}
	return 0;
}

static int sets_parse(struct working_sets *w, const uint8_t *buf, size_t len, uint64_t blocks)
{
	size_t pos = HEADER_BYTES;
	uint32_t n;
	int r = 0;

	if (len < HEADER_BYTES || memcmp(buf, "CAIRNWS1", 8))
		return -EINVAL;
	n = load_le32(buf + 12);
	if (n > WORKING_SETS)
		return -EINVAL;
	for (uint32_t i = 0; i < n && !r; i++)
		r = set_parse(buf, len, &pos, blocks, &w->set[i]);
	/* The daemon's copy of the file has zeros behind the sets. */
	return r < 0 || load_le32(buf + 8) != crc32c(0, buf + 12, pos - 12) ? -EINVAL : 0;
}

void working_sets_read(struct working_sets *w, int fd, uint64_t blocks)
{
	CLEANUP_FREE uint8_t *buf = malloc(FILE_BYTES_MAX);
	ssize_t len = buf ? pread(fd, buf, FILE_BYTES_MAX, 0) : -1;

	memset(w, 0, sizeof(*w));
	if (len < 0 || sets_parse(w, buf, (size_t)len, blocks) < 0)
		working_sets_done(w);
}

static size_t set_encode(const struct working_set *s, uint8_t *p)
{
	store_le64(p, s->key);
	store_le32(p + 8, s->n);
	for (uint32_t i = 0; i < s->n; i++)
		store_le32(p + SET_BYTES + 4 * i, s->blocks[i]);
	return SET_BYTES + 4ULL * s->n;
}

int working_sets_write(const struct working_sets *w, int fd)
{
	CLEANUP_FREE uint8_t *buf = malloc(FILE_BYTES_MAX);
	size_t len = HEADER_BYTES;
	uint32_t n = 0;
	int r;

	if (!buf)
		return -ENOMEM;
	for (; n < WORKING_SETS && w->set[n].blocks; n++)
		len += set_encode(&w->set[n], buf + len);
	memcpy(buf, "CAIRNWS1", 8);
	store_le32(buf + 12, n);
	store_le32(buf + 8, crc32c(0, buf + 12, len - 12));
	r = pwrite_full(fd, buf, len, 0);
	return !r && ftruncate(fd, (off_t)len) < 0 ? -errno : r;
}
