#include "devices/virtio/virtio_fs.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/share_link.h"
#include "base/util.h"
#include "devices/dev_host.h"
#include "devices/virtio/virtio_pci.h"

#include <errno.h>
#include <linux/fuse.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>

/* Queue 0 is for requests that must not wait behind others, such as FUSE_FORGET. */
#define QUEUES 2
#define QUEUE_SIZE 128
#define IN_FLIGHT_MAX 32
#define ANSWERS_PER_TURN 16
/* struct virtio_fs_config of the specification, section 5.11.4 */
#define CONFIG_QUEUES SHARE_TAG_MAX
#define CONFIG_BYTES (SHARE_TAG_MAX + 4)

/* A request that the other process has not answered. */
struct flight {
	uint64_t id;
	bool ends; /* FUSE_DESTROY: the guest has unmounted the folder */
	unsigned queue;
	struct virtqueue_elem elem;
};

struct virtio_fs {
	struct virtio_dev v;
	struct virtio_pci pci;
	char tag[SHARE_TAG_MAX + 1];
	struct loop_watch *watch; /* NULL: the other process has ended */
	int fd;			  /* borrowed; main loop */
	/* v.lock protects the rest. */
	bool mounted; /* from FUSE_INIT to the answer to FUSE_DESTROY */
	bool waits[QUEUES]; /* requests of the queue wait for an answer to others */
	uint64_t next_id;
	unsigned first, n; /* in flights, a ring, in the order of the requests */
	struct flight flights[IN_FLIGHT_MAX];
};

static struct virtio_fs *fs_of(const struct virtio_dev *v)
{
	return container_of(v, struct virtio_fs, v);
}

static struct virtio_fs *fs_of_device(const struct device *d)
{
	return container_of(d, struct virtio_fs, v.dev);
}

static struct flight *flight_at(struct virtio_fs *f, unsigned i)
{
	return &f->flights[(f->first + i) % IN_FLIGHT_MAX];
}

/* Complete a request without the other process. error: a positive errno. */
static void request_fail(struct virtio_fs *f, unsigned q, const struct virtqueue_elem *el, uint64_t unique, int error)
{
	struct fuse_out_header out = { .len = sizeof(out), .error = -error, .unique = unique };
	uint32_t n = 0;

	if (el->in_bytes >= sizeof(out))
		n = (uint32_t)iov_write(el->iov + el->nout, el->nin, 0, &out, sizeof(out));
	virtqueue_push(&f->v.queues[q].vq, el, n);
}

/* ---- answers ---- */

static void flight_end(struct virtio_fs *f)
{
	f->first = (f->first + 1) % IN_FLIGHT_MAX;
	f->n--;
}

/* The other process has ended, or has sent an invalid message: all requests fail from now on. */
static void link_end(struct virtio_fs *f, const char *why)
{
	log_warn(f->v.dev.name, "the process that serves the folder %s; the guest's requests fail until the VM's next start", why);
	loop_unwatch(f->watch);
	f->watch = NULL;
	for (; f->n; flight_end(f)) {
		struct flight *x = flight_at(f, 0);

		request_fail(f, x->queue, &x->elem, 0, ENOTCONN);
		f->mounted &= !x->ends;
		virtio_queue_interrupt(&f->v, x->queue);
	}
}

/* Receive an answer, straight into the guest's memory. The answer to a request of before a reset is for nobody.
 * Returns 0; -EAGAIN: none is there; -EPIPE: the process has ended; -EPROTO: the answer is invalid; -errno. */
static int answer_take(struct virtio_fs *f)
{
	struct flight *x = f->n ? flight_at(f, 0) : NULL;
	struct share_header head;
	struct iovec iov[VIRTQUEUE_SEGS_MAX + 1] = { { &head, sizeof(head) } };
	struct msghdr m = { .msg_iov = iov, .msg_iovlen = 1 };
	ssize_t n;

	if (x) {
		memcpy(iov + 1, x->elem.iov + x->elem.nout, x->elem.nin * sizeof(iov[0]));
		m.msg_iovlen += x->elem.nin;
	}
	n = recvmsg(f->fd, &m, MSG_DONTWAIT);
	if (n <= 0)
		return n < 0 ? -errno : -EPIPE;
	if ((size_t)n < sizeof(head))
		return -EPROTO;
	if (!x || head.id != x->id)
		return 0;
	virtqueue_push(&f->v.queues[x->queue].vq, &x->elem, (uint32_t)((size_t)n - sizeof(head)));
	virtio_queue_interrupt(&f->v, x->queue);
	f->mounted &= !x->ends;
	flight_end(f);
	return 0;
}

static void link_ready(void *opaque, unsigned revents)
{
	struct virtio_fs *f = opaque;
	int r = 0;

	(void)revents;
	LOCK_GUARD(&f->v.lock);
	/* While the VM is paused, the guest's memory must not change. */
	if (f->n && !virtio_is_running(&f->v)) {
		loop_watch_events(f->watch, 0);
		return;
	}
	for (unsigned i = 0; i < ANSWERS_PER_TURN && !r; i++)
		r = answer_take(f);
	if (r < 0 && r != -EAGAIN && r != -EINTR)
		link_end(f, r == -EPROTO ? "has sent a malformed answer" : "has ended");
	for (unsigned q = 0; q < QUEUES; q++) {
		if (f->waits[q])
			virtio_queue_kick(&f->v, q);
		f->waits[q] = false;
	}
}

/* ---- requests ---- */

/* Check the header of a request. Returns 0; a positive errno for the guest. */
static int request_check(const struct virtio_fs *f, const struct virtqueue_elem *el, const struct fuse_in_header *in)
{
	if (in->len != el->out_bytes || in->len > SHARE_FUSE_MAX)
		return EINVAL;
	if (!f->watch)
		return ENOTCONN;
	return f->mounted || in->opcode == FUSE_INIT ? 0 : EIO;
}

/* The header goes as this process has read it: the guest may change its memory meanwhile. Returns 0; -errno, of which
 * -EAGAIN means that there is no room now. */
static int request_send(struct virtio_fs *f, struct virtqueue_elem *el, struct fuse_in_header *in)
{
	struct share_header head = { .id = f->next_id };
	struct iovec iov[VIRTQUEUE_SEGS_MAX + 2] = { { &head, sizeof(head) }, { in, sizeof(*in) } };
	struct msghdr m = { .msg_iov = iov };
	struct iovec *rest = iov + 2;
	unsigned n = el->nout;

	memcpy(rest, el->iov, n * sizeof(iov[0]));
	iov_drop_front(&rest, &n, sizeof(*in));
	memmove(iov + 2, rest, n * sizeof(iov[0]));
	m.msg_iovlen = 2 + n;
	return sendmsg(f->fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 0;
}

/* Pass a request on, or fail it. Returns 0; -EAGAIN: there is no room before the next answer. */
static int request_begin(struct virtio_fs *f, unsigned q, struct flight *x)
{
	struct virtqueue_elem *el = &x->elem;
	struct fuse_in_header in = { 0 };
	int r;

	if (iov_read(el->iov, el->nout, 0, &in, sizeof(in)) < sizeof(in)) {
		request_fail(f, q, el, 0, EINVAL);
		return 0;
	}
	r = request_check(f, el, &in);
	if (!r)
		r = -request_send(f, el, &in);
	if (r == EAGAIN && f->n)
		return -EAGAIN;
	if (r) {
		if (in.opcode == FUSE_DESTROY)
			f->mounted = false;
		request_fail(f, q, el, in.unique, r == EPIPE ? ENOTCONN : r);
		return 0;
	}
	f->mounted |= in.opcode == FUSE_INIT;
	x->id = f->next_id++;
	x->queue = q;
	x->ends = in.opcode == FUSE_DESTROY;
	f->n++;
	return 0;
}

/* Pass on as many requests as there is room for. Returns as virtqueue_pop(). */
static int requests_take(struct virtio_fs *f, unsigned q, unsigned *budget)
{
	struct virtqueue *vq = &f->v.queues[q].vq;

	for (; *budget && !f->waits[q]; (*budget)--) {
		struct flight *x = flight_at(f, f->n);
		int got;

		if (f->n == IN_FLIGHT_MAX) {
			f->waits[q] = true;
			return 0;
		}
		got = virtqueue_pop(vq, &x->elem);
		if (got <= 0)
			return got;
		if (request_begin(f, q, x) < 0) {
			virtqueue_unpop(vq);
			f->waits[q] = true;
		}
	}
	return 0;
}

static void fs_run(struct virtio_dev *v, unsigned q)
{
	struct virtio_fs *f = fs_of(v);
	struct virtqueue *vq = &v->queues[q].vq;
	unsigned budget = 2u * vq->size;
	int got;

	f->waits[q] = false;
	if (f->watch)
		loop_watch_events(f->watch, POLLIN);
	do {
		virtqueue_notify_disable(vq);
		got = requests_take(f, q, &budget);
	} while (!got && budget && !f->waits[q] && virtqueue_notify_enable(vq));
	if (got < 0)
		virtio_fault(v, vq->fault);
	virtio_queue_interrupt(v, q);
	if (!budget)
		virtio_queue_kick(v, q);
}

/* ---- device ---- */

/* The other process ends its session at the next FUSE_INIT, which each driver sends first. */
static void fs_drop(struct virtio_dev *v)
{
	struct virtio_fs *f = fs_of(v);

	f->mounted = false;
	f->n = 0;
}

/* No state is saved while the folder is mounted. */
static int fs_load(struct virtio_dev *v, struct state_reader *r, struct err *e)
{
	(void)r;
	(void)e;
	fs_drop(v);
	return 0;
}

static const struct virtio_ops fs_virtio_ops = {
	.id = 26,
	.class_code = 0x018000, /* mass storage, other */
	.cpu_percent = 50,
	.queue_run = fs_run,
	.reset = fs_drop,
	.load = fs_load,
};

static void fs_free(struct device *d)
{
	struct virtio_fs *f = fs_of_device(d);

	loop_unwatch(f->watch);
	virtio_pci_done(&f->pci);
	virtio_done(&f->v);
	free(f);
}

static const struct device_ops fs_ops = {
	.type = "virtio-fs",
	.state_version = 1,
	.reset = virtio_pci_device_reset,
	.pause = virtio_pci_device_pause,
	.resume = virtio_pci_device_resume,
	.save = virtio_pci_device_save,
	.load = virtio_pci_device_load,
	.free = fs_free,
};

static int fs_init(struct virtio_fs *f, struct dev_host *h, struct pci_host *p, const struct virtio_fs_config *c, struct err *e)
{
	int r = virtio_init(&f->v, h, h->loop, c->name, &fs_ops, &fs_virtio_ops, QUEUES, QUEUE_SIZE, e);

	if (r)
		return r;
	snprintf(f->tag, sizeof(f->tag), "%s", c->tag);
	f->fd = c->fd;
	/* The process may still answer requests of this VM's former process on the same socket. */
	if (getrandom(&f->next_id, sizeof(f->next_id), 0) != (ssize_t)sizeof(f->next_id))
		return err_set_errno(e, -errno, "%s", c->name);
	f->v.config_bytes = CONFIG_BYTES;
	memcpy(f->v.config, f->tag, strlen(f->tag));
	store_le32(f->v.config + CONFIG_QUEUES, QUEUES - 1);
	r = virtio_pci_init(&f->pci, &f->v, p, c->slot, e);
	if (r || c->fd < 0)
		return r;
	r = loop_watch(h->loop, c->fd, POLLIN, link_ready, f, &f->watch);
	return r ? err_set_errno(e, r, "%s", c->name) : 0;
}

int virtio_fs_new(struct dev_host *h, struct pci_host *p, const struct virtio_fs_config *c, struct device **ret_dev,
	struct err *e)
{
	struct virtio_fs *f = calloc(1, sizeof(*f));
	int r;

	if (!f)
		return err_set_errno(e, -ENOMEM, "%s", c->name);
	r = fs_init(f, h, p, c, e);
	if (r) {
		fs_free(&f->v.dev);
		return r;
	}
	*ret_dev = &f->v.dev;
	return 0;
}

bool virtio_fs_is_used(struct device *d)
{
	struct virtio_fs *f = fs_of_device(d);

	LOCK_GUARD(&f->v.lock);
	return f->mounted || f->n;
}

const char *virtio_fs_tag(const struct device *d)
{
	return fs_of_device(d)->tag;
}
