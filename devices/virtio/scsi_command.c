#include "base/bytes.h"
#include "base/util.h"
#include "devices/virtio/scsi.h"
#include "devices/virtio/virtqueue.h"

#include <errno.h>
#include <string.h>

#define TRANSFER_BYTES_MAX (16u * 1024 * 1024) /* as page 0xb0 says; larger requests work, up to BLOCK_REQ_BYTES_MAX */
#define CHANGE_BYTES_MAX (2ULL << 30)	       /* of an unmap or WRITE SAME */
#define FUA 8				       /* in byte 1 of reads and writes */

enum {
	TEST_UNIT_READY = 0x00, REQUEST_SENSE = 0x03, READ_6 = 0x08, WRITE_6 = 0x0a, INQUIRY = 0x12, MODE_SELECT_6 = 0x15,
	RESERVE_6 = 0x16, RELEASE_6 = 0x17, MODE_SENSE_6 = 0x1a, START_STOP = 0x1b, PREVENT_ALLOW = 0x1e, GET_CONFIGURATION = 0x46,
	GET_EVENT_STATUS = 0x4a,
	READ_CAPACITY_10 = 0x25, READ_10 = 0x28, WRITE_10 = 0x2a, VERIFY_10 = 0x2f, SYNC_CACHE_10 = 0x35,
	WRITE_SAME_10 = 0x41, UNMAP = 0x42, MODE_SELECT_10 = 0x55, RESERVE_10 = 0x56, RELEASE_10 = 0x57, MODE_SENSE_10 = 0x5a,
	PERSISTENT_RESERVE_IN = 0x5e, PERSISTENT_RESERVE_OUT = 0x5f, READ_16 = 0x88, WRITE_16 = 0x8a, VERIFY_16 = 0x8f,
	SYNC_CACHE_16 = 0x91, WRITE_SAME_16 = 0x93, SERVICE_ACTION_IN = 0x9e, REPORT_LUNS = 0xa0, READ_12 = 0xa8,
	WRITE_12 = 0xaa, VERIFY_12 = 0xaf,
};
#define READ_CAPACITY_16 0x10 /* a service action */

enum { PAGE_RECOVERY = 0x01, PAGE_CACHING = 0x08, PAGE_CD_CAPABILITIES = 0x2a, PAGE_ALL = 0x3f };
#define CACHING_WCE 4

void scsi_answer_fail(struct scsi_answer *a, uint32_t sense)
{
	a->kind = SCSI_DONE;
	a->sense = sense;
	a->bytes = 0;
}

void scsi_answer_data(struct scsi_answer *a, const void *data, uint32_t bytes, uint32_t allowed)
{
	a->bytes = MIN(MIN(bytes, allowed), SCSI_ANSWER_MAX);
	memcpy(a->data, data, a->bytes);
}

void scsi_sense_put(uint32_t sense, uint8_t ret[SCSI_SENSE_BYTES])
{
	memset(ret, 0, SCSI_SENSE_BYTES);
	ret[0] = 0x70;
	ret[2] = (uint8_t)(sense >> 16);
	ret[7] = SCSI_SENSE_BYTES - 8;
	ret[12] = (uint8_t)(sense >> 8);
	ret[13] = (uint8_t)sense;
}

uint32_t scsi_sense_of(int error, bool is_write)
{
	if (is_write && (error == -ENOSPC || error == -EDQUOT))
		return SENSE_NO_SPACE;
	return is_write ? SENSE_WRITE_ERROR : SENSE_READ_ERROR;
}

void scsi_unit_reset(struct scsi_unit *u)
{
	u->write_cache = !u->cdrom;
	u->locked = false;
	u->tray_open = false;
	u->media_event = SCSI_MEDIA_NONE;
	u->attention = SENSE_RESET;
}

/* ---- INQUIRY (SPC-4, 6.6 and 7.8) ---- */

static uint8_t type_of(const struct scsi_unit *u)
{
	return u->cdrom ? 5 : 0;
}

static void inquiry_standard(const struct scsi_unit *u, struct scsi_answer *a, uint32_t allowed)
{
	uint8_t d[36] = { type_of(u), u->cdrom ? 0x80 : 0, 5, 0x12, sizeof(d) - 5, 0, 0, 2 };

	memcpy(d + 8, "CAIRN   ", 8);
	memcpy(d + 16, u->cdrom ? "CD-ROM          " : "disk            ", 16);
	memcpy(d + 32, "1.0 ", 4);
	scsi_answer_data(a, d, sizeof(d), allowed);
}

/* Put a vendor's designator (ASCII), and the WWN as one of the NAA. Returns the bytes. */
static uint32_t designators_put(const struct scsi_unit *u, uint8_t *p)
{
	const char *name = u->serial[0] ? u->serial : u->id;
	uint32_t n = (uint32_t)strlen(name);

	p[0] = 2;
	p[3] = (uint8_t)n;
	memcpy(p + 4, name, n);
	n += 4;
	if (!u->wwn)
		return n;
	p[n] = 1;
	p[n + 1] = 3;
	p[n + 3] = 8;
	store_be64(p + n + 4, u->wwn);
	return n + 12;
}

static uint32_t pages_put(const struct scsi_unit *u, uint8_t *p)
{
	static const uint8_t pages[] = { 0x00, 0x83, 0xb0, 0xb1, 0xb2 };
	uint32_t n = 0;

	for (size_t i = 0; i < (u->cdrom ? 2 : ARRAY_SIZE(pages)); i++) {
		p[n++] = pages[i];
		if (!pages[i] && u->serial[0])
			p[n++] = 0x80;
	}
	return n;
}

/* Block limits (SBC-3, 6.6.4). p: the page without its header. */
static uint32_t limits_put(const struct scsi_unit *u, uint8_t *p)
{
	uint32_t most = (uint32_t)(CHANGE_BYTES_MAX / u->block_bytes);

	p[0] = 1; /* WRITE SAME of 0 blocks is refused */
	store_be16(p + 2, (uint16_t)MIN(u->physical_bytes / u->block_bytes, UINT16_MAX));
	store_be32(p + 4, TRANSFER_BYTES_MAX / u->block_bytes);
	if (u->discard_bytes) {
		store_be32(p + 16, most);
		store_be32(p + 20, 1);
		store_be32(p + 24, MAX(u->discard_bytes / u->block_bytes, 1u));
		p[28] = 0x80;
	}
	store_be64(p + 32, u->read_only ? 0 : most);
	return 0x3c;
}

static uint32_t provisioning_put(const struct scsi_unit *u, uint8_t *p)
{
	p[1] = u->discard_bytes ? 0xe0 : 0; /* UNMAP, WRITE SAME (16) and (10) */
	p[2] = u->discard_bytes ? 2 : 0;    /* thin */
	return 4;
}

static void inquiry_page(const struct scsi_unit *u, uint8_t page, struct scsi_answer *a, uint32_t allowed)
{
	uint8_t d[4 + 128] = { type_of(u), page }, *p = d + 4;
	uint32_t n;

	if (!page) {
		n = pages_put(u, p);
	} else if (page == 0x80 && u->serial[0]) {
		n = (uint32_t)strlen(u->serial);
		memcpy(p, u->serial, n);
	} else if (page == 0x83) {
		n = designators_put(u, p);
	} else if (page == 0xb0 && !u->cdrom) {
		n = limits_put(u, p);
	} else if (page == 0xb1 && !u->cdrom) {
		p[1] = 1; /* no rotation */
		n = 0x3c;
	} else if (page == 0xb2 && !u->cdrom) {
		n = provisioning_put(u, p);
	} else {
		scsi_answer_fail(a, SENSE_BAD_FIELD);
		return;
	}
	store_be16(d + 2, (uint16_t)n);
	scsi_answer_data(a, d, 4 + n, allowed);
}

static void inquiry(const struct scsi_unit *u, const uint8_t *cdb, struct scsi_answer *a)
{
	uint32_t allowed = load_be16(cdb + 3);

	if (cdb[1] & 1)
		inquiry_page(u, cdb[2], a, allowed);
	else if (cdb[2])
		scsi_answer_fail(a, SENSE_BAD_FIELD);
	else
		inquiry_standard(u, a, allowed);
}

/* ---- MODE SENSE and MODE SELECT (SPC-4, 6.11 to 6.14) ---- */

static uint32_t page_put(const struct scsi_unit *u, unsigned page, unsigned control, uint8_t *p)
{
	bool values = control != 1; /* else: which bits can be changed */

	if (page == PAGE_CACHING && !u->cdrom) {
		p[0] = PAGE_CACHING;
		p[1] = 0x12;
		p[2] = !values || (control == 2) || u->write_cache ? CACHING_WCE : 0;
		return 20;
	}
	if (page == PAGE_RECOVERY) {
		p[0] = PAGE_RECOVERY;
		p[1] = 0x0a;
		return 12;
	}
	if (page == PAGE_CD_CAPABILITIES && u->cdrom) {
		p[0] = PAGE_CD_CAPABILITIES;
		p[1] = 0x14;
		if (values) {
			p[2] = 0x08 | 0x02 | 0x01; /* reads DVD-ROM, CD-RW, CD-R */
			p[6] = 0x20 | 0x08 | 0x01 | (u->locked ? 0x02 : 0); /* a tray, which ejects, and can be locked */
		}
		return 22;
	}
	return 0;
}

static void mode_sense(const struct scsi_unit *u, const uint8_t *cdb, struct scsi_answer *a)
{
	static const uint8_t all[] = { PAGE_RECOVERY, PAGE_CACHING, PAGE_CD_CAPABILITIES };
	bool ten = cdb[0] == MODE_SENSE_10, descriptor = !(cdb[1] & 8) && !u->cdrom;
	unsigned page = cdb[2] & 0x3f, control = cdb[2] >> 6;
	uint32_t head = ten ? 8 : 4, n = head + (descriptor ? 8 : 0);
	uint8_t d[SCSI_ANSWER_MAX] = { 0 };

	if (control == 3 || (cdb[3] && cdb[3] != 0xff)) {
		scsi_answer_fail(a, control == 3 ? SENSE_NO_SAVED_PAGES : SENSE_BAD_FIELD);
		return;
	}
	if (descriptor) {
		store_be32(d + head, (uint32_t)MIN(scsi_blocks(u), UINT32_MAX));
		store_be32(d + head + 4, u->block_bytes);
	}
	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		if (page == PAGE_ALL || page == all[i])
			n += page_put(u, all[i], control, d + n);
	if (page != PAGE_ALL && n == head + (descriptor ? 8 : 0)) {
		scsi_answer_fail(a, SENSE_BAD_FIELD);
		return;
	}
	d[ten ? 3 : 2] = u->cdrom ? 0 : (u->read_only ? 0x80 : 0) | 0x10; /* write-protected; FUA works */
	d[ten ? 7 : 3] = descriptor ? 8 : 0;
	if (ten)
		store_be16(d, (uint16_t)(n - 2));
	else
		d[0] = (uint8_t)(n - 1);
	scsi_answer_data(a, d, n, ten ? load_be16(cdb + 7) : cdb[4]);
}

static void synchronize_cache(struct scsi_answer *a)
{
	a->kind = SCSI_CHANGE;
	a->op = BLOCK_FLUSH;
}

static void mode_select(struct scsi_unit *u, const uint8_t *cdb, const struct scsi_out *out, struct scsi_answer *a)
{
	bool ten = cdb[0] == MODE_SELECT_10;
	uint32_t n = ten ? load_be16(cdb + 7) : cdb[4], head = ten ? 8 : 4, at;
	uint8_t d[64] = { 0 };

	if (!n)
		return;
	if ((cdb[1] & 0x11) != 0x10) {
		scsi_answer_fail(a, SENSE_BAD_FIELD);
		return;
	}
	if (n > sizeof(d) || n < head || out->bytes < n) {
		scsi_answer_fail(a, SENSE_LIST_LENGTH);
		return;
	}
	iov_read(out->iov, out->n, 0, d, n);
	at = head + (ten ? load_be16(d + 6) : d[3]);
	if (at == n)
		return;
	if (at > n || n - at < 3 || at + 2 + d[at + 1] > n)
		scsi_answer_fail(a, SENSE_LIST_LENGTH);
	else if (d[at] != PAGE_CACHING || d[at + 1] != 0x12 || u->cdrom)
		scsi_answer_fail(a, SENSE_BAD_PARAMETER);
	else
		u->write_cache = d[at + 2] & CACHING_WCE;
	if (!u->write_cache && !a->sense) /* earlier writes of the guest must be durable, too */
		synchronize_cache(a);
}

/* ---- capacity, units, sense ---- */

static void capacity_10(const struct scsi_unit *u, struct scsi_answer *a)
{
	uint8_t d[8];

	store_be32(d, (uint32_t)MIN(scsi_blocks(u) - 1, UINT32_MAX));
	store_be32(d + 4, u->block_bytes);
	scsi_answer_data(a, d, sizeof(d), sizeof(d));
}

static void capacity_16(const struct scsi_unit *u, const uint8_t *cdb, struct scsi_answer *a)
{
	uint8_t d[32] = { 0 };

	store_be64(d, scsi_blocks(u) - 1);
	store_be32(d + 8, u->block_bytes);
	d[13] = (uint8_t)__builtin_ctz(MAX(u->physical_bytes / u->block_bytes, 1u));
	d[14] = u->discard_bytes ? 0x80 : 0;
	scsi_answer_data(a, d, sizeof(d), load_be32(cdb + 10));
}

static void report_luns(const uint8_t *cdb, struct scsi_answer *a)
{
	uint8_t d[16] = { 0 }; /* a target has the unit 0 only */

	store_be32(d, 8);
	if (cdb[2] == 1) /* the well-known units, of which there is none */
		store_be32(d, 0);
	scsi_answer_data(a, d, cdb[2] == 1 ? 8 : 16, load_be32(cdb + 6));
}

static void request_sense(struct scsi_unit *u, const uint8_t *cdb, struct scsi_answer *a)
{
	uint8_t d[SCSI_SENSE_BYTES];
	uint32_t sense = u->attention;

	u->attention = SENSE_NONE;
	if (!sense && u->cdrom && !scsi_has_medium(u))
		sense = u->tray_open ? SENSE_TRAY_OPEN : SENSE_NO_MEDIUM;
	scsi_sense_put(sense, d);
	scsi_answer_data(a, d, sizeof(d), cdb[4]);
}

/* ---- transfers ---- */

static bool range_parse(const uint8_t *cdb, uint64_t *ret_lba, uint64_t *ret_blocks)
{
	switch (cdb[0] >> 5) {
	case 0:
		*ret_lba = (uint64_t)(cdb[1] & 0x1f) << 16 | load_be16(cdb + 2);
		*ret_blocks = cdb[4] ? cdb[4] : 256;
		return true;
	case 1:
	case 2:
		*ret_lba = load_be32(cdb + 2);
		*ret_blocks = load_be16(cdb + 7);
		return true;
	case 4:
		*ret_lba = load_be64(cdb + 2);
		*ret_blocks = load_be32(cdb + 10);
		return true;
	case 5:
		*ret_lba = load_be32(cdb + 2);
		*ret_blocks = load_be32(cdb + 6);
		return true;
	default:
		return false;
	}
}

/* Set the answer's range. Returns false if the answer is an error, or if there is nothing to do. */
static bool range_set(const struct scsi_unit *u, const uint8_t *cdb, uint64_t most_bytes, struct scsi_answer *a)
{
	uint64_t lba, n;

	if (!range_parse(cdb, &lba, &n)) {
		scsi_answer_fail(a, SENSE_BAD_COMMAND);
		return false;
	}
	if (!range_inside(lba, n, scsi_blocks(u))) {
		scsi_answer_fail(a, SENSE_BAD_LBA);
		return false;
	}
	if (n > most_bytes / u->block_bytes) {
		scsi_answer_fail(a, SENSE_BAD_FIELD);
		return false;
	}
	a->offset = lba * u->block_bytes;
	a->len = n * u->block_bytes;
	return n;
}

static void read_or_write(const struct scsi_unit *u, const uint8_t *cdb, bool write, struct scsi_answer *a)
{
	bool six = cdb[0] == READ_6 || cdb[0] == WRITE_6;

	if (write && u->read_only)
		scsi_answer_fail(a, SENSE_READ_ONLY);
	else if (!six && (cdb[1] & 0xe0))
		scsi_answer_fail(a, SENSE_BAD_FIELD); /* no protection information */
	else if (range_set(u, cdb, BLOCK_REQ_BYTES_MAX, a)) {
		a->kind = SCSI_TRANSFER;
		a->op = write ? BLOCK_WRITE : BLOCK_READ;
		a->flags = write && (!u->write_cache || (!six && (cdb[1] & FUA))) ? BLOCK_REQ_FUA : 0;
	}
}

static void verify(const struct scsi_unit *u, const uint8_t *cdb, struct scsi_answer *a)
{
	if (cdb[1] & 6) /* compare with data of the guest */
		scsi_answer_fail(a, SENSE_BAD_FIELD);
	else
		range_set(u, cdb, UINT64_MAX, a);
}

static bool is_zero(const struct scsi_out *out, uint32_t bytes)
{
	uint8_t piece[512];

	if (out->bytes < bytes)
		return false;
	for (uint32_t at = 0; at < bytes; at += sizeof(piece)) {
		iov_read(out->iov, out->n, at, piece, sizeof(piece));
		if (!bytes_are_zero(piece, sizeof(piece)))
			return false;
	}
	return true;
}

/* Only zeros can be repeated, which is how Linux and Windows use the command. */
static void write_same(const struct scsi_unit *u, const uint8_t *cdb, const struct scsi_out *out, struct scsi_answer *a)
{
	bool no_data = cdb[0] == WRITE_SAME_16 && (cdb[1] & 1), unmap = cdb[1] & 8;
	uint64_t lba, n;

	if (u->read_only)
		scsi_answer_fail(a, SENSE_READ_ONLY);
	else if ((cdb[1] & 0xf6) || !range_parse(cdb, &lba, &n) || !n || (unmap && !u->discard_bytes) ||
		(!no_data && !is_zero(out, u->block_bytes)))
		scsi_answer_fail(a, SENSE_BAD_FIELD);
	else if (range_set(u, cdb, CHANGE_BYTES_MAX, a)) {
		a->kind = SCSI_CHANGE;
		a->op = BLOCK_WRITE_ZEROES;
		a->flags = (unmap ? BLOCK_REQ_MAY_UNMAP : 0) | (u->write_cache ? 0 : BLOCK_REQ_FUA);
	}
}

/* A list of at most one range, as page 0xb0 says. */
static void unmap_range(const struct scsi_unit *u, const uint8_t *cdb, const struct scsi_out *out, struct scsi_answer *a)
{
	uint32_t n = load_be16(cdb + 7);
	uint8_t d[24] = { 0 };
	uint64_t lba, blocks;

	if (!n)
		return;
	if (u->read_only || !u->discard_bytes) {
		scsi_answer_fail(a, u->read_only ? SENSE_READ_ONLY : SENSE_BAD_COMMAND);
		return;
	}
	if (n < 8 || out->bytes < n || (cdb[1] & 1)) {
		scsi_answer_fail(a, cdb[1] & 1 ? SENSE_BAD_FIELD : SENSE_LIST_LENGTH);
		return;
	}
	iov_read(out->iov, out->n, 0, d, MIN(n, sizeof(d)));
	if (load_be16(d + 2) < 16 || n < 24)
		return; /* an empty list */
	lba = load_be64(d + 8);
	blocks = load_be32(d + 16);
	if (load_be16(d + 2) >= 32 || blocks > CHANGE_BYTES_MAX / u->block_bytes)
		scsi_answer_fail(a, SENSE_BAD_PARAMETER);
	else if (!range_inside(lba, blocks, scsi_blocks(u)))
		scsi_answer_fail(a, SENSE_BAD_LBA);
	else if (blocks) {
		a->kind = SCSI_CHANGE;
		a->op = BLOCK_DISCARD;
		a->offset = lba * u->block_bytes;
		a->len = blocks * u->block_bytes;
	}
}

/* ---- all commands ---- */

/* Returns whether the command is carried out while a unit attention is pending. */
static bool is_always_answered(const struct scsi_unit *u, uint8_t op)
{
	return op == INQUIRY || op == REPORT_LUNS || op == REQUEST_SENSE ||
		(u->cdrom && (op == GET_CONFIGURATION || op == GET_EVENT_STATUS));
}

/* Returns false if the command is none of those that need no medium. */
static bool command_without_medium(struct scsi_unit *u, const uint8_t *cdb, const struct scsi_out *out, struct scsi_answer *a)
{
	switch (cdb[0]) {
	case INQUIRY:
		inquiry(u, cdb, a);
		return true;
	case REPORT_LUNS:
		report_luns(cdb, a);
		return true;
	case REQUEST_SENSE:
		request_sense(u, cdb, a);
		return true;
	case MODE_SENSE_6:
	case MODE_SENSE_10:
		mode_sense(u, cdb, a);
		return true;
	case MODE_SELECT_6:
	case MODE_SELECT_10:
		mode_select(u, cdb, out, a);
		return true;
	case START_STOP:
		return !u->cdrom;
	case PREVENT_ALLOW:
		if (!u->cdrom)
			scsi_answer_fail(a, SENSE_BAD_COMMAND);
		return !u->cdrom;
	case RESERVE_6:
	case RELEASE_6:
	case RESERVE_10:
	case RELEASE_10:
	case PERSISTENT_RESERVE_IN:
	case PERSISTENT_RESERVE_OUT:
		a->reservation = true;
		scsi_answer_fail(a, SENSE_BAD_COMMAND);
		return true;
	default:
		return false;
	}
}

enum disk_limit scsi_limit_kind(const uint8_t *cdb)
{
	switch (cdb[0]) {
	case READ_6:
	case READ_10:
	case READ_12:
	case READ_16:
		return DISK_LIMIT_READ;
	case WRITE_6:
	case WRITE_10:
	case WRITE_12:
	case WRITE_16:
	case WRITE_SAME_10:
	case WRITE_SAME_16:
	case UNMAP:
		return DISK_LIMIT_WRITE;
	default:
		return DISK_LIMIT_ALL;
	}
}

static void command_with_medium(struct scsi_unit *u, const uint8_t *cdb, const struct scsi_out *out, struct scsi_answer *a)
{
	switch (cdb[0]) {
	case TEST_UNIT_READY:
		return;
	case READ_6:
	case READ_10:
	case READ_12:
	case READ_16:
		read_or_write(u, cdb, false, a);
		return;
	case WRITE_6:
	case WRITE_10:
	case WRITE_12:
	case WRITE_16:
		read_or_write(u, cdb, true, a);
		return;
	case VERIFY_10:
	case VERIFY_12:
	case VERIFY_16:
		verify(u, cdb, a);
		return;
	case READ_CAPACITY_10:
		capacity_10(u, a);
		return;
	case SERVICE_ACTION_IN:
		if ((cdb[1] & 0x1f) == READ_CAPACITY_16)
			capacity_16(u, cdb, a);
		else
			scsi_answer_fail(a, SENSE_BAD_FIELD);
		return;
	case SYNC_CACHE_10:
	case SYNC_CACHE_16:
		synchronize_cache(a);
		return;
	case WRITE_SAME_10:
	case WRITE_SAME_16:
		write_same(u, cdb, out, a);
		return;
	case UNMAP:
		unmap_range(u, cdb, out, a);
		return;
	default:
		scsi_answer_fail(a, SENSE_BAD_COMMAND);
	}
}

static void answer_begin(struct scsi_answer *a)
{
	a->kind = SCSI_DONE;
	a->sense = SENSE_NONE;
	a->op = BLOCK_READ;
	a->flags = 0;
	a->offset = a->len = 0;
	a->tray_moved = a->reservation = false;
	a->bytes = 0;
}

void scsi_command(struct scsi_unit *u, const uint8_t *cdb, const struct scsi_out *out, struct scsi_answer *a)
{
	answer_begin(a);
	if (u->attention && !is_always_answered(u, cdb[0])) {
		scsi_answer_fail(a, u->attention);
		u->attention = SENSE_NONE;
		return;
	}
	if (command_without_medium(u, cdb, out, a) || (u->cdrom && scsi_cdrom_command(u, cdb, a)))
		return;
	if (!scsi_has_medium(u))
		scsi_answer_fail(a, u->tray_open ? SENSE_TRAY_OPEN : SENSE_NO_MEDIUM);
	else
		command_with_medium(u, cdb, out, a);
}

void scsi_command_no_unit(const uint8_t *cdb, struct scsi_answer *a)
{
	uint8_t d[36] = { 0x7f, 0, 5, 2, sizeof(d) - 5 };

	answer_begin(a);
	if (cdb[0] == REPORT_LUNS)
		report_luns(cdb, a);
	else if (cdb[0] == INQUIRY && !(cdb[1] & 1))
		scsi_answer_data(a, d, sizeof(d), load_be16(cdb + 3));
	else
		scsi_answer_fail(a, SENSE_BAD_LUN);
}
