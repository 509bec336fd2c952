#include "base/unix_socket.h"
#include "base/cleanup.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

int unix_connect(const char *path, int flags)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	CLEANUP_CLOSE int fd = -1;

	_Static_assert(sizeof(to.sun_path) == UNIX_PATH_MAX + 1, "the path with its NUL");
	if (strlen(path) > UNIX_PATH_MAX)
		return -ENAMETOOLONG;
	strcpy(to.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0)
		return -errno;
	return steal_fd(&fd);
}
