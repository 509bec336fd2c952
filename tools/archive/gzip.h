/* gzip: what is written to it goes to an fd compressed, by all processors. */
#ifndef CAIRN_TOOLS_ARCHIVE_GZIP_H
#define CAIRN_TOOLS_ARCHIVE_GZIP_H

#include <stddef.h>

struct gzip;

/* fd: borrowed. level: 1 to 9. Its threads begin with the first byte. NULL: no memory. */
struct gzip *gzip_new(int fd, int level);
/* NULL allowed. What gzip_end() has not written is lost. */
void gzip_free(struct gzip *g);
/* buf is copied. Return 0, or -errno of a write. */
int gzip_write(struct gzip *g, const void *buf, size_t len);
/* What still waits, too. */
int gzip_end(struct gzip *g);

#endif
