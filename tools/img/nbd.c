/* nbd: loads libnbd, connects to the server of a URL and opens its export as a raw disk. */
#include "nbd.h"
#include "img.h"

#include "base/util.h"

#include <dlfcn.h>
#include <errno.h>
#include <poll.h>
#include <string.h>

#define LIBRARY "libnbd.so.0"

static int calls_load(struct nbd_calls *c, const char *url, struct err *e)
{
	static const char *const names[] = {
#define NBD_CALL(name) "nbd_" #name,
		NBD_CALLS(NBD_CALL)
#undef NBD_CALL
	};
	void *lib = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL); /* stays loaded */

	if (!lib)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "%s: NBD needs libnbd, which cannot be loaded (%s); install the "
			"package libnbd0", url, dlerror());
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		void *f = dlsym(lib, names[i]);

		if (!f)
			return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "%s: this version of libnbd lacks %s(); install version "
				"1.14 or later", url, names[i]);
		memcpy((char *)c + i * sizeof(f), &f, sizeof(f));
	}
	return 0;
}

void img_nbd_load(void)
{
	(void)dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
}

const char *nbd_reason(const struct nbd_calls *c)
{
	const char *text = c->get_error(), *colon;

	if (!text)
		return "unknown error";
	colon = strncmp(text, "nbd_", 4) ? NULL : strstr(text, ": ");
	return colon ? colon + 2 : text;
}

static int connect_failed(const struct nbd_calls *c, const char *url, struct err *e)
{
	int error = c->get_errno();

	return err_set(e, error ? -error : -EIO, ERR_HOST, "cannot connect to %s: %s", url, nbd_reason(c));
}

/* Wait until the connection is ready or has failed. A signal ends the wait. */
static int connection_wait(const struct nbd_calls *c, struct nbd_handle *h, const char *url, struct err *e)
{
	while (c->aio_is_connecting(h)) {
		unsigned dir = c->aio_get_direction(h);
		struct pollfd fds[2] = { { .fd = c->aio_get_fd(h) }, { .fd = img_interrupt_fd(), .events = POLLIN } };
		int r = 0;

		if (dir & LIBNBD_AIO_DIRECTION_READ)
			fds[0].events |= POLLIN;
		if (dir & LIBNBD_AIO_DIRECTION_WRITE)
			fds[0].events |= POLLOUT;
		if (poll(fds, 2, -1) < 0 && errno != EINTR)
			return err_set_errno(e, -errno, "%s", url);
		if (img_check_interrupted(e) < 0)
			return -EINTR;
		if (fds[0].revents & ~POLLOUT && dir & LIBNBD_AIO_DIRECTION_READ)
			r = c->aio_notify_read(h);
		else if (fds[0].revents)
			r = c->aio_notify_write(h);
		if (r < 0)
			break;
	}
	return c->aio_is_ready(h) > 0 ? 0 : connect_failed(c, url, e);
}

static int server_connect(const struct nbd_calls *c, struct nbd_handle *h, const char *url, const char *context, struct err *e)
{
	if (c->add_meta_context(h, context ? context : LIBNBD_CONTEXT_BASE_ALLOCATION) < 0 ||
		c->set_uri_allow_transports(h, LIBNBD_ALLOW_TRANSPORT_TCP | LIBNBD_ALLOW_TRANSPORT_UNIX) < 0 ||
		c->set_uri_allow_tls(h, LIBNBD_TLS_DISABLE) < 0 || c->aio_connect_uri(h, url) < 0)
		return connect_failed(c, url, e);
	return connection_wait(c, h, url, e);
}

static int qcow2_refuse(const char *url, struct err *e)
{
	return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "%s: a qcow2 image over NBD is not supported; copy the image's file with `nbdcopy`, "
		"let the server serve the disk in it, as `qemu-nbd -f qcow2` does, or use -f raw to see it as a raw disk", url);
}

static int probe(struct block *b, const char *url, struct err *e)
{
	struct block_info info;
	uint8_t buf[4096] = { 0 };
	struct iovec iov = { buf, 0 };
	struct block_req r = { .op = BLOCK_READ, .iov = &iov, .niov = 1 };
	int res;

	block_info(b, &info);
	r.len = iov.iov_len = MIN(info.logical_block_bytes, info.size_bytes);
	res = block_run(b, &r);
	if (res < 0)
		return err_set_errno(e, res, "cannot read %s", url);
	return img_is_qcow2(buf) ? qcow2_refuse(url, e) : 0;
}

static int url_open(struct loop *l, const char *url, const char *format, const char *context, bool writable, struct block **ret_b,
	struct err *e)
{
	enum block_format f = BLOCK_FORMAT_RAW;
	struct block *b = NULL;
	struct nbd_handle *h;
	struct nbd_calls c;
	int r = format ? img_format_parse(format, &f, e) : 0;

	if (!r && f != BLOCK_FORMAT_RAW)
		r = qcow2_refuse(url, e);
	if (!r)
		r = calls_load(&c, url, e);
	if (r < 0)
		return r;
	h = c.create();
	if (!h)
		return err_set_errno(e, -ENOMEM, "%s", url);
	r = server_connect(&c, h, url, context, e);
	if (!r)
		r = nbd_disk_new(l, &c, h, url, context, writable, &b, e);
	if (r < 0) {
		c.close(h);
		return r;
	}
	if (!format)
		r = probe(b, url, e);
	if (r < 0)
		block_close(b);
	else
		*ret_b = b;
	return r;
}

const struct img_protocol img_nbd = { .open = url_open };
