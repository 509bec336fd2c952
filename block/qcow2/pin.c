/* Pins: the mark of a pin, the header extension of an overlay, and opening an image at a pin. */
#include "block/qcow2/pin.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/crc32c.h"
#include "base/err.h"
#include "base/hex.h"
#include "base/pin_name.h"
#include "base/util.h"
#include "block/qcow2/snapshot_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MARK_MAGIC 0x43525031u /* "CRP1" */
#define MARK_BYTES 24u
#define EXT_VERSION 1u
#define ID_TEXT (2 * BLOCK_PIN_ID_BYTES)
/* Maximum number of attempts to read a pin, and of attempts that fail although nobody replaced the snapshot table
 * meanwhile. */
#define READ_TRIES 1000u
#define READ_FAILURES 8u
/* Pause between two looks for a pin that is about to be made: a sixteenth of the time that has passed, so that those
 * that wait long for a slow disk leave the CPUs to others. The header is in the page cache until it changes. Not every
 * file system drops it from there after a direct write, so each 16th look drops it. */
#define LOOK_PAUSE_NS 100000u
#define LOOK_PAUSE_MAX_NS 20000000u
#define LOOKS_A_DROP 16u
#define HEADER_PAGES_BYTES 65536

_Static_assert(PIN_NAME_ID_BYTES == BLOCK_PIN_ID_BYTES, "a name has the engine's id");

/* ---- the mark in a snapshot's extra data ---- */

void qcow2_pin_mark(struct block_snapshot_info *info, const uint8_t id[BLOCK_PIN_ID_BYTES])
{
	char text[ID_TEXT + 1];

	hex_print(id, BLOCK_PIN_ID_BYTES, text);
	snprintf(info->name, sizeof(info->name), PIN_NAME_IN_IMAGE "%s", text);
	info->vm_state_bytes = 0;
	store_be32(info->extra, MARK_MAGIC);
	memcpy(info->extra + 4, id, BLOCK_PIN_ID_BYTES);
	store_be32(info->extra + 20, crc32c(0, info->extra, 20));
	info->extra_bytes = MARK_BYTES;
}

bool qcow2_pin_marked(const struct qcow2_snapshot_info *s, uint8_t ret_id[BLOCK_PIN_ID_BYTES])
{
	const uint8_t *p = s->extra + QCOW2_SNAPSHOT_QEMU_BYTES;

	if (s->extra_len < QCOW2_SNAPSHOT_QEMU_BYTES + MARK_BYTES || load_be32(p) != MARK_MAGIC ||
		load_be32(p + 20) != crc32c(0, p, 20))
		return false;
	memcpy(ret_id, p + 4, BLOCK_PIN_ID_BYTES);
	return true;
}

/* ---- the overlay's header ---- */

void qcow2_pin_ext_put(uint8_t p[QCOW2_PIN_EXT_BYTES], const struct qcow2_pin *pin)
{
	struct cursor c = cursor_over(p, QCOW2_PIN_EXT_BYTES);

	cursor_put_be32(&c, EXT_VERSION);
	cursor_put_be32(&c, pin->cluster_bits);
	cursor_put_bytes(&c, pin->id, sizeof(pin->id));
	cursor_put_be64(&c, pin->disk_bytes);
	cursor_put_be64(&c, pin->l1_offset);
	cursor_put_be32(&c, pin->l1_size);
	cursor_put_be32(&c, pin->l1_crc);
	cursor_put_be32(&c, 0);
	cursor_put_be32(&c, crc32c(0, p, QCOW2_PIN_EXT_BYTES - 4));
}

bool qcow2_pin_ext_get(const uint8_t *p, uint32_t len, struct qcow2_pin *ret)
{
	if (len != QCOW2_PIN_EXT_BYTES || load_be32(p) != EXT_VERSION ||
		load_be32(p + len - 4) != crc32c(0, p, len - 4))
		return false;
	*ret = (struct qcow2_pin){ .cluster_bits = load_be32(p + 4), .disk_bytes = load_be64(p + 24),
		.l1_offset = load_be64(p + 32), .l1_size = load_be32(p + 40), .l1_crc = load_be32(p + 44) };
	memcpy(ret->id, p + 8, sizeof(ret->id));
	return true;
}

int qcow2_pin_name_print(const struct qcow2_pin *pin, const char *source, char ret[QCOW2_BACKING_NAME_MAX + 1],
	struct err *e)
{
	char id[ID_TEXT + 1];

	hex_print(pin->id, sizeof(pin->id), id);
	if (snprintf(ret, QCOW2_BACKING_NAME_MAX + 1, "%s%s%s%s", PIN_NAME_PROTOCOL, source, PIN_NAME_SNAPSHOT, id) >
		(int)QCOW2_BACKING_NAME_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "the path of the source image is too long: %s", source);
	return 0;
}

int qcow2_pin_overlays(const int *fds, unsigned n, const struct qcow2_pin *pin, const char *source, struct err *e)
{
	char name[QCOW2_BACKING_NAME_MAX + 1];
	struct qcow2_create c = { .size_bytes = pin->disk_bytes, .cluster_bits = 16,
		.refcount_order = 4, .version = 3, .backing_name = name, .backing_format = "qcow2", .pin = pin };
	int r = qcow2_pin_name_print(pin, source, name, e);

	return r ? r : qcow2_create_all(fds, n, &c, e);
}

/* ---- the pin in the source image ---- */

/* Add an L1 entry to a checksum, without COPIED, which a repair may set. */
static uint32_t l1_crc_add(uint32_t crc, uint64_t entry)
{
	uint8_t be[8];

	store_be64(be, entry & ~QCOW2_COPIED);
	return crc32c(crc, be, sizeof(be));
}

/* l1: big-endian, as in the file. */
static uint32_t l1_crc(const uint8_t *l1, uint32_t n)
{
	uint32_t crc = 0;

	for (uint32_t i = 0; i < n; i++)
		crc = l1_crc_add(crc, load_be64(l1 + i * 8ULL));
	return crc;
}

bool qcow2_pin_describe(const struct qcow2_snapshot_info *s, uint32_t cluster_bits, const uint8_t *l1,
	struct qcow2_pin *ret)
{
	*ret = (struct qcow2_pin){ .l1_offset = s->l1_offset, .disk_bytes = s->disk_bytes, .l1_size = s->l1_size,
		.cluster_bits = cluster_bits, .l1_crc = l1_crc(l1, s->l1_size) };
	return qcow2_pin_marked(s, ret->id);
}

static int entry_take(int fd, const struct qcow2_snapshot_info *s, const char *name, struct qcow2_header *h,
	struct err *e)
{
	if (!qcow2_l1_is_valid(fd, h, s))
		return err_set(e, -EINVAL, ERR_CORRUPT, "%s: the entry of snapshot '%s' is damaged", name, s->name);
	h->l1_offset = s->l1_offset;
	h->l1_size = s->l1_size;
	h->size_bytes = s->disk_bytes;
	return 0;
}

/* Read the header and look for the pin once. Sets h to the image's header, or to one with the pin's
 * size and L1. *ret_gone: the table was readable and does not have the pin. */
static int pin_look(int fd, const char *name, const uint8_t *id, struct qcow2_header *h, bool *ret_gone,
	struct err *e)
{
	struct qcow2_snapshot_info *list;
	uint8_t found[BLOCK_PIN_ID_BYTES];
	size_t n, i;
	int r = qcow2_header_read(fd, name, h, e);

	*ret_gone = false;
	if (!r)
		r = qcow2_snapshots_read(fd, h, &list, &n, e);
	if (r < 0)
		return r;
	for (i = 0; i < n; i++)
		if (qcow2_pin_marked(&list[i], found) && !memcmp(found, id, sizeof(found)))
			break;
	*ret_gone = i == n;
	r = i < n ? entry_take(fd, &list[i], name, h, e) : -ENOENT;
	qcow2_snapshots_free(list, n);
	return r;
}

/* The process that has the image open for writing may replace the snapshot table meanwhile, and
 * then frees the old one. So a failure counts only if the header named the same table before and
 * after, and several times, because the table may move away and back in between. */
static int pin_find(int fd, const char *name, const uint8_t id[BLOCK_PIN_ID_BYTES], struct qcow2_header *ret,
	bool *ret_gone, struct err *e)
{
	struct qcow2_header h = { 0 }, after = { 0 };
	struct err ignored;
	unsigned failures = 0;
	int r = 0, r2;

	for (unsigned i = 0; i < READ_TRIES && failures < READ_FAILURES; i++) {
		r = pin_look(fd, name, id, &h, ret_gone, e);
		if (!r) {
			*ret = h;
			return 0;
		}
		r2 = qcow2_header_read(fd, name, &after, &ignored);
		if (r2 == r || (!r2 && h.snapshots_offset == after.snapshots_offset && h.nb_snapshots == after.nb_snapshots))
			failures++;
	}
	return *ret_gone ? err_set(e, -ENOENT, ERR_NOT_FOUND, "%s: the content that this overlay reads is gone: somebody "
		"deleted its pin (a hidden snapshot), so the disk cannot be read", name) : r;
}

/* Pause between two looks. Returns whether the peer that the wait depends on has gone. */
static bool look_pause(const struct block_pin_wait *wait, uint64_t waited_ns)
{
	struct timespec pause = { .tv_nsec = (long)MIN(MAX(waited_ns / 16, LOOK_PAUSE_NS), LOOK_PAUSE_MAX_NS) };
	struct pollfd peer = { .fd = wait->peer_fd, .events = POLLRDHUP };

	return ppoll(&peer, wait->peer_fd > 0, &pause, NULL) > 0;
}

int qcow2_pin_header(int fd, const char *name, const uint8_t id[BLOCK_PIN_ID_BYTES], const struct block_pin_wait *wait,
	struct qcow2_header *ret, struct err *e)
{
	uint64_t began_ns = clock_monotonic_ns(), waited_ns = 0;
	bool gone = false, alone = false;
	int r = pin_find(fd, name, id, ret, &gone, e);

	for (unsigned i = 1; gone && !alone && waited_ns < wait->ns; i++, waited_ns = clock_monotonic_ns() - began_ns) {
		alone = look_pause(wait, waited_ns);
		if (alone || i % LOOKS_A_DROP == 0)
			(void)posix_fadvise(fd, 0, HEADER_PAGES_BYTES, POSIX_FADV_DONTNEED);
		r = pin_find(fd, name, id, ret, &gone, e);
	}
	if (gone && alone)
		return err_set(e, -ECANCELED, ERR_CANCELLED, "%s: cairnd has ended, and the source has not made the pin (a hidden "
			"snapshot) that this overlay reads; fork the VM again", name);
	return r;
}

int qcow2_pin_read(int fd, const char *name, const uint8_t id[BLOCK_PIN_ID_BYTES], struct qcow2_pin *ret,
	struct err *e)
{
	CLEANUP_FREE uint8_t *l1 = NULL;
	struct qcow2_header h;
	size_t bytes;
	int r = qcow2_pin_header(fd, name, id, &(struct block_pin_wait){ 0 }, &h, e);

	if (r < 0)
		return r;
	bytes = ROUND_UP(MAX(h.l1_size * sizeof(uint64_t), (size_t)1), 4096);
	l1 = io_buffer_new(bytes);
	r = l1 ? qcow2_pread(fd, l1, bytes, h.l1_offset) : -ENOMEM;
	if (r < 0)
		return err_set_errno(e, r, "%s: cannot read a pin's L1 table", name);
	*ret = (struct qcow2_pin){ .l1_offset = h.l1_offset, .disk_bytes = h.size_bytes, .l1_size = h.l1_size,
		.cluster_bits = h.cluster_bits, .l1_crc = l1_crc(l1, h.l1_size) };
	memcpy(ret->id, id, sizeof(ret->id));
	return 0;
}

/* ---- opening an image at a pin ---- */

int qcow2_pin_below(int fd, const char *name, struct qcow2_pin **ret, struct err *e)
{
	struct qcow2_header h;
	int r = qcow2_header_read(fd, name, &h, e);

	*ret = NULL;
	if (r < 0 || !h.has_pin)
		return r;
	*ret = malloc(sizeof(**ret));
	if (!*ret)
		return err_set_errno(e, -ENOMEM, "%s", name);
	**ret = h.pin;
	return 0;
}

/* Read the header of an image that does not name the pin yet. */
static int unnamed_header(int fd, const char *name, const struct qcow2_pin *pin, struct qcow2_header *ret, struct err *e)
{
	struct qcow2_snapshot_info s = { .name = (char *)"of this fork", .l1_offset = pin->l1_offset, .l1_size = pin->l1_size,
		.disk_bytes = pin->disk_bytes };
	int r = qcow2_header_read(fd, name, ret, e);

	return r < 0 ? r : entry_take(fd, &s, name, ret, e);
}

int qcow2_pin_open(struct qcow2 *q, const struct qcow2_pin *pin, const struct block_pin_wait *wait, struct err *e)
{
	int r = wait ? qcow2_pin_header(q->base.fd, q->base.name, pin->id, wait, &q->h, e) :
		       unnamed_header(q->base.fd, q->base.name, pin, &q->h, e);

	if (r < 0)
		return r;
	if (q->h.cluster_bits != pin->cluster_bits || q->h.size_bytes != pin->disk_bytes ||
		q->h.l1_offset != pin->l1_offset || q->h.l1_size != pin->l1_size)
		return err_set(e, -EINVAL, ERR_CORRUPT, "%s: the image's pin is not the one that the disk above was "
			"made on; was the image copied or changed by another program?", q->base.name);
	return 0;
}

int qcow2_pin_check_l1(const struct qcow2 *q, const struct qcow2_pin *pin, struct err *e)
{
	uint32_t crc = 0;

	for (uint32_t i = 0; i < q->disk.l1.n; i++)
		crc = l1_crc_add(crc, q->disk.l1.entries[i]);
	if (crc == pin->l1_crc)
		return 0;
	return err_set(e, -EINVAL, ERR_CORRUPT, "%s: the L1 table of the pin that the overlay above reads is damaged",
		q->base.name);
}
