/* fake_state: the saved states of a fake VM process. */
#ifndef CAIRN_TESTS_HELPERS_FAKE_STATE_H
#define CAIRN_TESTS_HELPERS_FAKE_STATE_H

#include "base/file.h"
#include "snapshot/vmstate.h"
#include "vmm/vm_msg.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>

/* Write a state with empty memory. fds: of the state and, unless -1, of the definition. Returns 0 or -errno. */
static inline int fake_state_write(const struct vm_config *c, const int fds[2], struct err *e)
{
	struct vmstate_source src = { .sections = (const uint8_t *)"sections", .sections_bytes = 8, .ram_fd = -1,
		.ram_bytes = c->ram_bytes };
	struct vmstate_header h = { .realtime_ns = 1 };
	struct vmstate_result result;
	char *ram = calloc(1, c->ram_bytes), *definition = NULL;
	struct vmstate_file file;
	size_t len;
	int r = fds[1] < 0 ? 0 : file_read_fd(fds[1], "definition", 1 << 20, &definition, &len, e);

	memcpy(h.uuid, c->uuid, sizeof(h.uuid));
	src.ram = (const uint8_t *)ram;
	src.definition = definition;
	vmstate_file_init(&file, fds[0]);
	if (!r)
		r = vmstate_write(&file.store, &h, &src, NULL, &result, e);
	free(ram);
	free(definition);
	return r;
}

/* Wait until a clone's state is written. The process ends with the daemon. */
static inline void fake_state_await(int ready_fd, int sock, int ms)
{
	struct pollfd p[] = { { .fd = ready_fd, .events = POLLIN }, { .fd = sock, .events = POLLRDHUP } };

	poll(p, 2, ms);
	if (!p[0].revents)
		exit(VM_EXIT_FAILURE);
}

#endif
