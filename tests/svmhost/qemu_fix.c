/* Preloaded into the QEMU that emulates the SVM host: makes cpu_interrupt() take QEMU's lock if the caller does not
 * hold it. QEMU 7.2 to 10.0 call it without the lock for a guest's write to CR8 while KVM waits for an interrupt
 * window (helper_write_crN()), and then abort with "assertion failed: (bql_locked())". OVMF writes CR8 at the end of
 * each interrupt. QEMU exports all functions for its modules. Does nothing in another program. */
#include <dlfcn.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static bool (*bql_locked)(void);
static void (*bql_lock)(const char *file, int line);
static void (*bql_unlock)(void);
static void (*handle_interrupt)(void *cpu, int mask);

static void cpu_interrupt_locked(void *cpu, int mask)
{
	bool locked = bql_locked();

	if (!locked)
		bql_lock(__FILE__, __LINE__);
	handle_interrupt(cpu, mask);
	if (!locked)
		bql_unlock();
}

__attribute__((constructor)) static void cpu_interrupt_replace(void)
{
	uint8_t jump[12] = { 0x48, 0xb8, [10] = 0xff, 0xe0 }; /* mov $ADDRESS, %rax; jmp *%rax */
	uintptr_t to = (uintptr_t)cpu_interrupt_locked, page = (uintptr_t)sysconf(_SC_PAGESIZE);
	uint8_t *at = dlsym(RTLD_DEFAULT, "cpu_interrupt");
	void *begin = (void *)((uintptr_t)at & ~(page - 1));

	*(void **)&bql_locked = dlsym(RTLD_DEFAULT, "bql_locked");
	*(void **)&bql_lock = dlsym(RTLD_DEFAULT, "bql_lock_impl");
	*(void **)&bql_unlock = dlsym(RTLD_DEFAULT, "bql_unlock");
	*(void **)&handle_interrupt = dlsym(RTLD_DEFAULT, "tcg_handle_interrupt");
	if (!at || !bql_locked || !bql_lock || !bql_unlock || !handle_interrupt)
		return;
	memcpy(jump + 2, &to, sizeof(to));
	if (mprotect(begin, 2 * page, PROT_READ | PROT_WRITE | PROT_EXEC) < 0)
		return;
	memcpy(at, jump, sizeof(jump));
	mprotect(begin, 2 * page, PROT_READ | PROT_EXEC);
}
