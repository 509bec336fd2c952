/* Changes the header of an image that nobody has open. The first cluster is built anew with all
 * existing extensions and written at once. Only the version, the names of the backing and
 * data files, the backing format, the pin and the v3 fields change. */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/pin_name.h"
#include "base/util.h"
#include "block/qcow2/bitmap.h"
#include "block/qcow2/check_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct edit {
	uint8_t *old, *new; /* old and new first cluster */
	uint32_t bytes;
	struct cursor to;
};

static void put_extension(struct cursor *cur, uint32_t type, const void *data, uint32_t len)
{
	static const uint8_t pad[8];

	cursor_put_be32(cur, type);
	cursor_put_be32(cur, len);
	cursor_put_bytes(cur, data, len);
	cursor_put_bytes(cur, pad, ROUND_UP(len, 8) - len);
}

/* Copy all extensions except the backing format, the data file's name, unused ones, if !pin the pin and, if !names, the
 * names of features. */
static void extensions_copy(struct edit *d, const struct qcow2_header *h, bool pin, bool names)
{
	uint64_t backing = load_be64(d->old + QCOW2_AT_BACKING_OFFSET);
	uint64_t pos = h->header_length, end = backing && backing < d->bytes ? backing : d->bytes;

	while (pos + 8 <= end) {
		uint32_t type = load_be32(d->old + pos), n = load_be32(d->old + pos + 4);

		pos += 8;
		if (type == QCOW2_EXT_END || n > end - pos)
			break;
		if (type != QCOW2_EXT_BACKING_FORMAT && type != QCOW2_EXT_DATA_FILE && type != QCOW2_EXT_UNUSED &&
			(pin || type != QCOW2_EXT_PIN) && (names || type != QCOW2_EXT_FEATURE_NAMES))
			put_extension(&d->to, type, d->old + pos, n);
		pos += ROUND_UP((uint64_t)n, 8);
	}
}

static void fixed_put(struct edit *d, const struct qcow2_header *old, const struct qcow2_header *h)
{
	uint8_t *p = d->new;

	memcpy(p, d->old, MIN(old->header_length, h->header_length));
	store_be32(p + QCOW2_AT_VERSION, h->version);
	store_be64(p + QCOW2_AT_BACKING_OFFSET, 0);
	store_be32(p + QCOW2_AT_BACKING_LEN, 0);
	if (h->version >= 3) {
		store_be64(p + QCOW2_AT_INCOMPATIBLE, h->incompatible);
		store_be64(p + QCOW2_AT_COMPATIBLE, h->compatible);
		store_be64(p + QCOW2_AT_AUTOCLEAR, h->autoclear);
		store_be32(p + QCOW2_AT_REFCOUNT_ORDER, h->refcount_order);
		store_be32(p + QCOW2_AT_HEADER_LENGTH, h->header_length);
	}
	cursor_skip(&d->to, h->header_length);
}

/* Build the new first cluster. names: with the names of features. Returns false if it does not fit. */
static bool edit_build(struct edit *d, const struct qcow2_header *old, const struct qcow2_header *h, bool names)
{
	size_t name = strlen(h->backing_name);

	memset(d->new, 0, d->bytes);
	d->to = cursor_over(d->new, d->bytes);
	fixed_put(d, old, h);
	if (h->has_backing && *h->backing_format)
		put_extension(&d->to, QCOW2_EXT_BACKING_FORMAT, h->backing_format,
			(uint32_t)strlen(h->backing_format));
	if (*h->data_file)
		put_extension(&d->to, QCOW2_EXT_DATA_FILE, h->data_file, (uint32_t)strlen(h->data_file));
	extensions_copy(d, old, h->has_pin, names);
	cursor_put_be64(&d->to, 0);
	if (h->has_backing) {
		store_be64(d->new + QCOW2_AT_BACKING_OFFSET, d->to.pos);
		store_be32(d->new + QCOW2_AT_BACKING_LEN, (uint32_t)name);
		cursor_put_bytes(&d->to, h->backing_name, name);
	}
	return cursor_ok(&d->to);
}

static int edit_write(int fd, struct edit *d, const struct qcow2_header *old,
	const struct qcow2_header *h, struct err *e)
{
	int r = qcow2_pread(fd, d->old, d->bytes, 0);

	if (r < 0)
		return err_set_errno(e, r, "cannot read the header");
	/* A cluster of 512 bytes has no room for much beside the names of features, which are optional. */
	if (!edit_build(d, old, h, true) && !edit_build(d, old, h, false))
		return err_set(e, -EINVAL, ERR_INVALID, "the backing and data files' names do not fit into "
			"a cluster of %u bytes", d->bytes);
	r = pwrite_full(fd, d->new, d->bytes, 0);
	if (!r && fdatasync(fd) < 0)
		r = -errno;
	return r < 0 ? err_set_errno(e, r, "cannot write the header") : 0;
}

/* Write the header with the values of h. */
static int header_rewrite(int fd, const struct qcow2_header *old, struct qcow2_header *h,
	struct err *e)
{
	uint32_t bytes = 1u << h->cluster_bits;
	CLEANUP_FREE uint8_t *was = io_buffer_new(bytes);
	CLEANUP_FREE uint8_t *is = calloc(1, bytes);
	struct edit d = { .old = was, .new = is, .bytes = bytes };

	if (!was || !is)
		return err_set_errno(e, -ENOMEM, "header");
	/* A program that changes an image clears the autoclear bits of features that it does not
	 * update. */
	h->autoclear &= QCOW2_AUTOCLEAR_BITMAPS | QCOW2_AUTOCLEAR_RAW_DATA;
	return edit_write(fd, &d, old, h, e);
}

int qcow2_set_backing(int fd, struct qcow2_header *h, const char *name, const char *format,
	struct err *e)
{
	struct qcow2_header new = *h;
	int r;

	if (name && (h->incompatible & QCOW2_INCOMPAT_DATA_FILE) &&
		(h->autoclear & QCOW2_AUTOCLEAR_RAW_DATA))
		return err_set(e, -EINVAL, ERR_INVALID, "a raw data file and a backing file do not go "
			"together; use `cairn-img amend -o data_file_raw=off` first");
	new.has_backing = name != NULL;
	new.has_pin = false;
	*new.backing_name = *new.backing_format = 0;
	if (name) {
		size_t n = strlen(name), f = format ? strlen(format) : 0;

		if (!strncmp(name, PIN_NAME_PROTOCOL, PIN_NAME_PATH_AT))
			return err_set(e, -EINVAL, ERR_INVALID, "only a live clone makes an image on a pin (%s); give a path",
				PIN_NAME_PROTOCOL);
		if (!n || n > QCOW2_BACKING_NAME_MAX || f >= sizeof(new.backing_format))
			return err_set(e, -EINVAL, ERR_INVALID, "a backing file's name has 1 to %u bytes",
				QCOW2_BACKING_NAME_MAX);
		memcpy(new.backing_name, name, n + 1);
		memcpy(new.backing_format, format ? format : "", f + 1);
	}
	r = header_rewrite(fd, h, &new, e);
	if (!r)
		*h = new;
	return r;
}

int qcow2_drop_bitmaps(int fd, struct qcow2_header *h, struct err *e)
{
	uint32_t at = h->bitmaps_at - 8, sector = ROUND_DOWN(at, 512u);
	uint8_t p[512];
	int r = qcow2_autoclear_drop(fd, h, QCOW2_AUTOCLEAR_BITMAPS);

	if (!r)
		r = pread_full(fd, p, sizeof(p), sector);
	/* QEMU checks the extension's length even without the autoclear bit. */
	store_be32(p + at - sector, QCOW2_EXT_UNUSED);
	if (!r)
		r = pwrite_full(fd, p, sizeof(p), sector);
	if (!r && fdatasync(fd) < 0)
		r = -errno;
	if (r < 0)
		return err_set_errno(e, r, "cannot write the header");
	h->has_bitmaps = false;
	return 0;
}

int qcow2_set_pin_source(int fd, struct qcow2_header *h, const char *path, struct err *e)
{
	struct qcow2_header new = *h;
	int r = qcow2_pin_name_print(&h->pin, path, new.backing_name, e);

	if (!r)
		r = header_rewrite(fd, h, &new, e);
	if (!r)
		*h = new;
	return r;
}

int qcow2_set_data_file(int fd, struct qcow2_header *h, const char *name, bool raw, struct err *e)
{
	struct qcow2_header new = *h;
	int r;

	if (!(h->incompatible & QCOW2_INCOMPAT_DATA_FILE))
		return err_set(e, -EINVAL, ERR_INVALID, "the image keeps its data itself; convert it with "
			"`cairn-img convert -O qcow2 -o data_file=FILE` into one with a data file");
	if (raw && !(h->autoclear & QCOW2_AUTOCLEAR_RAW_DATA))
		return err_set(e, -EINVAL, ERR_INVALID, "data_file_raw cannot be switched on for an image "
			"that exists: the data file may lack zeros that the tables describe");
	if (!*name || strlen(name) > QCOW2_BACKING_NAME_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "a data file's name has 1 to %u bytes",
			QCOW2_BACKING_NAME_MAX);
	memcpy(new.data_file, name, strlen(name) + 1);
	if (!raw)
		new.autoclear &= ~QCOW2_AUTOCLEAR_RAW_DATA;
	r = header_rewrite(fd, h, &new, e);
	if (!r)
		*h = new;
	return r;
}

int qcow2_set_lazy_refcounts(int fd, struct qcow2_header *h, bool on, struct err *e)
{
	struct qcow2_header new = *h;
	int r;

	if (h->version < 3)
		return err_set(e, -EINVAL, ERR_INVALID, "lazy_refcounts needs compat=1.1");
	new.compatible &= ~QCOW2_COMPAT_LAZY_REFCOUNTS;
	if (on)
		new.compatible |= QCOW2_COMPAT_LAZY_REFCOUNTS;
	r = header_rewrite(fd, h, &new, e);
	if (!r)
		*h = new;
	return r;
}

/* ---- changing the version ---- */

static int downgrade_prepare(int fd, struct qcow2_header *h, struct err *e)
{
	if (h->incompatible)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "the image uses extended_l2, zstd or other "
			"features that compat=0.10 does not support; convert it into a new image instead");
	if (qcow2_bitmaps_valid(h))
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "the image has persistent bitmaps (%u), which compat=0.10 does not "
			"support; remove them with `cairn-img bitmap --remove` first", h->nb_bitmaps);
	if (h->refcount_order != 4)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "compat=0.10 needs refcounts of 16 bits; give "
			"refcount_bits=16, too");
	return qcow2_expand_zeros(fd, h, e);
}

int qcow2_set_version(int fd, struct qcow2_header *h, uint32_t version, struct err *e)
{
	struct qcow2_header new;
	int r = 0;

	if (version == h->version)
		return 0;
	if (version < h->version)
		r = downgrade_prepare(fd, h, e);
	new = *h;
	new.version = version;
	new.header_length = version < 3 ? QCOW2_V2_HEADER_BYTES : QCOW2_V3_HEADER_BYTES;
	new.compatible = 0;
	if (version < 3)
		new.autoclear = 0;
	if (!r)
		r = header_rewrite(fd, h, &new, e);
	if (!r)
		*h = new;
	return r;
}
