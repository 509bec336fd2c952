/* nbd: disks of an NBD server, by libnbd. The library is loaded at the first use: it links libraries for TLS and XML,
 * which would double the time that cairn-img takes to start. */
#ifndef CAIRN_TOOLS_IMG_NBD_H
#define CAIRN_TOOLS_IMG_NBD_H

#include <libnbd.h>
#include <stdbool.h>

struct block;
struct err;
struct loop;

#define NBD_CALLS(call) \
	call(create) call(close) call(get_error) call(get_errno) call(add_meta_context) \
	call(set_uri_allow_transports) call(set_uri_allow_tls) call(aio_connect_uri) \
	call(aio_is_connecting) call(aio_is_ready) call(aio_is_dead) call(aio_is_closed) \
	call(aio_get_fd) call(aio_get_direction) call(aio_notify_read) call(aio_notify_write) \
	call(get_size) call(is_read_only) call(can_flush) call(can_fua) call(can_trim) call(can_zero) \
	call(can_meta_context) call(get_block_size) call(aio_pread) call(aio_pwrite) call(aio_flush) \
	call(aio_trim) call(aio_zero) call(aio_block_status) call(aio_disconnect)
/* The functions of libnbd, each under its name without "nbd_". */
struct nbd_calls {
#define NBD_CALL(name) __typeof__(nbd_##name) *name;
	NBD_CALLS(NBD_CALL)
#undef NBD_CALL
};

/* Returns libnbd's last error of this thread as a sentence without the name of a function. */
const char *nbd_reason(const struct nbd_calls *c);

/* Make a disk of a connection that is ready (nbd_disk.c).
 * h: taken on success.
 * context: the metadata context that gives the extents; NULL: base:allocation, if the server has that.
 * Returns 0; -EROFS, -ENOTSUP, … with a sentence. */
int nbd_disk_new(struct loop *l, const struct nbd_calls *c, struct nbd_handle *h, const char *url, const char *context,
	bool writable, struct block **ret_b, struct err *e);

#endif
