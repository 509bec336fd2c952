/* qcow2_pack: write a new image from beginning to end, with compressed clusters.
 *
 * Threading: qcow2_compress() from any thread; the rest from one. Synchronous. The image is no
 * image before qcow2_pack_finish(): write to a file that has no name yet. */
#ifndef CAIRN_BLOCK_QCOW2_PACK_H
#define CAIRN_BLOCK_QCOW2_PACK_H

#include "block/qcow2/qcow2.h"

struct qcow2_pack;
struct qcow2_compressor;

/* One for each thread. NULL: out of memory. */
struct qcow2_compressor *qcow2_compressor_new(uint8_t compression, uint32_t cluster_bytes);
void qcow2_compressor_free(struct qcow2_compressor *z);
/* out: room for a cluster. Returns the bytes of the stream, 0 when it would not be smaller. */
size_t qcow2_compress(struct qcow2_compressor *z, const void *cluster, void *out);

/* fd: borrowed, cut to nothing. Returns 0; -errno with a sentence. */
int qcow2_pack_new(int fd, const struct qcow2_create *c, struct qcow2_pack **ret_p, struct err *e);
/* Without finish: what was written is no image. NULL allowed. */
void qcow2_pack_free(struct qcow2_pack *p);
/* The cluster at guest offset off; each once, in rising order. len: of a stream; a whole cluster
 * is stored as it is. What is not given reads as zeros. Returns 0 or -errno. */
int qcow2_pack_add(struct qcow2_pack *p, uint64_t off, const void *data, size_t len);
/* Write the tables; durable when it returns. */
int qcow2_pack_finish(struct qcow2_pack *p, struct err *e);

/* ---- into an image that exists (compressed_write.c) ---- */

struct qcow2_streams;

/* b: open for writing and nobody else's. ret_like: its cluster_bits and compression. Returns 0;
 * -errno with a sentence. */
int qcow2_streams_new(struct block *b, struct qcow2_streams **ret_s, struct qcow2_create *ret_like, struct err *e);
/* A stream instead of the cluster at guest offset off. Runs the image's loop. Returns 0 or -errno. */
int qcow2_streams_add(struct qcow2_streams *s, uint64_t off, const void *data, size_t len);
/* Everything is durable when it returns 0. */
int qcow2_streams_free(struct qcow2_streams *s);

#endif
