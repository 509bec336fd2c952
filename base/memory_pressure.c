#include "base/memory_pressure.h"
#include "base/cleanup.h"
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

/* Times in us. Users without CAP_SYS_RESOURCE may only have windows that are multiples of 2 s. */
static const char trigger[] = "some 200000 2000000";

int memory_pressure_open(int folder, const char *path)
{
	CLEANUP_CLOSE int fd = openat(folder, path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	int r = fd < 0 ? -errno : write_full(fd, trigger, sizeof(trigger));

	return r < 0 ? r : steal_fd(&fd);
}
