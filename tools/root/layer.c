#include "tools/root/layer.h"
#include "base/err.h"
#include "base/util.h"
#include "tools/root/cancel.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BUFFER_BYTES (256 * KIB)

struct layer_reader {
	const struct layer *l;
	struct archive *a;
	struct sha256_ctx sha;
	uint64_t at;
	int error; /* of reading the file */
	uint8_t buf[BUFFER_BYTES];
};

/* Read the next bytes of the file. Returns their number; 0: the end; -errno. */
static ssize_t bytes_next(struct layer_reader *r)
{
	ssize_t n;

	do
		n = pread(r->l->fd, r->buf, (size_t)MIN(BUFFER_BYTES, r->l->size - r->at), (off_t)(r->l->off + r->at));
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return r->error = -errno;
	sha256_update(&r->sha, (size_t)n, r->buf);
	r->at += (uint64_t)n;
	return n;
}

static la_ssize_t on_read(struct archive *a, void *arg, const void **ret)
{
	struct layer_reader *r = arg;
	ssize_t n = bytes_next(r);

	*ret = r->buf;
	if (n < 0)
		archive_set_error(a, (int)-n, "%s", strerror((int)-n));
	return n;
}

/* Read the rest of the file, and check the digest of all of it. */
static int digest_check(struct layer_reader *r, struct err *e)
{
	uint8_t digest[SHA256_DIGEST_SIZE];

	while (!r->error && r->at < r->l->size && bytes_next(r) > 0)
		;
	if (r->error)
		return err_set_errno(e, r->error, "%s", r->l->name);
	sha256_digest(&r->sha, sizeof(digest), digest);
	if (r->at == r->l->size && !memcmp(digest, r->l->digest, sizeof(digest)))
		return 0;
	return err_set(e, -EIO, ERR_CORRUPT, "%s is damaged: its content does not have this digest; get the image anew", r->l->name);
}

/* A damaged layer is the likely reason of any error, so check the digest first. */
static int reader_fail(struct layer_reader *r, struct err *e)
{
	int error = archive_errno(r->a) == ENOMEM ? -ENOMEM : -EIO;
	int bad = digest_check(r, e);

	if (bad < 0)
		return bad;
	return err_set(e, error, error == -ENOMEM ? ERR_HOST : ERR_CORRUPT, "%s is no tar archive that can be read: %s", r->l->name,
		archive_error_string(r->a) ? archive_error_string(r->a) : "unknown error");
}

int layer_digest(const struct layer *l, uint8_t ret[SHA256_DIGEST_SIZE], struct err *e)
{
	struct layer_reader *r = must_alloc(calloc(1, sizeof(*r)));
	int error, cancelled = 0;

	r->l = l;
	sha256_init(&r->sha);
	while (r->at < l->size && !(cancelled = cancel_check(e)) && bytes_next(r) > 0)
		;
	sha256_digest(&r->sha, SHA256_DIGEST_SIZE, ret);
	error = r->error ? r->error : r->at < l->size ? -EIO : 0;
	free(r);
	if (cancelled)
		return cancelled;
	return error ? err_set_errno(e, error, "%s", l->name) : 0;
}

/* No filter that runs a program, and no other format: fewer parsers for untrusted bytes. */
static int formats_choose(struct archive *a)
{
	int (*const choose[])(struct archive *) = { archive_read_support_filter_gzip, archive_read_support_filter_bzip2,
		archive_read_support_filter_xz, archive_read_support_filter_lzma, archive_read_support_filter_zstd,
		archive_read_support_filter_lz4, archive_read_support_format_tar, archive_read_support_format_empty };

	for (size_t i = 0; i < ARRAY_SIZE(choose); i++)
		if (choose[i](a) < ARCHIVE_WARN)
			return -1;
	return 0;
}

int layer_open(const struct layer *l, struct layer_reader **ret, struct err *e)
{
	struct layer_reader *r = calloc(1, sizeof(*r));
	int error;

	if (r)
		r->a = archive_read_new();
	if (!r || !r->a) {
		free(r);
		return err_set_errno(e, -ENOMEM, "%s", l->name);
	}
	r->l = l;
	sha256_init(&r->sha);
	if (formats_choose(r->a) == 0 && archive_read_open(r->a, r, NULL, on_read, NULL) >= ARCHIVE_WARN) {
		*ret = r;
		return 0;
	}
	error = reader_fail(r, e);
	layer_close(r);
	return error;
}

int layer_next(struct layer_reader *r, struct archive_entry **ret, struct err *e)
{
	int got;

	do
		got = archive_read_next_header(r->a, ret);
	while (got == ARCHIVE_RETRY);
	if (got == ARCHIVE_OK || got == ARCHIVE_WARN)
		return 0;
	*ret = NULL;
	return got == ARCHIVE_EOF ? digest_check(r, e) : reader_fail(r, e);
}

int layer_read(struct layer_reader *r, void *buf, size_t size, size_t *ret_len, struct err *e)
{
	la_ssize_t n = archive_read_data(r->a, buf, size);

	if (n < 0)
		return reader_fail(r, e);
	*ret_len = (size_t)n;
	return 0;
}

void layer_close(struct layer_reader *r)
{
	if (r)
		archive_read_free(r->a);
	free(r);
}
