#include "base/util.h"
#include "block/block.h"
#include "tools/diff/files.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LINE_BYTES 16384u
#define LINES 256u
#define NO_LINE UINT64_MAX
/* Alignment of reads that pass the cache by: enough for every disk. */
#define DIRECT_ALIGN 4096u

int view_init(struct view *v, struct block *b)
{
	struct block_info info;

	block_info(b, &info);
	*v = (struct view){ .b = b, .bytes = info.size_bytes, .lines = aligned_alloc(4096, LINES * LINE_BYTES),
		.numbers = malloc(LINES * sizeof(*v->numbers)) };
	if (!v->lines || !v->numbers)
		return -ENOMEM;
	memset(v->numbers, 0xff, LINES * sizeof(*v->numbers));
	return 0;
}

void view_done(struct view *v)
{
	free(v->lines);
	free(v->numbers);
}

static int block_read(const struct view *v, uint64_t off, void *buf, size_t len)
{
	struct iovec iov = { buf, len };
	struct block_req r = { .op = BLOCK_READ, .offset = off, .len = len, .iov = &iov, .niov = 1 };

	return block_run(v->b, &r);
}

/* Returns the line of the cache with this number; NULL: the read failed. */
static const uint8_t *line_get(struct view *v, uint64_t number, int *ret)
{
	uint32_t at = (uint32_t)(number % LINES);
	uint8_t *line = v->lines + at * LINE_BYTES;
	uint64_t off = number * LINE_BYTES;
	size_t len = (size_t)MIN(LINE_BYTES, v->bytes - off);

	if (v->numbers[at] == number)
		return line;
	v->numbers[at] = NO_LINE;
	memset(line + len, 0, LINE_BYTES - len);
	*ret = block_read(v, off, line, len);
	if (*ret < 0)
		return NULL;
	v->numbers[at] = number;
	return line;
}

int view_read(struct view *v, uint64_t off, void *buf, size_t len)
{
	int r = 0;

	if (off > v->bytes || len > v->bytes - off)
		return -EIO;
	if (len >= LINE_BYTES && !((off | len) & (DIRECT_ALIGN - 1)))
		return block_read(v, off, buf, len);
	while (len) {
		const uint8_t *line = line_get(v, off / LINE_BYTES, &r);
		size_t n = MIN(len, LINE_BYTES - off % LINE_BYTES);

		if (!line)
			return r;
		memcpy(buf, line + off % LINE_BYTES, n);
		buf = (uint8_t *)buf + n;
		off += n;
		len -= n;
	}
	return 0;
}
