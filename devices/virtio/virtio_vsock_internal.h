/* Inner header of virtio_vsock.c (the device and its queues) and vsock_conn.c (connections and their sockets).
 * Threading: v.lock is held; all functions run on the loop's thread, unless their comment says otherwise. */
#ifndef CAIRN_DEVICES_VIRTIO_VIRTIO_VSOCK_INTERNAL_H
#define CAIRN_DEVICES_VIRTIO_VIRTIO_VSOCK_INTERNAL_H

#include "base/err.h"
#include "base/loop.h"
#include "devices/console.h"
#include "devices/virtio/virtio_pci.h"
#include "devices/virtio/virtio_vsock.h"
#include "devices/virtio/vsock_packet.h"

#include <stdbool.h>
#include <stdint.h>

#define VSOCK_LINE_BYTES 32 /* Firecracker's limit */
#define VSOCK_RSTS_MAX 256

enum conn_state {
	CONN_GREETING, /* a client of the listening socket has not said yet which port it wants */
	CONN_DIALING,  /* the guest waits until its connection is made on the host's side */
	CONN_ASKING,   /* the host's side waits until the guest accepts */
	CONN_OPEN,
	CONN_DRAINING, /* the guest's side is closed, and the host's side has not read all of its data */
	CONN_CLOSED,   /* the loop's task frees it */
};

/* Packets still to be sent to the driver. They are bits, so that a connection needs no queue of packets. The lowest
 * bit is sent first. */
enum {
	OWES_REQUEST = 1,
	OWES_RESPONSE = 2,
	OWES_CREDIT_UPDATE = 4,
	OWES_CREDIT_REQUEST = 8,
	OWES_SHUTDOWN = 16,
	OWES_RST = 32,
};

struct vsock_conn {
	struct vsock_conn *next;
	struct virtio_vsock *s;
	enum conn_state state;
	uint32_t host_port, guest_port;
	int fd; /* owned; -1: DIALING */
	struct loop_watch *watch;
	unsigned events; /* of the watch */
	char line[VSOCK_LINE_BYTES + 1]; /* GREETING: the client's bytes so far */
	unsigned line_len;
	bool says_ok; /* the client waits for the line OK */
	uint32_t dial_id;

	bool by_user; /* of virtio_vsock_connect() */
	struct console_user who;
	void (*done)(void *opaque, int r, const struct err *e); /* NULL: none, or it has been called */
	void *opaque;
	bool answers; /* the task is to call done() with: */
	int answer;
	enum err_class answer_class;
	const char *answer_text;

	uint8_t owes;
	uint32_t guest_shut, host_shut; /* VSOCK_SHUTDOWN_*: the directions that each side has closed */
	bool eof;  /* the host's side sends no more */
	bool hung; /* the host's side is closed */
	bool credit_asked;
	uint64_t deadline_ns; /* 0: none */
	struct vsock_credit credit;
	uint8_t *buffer; /* VSOCK_BUFFER_BYTES, as a ring: data from the guest; NULL: no data was buffered yet */
	uint32_t start, len;
};

struct vsock_rst {
	uint64_t cid;
	uint32_t guest_port, host_port;
	uint16_t type;
};

struct virtio_vsock {
	struct virtio_dev v;
	struct virtio_pci pci;
	uint32_t cid;
	int listen_fd, dial_fd;
	struct loop_watch *listen_watch, *dial_watch;
	struct loop_timer *timer; /* the earliest deadline of a connection, or hold_until_ns */
	struct loop_task task;

	/* protected by v.lock: */
	struct vsock_conn *conns, *to_free; /* conns: the newest first; to_free: those in state CONN_CLOSED */
	unsigned nconns;
	bool task_posted;
	bool starved;	 /* the receive queue has no buffers: its doorbell is awaited */
	bool tx_stopped; /* the transmit queue rests until RSTs have left */
	bool loaded, event_due; /* the driver has to be notified of a TRANSPORT_RESET */
	uint16_t event_known; /* buffers in the event queue when the driver was notified */
	uint64_t hold_until_ns; /* no packets for the driver until it has handled that event; 0: none is awaited */
	uint32_t next_port, next_dial;
	struct vsock_rst rsts[VSOCK_RSTS_MAX];
	unsigned rst_first, nrsts;
	struct virtqueue_elem elem, sent; /* sent: a packet of the guest while it is handled */
	struct iovec iov[VIRTQUEUE_SEGS_MAX];
};

/* ---- virtio_vsock.c ---- */

/* Send the connection's pending packets. Returns false: the connection is closed now, or drains. */
bool vsock_send_pending(struct vsock_conn *c);
/* Read data of the host's side into the driver's buffers, a bounded amount. */
void vsock_pump(struct vsock_conn *c);

/* ---- vsock_conn.c ---- */

/* Return the connection; NULL: none. */
struct vsock_conn *conn_find(struct virtio_vsock *s, uint32_t host_port, uint32_t guest_port);
/* Create a connection. Returns NULL if there are too many. fd: taken on success. */
struct vsock_conn *conn_new(struct virtio_vsock *s, enum conn_state state, int fd);
/* Close the client that has been silent for longest. Returns false: there is none. */
bool greeter_evict(struct virtio_vsock *s);
/* Have the guest asked for a connection to this port. */
void conn_ask(struct vsock_conn *c, uint32_t port);
/* The guest asks for a connection. Returns false: refused. */
bool conn_dial(struct virtio_vsock *s, const struct vsock_header *h);
/* Handle the guest's answers, data and ends. iov: h->len bytes. */
void conn_accepted(struct vsock_conn *c);
void conn_receive(struct vsock_conn *c, struct iovec *iov, unsigned niov, uint32_t len);
void conn_shut(struct vsock_conn *c, uint32_t flags);
void conn_reset_by_guest(struct vsock_conn *c);
/* Reset the connection from this side: the guest gets an RST. */
void conn_abort(struct vsock_conn *c);
/* The host's side sends no more. */
void conn_eof(struct vsock_conn *c);
/* An RST was sent: the guest's side is closed. */
void conn_leave_guest(struct vsock_conn *c);
/* Have the task free the connection. Any thread. r, cls, text: for done(). */
void conn_free_later(struct vsock_conn *c, int r, enum err_class cls, const char *text);
/* Have the task free the connections that the guest has part in. Any thread. */
void conn_free_all_later(struct virtio_vsock *s);
/* Set which events the connection waits for. */
void conn_watch(struct vsock_conn *c);
bool conn_wants_input(const struct vsock_conn *c);
void conn_deadline(struct vsock_conn *c, uint64_t after_ns);
void vsock_timer_arm(struct virtio_vsock *s, uint64_t at_ns);
/* Reset the connections whose time is over. Returns the next deadline; UINT64_MAX: none. */
uint64_t conns_expire(struct virtio_vsock *s, uint64_t now_ns);
/* Free everything. The loop does not run. */
void conns_free(struct virtio_vsock *s);
void vsock_task_run(struct loop_task *t);
/* Callbacks of the sockets; they take the lock. */
void vsock_listen_ready(void *opaque, unsigned revents);
void vsock_dial_ready(void *opaque, unsigned revents);

#endif
