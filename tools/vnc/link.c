#include "tools/vnc/link.h"
#include "base/cleanup.h"
#include "base/util.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define FRAMEBUFFER_MAX (64u << 20)
#define SIDE_MIN 64u
#define SIDE_MAX 8192u
#define SEND_WAIT_MS 500
#define MODE_TRIES 100

static int fd_of(struct msghdr *m)
{
	struct cmsghdr *c = CMSG_FIRSTHDR(m);
	int fd;

	if (!c || c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS || c->cmsg_len != CMSG_LEN(sizeof(int)))
		return -1;
	memcpy(&fd, CMSG_DATA(c), sizeof(fd));
	return fd;
}

static int memory_map(struct link *l, int fd, const struct display_hello *hello)
{
	struct stat st;
	void *p;

	/* The file cannot shrink, so each page is there as long as it is mapped. */
	if (hello->version != DISPLAY_HELLO_VERSION || !hello->bytes || hello->bytes > FRAMEBUFFER_MAX || hello->bytes % DISPLAY_PAGE_BYTES ||
		fd < 0 || fstat(fd, &st) < 0 || st.st_size < (off_t)hello->bytes + DISPLAY_PAGE_BYTES)
		return -EPROTO;
	p = mmap(NULL, hello->bytes + DISPLAY_PAGE_BYTES, PROT_READ, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		return -errno;
	if (l->memory)
		munmap((void *)l->memory, l->bytes + DISPLAY_PAGE_BYTES);
	l->memory = p;
	l->bytes = hello->bytes;
	return 1;
}

int link_receive(struct link *l)
{
	struct display_hello hello;
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec iov = { &hello, sizeof(hello) };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };
	CLEANUP_CLOSE int fd = -1;
	ssize_t n;

	do
		n = recvmsg(l->fd, &m, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n <= 0)
		return n < 0 ? -errno : 0;
	fd = fd_of(&m);
	return n == sizeof(hello) ? memory_map(l, fd, &hello) : -EPROTO;
}

bool link_mode(const struct link *l, struct display_mode *ret)
{
	const struct display_page *p = (const struct display_page *)(l->memory + l->bytes);
	uint32_t on = 0, before, after = 1;

	if (!l->memory)
		return false;
	for (unsigned i = 0; i < MODE_TRIES; i++) {
		before = atomic_load_explicit((_Atomic uint32_t *)&p->sequence, memory_order_acquire);
		on = p->on;
		memcpy(ret, &p->mode, sizeof(*ret));
		atomic_thread_fence(memory_order_acquire);
		after = atomic_load_explicit((_Atomic uint32_t *)&p->sequence, memory_order_relaxed);
		if (before == after && !(before & 1))
			break;
	}
	return on && (ret->bits == 16 || ret->bits == 32) && ret->width >= SIDE_MIN && ret->width <= SIDE_MAX &&
		ret->height >= SIDE_MIN && ret->height <= SIDE_MAX && ret->stride >= ret->width * (ret->bits / 8) &&
		range_inside(ret->offset, (uint64_t)(ret->height - 1) * ret->stride + ret->width * (ret->bits / 8), l->bytes);
}

void link_send(const struct link *l, struct input_event ev)
{
	struct pollfd p = { .fd = l->fd, .events = POLLOUT };

	/* A position of the pointer may be lost, because the next one replaces it. */
	if (send(l->fd, &ev, sizeof(ev), MSG_DONTWAIT | MSG_NOSIGNAL) >= 0 || errno != EAGAIN || ev.kind == INPUT_POINT)
		return;
	if (poll(&p, 1, SEND_WAIT_MS) > 0)
		(void)!send(l->fd, &ev, sizeof(ev), MSG_DONTWAIT | MSG_NOSIGNAL);
}
