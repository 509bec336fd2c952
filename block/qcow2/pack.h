/* pack: writes a new image from beginning to end, with compressed clusters.
 *
 * Threading: any thread may call qcow2_compress(); one thread calls the other functions. Synchronous. The file
 * is not a valid image before qcow2_pack_finish(), so write to a file without a name. */
#ifndef CAIRN_BLOCK_QCOW2_PACK_H
#define CAIRN_BLOCK_QCOW2_PACK_H

#include "block/qcow2/qcow2.h"

struct qcow2_pack;
struct qcow2_compressor;

/* Create a compressor, one per thread. Returns NULL if out of memory. */
struct qcow2_compressor *qcow2_compressor_new(uint8_t compression, uint32_t cluster_bytes);
void qcow2_compressor_free(struct qcow2_compressor *z);
/* Compress a cluster. out: room for a cluster. Returns the stream's bytes; 0: store the cluster uncompressed, because
 * the stream would probably not be smaller, or compression failed. */
size_t qcow2_compress(struct qcow2_compressor *z, const void *cluster, void *out);

/* Start an image. fd: borrowed; truncated.
 * ret_p: freed with qcow2_pack_free().
 * Returns 0; -errno with a sentence. */
int qcow2_pack_new(int fd, const struct qcow2_create *c, struct qcow2_pack **ret_p, struct err *e);
/* Free p. Without qcow2_pack_finish(), the file is not a valid image. NULL allowed. */
void qcow2_pack_free(struct qcow2_pack *p);
/* Add the cluster at guest offset off; each at most once, in ascending order. Missing clusters read
 * as zeros.
 * len: length of a compressed stream, or of a whole cluster, which is stored uncompressed.
 * Returns 0 or -errno. */
int qcow2_pack_add(struct qcow2_pack *p, uint64_t off, const void *data, size_t len);
/* Write the tables. The image is durable on success. Returns 0; -errno with a sentence. */
int qcow2_pack_finish(struct qcow2_pack *p, struct err *e);

/* ---- writes to an existing image (compressed_write.c) ---- */

struct qcow2_streams;

/* Prepare to write streams. b: open for writing, used by nobody else.
 * ret_like: gets the image's cluster_bits and compression.
 * Returns 0; -errno with a sentence. */
int qcow2_streams_new(struct block *b, struct qcow2_streams **ret_s, struct qcow2_create *ret_like, struct err *e);
/* Replace the cluster at guest offset off by a stream. Runs the image's loop. Returns 0 or -errno. */
int qcow2_streams_add(struct qcow2_streams *s, uint64_t off, const void *data, size_t len);
/* Flush and free s. Everything is durable if it returns 0; else -errno. */
int qcow2_streams_free(struct qcow2_streams *s);

#endif
