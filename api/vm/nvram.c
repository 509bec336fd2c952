#include "api/vm/nvram.h"
#include "api/definition/definition.h"
#include "api/definition/vm_config.h"
#include "api/store/store.h"
#include "api/vm/vm.h"
#include "api/vm/vm_host.h"
#include "base/err.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

int nvram_add(const struct vm *vm, const struct definition *live, struct config *c, struct err *e)
{
	bool reset = vm->start.opts.reset_nvram;
	int fd;

	if (live->firmware != VM_FIRMWARE_UEFI)
		return reset ? err_set(e, -EINVAL, ERR_INVALID, "the VM has no UEFI variables; start it without --reset-nvram") : 0;
	if (reset && vm->start.from_state)
		return err_set(e, -EINVAL, ERR_INVALID, "the VM resumes its saved state, which has its UEFI variables; to drop that "
			"state: cairn start --force-boot --reset-nvram");
	fd = store_open_file(vm->host->store, vm->def->name, STORE_NVRAM, O_RDWR | O_CREAT, e);
	if (fd < 0)
		return fd;
	if (reset && ftruncate(fd, 0) < 0) {
		close(fd);
		return err_set_errno(e, -errno, "the VM's file \"" STORE_NVRAM "\"");
	}
	return config_add_nvram(c, fd, e);
}

int nvram_open(const struct vm *vm, int *ret_fd, struct err *e)
{
	int fd = store_open_file(vm->host->store, vm->def->name, STORE_NVRAM, O_RDWR, e);

	*ret_fd = fd < 0 ? -1 : fd;
	return fd < 0 && fd != -ENOENT ? fd : 0;
}
