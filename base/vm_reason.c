#include "base/vm_reason.h"
#include "base/util.h"

#include <stddef.h>
#include <string.h>

static const char *const of_process[VM_REASON_COUNT] = {
	[VM_REASON_NONE] = "unknown",
	[VM_REASON_BOOTED] = "booted",
	[VM_REASON_USER] = "user",
	[VM_REASON_IO_ERROR] = "I/O error",
	[VM_REASON_GUEST_SHUTDOWN] = "shutdown",
	[VM_REASON_GUEST_RESET] = "guest reset",
	[VM_REASON_GUEST_PANICKED] = "guest panicked",
	[VM_REASON_TRIPLE_FAULT] = "triple fault",
	[VM_REASON_EMULATION_FAILURE] = "emulation failure",
	[VM_REASON_DEBUG_EXIT] = "debug exit",
	[VM_REASON_SHUTDOWN_TIMEOUT] = "shutdown timed out",
	[VM_REASON_KILLED] = "killed",
	[VM_REASON_HOST_ERROR] = "host error",
	[VM_REASON_SAVING] = "saving",
	[VM_REASON_SAVED] = "saved",
	[VM_REASON_RESTORED] = "restored",
	[VM_REASON_FROM_SNAPSHOT] = "from snapshot",
	[VM_REASON_NO_SPACE] = "I/O error: no space left",
	[VM_REASON_IMAGE_CORRUPT] = "I/O error: image corrupt",
	[VM_REASON_WATCHDOG] = "watchdog",
	[VM_REASON_HANDOVER] = "handing over",
};

#define DAEMON(name) [VM_REASON_##name - VM_REASON_OF_DAEMON]
static const char *const of_daemon[VM_REASON_KEEP - VM_REASON_OF_DAEMON] = {
	DAEMON(DEFINED) = "defined",
	DAEMON(FAILED) = "failed",
	DAEMON(DESTROYED) = "destroyed",
	DAEMON(SAVE_DROPPED) = "saved state dropped",
	DAEMON(SAVE_GONE) = "saved state gone",
	DAEMON(RESTART_LIMIT) = "restart limit",
	DAEMON(IDLE) = "idle",
	DAEMON(WOKEN) = "woken",
};

const char *vm_reason_name(enum vm_reason r)
{
	unsigned n = (unsigned)r;

	if (n >= VM_REASON_OF_DAEMON && n < VM_REASON_KEEP)
		return of_daemon[n - VM_REASON_OF_DAEMON];
	return of_process[n < VM_REASON_COUNT ? n : VM_REASON_NONE];
}

const char *vm_reason_word(unsigned i)
{
	if (i < VM_REASON_COUNT)
		return of_process[i];
	return i - VM_REASON_COUNT < ARRAY_SIZE(of_daemon) ? of_daemon[i - VM_REASON_COUNT] : NULL;
}

enum vm_reason vm_reason_from_name(const char *name)
{
	const char *word;

	for (unsigned i = 0; (word = vm_reason_word(i)); i++)
		if (!strcmp(word, name))
			return i < VM_REASON_COUNT ? i : VM_REASON_OF_DAEMON + i - VM_REASON_COUNT;
	return VM_REASON_NONE;
}
