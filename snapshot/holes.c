#include "snapshot/holes.h"

#include <errno.h>
#include <unistd.h>

bool hole_at(struct holes *h, uint64_t off, uint64_t len)
{
	if (h->fd < 0)
		return false;
	if (off >= h->data_to) {
		off_t data = lseek(h->fd, (off_t)off, SEEK_DATA), hole;

		h->data_from = data < 0 ? h->bytes : (uint64_t)data;
		if (data < 0 && errno != ENXIO)
			h->data_from = 0; /* the file system cannot tell: everything is data */
		hole = data < 0 ? -1 : lseek(h->fd, data, SEEK_HOLE);
		h->data_to = hole < 0 ? h->bytes : (uint64_t)hole;
	}
	return off + len <= h->data_from;
}
