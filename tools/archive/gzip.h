/* gzip: compress a stream to an fd on up to 16 processors. */
#ifndef CAIRN_TOOLS_ARCHIVE_GZIP_H
#define CAIRN_TOOLS_ARCHIVE_GZIP_H

#include <stddef.h>

struct gzip;

/* Create a compressor. fd: where to write; borrowed. level: 1 to 9. gzip_write() starts the threads. Returns NULL if
 * there is no memory. */
struct gzip *gzip_new(int fd, int level);
/* End the threads, discard data that is not written yet, and free g. NULL allowed. */
void gzip_free(struct gzip *g);
/* Compress len bytes of buf, which is copied. Returns 0 or -errno. */
int gzip_write(struct gzip *g, const void *buf, size_t len);
/* Write all pending data. Returns 0 or -errno. */
int gzip_end(struct gzip *g);

#endif
