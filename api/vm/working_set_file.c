#include "api/vm/working_set_file.h"
#include "api/store/store.h"
#include "api/vm/vm.h"
#include "api/vm/vm_host.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_NAME "touched"
#define COPY_BYTES (WORKING_SET_FILE_BYTES + 4)

/* Copy up to WORKING_SET_FILE_BYTES from the beginning of a file. Returns their number; -errno. */
static ssize_t file_copy(int from, int to)
{
	CLEANUP_FREE char *buf = malloc(WORKING_SET_FILE_BYTES);
	ssize_t n = buf ? pread(from, buf, WORKING_SET_FILE_BYTES, 0) : -1;
	int r = n > 0 ? pwrite_full(to, buf, (size_t)n, 0) : 0;

	return n < 0 ? -errno : r < 0 ? r : n;
}

/* Zeros follow the list, so the copy is longer than any list. */
static int copy_make(int from)
{
	CLEANUP_CLOSE int fd = memfd_create(FILE_NAME, MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0 || (from >= 0 && file_copy(from, fd) < 0) || ftruncate(fd, COPY_BYTES) < 0 ||
		fcntl(fd, F_ADD_SEALS, F_SEAL_GROW) < 0)
		return -errno;
	return steal_fd(&fd);
}

int working_set_file_open(struct vm *vm, struct err *e)
{
	struct err none;
	CLEANUP_CLOSE int file = store_open_file(vm->host->store, vm->def->name, FILE_NAME, O_RDONLY, &none);
	CLEANUP_CLOSE int copy = copy_make(file);
	int ours = copy < 0 ? -1 : fcntl(copy, F_DUPFD_CLOEXEC, 3);

	if (ours < 0)
		return err_set_errno(e, copy < 0 ? copy : -errno, "the VM's file \"" FILE_NAME "\"");
	if (vm->working_set_fd >= 0)
		close(vm->working_set_fd);
	vm->working_set_fd = ours;
	return steal_fd(&copy);
}

/* A process that writes its list truncates the copy to it. */
void working_set_file_keep(struct vm *vm)
{
	CLEANUP_CLOSE int copy = steal_fd(&vm->working_set_fd);
	CLEANUP_CLOSE int file = -1;
	struct stat st;
	struct err e;

	if (copy < 0 || fstat(copy, &st) < 0 || !st.st_size || st.st_size >= COPY_BYTES)
		return;
	file = store_open_file(vm->host->store, vm->def->name, FILE_NAME, O_WRONLY | O_CREAT | O_TRUNC, &e);
	if (file >= 0 && file_copy(copy, file) < 0)
		(void)!ftruncate(file, 0); /* the file system is full: without a list, restores only take longer */
}
