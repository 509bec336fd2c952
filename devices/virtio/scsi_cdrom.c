/* Commands of a CD drive with a data disc of one track (MMC-5). */
#include "base/bytes.h"
#include "base/util.h"
#include "devices/virtio/scsi.h"

#include <string.h>

enum {
	START_STOP = 0x1b, PREVENT_ALLOW = 0x1e, READ_TOC = 0x43, GET_CONFIGURATION = 0x46, GET_EVENT_STATUS = 0x4a,
	READ_DISC_INFORMATION = 0x51, MECHANISM_STATUS = 0xbd,
};
#define START 1
#define LOAD_EJECT 2
#define CD_BYTES_MAX (900ULL << 20) /* a larger disc is a DVD */
#define TRACK_LEAD_OUT 0xaa
#define DATA_TRACK 0x14
#define MSF_FRAMES 75
#define MSF_START 150

static void tray_move(struct scsi_unit *u, bool open, struct scsi_answer *a)
{
	if (u->tray_open == open)
		return;
	if (open && u->locked) {
		scsi_answer_fail(a, SENSE_LOCKED);
		return;
	}
	u->tray_open = open;
	u->media_event = open ? SCSI_MEDIA_GONE : u->size_bytes ? SCSI_MEDIA_NEW : SCSI_MEDIA_NONE;
	if (!open && u->size_bytes)
		u->attention = SENSE_MEDIUM_CHANGED;
	a->tray_moved = true;
}

static void address_put(uint8_t p[4], uint64_t lba, bool msf)
{
	uint32_t frames = (uint32_t)MIN(lba, UINT32_MAX - MSF_START);

	if (!msf) {
		store_be32(p, frames);
		return;
	}
	frames += MSF_START;
	p[0] = 0;
	p[1] = (uint8_t)MIN(frames / MSF_FRAMES / 60, 255u);
	p[2] = (uint8_t)(frames / MSF_FRAMES % 60);
	p[3] = (uint8_t)(frames % MSF_FRAMES);
}

static uint32_t track_put(uint8_t *p, uint8_t control, uint8_t track, uint64_t lba, bool msf)
{
	p[1] = control;
	p[2] = track;
	address_put(p + 4, lba, msf);
	return 8;
}

static void read_toc(const struct scsi_unit *u, const uint8_t *cdb, struct scsi_answer *a)
{
	unsigned format = cdb[2] & 0x0f, first = cdb[6];
	bool msf = cdb[1] & 2;
	uint8_t d[20] = { 0, 0, 1, 1 };
	uint32_t n = 4;

	if (!format)
		format = cdb[9] >> 6; /* where older drives have it */
	if (format > 1 || (!format && first > 1 && first != TRACK_LEAD_OUT)) {
		scsi_answer_fail(a, SENSE_BAD_FIELD);
		return;
	}
	if (format || first <= 1)
		n += track_put(d + n, DATA_TRACK, 1, 0, msf);
	if (!format)
		n += track_put(d + n, 0x16, TRACK_LEAD_OUT, scsi_blocks(u), msf);
	store_be16(d, (uint16_t)(n - 2));
	scsi_answer_data(a, d, n, load_be16(cdb + 7));
}

static uint32_t feature_put(uint8_t *p, uint16_t code, uint32_t words, uint32_t first, uint32_t second)
{
	store_be16(p, code);
	p[2] = 3; /* persistent, current */
	p[3] = (uint8_t)(4 * words);
	store_be32(p + 4, first);
	if (words > 1)
		store_be32(p + 8, second);
	return 4 + 4 * words;
}

static void get_configuration(const struct scsi_unit *u, const uint8_t *cdb, struct scsi_answer *a)
{
	unsigned which = cdb[1] & 3, from = load_be16(cdb + 2);
	bool dvd = u->size_bytes > CD_BYTES_MAX, medium = scsi_has_medium(u);
	uint8_t d[64] = { 0 };
	uint32_t n = 8;

	if (which == 3) {
		scsi_answer_fail(a, SENSE_BAD_FIELD);
		return;
	}
	if (!from)
		n += feature_put(d + n, 0, 2, 0x00100000 | (medium && dvd) << 8, 0x00080000 | (medium && !dvd) << 8);
	if (from == 1 || (from < 1 && which < 2))
		n += feature_put(d + n, 1, 2, 1, 0x01000000); /* a SCSI device, which answers polls */
	if (from == 3 || (from < 3 && which < 2))
		n += feature_put(d + n, 3, 1, 0x29000000, 0); /* a tray, which ejects, and can be locked */
	store_be16(d + 6, !medium ? 0 : dvd ? 0x10 : 0x08);
	store_be32(d, n - 4);
	scsi_answer_data(a, d, n, load_be16(cdb + 7));
}

static void get_event_status(struct scsi_unit *u, const uint8_t *cdb, struct scsi_answer *a)
{
	bool media = cdb[4] & 0x10;
	uint8_t d[8] = { 0, media ? 6 : 2, media ? 4 : 0x80, 0x10 };

	if (!(cdb[1] & 1)) {
		scsi_answer_fail(a, SENSE_BAD_FIELD); /* only polled */
		return;
	}
	if (media) {
		d[4] = u->media_event;
		d[5] = (u->tray_open ? 1 : 0) | (scsi_has_medium(u) ? 2 : 0);
		u->media_event = SCSI_MEDIA_NONE;
	}
	scsi_answer_data(a, d, media ? 8 : 4, load_be16(cdb + 7));
}

static void read_disc_information(const uint8_t *cdb, struct scsi_answer *a)
{
	uint8_t d[34] = { 0, 32, 0x0e, 1, 1, 1, 1, 0x20 }; /* complete, one session of one track */

	if (cdb[1] & 7)
		scsi_answer_fail(a, SENSE_BAD_FIELD);
	else
		scsi_answer_data(a, d, sizeof(d), load_be16(cdb + 7));
}

static void mechanism_status(const struct scsi_unit *u, const uint8_t *cdb, struct scsi_answer *a)
{
	uint8_t d[8] = { 0, u->tray_open ? 0x10 : 0 };

	scsi_answer_data(a, d, sizeof(d), load_be16(cdb + 8));
}

bool scsi_cdrom_command(struct scsi_unit *u, const uint8_t *cdb, struct scsi_answer *a)
{
	switch (cdb[0]) {
	case START_STOP:
		if (cdb[4] & LOAD_EJECT)
			tray_move(u, !(cdb[4] & START), a);
		return true;
	case PREVENT_ALLOW:
		u->locked = cdb[4] & 1;
		return true;
	case GET_CONFIGURATION:
		get_configuration(u, cdb, a);
		return true;
	case GET_EVENT_STATUS:
		get_event_status(u, cdb, a);
		return true;
	case MECHANISM_STATUS:
		mechanism_status(u, cdb, a);
		return true;
	case READ_TOC:
	case READ_DISC_INFORMATION:
		if (!scsi_has_medium(u))
			return false;
		if (cdb[0] == READ_TOC)
			read_toc(u, cdb, a);
		else
			read_disc_information(cdb, a);
		return true;
	default:
		return false;
	}
}
