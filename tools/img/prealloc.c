/* Preallocation: allocate a disk's clusters, and space for them, before data is written. */
#include "img.h"

#include "base/util.h"
#include "block/io.h"

#include <errno.h>
#include <string.h>

#define STEP_BYTES (4 * MIB)

int img_prealloc_word(const char *w, enum img_prealloc *ret, struct err *e)
{
	static const char *const words[] = { [IMG_PREALLOC_OFF] = "off",
		[IMG_PREALLOC_METADATA] = "metadata", [IMG_PREALLOC_FALLOC] = "falloc",
		[IMG_PREALLOC_FULL] = "full" };

	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		if (!strcmp(w, words[i])) {
			*ret = (enum img_prealloc)i;
			return 0;
		}
	return err_set(e, -EINVAL, ERR_INVALID, "invalid value '%s' of preallocation; use off, "
		"metadata, falloc or full", w);
}

static int space_take(struct block *b, uint64_t off, uint64_t len)
{
	struct block_extent x;
	int r = 0;

	for (uint64_t end = off + len; off < end && !r; off += x.len) {
		r = block_extent(b, off, end - off, &x);
		if (!r && x.has_host)
			r = block_reserve(b, x.host, x.len);
	}
	return r;
}

int img_zeros_write(struct block *b, uint64_t off, uint64_t end, struct img_progress *p)
{
	struct iovec iov[STEP_BYTES / IO_ZEROS_BYTES];
	uint64_t begin = off;
	int r = 0;

	for (size_t i = 0; i < ARRAY_SIZE(iov); i++)
		iov[i] = (struct iovec){ (void *)(uintptr_t)io_zeros, IO_ZEROS_BYTES };
	while (off < end && !r && !img_interrupted()) {
		uint64_t n = MIN(end - off, STEP_BYTES);
		struct iovec part[ARRAY_SIZE(iov)];
		struct block_req q = { .op = BLOCK_WRITE, .offset = off, .len = n, .iov = part };

		q.niov = iov_slice(iov, ARRAY_SIZE(iov), 0, n, part);
		r = block_run(b, &q);
		off += n;
		if (p)
			img_progress_set(p, off - begin, end - begin);
	}
	return r;
}

int img_preallocate(struct block *b, enum img_prealloc how, uint64_t from, struct img_progress *p,
	struct err *e)
{
	struct block_info info;
	int r = 0;

	block_info(b, &info);
	if (how == IMG_PREALLOC_OFF)
		return 0;
	if (info.format == BLOCK_FORMAT_RAW && how == IMG_PREALLOC_METADATA)
		return err_set(e, -EINVAL, ERR_INVALID, "a raw image has no metadata to preallocate; use preallocation "
			"off, falloc or full");
	if (info.format == BLOCK_FORMAT_QCOW2)
		r = qcow2_preallocate(b, from, e);
	if (r < 0)
		return r;
	if (how == IMG_PREALLOC_FALLOC)
		/* Reserve everything: subclusters without content are allocated, but no extent reports them. */
		r = from ? space_take(b, from, info.size_bytes - from) : block_reserve(b, 0, UINT64_MAX);
	else if (how == IMG_PREALLOC_FULL)
		r = img_zeros_write(b, from, info.size_bytes, p);
	if (r < 0)
		return err_set_errno(e, r, "cannot allocate the space");
	return img_check_interrupted(e);
}
