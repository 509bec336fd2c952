/* Part of a cairn-vm that a guest has taken over, as far as the rest of the host can tell: one of its threads makes the
 * system calls that the test wants. Nothing but the calls themselves differs from a cairn-vm that is confined and runs.
 *
 * TRAITOR: a file of struct orders. The process maps it before it confines itself, at ORDERS_AT, so that the test knows
 * the addresses of its data. The first process to start after the test has set `armed` obeys; others are ordinary. */
#include "base/channel.h"
#include "base/loop_impl.h"
#include "base/util.h"
#include "vmm/kvm/thread_filter.h"
#include "vmm/kvm/vcpu.h"
#include "vmm/vm_msg.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define ORDERS_AT ((void *)0x600000000000)
#define CALLS_MAX 256
#define RING_OPS 256
#define CONTROL_FD 0x7261697400000000 /* an argument that stands for the socket to the daemon */
#define LOOK_NS 1000000

enum { OBEYS_MAIN, OBEYS_VCPU, OBEYS_DISK, OBEYS_NET, OBEYS_TRACKER, OBEYS_WORKER, OBEYS_NOTHING };
enum act { ACT_CALLS, ACT_OTHER_MODE, ACT_THREADS, ACT_RING };

/* The beginning of the struct in base/loop_uring.c. */
struct loop_with_ring {
	struct loop loop;
	struct io_uring ring;
};

struct call {
	int64_t number;
	uint64_t args[6];
	uint64_t repeat; /* stop at the first failure but EAGAIN */
};

struct orders {
	uint32_t armed;
	uint32_t thread;
	uint32_t go; /* set by the test, cleared by the thread that obeys */
	uint32_t done;
	uint32_t act; /* enum act */
	uint32_t ncalls;
	uint64_t rounds; /* repeat all calls; stop at the first failure of the last one but EAGAIN */
	uint64_t rounds_done;
	uint32_t lie_type, lie_len; /* messages of this type get this body; 0: none */
	uint64_t lie_at;
	int64_t control_fd; /* -1: unknown yet */
	int64_t results[CALLS_MAX]; /* of each call's last repetition */
	uint64_t counts[CALLS_MAX]; /* of each call's successes */
	struct call calls[CALLS_MAX];
	uint8_t data[1 << 18];
};

static struct orders *orders; /* NULL: this process is an ordinary one */
static _Thread_local uint32_t own_thread; /* OBEYS_* */

void __real_thread_filter_enter(const struct kvm *k, enum thread_kind kind, const struct loop *l, int vcpu_fd);
void __wrap_thread_filter_enter(const struct kvm *k, enum thread_kind kind, const struct loop *l, int vcpu_fd);
void __real_loop_run(struct loop *l);
void __wrap_loop_run(struct loop *l);
bool __real_vcpu_exit_handle(struct vcpu *v);
bool __wrap_vcpu_exit_handle(struct vcpu *v);
int __real_channel_send(int sock, uint16_t version, uint16_t type, uint64_t seq, const void *body, size_t body_bytes,
	const int *fds, unsigned nfds);
int __wrap_channel_send(int sock, uint16_t version, uint16_t type, uint64_t seq, const void *body, size_t body_bytes,
	const int *fds, unsigned nfds);

__attribute__((constructor)) static void orders_map(void)
{
	const char *path = getenv("TRAITOR");
	int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
	struct orders *o = fd < 0 ? MAP_FAILED : mmap(ORDERS_AT, sizeof(*o), PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_FIXED_NOREPLACE, fd, 0);

	if (fd >= 0)
		close(fd);
	if (o != MAP_FAILED && __atomic_exchange_n(&o->armed, 0, __ATOMIC_SEQ_CST))
		orders = o;
}

static int64_t raw_call(int64_t number, const uint64_t *args)
{
	register uint64_t r10 __asm__("r10") = args[3];
	register uint64_t r8 __asm__("r8") = args[4];
	register uint64_t r9 __asm__("r9") = args[5];
	int64_t ret;

	__asm__ volatile("syscall" : "=a"(ret) : "a"(number), "D"(args[0]), "S"(args[1]), "d"(args[2]), "r"(r10), "r"(r8),
		"r"(r9) : "rcx", "r11", "memory");
	return ret;
}

/* Make a call as a program of 32 bits does. */
static int64_t raw_call_32(int64_t number, const uint64_t *args)
{
	int64_t ret;

	__asm__ volatile("int $0x80" : "=a"(ret) : "a"(number), "b"(args[0]), "c"(args[1]), "d"(args[2])
		: "r8", "r9", "r10", "r11", "memory");
	return ret;
}

static int64_t call_make(const struct call *c, uint64_t *count)
{
	uint64_t args[6];
	int64_t r = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(args); i++)
		args[i] = c->args[i] == CONTROL_FD ? (uint64_t)orders->control_fd : c->args[i];
	for (uint64_t i = 0; i < c->repeat && (r >= 0 || r == -EAGAIN); i++) {
		r = orders->act == ACT_OTHER_MODE ? raw_call_32(c->number, args) : raw_call(c->number, args);
		*count += r >= 0;
	}
	return r;
}

static void calls_make(void)
{
	int64_t r = 0;

	for (uint64_t n = 0; n < orders->rounds && (r >= 0 || r == -EAGAIN); n++) {
		for (uint32_t i = 0; i < orders->ncalls; i++)
			r = orders->results[i] = call_make(&orders->calls[i], &orders->counts[i]);
		orders->rounds_done++;
	}
}

static void *sleeper(void *opaque)
{
	(void)opaque;
	for (;;)
		nanosleep(&(struct timespec){ .tv_sec = 1000 }, NULL);
	return NULL;
}

/* Make threads until that fails; each sleeps for ever. */
static void threads_make(void)
{
	pthread_attr_t attr;
	pthread_t thread;
	int r = 0;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 16384);
	while (!r && orders->counts[0] < orders->rounds) {
		r = pthread_create(&thread, &attr, sleeper, NULL);
		orders->counts[0] += !r;
	}
	orders->results[0] = -r;
}

/* Submit every operation to the main loop's ring. results: of each. The loop loses its own completions meanwhile. */
static void ring_use(struct io_uring *ring)
{
	for (unsigned op = 0; op < RING_OPS; op++) {
		struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
		struct io_uring_cqe *cqe;
		uint64_t mine = op + 1ULL;
		int64_t *result = &orders->results[op];

		*result = -ENOSPC;
		if (!sqe)
			return;
		memset(sqe, 0, sizeof(*sqe));
		sqe->opcode = (uint8_t)op;
		sqe->fd = -1;
		sqe->user_data = mine;
		*result = io_uring_submit(ring);
		while (*result > 0 && !io_uring_wait_cqe(ring, &cqe)) {
			if (cqe->user_data == mine)
				*result = cqe->res > 0 ? 0 : cqe->res;
			io_uring_cqe_seen(ring, cqe);
		}
		orders->counts[op] = 1;
	}
}

/* l: the loop of a thread that has one. */
static void obey(struct loop *l)
{
	if (!orders || orders->thread != own_thread || !__atomic_exchange_n(&orders->go, 0, __ATOMIC_SEQ_CST))
		return;
	if (orders->act == ACT_THREADS)
		threads_make();
	else if (orders->act == ACT_RING)
		ring_use(&container_of(l, struct loop_with_ring, loop)->ring);
	else
		calls_make();
	__atomic_store_n(&orders->done, 1, __ATOMIC_SEQ_CST);
}

/* ---- where the threads obey ---- */

/* A worker and a tracker obey when they begin: somebody has asked for a snapshot. */
void __wrap_thread_filter_enter(const struct kvm *k, enum thread_kind kind, const struct loop *l, int vcpu_fd)
{
	static const uint8_t threads[] = { [THREAD_VCPU] = OBEYS_VCPU, [THREAD_DISK] = OBEYS_DISK, [THREAD_NET] = OBEYS_NET,
		[THREAD_TRACKER] = OBEYS_TRACKER, [THREAD_WORKER] = OBEYS_WORKER, [THREAD_THROTTLE] = OBEYS_NOTHING };

	__real_thread_filter_enter(k, kind, l, vcpu_fd);
	own_thread = threads[kind];
	if (!orders || (own_thread != OBEYS_WORKER && own_thread != OBEYS_TRACKER))
		return;
	while (orders->thread == own_thread && !orders->done) {
		obey(NULL);
		nanosleep(&(struct timespec){ .tv_nsec = LOOK_NS }, NULL);
	}
}

struct look {
	struct loop *loop;
	struct loop_timer *timer;
};

static void look_fire(void *opaque)
{
	struct look *k = opaque;

	obey(k->loop);
	loop_timer_arm(k->timer, loop_now_ns() + LOOK_NS);
}

/* The loops of the main thread, and of those of disks and interfaces. */
void __wrap_loop_run(struct loop *l)
{
	struct look k = { .loop = l };

	if (orders && !loop_timer_new(l, look_fire, &k, &k.timer))
		loop_timer_arm(k.timer, loop_now_ns());
	__real_loop_run(l);
	loop_timer_free(k.timer);
}

bool __wrap_vcpu_exit_handle(struct vcpu *v)
{
	obey(NULL);
	return __real_vcpu_exit_handle(v);
}

int __wrap_channel_send(int sock, uint16_t version, uint16_t type, uint64_t seq, const void *body, size_t body_bytes,
	const int *fds, unsigned nfds)
{
	if (orders)
		orders->control_fd = sock;
	if (orders && type && orders->lie_type == type)
		return __real_channel_send(sock, version, type, seq, orders->data + orders->lie_at, orders->lie_len, fds, nfds);
	return __real_channel_send(sock, version, type, seq, body, body_bytes, fds, nfds);
}
