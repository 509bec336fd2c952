/* scsi: the commands of one logical unit, a disk (SBC-3) or a CD drive (MMC-5). It converts a command to an answer,
 * or to a request for the block layer, and uses neither rings nor threads.
 *
 * Everything that comes in is the guest's and may be hostile: each field of a command is checked before use.
 * Threading: the caller holds the controller's lock. */
#ifndef CAIRN_DEVICES_VIRTIO_SCSI_H
#define CAIRN_DEVICES_VIRTIO_SCSI_H

#include "block/block.h"
#include "devices/virtio/disk_throttle.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#define SCSI_CDB_BYTES 32
#define SCSI_SENSE_BYTES 18
#define SCSI_ANSWER_MAX 256
#define SCSI_CD_BLOCK_BYTES 2048u
#define SCSI_SERIAL_BYTES 36

enum scsi_status { SCSI_GOOD = 0x00, SCSI_CHECK_CONDITION = 0x02, SCSI_TASK_SET_FULL = 0x28 };

/* A sense key, with the additional code and its qualifier. */
#define SCSI_SENSE(key, asc, ascq) ((uint32_t)(key) << 16 | (asc) << 8 | (ascq))
#define SENSE_NONE SCSI_SENSE(0, 0, 0)
#define SENSE_NO_MEDIUM SCSI_SENSE(2, 0x3a, 0)
#define SENSE_TRAY_OPEN SCSI_SENSE(2, 0x3a, 2)
#define SENSE_READ_ERROR SCSI_SENSE(3, 0x11, 0)
#define SENSE_WRITE_ERROR SCSI_SENSE(3, 0x0c, 0)
#define SENSE_LIST_LENGTH SCSI_SENSE(5, 0x1a, 0)
#define SENSE_BAD_COMMAND SCSI_SENSE(5, 0x20, 0)
#define SENSE_BAD_LBA SCSI_SENSE(5, 0x21, 0)
#define SENSE_BAD_FIELD SCSI_SENSE(5, 0x24, 0)
#define SENSE_BAD_LUN SCSI_SENSE(5, 0x25, 0)
#define SENSE_BAD_PARAMETER SCSI_SENSE(5, 0x26, 0)
#define SENSE_NO_SAVED_PAGES SCSI_SENSE(5, 0x39, 0)
#define SENSE_LOCKED SCSI_SENSE(5, 0x53, 2)
#define SENSE_MEDIUM_CHANGED SCSI_SENSE(6, 0x28, 0)
#define SENSE_RESET SCSI_SENSE(6, 0x29, 0)
#define SENSE_CAPACITY_CHANGED SCSI_SENSE(6, 0x2a, 9)
#define SENSE_READ_ONLY SCSI_SENSE(7, 0x27, 0)
#define SENSE_NO_SPACE SCSI_SENSE(7, 0x27, 7)

/* Media events of a CD drive, for GET EVENT STATUS NOTIFICATION. */
enum scsi_media_event { SCSI_MEDIA_NONE = 0, SCSI_MEDIA_EJECT_ASKED = 1, SCSI_MEDIA_NEW = 2, SCSI_MEDIA_GONE = 3 };

struct scsi_unit {
	/* constant */
	bool cdrom, read_only;
	char id[16];			    /* "sda"; for designators of a unit without a serial number */
	char serial[SCSI_SERIAL_BYTES + 1]; /* empty: none */
	uint64_t wwn;			    /* 0: none */
	uint32_t block_bytes, physical_bytes;
	uint32_t discard_bytes; /* granularity; 0: the unit cannot unmap */
	/* the medium */
	uint64_t size_bytes; /* 0: none */
	uint64_t medium;     /* tells it from others */
	/* state */
	bool write_cache;
	bool tray_open, locked; /* of a CD drive */
	uint8_t media_event;	/* enum scsi_media_event */
	uint32_t attention;	/* the sense of a pending unit attention; 0: none */
};

/* A command's data to the device. */
struct scsi_out {
	const struct iovec *iov;
	unsigned n;
	uint64_t bytes;
};

enum scsi_kind {
	SCSI_DONE,	  /* status, sense and data are the answer */
	SCSI_TRANSFER,	  /* read or write `len` bytes at `offset` */
	SCSI_CHANGE,	  /* a request without data: flush, discard, zeros */
};

struct scsi_answer {
	enum scsi_kind kind;
	uint32_t sense; /* of SCSI_DONE; SENSE_NONE: the command succeeded */
	enum block_op op;
	unsigned flags; /* enum block_req_flags */
	uint64_t offset, len;
	bool tray_moved; /* the guest opened or closed the tray */
	bool reservation; /* the command was refused, since there are no reservations */
	uint32_t bytes; /* of data */
	uint8_t data[SCSI_ANSWER_MAX];
};

/* Carry out a command or begin it. cdb: SCSI_CDB_BYTES. */
void scsi_command(struct scsi_unit *u, const uint8_t *cdb, const struct scsi_out *out, struct scsi_answer *ret);
/* Return the limit that applies to a command besides DISK_LIMIT_ALL; DISK_LIMIT_ALL: only that one. */
enum disk_limit scsi_limit_kind(const uint8_t *cdb);
/* The same for a logical unit that an existing target lacks. */
void scsi_command_no_unit(const uint8_t *cdb, struct scsi_answer *ret);
/* Return to the state after power-on. */
void scsi_unit_reset(struct scsi_unit *u);
/* Return the sense of an error of the block layer. */
uint32_t scsi_sense_of(int error, bool is_write);
/* Write fixed-format sense data. */
void scsi_sense_put(uint32_t sense, uint8_t ret[SCSI_SENSE_BYTES]);

/* The drive's own commands (scsi_cdrom.c). Returns false if the command is none of these. */
bool scsi_cdrom_command(struct scsi_unit *u, const uint8_t *cdb, struct scsi_answer *ret);
/* For both files: put an answer's data, shortened to what the command allows; fail. */
void scsi_answer_data(struct scsi_answer *a, const void *data, uint32_t bytes, uint32_t allowed);
void scsi_answer_fail(struct scsi_answer *a, uint32_t sense);

static inline bool scsi_has_medium(const struct scsi_unit *u)
{
	return u->size_bytes >= u->block_bytes && !u->tray_open;
}

static inline uint64_t scsi_blocks(const struct scsi_unit *u)
{
	return u->size_bytes / u->block_bytes;
}

#endif
