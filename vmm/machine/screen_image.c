#include "vmm/machine/screen_image.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#define RGB_BYTES 3
#define CHUNK_BYTES (64 * 1024)

/* Scale a value of 5 or 6 bits to 8. */
static uint8_t scaled(unsigned v, unsigned bits)
{
	return (uint8_t)(v << (8 - bits) | v >> (2 * bits - 8));
}

static void line_convert(const uint8_t *from, const struct display_mode *m, uint8_t *to)
{
	for (uint32_t x = 0; x < m->width; x++, to += RGB_BYTES) {
		if (m->bits == 32) {
			uint32_t v = load_le32(from + 4 * (size_t)x);

			to[0] = (uint8_t)(v >> 16);
			to[1] = (uint8_t)(v >> 8);
			to[2] = (uint8_t)v;
		} else {
			uint16_t v = load_le16(from + 2 * (size_t)x);

			to[0] = scaled(v >> 11, 5);
			to[1] = scaled(v >> 5 & 0x3f, 6);
			to[2] = scaled(v & 0x1f, 5);
		}
	}
}

static int ppm_write(int fd, const uint8_t *memory, const struct display_mode *m, uint8_t *line)
{
	char head[64];
	int n = snprintf(head, sizeof(head), "P6\n%u %u\n255\n", m->width, m->height), r = write_full(fd, head, (size_t)n);

	for (uint32_t y = 0; y < m->height && !r; y++) {
		line_convert(memory + m->offset + (size_t)y * m->stride, m, line);
		r = write_full(fd, line, (size_t)m->width * RGB_BYTES);
	}
	return r;
}

/* A chunk: its length, its type and its content, and their checksum. */
static int chunk_write(int fd, const char type[4], const uint8_t *content, uint32_t len)
{
	uint8_t head[8], sum[4];
	int r;

	store_be32(head, len);
	memcpy(head + 4, type, 4);
	store_be32(sum, (uint32_t)crc32(crc32(0, head + 4, 4), content, len));
	r = write_full(fd, head, sizeof(head));
	if (!r && len)
		r = write_full(fd, content, len);
	return r ? r : write_full(fd, sum, sizeof(sum));
}

/* Compress the data at z->next_in, and write each full chunk; with Z_FINISH, the last one, too. */
static int data_write(int fd, z_stream *z, uint8_t *chunk, int flush)
{
	int done, r = 0;

	do {
		done = deflate(z, flush);
		if (done != Z_STREAM_ERROR && z->avail_out && done != Z_STREAM_END)
			return 0;
		r = done == Z_STREAM_ERROR ? -EIO : chunk_write(fd, "IDAT", chunk, CHUNK_BYTES - z->avail_out);
		z->next_out = chunk;
		z->avail_out = CHUNK_BYTES;
	} while (!r && done != Z_STREAM_END);
	return r;
}

static int png_write(int fd, const uint8_t *memory, const struct display_mode *m, uint8_t *line, uint8_t *chunk)
{
	static const uint8_t signature[] = { 0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n' };
	uint8_t head[13] = { [8] = 8 /* bits of each colour */, [9] = 2 /* red, green, blue */ };
	z_stream z = { .next_out = chunk, .avail_out = CHUNK_BYTES };
	int r = write_full(fd, signature, sizeof(signature));

	store_be32(head, m->width);
	store_be32(head + 4, m->height);
	if (!r)
		r = chunk_write(fd, "IHDR", head, sizeof(head));
	if (r || deflateInit(&z, Z_BEST_SPEED) != Z_OK)
		return r ? r : -ENOMEM;
	line[0] = 0; /* the filter of each line: none */
	for (uint32_t y = 0; y < m->height && !r; y++) {
		line_convert(memory + m->offset + (size_t)y * m->stride, m, line + 1);
		z.next_in = line;
		z.avail_in = 1 + m->width * RGB_BYTES;
		r = data_write(fd, &z, chunk, y + 1 < m->height ? Z_NO_FLUSH : Z_FINISH);
	}
	deflateEnd(&z);
	return r ? r : chunk_write(fd, "IEND", (const uint8_t *)"", 0);
}

int screen_image_write(int fd, enum vm_image_format format, const uint8_t *memory, const struct display_mode *mode, struct err *e)
{
	CLEANUP_FREE uint8_t *line = malloc(1 + (size_t)mode->width * RGB_BYTES);
	CLEANUP_FREE uint8_t *chunk = malloc(CHUNK_BYTES);
	int r;

	if (!line || !chunk)
		return err_set_errno(e, -ENOMEM, "screenshot");
	r = format == VM_IMAGE_PNG ? png_write(fd, memory, mode, line, chunk) : ppm_write(fd, memory, mode, line);
	return r < 0 ? err_set_errno(e, r, "cannot write the screenshot") : 0;
}
