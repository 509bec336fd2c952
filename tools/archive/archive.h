/* archive: what the files of cairn-archive share. It packs a VM into one file and takes it out
 * again; docs/archive.md has the format.
 *
 * What it reads it was handed as open fds; the one path that it opens is an import's folder, with
 * the rights of the user who asks. An archive that it reads is hostile. */
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
#define ARCHIVE_MANIFEST "manifest.json"
#define ARCHIVE_SUMS "sums.json"
#define ARCHIVE_JSON_MAX (1024 * 1024)
#define ARCHIVE_FILES_MAX 1024
#define ARCHIVE_NAME_MAX 64

/* ---- the content of a file as one sum (sum.c) ---- */

#define SUM_BLOCK_BYTES 4096
#define SUM_TEXT (2 * SHA256_DIGEST_SIZE + 1)

/* SHA-256 over what is not zero: of each block of 4 KiB that is not all zeros its number (8
 * bytes, big endian) and its bytes; the last may be short. So holes cost nothing, and whether
 * zeros are a hole or not changes nothing. */
struct sum {
	struct sha256_ctx sha;
	uint64_t size;
	bool begun; /* by sum_init() */
	uint64_t block; /* whose bytes are in buf */
	size_t have;	/* up to where buf is filled; 0: nothing is */
	uint8_t buf[SUM_BLOCK_BYTES];
};
void sum_init(struct sum *s, uint64_t size_bytes);
/* In rising order of off, inside the file; what is left out is zeros. */
void sum_update(struct sum *s, uint64_t off, const void *data, size_t len);
void sum_final(struct sum *s, char ret_text[SUM_TEXT]);

/* ---- from one thread to the other (queue.c) ---- */

#define CHUNK_BYTES (1024 * 1024)

/* Some bytes of a file. buf has CHUNK_BYTES. */
struct chunk {
	unsigned file;
	uint64_t off;
	size_t len;
	uint8_t *buf;
};

struct queue;
/* NULL: no memory. */
struct queue *queue_new(void);
void queue_free(struct queue *q);
/* The producer: a chunk to fill, which queue_put() hands on in order; NULL: the consumer has
 * given up. */
struct chunk *queue_room(struct queue *q);
void queue_put(struct queue *q);
/* No more comes. r: 0, or why (-errno); e: with it. */
void queue_end(struct queue *q, int r, const struct err *e);
/* The consumer: the next chunk, which queue_took() gives back; NULL: there is no more. */
struct chunk *queue_next(struct queue *q);
void queue_took(struct queue *q);
/* The consumer gives up. */
void queue_give_up(struct queue *q);
/* What queue_end() was told. */
int queue_result(struct queue *q, struct err *e);

/* ---- what is in an archive (manifest.c) ---- */

struct archive_file {
	char name[ARCHIVE_NAME_MAX + 1]; /* plain: no folder in it */
	uint64_t size_bytes, data_bytes; /* its length; how much of it is stored */
	char sum[SUM_TEXT];		 /* empty: not known yet */
	bool qcow2;			    /* else raw, or no disk's */
	char backing[ARCHIVE_NAME_MAX + 1]; /* of a qcow2 image; empty: none */
	char backing_format[8];
	char data_file[ARCHIVE_NAME_MAX + 1]; /* of a qcow2 image; empty: none */
};

struct manifest {
	struct json_object *definition; /* paths are names of files */
	char snapshot[256];		/* of which the disks are; empty: they are as they stood */
	char own_sum[SUM_TEXT]; /* of the manifest itself */
	struct archive_file *files;
	unsigned nfiles;
};

void manifest_done(struct manifest *m);
/* Is it one that a file in an archive may have? */
bool manifest_name_ok(const char *name);
/* The caller frees the text. */
char *manifest_print(const struct manifest *m);
/* text[len] is NUL. Everything is checked but the definition, which is an object. */
int manifest_parse(const char *text, size_t len, struct manifest *ret, struct err *e);
char *manifest_print_sums(const struct manifest *m);
/* Each file's sum into m. */
int manifest_parse_sums(const char *text, size_t len, struct manifest *m, struct err *e);

/* ---- the work ---- */

/* Lines of JSON on stdout, at most five a second: {"done":N,"total":N}. */
struct progress {
	uint64_t done, total, next_ns;
};
void progress_add(struct progress *p, uint64_t bytes);
/* 0; -ECANCELED after SIGTERM. */
int archive_cancelled(struct err *e);

/* spec: docs/archive.md. result: put into; the caller's. */
int archive_export(struct json_object *spec, struct json_object *result, struct err *e);
/* stage: NULL: only look whether it is whole. */
int archive_import(struct json_object *spec, struct stage *stage, struct json_object *result,
	struct err *e);

#endif
