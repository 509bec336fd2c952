#include "block/qcow2/impl.h"
#include "block/qcow2/pack.h"

#include <errno.h>
#include <stdlib.h>
#include <zlib.h>
#include <zstd.h>

/* Raw deflate with a window of 4 KiB, as QEMU writes and reads it. */
#define DEFLATE_WINDOW_BITS 12
#define DEFLATE_MEM_LEVEL 9

static int inflate_cluster(const void *packed, size_t packed_len, void *out, size_t out_len)
{
	z_stream z = { .next_in = (Bytef *)(uintptr_t)packed, .avail_in = (uInt)packed_len,
		.next_out = out, .avail_out = (uInt)out_len };
	int r;

	if (inflateInit2(&z, -DEFLATE_WINDOW_BITS) != Z_OK)
		return -ENOMEM;
	r = inflate(&z, Z_FINISH);
	inflateEnd(&z);
	/* The length counts whole sectors, so garbage may follow the stream. A stream that has
	 * filled the cluster may lack its end mark (Z_BUF_ERROR). */
	return (r == Z_STREAM_END || r == Z_BUF_ERROR) && !z.avail_out ? 0 : -EINVAL;
}

static int unzstd_cluster(const void *packed, size_t packed_len, void *out, size_t out_len)
{
	ZSTD_inBuffer in = { packed, packed_len, 0 };
	ZSTD_outBuffer o = { out, out_len, 0 };
	ZSTD_DCtx *d = ZSTD_createDCtx();
	size_t r = 1;

	if (!d)
		return -ENOMEM;
	/* The length counts whole sectors here, too. The streaming API stops at the frame's end. */
	while (o.pos < o.size) {
		size_t before = o.pos + in.pos;

		r = ZSTD_decompressStream(d, &o, &in);
		if (ZSTD_isError(r) || o.pos + in.pos == before)
			break;
	}
	ZSTD_freeDCtx(d);
	return !ZSTD_isError(r) && o.pos == o.size ? 0 : -EINVAL;
}

int qcow2_decompress(uint8_t compression, const void *packed, size_t packed_len, void *out,
	size_t out_len)
{
	if (compression == QCOW2_COMPRESSION_ZSTD)
		return unzstd_cluster(packed, packed_len, out, out_len);
	return inflate_cluster(packed, packed_len, out, out_len);
}

/* ---- compressing ---- */

struct qcow2_compressor {
	uint32_t cluster_bytes;
	bool zstd;
	z_stream z;
	ZSTD_CCtx *c;
};

struct qcow2_compressor *qcow2_compressor_new(uint8_t compression, uint32_t cluster_bytes)
{
	struct qcow2_compressor *z = calloc(1, sizeof(*z));

	if (!z)
		return NULL;
	z->cluster_bytes = cluster_bytes;
	z->zstd = compression == QCOW2_COMPRESSION_ZSTD;
	if (z->zstd)
		z->c = ZSTD_createCCtx();
	else if (deflateInit2(&z->z, Z_DEFAULT_COMPRESSION, Z_DEFLATED, -DEFLATE_WINDOW_BITS,
		DEFLATE_MEM_LEVEL, Z_DEFAULT_STRATEGY) == Z_OK)
		return z;
	if (z->c)
		return z;
	free(z);
	return NULL;
}

void qcow2_compressor_free(struct qcow2_compressor *z)
{
	if (z && z->zstd)
		ZSTD_freeCCtx(z->c);
	else if (z)
		deflateEnd(&z->z);
	free(z);
}

/* Detect noise (data that is compressed or encrypted already) by its even distribution of byte values. In n random
 * bytes, the sum of squares of the counts is n + n * n / 256 on average, with a standard deviation of 362 for 4096
 * bytes. Data with a sum of more than five deviations above the average is not treated as noise. deflate needs 2 ms
 * to find out that data is noise, this test 10 us. */
#define NOISE_BYTES 4096u
#define NOISE_SQUARES_MAX (NOISE_BYTES + NOISE_BYTES * NOISE_BYTES / 256 + 5 * 362)

static bool noise_at(const uint8_t *p)
{
	uint16_t count[256] = { 0 };
	uint32_t squares = 0;

	for (uint32_t i = 0; i < NOISE_BYTES; i++)
		count[p[i]]++;
	for (uint32_t i = 0; i < 256; i++)
		squares += (uint32_t)count[i] * count[i];
	return squares <= NOISE_SQUARES_MAX;
}

/* Test samples at the cluster's beginning, middle and end. */
static bool is_noise(const uint8_t *cluster, uint32_t bytes)
{
	return bytes >= 8 * NOISE_BYTES && noise_at(cluster) && noise_at(cluster + bytes / 2) &&
	       noise_at(cluster + bytes - NOISE_BYTES);
}

size_t qcow2_compress(struct qcow2_compressor *z, const void *cluster, void *out)
{
	/* A stream as long as the cluster saves nothing, and the format cannot express its length. */
	uint32_t room = z->cluster_bytes - 1;
	size_t n;

	if (z->zstd) {
		n = ZSTD_compressCCtx(z->c, out, room, cluster, z->cluster_bytes, ZSTD_CLEVEL_DEFAULT);
		return ZSTD_isError(n) ? 0 : n;
	}
	if (is_noise(cluster, z->cluster_bytes) || deflateReset(&z->z) != Z_OK)
		return 0;
	z->z.next_in = (Bytef *)(uintptr_t)cluster;
	z->z.avail_in = z->cluster_bytes;
	z->z.next_out = out;
	z->z.avail_out = room;
	return deflate(&z->z, Z_FINISH) == Z_STREAM_END ? room - z->z.avail_out : 0;
}
