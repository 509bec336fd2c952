/* Opens a disk: probes and locks the files of its layers, and has each layer's format open it. */
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/util.h"
#include "block/block_impl.h"
#include "block/io.h"
#include "block/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#define LOCK_LOOK_NS 10000000L

/* ---- probing files ---- */

static int device_probe(int fd, const char *name, struct block_file *f, struct err *e)
{
	int sector = 0;

	if (ioctl(fd, BLKGETSIZE64, &f->size_bytes) < 0 || ioctl(fd, BLKSSZGET, &sector) < 0)
		return err_set_errno(e, -errno, "%s: cannot ask the device for its size", name);
	if (sector < 512 || sector > 4096 || !is_power_of_two((uint64_t)sector))
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED,
			"%s: the device has sectors of %d bytes; 512 to 4096 are supported", name, sector);
	f->is_device = true;
	f->offset_align = (uint32_t)sector;
	return 0;
}

/* Decide on direct I/O: it is used only if its alignment suits the disk's sectors. It bypasses the host's page cache,
 * so the host keeps no second copy of data that the guest caches. *ret_sure: set if the file system says that direct
 * reads work. */
static void direct_probe(int fd, bool keep_flags, struct block_file *f, bool *ret_sure)
{
	int flags = fcntl(fd, F_GETFL);
	struct statx stx;

	f->memory_align = 4096;
	if (!statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) && (stx.stx_mask & STATX_DIOALIGN)) {
		f->memory_align = MAX(stx.stx_dio_mem_align, 1u);
		/* If direct I/O needs blocks of 4 KiB, use buffered I/O: otherwise the guest would
		 * see another sector size than at the image's creation. */
		if (!stx.stx_dio_offset_align || stx.stx_dio_offset_align > f->offset_align)
			return;
		*ret_sure = true;
	}
	if (keep_flags)
		f->direct = flags >= 0 && (flags & O_DIRECT);
	else if (flags >= 0 && is_power_of_two(f->memory_align) && f->memory_align <= 4096)
		f->direct = !fcntl(fd, F_SETFL, flags | O_DIRECT);
}

static void direct_off(int fd)
{
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_DIRECT);
}

/* Try a direct read, because some file systems that do not tell their alignment accept O_DIRECT and then fail reads. */
static void direct_try(int fd, struct block_file *f)
{
	CLEANUP_FREE void *buf = io_buffer_new(4096);

	if (!f->direct || !buf || pread(fd, buf, f->offset_align, 0) >= 0)
		return;
	if (errno == EINVAL) {
		direct_off(fd);
		f->direct = false;
	}
}

static int block_file_probe(int fd, const struct block_open *o, const char *name, struct block_file *ret, struct err *e)
{
	struct block_file f = { .offset_align = 512 };
	struct stat st;
	bool sure = false;
	int r = 0;

	/* FUSE refuses other users than that of the mount, even for an open file. */
	if (fstat(fd, &st) < 0 && errno == EACCES)
		return err_set(e, -EACCES, ERR_PERMISSION, "%s: its file system refuses this process's user, although the file is open; "
			"mount FUSE with the option allow_other", name);
	if (fstat(fd, &st) < 0)
		return err_set_errno(e, -errno, "%s", name);
	f.size_bytes = (uint64_t)st.st_size;
	f.punch_granularity = (uint32_t)st.st_blksize;
	if (S_ISBLK(st.st_mode))
		r = device_probe(fd, name, &f, e);
	else if (!S_ISREG(st.st_mode))
		r = err_set(e, -EINVAL, ERR_INVALID, "%s is %s; a disk is a file or a block device", name,
			S_ISDIR(st.st_mode) ? "a folder" : "neither a file nor a block device");
	if (r < 0)
		return r;
	if (o->buffered && o->as_handed_over)
		direct_off(fd);
	else if (!o->buffered)
		direct_probe(fd, o->keep_flags, &f, &sure);
	if (!o->keep_flags && !sure)
		direct_try(fd, &f);
	if (!f.direct)
		f.memory_align = 1;
	*ret = f;
	return 0;
}

/* ---- opening layers ---- */

static int fd_check(int fd, bool read_only, const char *name, struct err *e)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0)
		return err_set_errno(e, -errno, "%s", name);
	if ((flags & O_ACCMODE) == O_WRONLY || (!read_only && (flags & O_ACCMODE) != O_RDWR))
		return err_set(e, -EINVAL, ERR_INVALID, "%s: the file is not open for reading%s", name,
			read_only ? "" : " and writing");
	return 0;
}

static int file_lock(int fd, const struct block_open *o, enum lock_mode mode, const char *name, struct err *e)
{
	uint64_t until = clock_monotonic_ns() + o->lock_wait_ns;
	int r = lock_acquire(fd, mode, name, e);

	if (r == -EBUSY && o->lock_wait_ns)
		log_info(name, "another process has the image: waiting %llu s for its end",
			(unsigned long long)(o->lock_wait_ns / 1000000000));
	while (r == -EBUSY && clock_monotonic_ns() < until) {
		nanosleep(&(struct timespec){ .tv_nsec = LOCK_LOOK_NS }, NULL);
		r = lock_acquire(fd, mode, name, e);
	}
	return r;
}

/* Check one file of a layer, lock it, and probe its capabilities. */
static int file_open(int fd, const struct block_open *o, bool read_only, enum lock_mode mode, const char *name,
	struct block_file *ret, bool *ret_locked, struct err *e)
{
	int r = fd_check(fd, read_only, name, e);

	*ret_locked = false;
	if (!r && !o->no_lock && !o->as_handed_over) {
		r = file_lock(fd, o, mode, name, e);
		*ret_locked = !r;
	}
	return r ? r : block_file_probe(fd, o, name, ret, e);
}

static int data_file_open(int fd, const struct block_layer *layer, const struct block_open *o,
	bool read_only, const char *name, struct block_file *ret, bool *ret_locked, struct err *e)
{
	struct stat a, b;
	int r;

	if (layer->format != BLOCK_FORMAT_QCOW2)
		return err_set(e, -EINVAL, ERR_INVALID, "%s: only a qcow2 image can have a data file",
			name);
	if (!fstat(fd, &a) && !fstat(layer->fd, &b) && a.st_dev == b.st_dev && a.st_ino == b.st_ino)
		return err_set(e, -EINVAL, ERR_INVALID, "%s: the image cannot be its own data file", name);
	r = file_open(fd, o, read_only, read_only ? LOCK_AS_READER : LOCK_AS_WRITER, name, ret, ret_locked, e);
	if (r < 0)
		err_prefix(e, "data file");
	return r;
}

/* Get the pin of the layer, if the layer above names one. */
static int layer_pin(const struct block_open *o, unsigned i, struct qcow2_pin **ret, struct err *e)
{
	const struct block_layer *above = i ? &o->layers[i - 1] : NULL;
	int r = 0;

	*ret = NULL;
	if (above && above->format == BLOCK_FORMAT_QCOW2)
		r = qcow2_pin_below(above->fd, o->name ? o->name : "disk", ret, e);
	if (*ret && o->layers[i].format != BLOCK_FORMAT_QCOW2)
		r = err_set(e, -EINVAL, ERR_INVALID, "the layer above is an overlay on a pin of a qcow2 image, but this layer is "
			"%s", block_format_name(o->layers[i].format));
	return r;
}

/* Open the layer's format. cached: read tables through the page cache, without readahead. On a host with a readahead
 * of 8 MiB, it took longer than the rest of a clone's start, and the source's writes then had to drop these pages. */
static int format_open(const struct block_format_open *fo, enum block_format format, bool cached, struct block **ret_b,
	struct err *e)
{
	int flags, r;

	if (format != BLOCK_FORMAT_QCOW2)
		return raw_open(fo, ret_b, e);
	flags = cached && fo->file->direct ? fcntl(fo->fd, F_GETFL) : -1;
	if (flags >= 0) {
		(void)fcntl(fo->fd, F_SETFL, flags & ~O_DIRECT);
		(void)posix_fadvise(fo->fd, 0, 0, POSIX_FADV_RANDOM);
	}
	r = qcow2_open(fo, ret_b, e);
	if (flags >= 0)
		(void)posix_fadvise(fo->fd, 0, 0, POSIX_FADV_NORMAL);
	if (!r && flags >= 0 && (*ret_b)->info.direct && fcntl(fo->fd, F_SETFL, flags) < 0)
		(*ret_b)->info.direct = false;
	return r;
}

/* Open layer i.
 * below_at_pin: in: the layer below is read at a pin; out: this layer is. The tables of a pin and of an overlay on a
 * pin are read through the page cache. It usually has them, because other clones read the pin's tables, and the
 * source's process has just written the overlay. Eleven direct reads took 2 ms. */
static int layer_open(struct loop *l, const struct block_open *o, unsigned i, struct block *backing,
	bool *below_at_pin, struct block **ret_b, struct err *e)
{
	const struct block_layer *layer = &o->layers[i];
	bool read_only = o->read_only || (i > 0 && i != o->writable), locked, data_locked = false;
	const char *name = layer->name ? layer->name : o->name ? o->name : "disk";
	CLEANUP_FREE struct qcow2_pin *pin = NULL;
	struct block_file file, data_file;
	enum lock_mode mode;
	struct block_format_open fo = { .loop = l, .fd = layer->fd, .data_fd = layer->data_fd,
		.read_only = read_only, .name = name, .backing = backing, .file = &file,
		.data_file = &data_file, .snapshot = i ? NULL : o->snapshot,
		.cache_bytes = o->cache_bytes, .no_repair = o->as_handed_over, .lazy_bitmaps = o->lazy_bitmaps,
		.buffered = o->buffered, .no_flush = o->no_flush };
	int r = layer_pin(o, i, &pin, e);

	if (!r && layer->open && (pin || backing || layer->format != BLOCK_FORMAT_RAW))
		r = err_set(e, -EINVAL, ERR_INVALID, "%s: a layer that is not a file must be raw, and the lowest layer", name);
	if (!r && layer->open) {
		layer->open->layer = i;
		*ret_b = layer->open;
	}
	if (r < 0 || layer->open)
		return r;
	fo.pin = pin;
	fo.pin_wait = o->pin_wait;
	fo.pin_readable = o->pin_readable && i == 1;
	fo.warm = o->warm;
	mode = pin ? LOCK_AS_PIN_READER : read_only ? LOCK_AS_READER : o->beside_pins ? LOCK_AS_WRITER_BESIDE_PINS : LOCK_AS_WRITER;
	r = file_open(layer->fd, o, read_only, mode, name, &file, &locked, e);
	if (!r && layer->data_fd)
		r = data_file_open(layer->data_fd, layer, o, read_only, name, &data_file,
			&data_locked, e);
	if (!r && fo.snapshot && (layer->format != BLOCK_FORMAT_QCOW2 || !read_only))
		r = err_set(e, -EINVAL, ERR_INVALID, "%s: only a qcow2 image has snapshots, and a snapshot "
			"can only be opened read-only", name);
	if (!r)
		r = format_open(&fo, layer->format, (pin || *below_at_pin) && !o->keep_flags, ret_b, e);
	*below_at_pin = pin;
	if (r < 0) {
		if (locked)
			lock_release(layer->fd);
		if (data_locked)
			lock_release(layer->data_fd);
		if (i > 0)
			err_prefix(e, "backing layer %u", i);
		return r;
	}
	(*ret_b)->fd = layer->fd;
	(*ret_b)->named = (*ret_b)->named || o->as_handed_over;
	(*ret_b)->handed_over = o->as_handed_over && !o->no_lock;
	(*ret_b)->layer = i;
	(*ret_b)->data_fd = layer->data_fd;
	(*ret_b)->locked = locked;
	(*ret_b)->data_locked = data_locked;
	(*ret_b)->backing = backing;
	(*ret_b)->info.backing_bytes = backing ? backing->info.size_bytes : 0;
	return 0;
}

/* Tell the loop which files its thread may access itself: those in memory, and those in the page cache of a local file
 * system. The file system of a block device's file, which is a tmpfs, says nothing. The files of a container are on an
 * overlayfs, on which no transfer ends without a wait (RWF_NOWAIT), and which mostly refuses direct I/O. */
static void file_note(struct block *b, int fd)
{
	bool buffered = b->buffered || !(fcntl(fd, F_GETFL) & O_DIRECT), local;
	struct statfs fs;
	struct stat st;

	if (fstat(fd, &st) < 0 || fstatfs(fd, &fs) < 0)
		return;
	local = S_ISBLK(st.st_mode) || fs.f_type == EXT4_SUPER_MAGIC || fs.f_type == XFS_SUPER_MAGIC ||
		fs.f_type == BTRFS_SUPER_MAGIC || fs.f_type == OVERLAYFS_SUPER_MAGIC;
	if (S_ISREG(st.st_mode) && fs.f_type == TMPFS_MAGIC)
		loop_file_in_memory(b->loop, fd, true);
	else if (buffered && local)
		loop_file_cached(b->loop, fd, S_ISREG(st.st_mode) && fs.f_type == OVERLAYFS_SUPER_MAGIC);
}

/* Returns the number of layers to open. */
static unsigned layers_used(const struct block_open *o)
{
	bool alone = o->may_stand_alone && o->nlayers > 1 && o->layers[0].format == BLOCK_FORMAT_QCOW2 &&
		!qcow2_stands_on_backing(o->layers[0].fd);

	return alone ? 1 : o->nlayers;
}

static void layer_close(const struct block_layer *layer)
{
	close(layer->fd);
	if (layer->data_fd)
		close(layer->data_fd);
}

int block_open(struct loop *l, const struct block_open *o, struct block **ret_b, struct err *e)
{
	struct block *b = NULL;
	bool at_pin = false;
	unsigned used;

	if (!o->nlayers || o->nlayers > BLOCK_LAYERS_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "%s: a disk has 1 to %d layers, not %u",
			o->name ? o->name : "disk", BLOCK_LAYERS_MAX, o->nlayers);
	used = layers_used(o);
	for (unsigned i = used; i-- > 0;) {
		struct block *top;
		int r;

		if (!block_format_name(o->layers[i].format))
			r = err_set(e, -EINVAL, ERR_INVALID, "layer %u: unknown format; use raw or qcow2", i);
		else
			r = layer_open(l, o, i, b, &at_pin, &top, e);
		if (r < 0) {
			block_chain_free(b, false, o->layers[used - 1].open);
			return r;
		}
		b = top;
	}
	for (unsigned i = used; i < o->nlayers; i++)
		layer_close(&o->layers[i]);
	for (struct block *y = b; y; y = y->backing) {
		file_note(y, y->fd);
		if (y->data_fd)
			file_note(y, y->data_fd);
	}
	*ret_b = b;
	return 0;
}

static void layers_close(const struct block_layer *layers, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		if (layers[i].fd >= 0)
			close(layers[i].fd);
		if (layers[i].data_fd > 0)
			close(layers[i].data_fd);
	}
}

int block_open_snapshot(const struct block *b, int fd, const char *snapshot, struct block **ret_b, struct err *e)
{
	struct block_layer layers[BLOCK_LAYERS_MAX] = { { .fd = fd, .format = b->info.format } };
	struct block_open o = { .layers = layers, .nlayers = 1, .read_only = true, .no_lock = true, .keep_flags = true,
		.snapshot = snapshot, .name = b->name };
	int r = 0;

	for (const struct block *y = b->backing; y && !r; y = y->backing) {
		struct block_layer *layer = &layers[o.nlayers++];

		*layer = (struct block_layer){ .fd = fcntl(y->fd, F_DUPFD_CLOEXEC, 3), .format = y->info.format };
		if (layer->fd >= 0 && y->data_fd)
			layer->data_fd = fcntl(y->data_fd, F_DUPFD_CLOEXEC, 3);
		if (layer->fd < 0 || layer->data_fd < 0)
			r = err_set_errno(e, -errno, "%s", b->name);
	}
	if (!r)
		r = block_open(b->loop, &o, ret_b, e);
	if (r < 0)
		layers_close(layers + 1, o.nlayers - 1);
	return r;
}
