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
/* Pause between two checks for a pin that is about to be made: a sixteenth of the time that has passed. So processes
 * that wait long for a slow disk use little CPU time. The header is in the page cache until it changes. Not every
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

static bool l1_are_equal(const uint8_t *a, const uint8_t *b, uint32_t n)
{
	uint32_t i = 0;

	while (i < n && !((load_be64(a + i * 8ULL) ^ load_be64(b + i * 8ULL)) & ~QCOW2_COPIED))
		i++;
	return i == n;
}

bool qcow2_pin_describe(const struct qcow2_snapshot_info *s, uint32_t cluster_bits, const uint8_t *l1,
	struct qcow2_pin *ret)
{
	*ret = (struct qcow2_pin){ .l1_offset = s->l1_offset, .disk_bytes = s->disk_bytes, .l1_size = s->l1_size,
		.cluster_bits = cluster_bits };
	if (!qcow2_pin_marked(s, ret->id))
		return false;
	ret->l1_crc = l1_crc(l1, s->l1_size);
	return true;
}

/* ---- the pin that has the disk's present content ---- */

void qcow2_pin_note(struct qcow2 *q, const struct qcow2_pin *pin, uint64_t l1_changes)
{
	q->last_pin.known = true;
	q->last_pin.pin = *pin;
	q->last_pin.l1_changes = l1_changes;
}

void qcow2_pin_invalidate(struct qcow2 *q, const struct qcow2_snapshot_info *s)
{
	uint8_t id[BLOCK_PIN_ID_BYTES];

	if (qcow2_pin_marked(s, id) && !memcmp(id, q->last_pin.pin.id, sizeof(id)))
		q->last_pin.known = false;
}

/* The freeze of a pin clears COPIED in the whole L1, and as long as the pin exists, each of its tables has a second
 * reference. So each function that changes a table's entry, or writes to a cluster in place, first replaces the
 * table, and with it the entry of the L1. Growing and shrinking may leave the L1 as it is. */
bool qcow2_pin_is_current(struct block *b, const uint8_t id[BLOCK_PIN_ID_BYTES], struct qcow2_pin *ret)
{
	const struct qcow2 *q = qcow2_of(b);

	if (b->info.format != BLOCK_FORMAT_QCOW2 || !q->last_pin.known || memcmp(q->last_pin.pin.id, id, BLOCK_PIN_ID_BYTES) != 0 ||
		b->changing || q->corrupt || q->l1_changes != q->last_pin.l1_changes || q->h.size_bytes != q->last_pin.pin.disk_bytes)
		return false;
	*ret = q->last_pin.pin;
	return true;
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
static int pin_find_once(int fd, const char *name, const uint8_t *id, struct qcow2_header *h, bool *ret_gone,
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
		r = pin_find_once(fd, name, id, &h, ret_gone, e);
		if (!r) {
			*ret = h;
			return 0;
		}
		r2 = qcow2_header_read(fd, name, &after, &ignored);
		if (r2 == r || (!r2 && h.snapshots_offset == after.snapshots_offset && h.nb_snapshots == after.nb_snapshots))
			failures++;
	}
	return *ret_gone ? err_set(e, -ENOENT, ERR_NOT_FOUND, "%s: the content that this overlay reads is gone: its pin "
		"(a hidden snapshot) was deleted, so the disk cannot be read", name) : r;
}

/* Pause before the next look. Returns whether the peer on which the wait depends has gone. */
static bool look_pause(const struct block_pin_wait *wait, uint64_t waited_ns)
{
	struct timespec pause = { .tv_nsec = (long)MIN(MAX(waited_ns / 16, LOOK_PAUSE_NS), LOOK_PAUSE_MAX_NS) };
	struct pollfd peer = { .fd = wait->peer_fd, .events = POLLRDHUP };

	return ppoll(&peer, wait->peer_fd > 0, &pause, NULL) > 0;
}

/* Read the header of fd, with the L1 and the size of the pin. wait: for a pin that is about to be made. Returns as
 * qcow2_pin_read(); -ECANCELED: the peer on which the wait depends has gone, and there is no pin. */
static int qcow2_pin_header(int fd, const char *name, const uint8_t id[BLOCK_PIN_ID_BYTES], const struct block_pin_wait *wait,
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

/* Read the L1 that the header names. *ret_l1: owned by the caller. */
static int l1_read(int fd, const char *name, const struct qcow2_header *h, uint8_t **ret_l1, struct err *e)
{
	size_t bytes = ROUND_UP(MAX(h->l1_size * sizeof(uint64_t), (size_t)1), 4096);
	uint8_t *l1 = io_buffer_new(bytes);
	int r = l1 ? qcow2_pread(fd, l1, bytes, h->l1_offset) : -ENOMEM;

	*ret_l1 = r < 0 ? NULL : l1;
	if (r < 0)
		free(l1);
	return r < 0 ? err_set_errno(e, r, "%s: cannot read a pin's L1 table", name) : 0;
}

/* As qcow2_pin_read(), and return the pin's L1 for the caller to free. */
static int pin_read(int fd, const char *name, const uint8_t *id, struct qcow2_pin *ret, uint8_t **ret_l1, struct err *e)
{
	struct qcow2_header h;
	int r = qcow2_pin_header(fd, name, id, &(struct block_pin_wait){ 0 }, &h, e);

	*ret_l1 = NULL;
	if (!r)
		r = l1_read(fd, name, &h, ret_l1, e);
	if (r < 0)
		return r;
	*ret = (struct qcow2_pin){ .l1_offset = h.l1_offset, .disk_bytes = h.size_bytes, .l1_size = h.l1_size,
		.cluster_bits = h.cluster_bits, .l1_crc = l1_crc(*ret_l1, h.l1_size) };
	memcpy(ret->id, id, sizeof(ret->id));
	return 0;
}

int qcow2_pin_read(int fd, const char *name, const uint8_t id[BLOCK_PIN_ID_BYTES], struct qcow2_pin *ret,
	struct err *e)
{
	CLEANUP_FREE uint8_t *l1 = NULL;

	return pin_read(fd, name, id, ret, &l1, e);
}

/* Read the header with the L1 and the size of a snapshot's disk. Returns 0; -ENOENT; -errno. */
static int snapshot_header(int fd, const char *name, const char *snapshot, struct qcow2_header *ret, struct err *e)
{
	struct qcow2_snapshot_info *list;
	size_t n, i = 0;
	int r = qcow2_header_read(fd, name, ret, e);

	if (!r)
		r = qcow2_snapshots_read(fd, ret, &list, &n, e);
	if (r < 0)
		return r;
	while (i < n && strcmp(list[i].id, snapshot) != 0)
		i++;
	r = i < n ? entry_take(fd, &list[i], name, ret, e) :
		err_set(e, -ENOENT, ERR_NOT_FOUND, "%s: there is no snapshot with the id %s", name, snapshot);
	qcow2_snapshots_free(list, n);
	return r;
}

int qcow2_pin_of_snapshot(int fd, const char *name, const uint8_t id[BLOCK_PIN_ID_BYTES], const char *snapshot,
	struct qcow2_pin *ret, struct err *e)
{
	CLEANUP_FREE uint8_t *ours = NULL, *theirs = NULL;
	struct qcow2_header h;
	struct qcow2_pin pin;
	int r = pin_read(fd, name, id, &pin, &ours, e);

	if (!r)
		r = snapshot_header(fd, name, snapshot, &h, e);
	if (!r)
		r = l1_read(fd, name, &h, &theirs, e);
	if (r < 0)
		return r;
	/* A snapshot's L1 has the entries of its VM state behind the disk's. */
	if (pin.disk_bytes != h.size_bytes || pin.l1_size > h.l1_size || !l1_are_equal(ours, theirs, pin.l1_size))
		return err_set(e, -ENOENT, ERR_NOT_FOUND, "%s: the pin has another content than snapshot %s", name, snapshot);
	*ret = pin;
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
