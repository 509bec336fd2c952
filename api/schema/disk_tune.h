/* disk_tune: names of a disk's limits: the keys of a definition, which QEMU has too, and libvirt's words. */
#ifndef CAIRN_API_SCHEMA_DISK_TUNE_H
#define CAIRN_API_SCHEMA_DISK_TUNE_H

#define DISK_IOPS_MAX 4294967295ULL
#define DISK_BPS_MIN 4096ULL
#define DISK_BPS_MAX (1ULL << 40)
#define DISK_BURST_SECONDS_MAX 86400ULL

enum disk_tune_kind { TUNE_IOPS, TUNE_BPS, TUNE_SECONDS, TUNE_BYTES };

/* Each limit, in virsh's order. X: key, libvirt's word with "-", field of struct vm_disk_tune, kind, meaning. */
#define DISK_TUNE_EACH(X) \
	X("bps", "total-bytes-sec", bps[0].rate, TUNE_BPS, "bytes read, written and zeroed in a second, at most, such as 20M") \
	X("bps_rd", "read-bytes-sec", bps[1].rate, TUNE_BPS, "bytes read in a second, at most") \
	X("bps_wr", "write-bytes-sec", bps[2].rate, TUNE_BPS, "bytes written and zeroed in a second, at most") \
	X("iops", "total-iops-sec", iops[0].rate, TUNE_IOPS, "requests a second, at most; others wait") \
	X("iops_rd", "read-iops-sec", iops[1].rate, TUNE_IOPS, "reads a second, at most") \
	X("iops_wr", "write-iops-sec", iops[2].rate, TUNE_IOPS, "writes, zeroes and discards a second, at most") \
	X("bps_max", "total-bytes-sec-max", bps[0].max, TUNE_BPS, "bps in a burst") \
	X("bps_rd_max", "read-bytes-sec-max", bps[1].max, TUNE_BPS, "bps_rd in a burst") \
	X("bps_wr_max", "write-bytes-sec-max", bps[2].max, TUNE_BPS, "bps_wr in a burst") \
	X("iops_max", "total-iops-sec-max", iops[0].max, TUNE_IOPS, "iops in a burst") \
	X("iops_rd_max", "read-iops-sec-max", iops[1].max, TUNE_IOPS, "iops_rd in a burst") \
	X("iops_wr_max", "write-iops-sec-max", iops[2].max, TUNE_IOPS, "iops_wr in a burst") \
	X("iops_size", "size-iops-sec", iops_bytes, TUNE_BYTES, "a larger request counts as several, each of so many bytes") \
	X("bps_max_length", "total-bytes-sec-max-length", bps[0].max_s, TUNE_SECONDS, "seconds of a burst of bps_max") \
	X("bps_rd_max_length", "read-bytes-sec-max-length", bps[1].max_s, TUNE_SECONDS, "seconds of a burst of bps_rd_max") \
	X("bps_wr_max_length", "write-bytes-sec-max-length", bps[2].max_s, TUNE_SECONDS, "seconds of a burst of bps_wr_max") \
	X("iops_max_length", "total-iops-sec-max-length", iops[0].max_s, TUNE_SECONDS, "seconds of a burst of iops_max") \
	X("iops_rd_max_length", "read-iops-sec-max-length", iops[1].max_s, TUNE_SECONDS, "seconds of a burst of iops_rd_max") \
	X("iops_wr_max_length", "write-iops-sec-max-length", iops[2].max_s, TUNE_SECONDS, "seconds of a burst of iops_wr_max")

#define DISK_TUNE_ONE(key, libvirt, field, kind, about) + 1
enum { DISK_TUNE_KEYS = 0 DISK_TUNE_EACH(DISK_TUNE_ONE) };

struct disk_tune_key {
	const char *key, *libvirt;
	enum disk_tune_kind kind;
};

extern const struct disk_tune_key disk_tune_keys[DISK_TUNE_KEYS];
/* The keys alone. */
extern const char *const disk_tune_names[DISK_TUNE_KEYS];

#define DISK_TUNE_WORD_MAX 32
/* Copy libvirt's word to ret, with "_" for "-", as in its XML and virsh's output. Returns ret. */
const char *disk_tune_word(const struct disk_tune_key *k, char ret[DISK_TUNE_WORD_MAX]);

#endif
