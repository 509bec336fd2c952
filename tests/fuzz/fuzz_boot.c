/* fuzz_boot: libFuzzer target for the loaders of kernels (ELF with PVH, Multiboot, bzImage). An input is one byte, the
 * size of RAM in MiB, and the kernel's file. */
#include "tests/fuzz/fuzz_api.h"

#include "base/err.h"
#include "base/file.h"
#include "base/util.h"
#include "vmm/boot/boot.h"
#include "vmm/kvm/memory.h"

#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct boot_source src = { .initrd_fd = -1, .cmdline = "console=ttyS0 quiet", .rsdp_gpa = 0xe0000 };
	uint64_t ram = (1 + (len ? data[0] : 0) % 64) * MIB;
	struct boot_entry entry;
	struct memory mem;
	struct err e = { 0 };
	int r;

	if (!len)
		return 0;
	must(!memory_init(&mem, ram, false, &e));
	src.kernel_fd = memfd_create("kernel", MFD_CLOEXEC);
	must(src.kernel_fd >= 0 && !pwrite_full(src.kernel_fd, data + 1, len - 1, 0));
	r = boot_load(&mem, &src, &entry, &e);
	must(r <= 0 && (!r || e.msg[0]));
	close(src.kernel_fd);
	memory_done(&mem);
	return 0;
}
