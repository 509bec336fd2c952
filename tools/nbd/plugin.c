/* nbdkit-cairn-plugin: serve an image, one of its snapshots, or the differences between two of them, read-only over
 * NBD. nbdkit is the server; this file answers its requests. Each connection has its own loop and disks, used only by
 * the thread that serves the connection. */
#include "base/err.h"
#include "base/loop.h"
#include "base/util.h"
#include "block/block.h"
#include "block/diff.h"
#include "tools/img/img.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#define THREAD_MODEL NBDKIT_THREAD_MODEL_SERIALIZE_REQUESTS

struct export {
	struct loop *loop;
	struct block *block;
	uint64_t size_bytes;
	/* Only with since=: */
	struct block *since;
	struct block_diff *diff;
};

/* The plugin's parameters, the same for all connections. plugin_unload() frees their strings. */
static struct img_open options;
static const char *since;
static bool share;

/* Make the path absolute, because nbdkit may change its working directory before the image is opened. */
static int absolute_path(const char *value, const char **ret)
{
	free((char *)*ret);
	*ret = nbdkit_absolute_path(value);
	return *ret ? 0 : -1;
}

static int word_parse(const char *value, const char **ret)
{
	free((char *)*ret);
	*ret = strdup(value);
	if (*ret)
		return 0;
	nbdkit_error("out of memory");
	return -1;
}

static int plugin_config(const char *key, const char *value)
{
	int yes;

	if (!strcmp(key, "file"))
		return absolute_path(value, &options.path);
	if (!strcmp(key, "format"))
		return word_parse(value, &options.format);
	if (!strcmp(key, "snapshot"))
		return word_parse(value, &options.snapshot);
	if (!strcmp(key, "since"))
		return word_parse(value, &since);
	if (!strcmp(key, "allow") && options.nallow < IMG_ALLOW_MAX)
		return absolute_path(value, &options.allow[options.nallow++]);
	if (!strcmp(key, "allow")) {
		nbdkit_error("allow can be given at most %d times", IMG_ALLOW_MAX);
		return -1;
	}
	if (!strcmp(key, "share")) {
		yes = nbdkit_parse_bool(value);
		share = yes > 0;
		return yes < 0 ? -1 : 0;
	}
	nbdkit_error("unknown parameter '%s'; use file, format, snapshot, since, allow or share", key);
	return -1;
}

static int plugin_config_complete(void)
{
	if (!options.path) {
		nbdkit_error("no image given; add file=IMAGE");
		return -1;
	}
	/* A snapshot does not change, even if a VM writes to the disk. */
	options.no_lock = share || options.snapshot;
	return 0;
}

static void plugin_unload(void)
{
	free((char *)options.path);
	free((char *)options.format);
	free((char *)options.snapshot);
	free((char *)since);
	for (unsigned i = 0; i < options.nallow; i++)
		free((char *)options.allow[i]);
}

static void plugin_close(void *handle)
{
	struct export *x = handle;

	block_diff_free(x->diff);
	block_close(x->since);
	block_close(x->block);
	loop_free(x->loop);
	free(x);
}

static int since_open(struct export *x, struct err *e)
{
	struct img_open o = options;
	int r;

	o.snapshot = since;
	o.no_lock = true; /* a snapshot does not change */
	r = img_block_open(x->loop, &o, &x->since, e);
	if (r == -ENOENT)
		err_prefix(e, "since must be an earlier snapshot of the same image");
	return r < 0 ? r : block_diff_new(x->block, x->since, &x->diff, e);
}

static void *plugin_open(int read_only)
{
	struct export *x = calloc(1, sizeof(*x));
	struct block_info info;
	struct err e;
	int r;

	(void)read_only;
	if (!x) {
		nbdkit_error("out of memory");
		return NULL;
	}
	r = loop_new(64, &x->loop, &e);
	if (!r)
		r = img_block_open(x->loop, &options, &x->block, &e);
	if (!r && since)
		r = since_open(x, &e);
	if (r < 0) {
		nbdkit_error("%s", e.msg);
		plugin_close(x);
		return NULL;
	}
	block_info(x->block, &info);
	x->size_bytes = info.size_bytes;
	return x;
}

/* Fail before nbdkit continues in the background, where only clients notice an image that cannot be opened, and not
 * why. */
static int plugin_get_ready(void)
{
	struct export *x = plugin_open(1);

	if (!x)
		return -1;
	plugin_close(x);
	return 0;
}

static int64_t plugin_get_size(void *handle)
{
	const struct export *x = handle;

	return (int64_t)x->size_bytes;
}

/* Let a client open several connections: none writes, so their results do not depend on each other. */
static int plugin_can_multi_conn(void *handle)
{
	(void)handle;
	return 1;
}

static int request_failed(int r, const char *what, uint64_t offset)
{
	nbdkit_error("cannot %s at %llu: %s", what, (unsigned long long)offset, strerror(-r));
	nbdkit_set_error(-r);
	return -1;
}

static int read_run(struct export *x, void *buf, uint64_t off, size_t len)
{
	struct iovec iov = { buf, len };
	struct block_req req = { .op = BLOCK_READ, .offset = off, .len = len, .iov = &iov, .niov = 1 };

	return block_run(x->block, &req);
}

/* NBD counts in bytes, the disk in sectors: read whole sectors and copy the part. */
static int read_part_sectors(struct export *x, void *buf, uint64_t off, size_t len)
{
	uint64_t from = ROUND_DOWN(off, BLOCK_SECTOR_BYTES), to = ROUND_UP(off + len, BLOCK_SECTOR_BYTES);
	uint8_t *whole = malloc(to - from);
	int r = whole ? read_run(x, whole, from, to - from) : -ENOMEM;

	if (!r)
		memcpy(buf, whole + (off - from), len);
	free(whole);
	return r;
}

static int plugin_pread(void *handle, void *buf, uint32_t count, uint64_t offset, uint32_t flags)
{
	struct export *x = handle;
	bool sectors = !((offset | count) & (BLOCK_SECTOR_BYTES - 1));
	int r = sectors ? read_run(x, buf, offset, count) : read_part_sectors(x, buf, offset, count);

	(void)flags;
	return r < 0 ? request_failed(r, "read", offset) : 0;
}

/* Look up the extent at `at`. With since=, a hole that does not read as zeros is the same in both. */
static int extent_get(struct export *x, uint64_t at, uint64_t len, uint64_t *ret_len, uint32_t *ret_type)
{
	struct block_diff_extent found = { 0 };
	struct block_extent whole;
	int r;

	if (x->diff) {
		r = block_diff_extent(x->diff, at, len, &found);
	} else {
		r = block_extent(x->block, at, len, &whole);
		found = (struct block_diff_extent){ .zero = whole.zero, .len = whole.len };
	}
	if (r < 0)
		return r;
	*ret_type = found.same ? NBDKIT_EXTENT_HOLE : found.zero ? NBDKIT_EXTENT_ZERO | NBDKIT_EXTENT_HOLE : 0;
	*ret_len = found.len;
	return 0;
}

static int plugin_extents(void *handle, uint32_t count, uint64_t offset, uint32_t flags,
	struct nbdkit_extents *extents)
{
	struct export *x = handle;
	uint64_t at = ROUND_DOWN(offset, BLOCK_SECTOR_BYTES);
	uint64_t end = MIN(ROUND_UP(offset + count, BLOCK_SECTOR_BYTES), x->size_bytes);

	while (at < end) {
		uint64_t len;
		uint32_t type;
		int r = extent_get(x, at, end - at, &len, &type);

		if (r < 0)
			return request_failed(r, "read the extents", at);
		if (nbdkit_add_extent(extents, at, len, type) < 0)
			return -1;
		at += len;
		if (flags & NBDKIT_FLAG_REQ_ONE)
			break;
	}
	return 0;
}

static struct nbdkit_plugin plugin = {
	.name = "cairn",
	.longname = "Cairn's disk images",
	.version = CAIRN_VERSION,
	.description = "Serve a qcow2 or raw image, or one of its internal snapshots, read-only.",
	.magic_config_key = "file",
	.config = plugin_config,
	.config_complete = plugin_config_complete,
	.config_help = "file=IMAGE      (required) Serve this image.\n"
		       "snapshot=NAME   Serve the snapshot with this name or id [the disk]. A VM may use the image.\n"
		       "since=NAME      Offer only the differences from this earlier snapshot; the rest is a hole.\n"
		       "format=FMT      Set the format of the image: raw or qcow2 [detected].\n"
		       "allow=DIR       Accept backing and data files below DIR too.\n"
		       "share=yes       Do not lock the image: its disk may change.",
	.unload = plugin_unload,
	.get_ready = plugin_get_ready,
	.open = plugin_open,
	.close = plugin_close,
	.get_size = plugin_get_size,
	.can_multi_conn = plugin_can_multi_conn,
	.pread = plugin_pread,
	.extents = plugin_extents,
	.errno_is_preserved = 0,
};

/* Prototype of the function that the macro defines. */
NBDKIT_DLL_PUBLIC struct nbdkit_plugin *plugin_init(void);
NBDKIT_REGISTER_PLUGIN(plugin)
