#include "tools/agent/renew.h"
#include "base/agent_frame.h"
#include "base/bytes.h"
#include "tools/agent/network.h"
#include "tools/agent/session.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#define DEVICE "/dev/random"
#define OWN_DEVICE "/.cairn-random" /* where there is no /dev */
#define NS_PER_S 1000000000ULL

/* The device stays open from the first renewal on, which precedes the saved state: an open() takes long where the
 * kernel is emulated. */
static int random_open(void)
{
	static int fd = -1;

	if (fd < 0)
		fd = open(DEVICE, O_RDWR | O_CLOEXEC | O_NOCTTY);
	if (fd >= 0 || mknod(OWN_DEVICE, S_IFCHR | 0600, makedev(1, 8)) < 0)
		return fd;
	fd = open(OWN_DEVICE, O_RDWR | O_CLOEXEC | O_NOCTTY);
	unlink(OWN_DEVICE);
	return fd;
}

static int random_seed(const uint8_t *bytes)
{
	union {
		struct rand_pool_info info;
		uint8_t room[sizeof(struct rand_pool_info) + AGENT_RANDOM_BYTES];
	} seed = { .info = { .entropy_count = AGENT_RANDOM_BYTES * 8, .buf_size = AGENT_RANDOM_BYTES } };
	int fd = random_open();

	if (fd < 0)
		return -errno;
	memcpy(seed.info.buf, bytes, AGENT_RANDOM_BYTES);
	/* The kernel gives out numbers of the old seed until it seeds itself again. */
	return ioctl(fd, RNDADDENTROPY, &seed) < 0 || ioctl(fd, RNDRESEEDCRNG) < 0 ? -errno : 0;
}

int renew(const uint8_t *data, size_t len)
{
	uint64_t ns = load_le64(data);
	struct timespec now = { .tv_sec = (time_t)(ns / NS_PER_S), .tv_nsec = (long)(ns % NS_PER_S) };

	session_root_follow();
	if (len > AGENT_RENEW_BYTES)
		network_name_set((const char *)data + AGENT_RENEW_BYTES, len - AGENT_RENEW_BYTES);
	return clock_settime(CLOCK_REALTIME, &now) < 0 ? -errno : random_seed(data + 8);
}
