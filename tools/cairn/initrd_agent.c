#include "tools/cairn/initrd_agent.h"
#include "api/definition/vm_config.h"
#include "api/store/paths.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/host_name.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define AGENT_NAME "cairn-agent"
#define AGENT_MAX (4 * MIB)
#define INITRD_MAX (2 * GIB)
#define BLOCK_BYTES 512 /* archives are concatenated at such multiples */

static const char zeros[BLOCK_BYTES];

static int pad(int fd, uint64_t *at, unsigned to)
{
	size_t n = (size_t)(ROUND_UP(*at, to) - *at);

	*at += n;
	return write_full(fd, zeros, n);
}

/* A record of a cpio archive in the format newc (initramfs buffer format, Documentation/driver-api/early-userspace). */
static int record_write(int fd, uint64_t *at, const char *name, unsigned mode, const char *data, size_t len)
{
	char header[111];
	size_t name_bytes = strlen(name) + 1;
	int r;

	snprintf(header, sizeof(header), "070701%08X%08X%08X%08X%08X%08X%08zX%08X%08X%08X%08X%08zX%08X", 0xca177u, mode, 0u, 0u, 1u, 0u, len,
		0u, 0u, 0u, 0u, name_bytes, 0u);
	r = write_full(fd, header, 110);
	if (!r)
		r = write_full(fd, name, name_bytes);
	*at += 110 + name_bytes;
	if (!r)
		r = pad(fd, at, 4);
	if (!r)
		r = write_full(fd, data, len);
	*at += len;
	return r ? r : pad(fd, at, 4);
}

static int initrd_copy(int from, int to, uint64_t *ret_bytes, struct err *e)
{
	char buf[65536];
	ssize_t n;
	int r = 0;

	for (*ret_bytes = 0; !r && (n = pread(from, buf, sizeof(buf), (off_t)*ret_bytes)) != 0; *ret_bytes += (uint64_t)n) {
		if (n < 0)
			return err_set_errno(e, -errno, "boot.initrd");
		r = *ret_bytes > INITRD_MAX ? -EFBIG : write_full(to, buf, (size_t)n);
	}
	return r < 0 ? err_set_errno(e, r, "cannot copy the initrd to memory") : 0;
}

static int agent_append(int fd, uint64_t at, struct err *e)
{
	CLEANUP_FREE char *data = NULL;
	char path[PATH_MAX];
	size_t len;
	int r = paths_helper(AGENT_NAME, path, sizeof(path), e);

	if (!r)
		r = file_read(path, AGENT_MAX, &data, &len, e);
	if (r < 0)
		return r;
	r = pad(fd, &at, BLOCK_BYTES);
	if (!r)
		r = record_write(fd, &at, AGENT_NAME, S_IFREG | 0755, data, len);
	if (!r)
		r = record_write(fd, &at, "TRAILER!!!", 0, "", 0);
	return r < 0 ? err_set_errno(e, r, "cannot write the initrd to memory") : 0;
}

const char *agent_host_name(const char *vm)
{
	return host_label_is_valid(vm) ? vm : "vm";
}

/* Put the agent in place of init. The words behind " -- " are init's arguments. */
static int cmdline_change(struct config *c, const char *root, struct err *e)
{
	char *cmdline = c->vm.cmdline, init[256] = "", text[VM_CMDLINE_MAX + 600] = "";
	CLEANUP_FREE char *copy = must_alloc(strdup(cmdline));
	const char *rest = strstr(cmdline, " -- ");
	char *saved, *word;
	size_t n = 0;

	if (rest)
		copy[rest - cmdline] = 0;
	for (word = strtok_r(copy, " ", &saved); word; word = strtok_r(NULL, " ", &saved)) {
		if (!strncmp(word, "rdinit=", 7))
			snprintf(init, sizeof(init), " CAIRN_INIT=%s", word + 7);
		else
			n += (size_t)snprintf(text + n, sizeof(text) - n, "%s ", word);
	}
	n += (size_t)snprintf(text + n, sizeof(text) - n, "rdinit=/" AGENT_NAME "%s%s%s", init, root ? " " : "", root ? root : "");
	if (root)
		n += (size_t)snprintf(text + n, sizeof(text) - n, " CAIRN_NAME=%s", agent_host_name(c->vm.name));
	n += (size_t)snprintf(text + n, sizeof(text) - n, "%s", rest ? rest : "");
	if (n > VM_CMDLINE_MAX)
		return err_set(e, -E2BIG, ERR_INVALID, "boot.cmdline is too long: with cairn-agent in place of init, %zu characters are at most %d",
			n, VM_CMDLINE_MAX);
	memcpy(cmdline, text, n + 1);
	return 0;
}

/* Take a place for a file. Returns 0; -EMFILE. */
static int initrd_place(struct config *c, struct err *e)
{
	if (c->vm.initrd_fd != VM_NO_FD)
		return err_set(e, -EINVAL, ERR_INVALID, "--root and --image bring an initramfs of their own; leave out --initrd and boot.initrd");
	if (c->vm.firmware)
		return err_set(e, -EINVAL, ERR_INVALID, "--root and --image need a kernel, and the VM has a firmware; name the kernel with --kernel");
	if (c->nfds == CHANNEL_FDS_MAX)
		return err_set(e, -EMFILE, ERR_INVALID, "the VM has too many files; use fewer disks");
	c->fds[c->nfds] = -1;
	c->vm.initrd_fd = (uint16_t)(c->nheld + c->nfds++);
	return 0;
}

int initrd_agent_add(struct config *c, const char *root, struct err *e)
{
	CLEANUP_CLOSE int fd = -1;
	uint64_t bytes = 0;
	int *initrd, r = 0;

	if (root)
		r = initrd_place(c, e);
	if (r < 0)
		return r;
	if (c->vm.initrd_fd == VM_NO_FD)
		return err_set(e, -EINVAL, ERR_INVALID, "a command, or --agent, needs \"boot.initrd\" or --initrd, an initramfs with an /init; --root PATH and "
			"--image IMAGE bring their own");
	if (!c->vm.vsock_cid)
		return err_set(e, -EINVAL, ERR_INVALID, "--agent needs \"vsock\", with the path of a socket for cairn exec");
	initrd = &c->fds[c->vm.initrd_fd];
	fd = memfd_create("initrd", MFD_CLOEXEC);
	if (fd < 0)
		return err_set_errno(e, -errno, "memfd");
	if (!root)
		r = initrd_copy(*initrd, fd, &bytes, e);
	if (!r)
		r = agent_append(fd, bytes, e);
	if (!r)
		r = cmdline_change(c, root, e);
	if (r < 0)
		return r;
	if (*initrd >= 0)
		close(*initrd);
	*initrd = steal_fd(&fd);
	return 0;
}
