/* Changes the header of an image that nobody has open: the version, the names of the backing and data files, the
 * backing format, the pin and the v3 fields. */
#include "base/bytes.h"
#include "base/err.h"
#include "base/file.h"
#include "base/pin_name.h"
#include "base/util.h"
#include "block/qcow2/bitmap.h"
#include "block/qcow2/check_impl.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

/* Fill in the header that names the backing file. */
static int backing_name(struct qcow2_header *new, const char *name, const char *format, struct err *e)
{
	size_t n = name ? strlen(name) : 0, f = format ? strlen(format) : 0;

	if (name && (new->incompatible & QCOW2_INCOMPAT_DATA_FILE) && (new->autoclear & QCOW2_AUTOCLEAR_RAW_DATA))
		return err_set(e, -EINVAL, ERR_INVALID, "a raw data file and a backing file do not go "
			"together; use `cairn-img amend -o data_file_raw=off` first");
	new->has_backing = name != NULL;
	new->has_pin = false;
	*new->backing_name = *new->backing_format = 0;
	if (!name)
		return 0;
	if (!strncmp(name, PIN_NAME_PROTOCOL, PIN_NAME_PATH_AT))
		return err_set(e, -EINVAL, ERR_INVALID, "only a live clone makes an image on a pin (%s); give a path",
			PIN_NAME_PROTOCOL);
	if (!n || n > QCOW2_BACKING_NAME_MAX || f >= sizeof(new->backing_format))
		return err_set(e, -EINVAL, ERR_INVALID, "a backing file's name has 1 to %u bytes",
			QCOW2_BACKING_NAME_MAX);
	memcpy(new->backing_name, name, n + 1);
	memcpy(new->backing_format, format ? format : "", f + 1);
	return 0;
}

int qcow2_backing_check(int fd, const struct qcow2_header *h, const char *name, const char *format, struct err *e)
{
	struct qcow2_header new = *h;
	int r = backing_name(&new, name, format, e);

	return r ? r : qcow2_header_rewrite(fd, h, &new, true, e);
}

int qcow2_set_backing(int fd, struct qcow2_header *h, const char *name, const char *format,
	struct err *e)
{
	struct qcow2_header new = *h;
	int r = backing_name(&new, name, format, e);

	if (!r)
		r = qcow2_header_rewrite(fd, h, &new, false, e);
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
		r = qcow2_header_rewrite(fd, h, &new, false, e);
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
	r = qcow2_header_rewrite(fd, h, &new, false, e);
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
	r = qcow2_header_rewrite(fd, h, &new, false, e);
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
		r = qcow2_header_rewrite(fd, h, &new, false, e);
	if (!r)
		*h = new;
	return r;
}
