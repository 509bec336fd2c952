#include "api/jobs/fork_seal.h"
#include "api/access/fork_as.h"
#include "base/clock.h"
#include "base/err.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <time.h>

/* The kernel waits 0.15 s for references, and fails at once if the file is mapped for writing. */
#define SEAL_WAIT_NS (30 * CLOCK_NS_PER_S)
#define PAUSE_NS (10 * 1000000L)

#define WAITED (F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW)

bool fork_is_sealed(int fd)
{
	int seals = fcntl(fd, F_GET_SEALS);

	return seals >= 0 && (seals & WAITED) == WAITED;
}

static int file_seal(const void *arg, struct fork_as_result *out, struct err *e)
{
	uint64_t end = clock_monotonic_ns() + SEAL_WAIT_NS;

	(void)arg;
	while (fcntl(out->input, F_ADD_SEALS, WAITED | F_SEAL_SEAL) < 0) {
		if (errno != EBUSY)
			return err_set_errno(e, -errno, "cannot seal the VM's state");
		if (clock_monotonic_ns() >= end)
			return err_set(e, -EBUSY, ERR_BUSY, "cannot seal the VM's state: a process still writes to it after %u s; "
				"fork the VM again", (unsigned)(SEAL_WAIT_NS / CLOCK_NS_PER_S));
		if (out->given_up && atomic_load(out->given_up))
			return -ECANCELED;
		nanosleep(&(struct timespec){ .tv_nsec = PAUSE_NS }, NULL);
	}
	return 0;
}

static void *nothing_copy(const void *arg)
{
	(void)arg;
	return NULL;
}

static void nothing_drop(void *arg)
{
	(void)arg;
}

int fork_seal_begin(struct helpers *h, int fd,
	void (*done)(void *opaque, int r, const struct fork_as_result *res, const struct err *e), void *opaque,
	struct fork_as **ret, struct err *e)
{
	struct fork_as_spec s = { .run = file_seal, .copy = nothing_copy, .drop = nothing_drop, .input = fd,
		.what = "sealing the VM's state", .timeout_ns = FORK_AS_NO_TIMEOUT, .done = done, .opaque = opaque };

	return fork_as_begin(h, &s, ret, e);
}
