/* archive: shared parts of cairn-archive, which packs a VM into one file and unpacks it again. docs/archive.md
 * describes the format.
 *
 * The program receives its files as open fds. The only path that it opens is the folder of an import, with the rights
 * of the user who imports. Archives are untrusted.
 *
 * Threading: struct queue connects two threads, a producer and a consumer. A struct sum belongs to one thread at a
 * time. All other functions are for the main thread. */
#ifndef CAIRN_TOOLS_ARCHIVE_ARCHIVE_H
#define CAIRN_TOOLS_ARCHIVE_ARCHIVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <nettle/sha2.h>

struct err;
struct json_object;
struct stage;

#define ARCHIVE_FORMAT 1
#define ARCHIVE_FORMAT_INCREMENT 2 /* earlier versions of Cairn refuse an increment */
#define ARCHIVE_MANIFEST "manifest.json"
#define ARCHIVE_SUMS "sums.json"
#define ARCHIVE_JSON_MAX (1024 * 1024)
#define ARCHIVE_FILES_MAX 1024
#define ARCHIVE_NAME_MAX 64

/* ---- checksum of a file (sum.c) ---- */

#define SUM_BLOCK_BYTES 4096
#define SUM_TEXT (2 * SHA256_DIGEST_SIZE + 1)

/* A checksum of a file: SHA-256 over its blocks of 4 KiB that are not all zeros. For each of these blocks, the hash
 * takes the block's number (8 bytes, big endian) and then its bytes; the last block may be shorter. Holes cost nothing,
 * and a hole and stored zeros give the same hash. */
struct sum {
	struct sha256_ctx sha;
	uint64_t size;
	bool begun; /* set by sum_init() */
	uint64_t block; /* number of the block in buf */
	size_t have;	/* bytes in buf; 0: empty */
	uint8_t buf[SUM_BLOCK_BYTES];
};
void sum_init(struct sum *s, uint64_t size_bytes);
/* Add data at offset off. Calls come in ascending order of off; gaps are zeros. */
void sum_update(struct sum *s, uint64_t off, const void *data, size_t len);
void sum_final(struct sum *s, char ret_text[SUM_TEXT]);

/* ---- queue between two threads (queue.c) ---- */

#define CHUNK_BYTES (1024 * 1024)

/* A piece of a file. buf has CHUNK_BYTES. */
struct chunk {
	unsigned file;
	uint64_t off;
	size_t len;
	uint8_t *buf;
};

struct queue;
/* Returns NULL if there is no memory. */
struct queue *queue_new(void);
void queue_free(struct queue *q);
/* Producer: get a free chunk, to fill and pass to queue_put(). Returns NULL after queue_give_up(). */
struct chunk *queue_room(struct queue *q);
void queue_put(struct queue *q);
/* Producer: no more chunks follow. r: 0 or -errno; e: the error for r. */
void queue_end(struct queue *q, int r, const struct err *e);
/* Consumer: get the next chunk, to return with queue_took(). Returns NULL behind the last. */
struct chunk *queue_next(struct queue *q);
void queue_took(struct queue *q);
/* Consumer: accept no more chunks. */
void queue_give_up(struct queue *q);
/* Returns the result that queue_end() got. */
int queue_result(struct queue *q, struct err *e);

/* ---- manifest of an archive (manifest.c) ---- */

struct archive_file {
	char name[ARCHIVE_NAME_MAX + 1]; /* file name without a folder */
	char stored[ARCHIVE_NAME_MAX + 1]; /* name of the unpacked file; the same, except in a chain */
	bool skipped; /* of an earlier archive of a chain: checked, but not unpacked */
	uint64_t size_bytes, data_bytes; /* length; stored bytes */
	char sum[SUM_TEXT];		 /* empty: not known yet */
	bool qcow2;			    /* false: raw, or not a disk */
	bool increment; /* an overlay on the file of this name in the archive before */
	char backing[ARCHIVE_NAME_MAX + 1]; /* backing file of a qcow2 image; empty: none */
	char backing_format[8];
	char data_file[ARCHIVE_NAME_MAX + 1]; /* data file of a qcow2 image; empty: none */
};

struct manifest {
	struct json_object *definition; /* with file names in place of paths */
	char snapshot[256];		/* exported snapshot; empty: the disks themselves */
	char since[256];		/* the snapshot before an increment; empty: the archive has everything */
	char snapshot_id[64], since_id[64]; /* see struct source_since; empty: not known */
	char own_sum[SUM_TEXT]; /* checksum of the manifest itself */
	struct archive_file *files;
	unsigned nfiles;
};

void manifest_done(struct manifest *m);
/* Return whether a file in an archive may have this name. */
bool manifest_name_ok(const char *name);
/* Returns the text of manifest.json; the caller frees it. */
char *manifest_print(const struct manifest *m);
/* Parse the manifest. text[len] is NUL. Checks everything except the definition, which is any object. Returns 0;
 * -EINVAL with a sentence. */
int manifest_parse(const char *text, size_t len, struct manifest *ret, struct err *e);
/* Returns the text of sums.json; the caller frees it. */
char *manifest_print_sums(const struct manifest *m);
/* Parse sums.json and put each checksum into m. */
int manifest_parse_sums(const char *text, size_t len, struct manifest *m, struct err *e);

/* ---- chain of archives (chain.c) ---- */

#define ARCHIVE_CHAIN_MAX 16 /* as many layers as a disk may have */

/* Join an archive with its increments: check that each continues the previous one, choose the files to unpack and
 * their names, and name them in the definition of the last archive.
 * list: n manifests, n >= 1. Returns 0; -EINVAL with a sentence. */
int chain_join(struct manifest *const *list, unsigned n, struct err *e);

/* ---- operations ---- */

/* Progress as lines of JSON on stdout, {"done":N,"total":N,"space":N}, at most five a second. */
struct archive_progress {
	uint64_t done, total, next_ns;
	_Atomic uint64_t space; /* that the files of an import take; set by the thread that writes them */
};
void archive_progress_add(struct archive_progress *p, uint64_t bytes);
/* Returns 0; -ECANCELED after SIGTERM. */
int archive_cancelled(struct err *e);

/* Restrict the process (sandbox.h) and export a VM.
 * spec: docs/archive.md. result: borrowed; the function adds members.
 * Returns 0; -errno with a sentence. */
int archive_export(struct json_object *spec, struct json_object *result, struct err *e);
/* Import or check an archive; the process is restricted already. stage: where to unpack; NULL: only check. Other
 * parameters and results as in archive_export(). */
int archive_import(struct json_object *spec, struct stage *stage, struct json_object *result,
	struct err *e);

#endif
