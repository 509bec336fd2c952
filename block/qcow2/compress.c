#include "base/util.h"
#include "block/qcow2/impl.h"

#include <errno.h>
#include <zlib.h>
#include <zstd.h>

/* What QEMU writes: raw deflate with a window of 4 KiB. */
#define DEFLATE_WINDOW_BITS 12

static int inflate_cluster(const void *packed, size_t packed_len, void *out, size_t out_len)
{
	z_stream z = { .next_in = (Bytef *)(uintptr_t)packed, .avail_in = (uInt)packed_len,
		.next_out = out, .avail_out = (uInt)out_len };
	int r;

	if (inflateInit2(&z, -DEFLATE_WINDOW_BITS) != Z_OK)
		return -ENOMEM;
	r = inflate(&z, Z_FINISH);
	inflateEnd(&z);
	/* The length is in sectors, so garbage may follow the stream; a stream that has
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
	/* Sectors again: decompress by stream, which stops at the frame's end. */
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
