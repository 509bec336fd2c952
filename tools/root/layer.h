/* layer: reads a layer of an image: a tar archive in part of a file, perhaps compressed. It computes the layer's
 * SHA-256 meanwhile.
 *
 * Threading: one thread. */
#ifndef CAIRN_TOOLS_ROOT_LAYER_H
#define CAIRN_TOOLS_ROOT_LAYER_H

#include <stddef.h>
#include <stdint.h>

#include <nettle/sha2.h>

struct archive;
struct archive_entry;
struct err;

/* Bytes of an open file. */
struct layer {
	int fd; /* borrowed */
	uint64_t off, size;
	uint8_t digest[SHA256_DIGEST_SIZE];
	char name[96]; /* for errors */
};

/* Compute the digest of the bytes. Returns 0; -errno with a sentence. */
int layer_digest(const struct layer *l, uint8_t ret[SHA256_DIGEST_SIZE], struct err *e);

struct layer_reader;
/* Returns 0; -errno with a sentence. l: borrowed until layer_close(). */
int layer_open(const struct layer *l, struct layer_reader **ret, struct err *e);
/* Go to the next entry of the archive.
 * *ret: owned by the reader, until the next call; NULL: that was the last entry, and the digest of the layer is right.
 * Returns 0; -errno with a sentence. */
int layer_next(struct layer_reader *r, struct archive_entry **ret, struct err *e);
/* Read content of the entry; a sparse file reads as zeros. *ret_len: 0: its end. Returns 0; -errno with a sentence. */
int layer_read(struct layer_reader *r, void *buf, size_t size, size_t *ret_len, struct err *e);
void layer_close(struct layer_reader *r);

#endif
